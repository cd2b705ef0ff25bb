"""One pass over texts: the numbers in it, and that they depend on nothing else."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from configs.errors import DataError
from configs.schema import Model
from eval.decoding import continue_prompts
from eval.extraction import extracted
from eval.forward import Forward
from eval.scoring import score_continuations, score_tokens, score_trie, token_statistics
from train.model import build_model

EOT = 0
BF16_BOUND = 0.1  # nats between two batches; weights of 8 bits give log-probabilities of about 3 digits


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A random model whose logits are far apart, so that log-probabilities vary and the argmax has no ties."""
    built = build_model(Model(layers=2, width=32, heads=2), vocabulary=50, sequence_length=48, end_of_text=EOT, seed=3).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4)
    return built


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(1, 50, length).tolist() for length in (5, 1, 30, 12, 12, 40)]


def reference(model: PreTrainedModel, sequence: list[int]) -> np.ndarray:
    """log p of each token but the first, one text at a time, float64."""
    with torch.inference_mode():
        log_probs = model(torch.tensor([sequence])).logits[0].double().log_softmax(-1)
    return log_probs[torch.arange(len(sequence) - 1), torch.tensor(sequence[1:])].numpy()


def test_scores_are_the_log_probabilities_whatever_the_batch(model: PreTrainedModel, texts: list[list[int]]) -> None:
    for batch_tokens in (1, 60, 10_000):
        scored = dict(score_tokens(model, texts, [[EOT]], batch_tokens))
        assert sorted(scored) == list(range(len(texts)))
        for i, text in enumerate(texts):
            np.testing.assert_allclose(scored[i].log_prob, reference(model, [EOT, *text]), atol=1e-5)


def test_without_context_the_first_token_has_no_score(model: PreTrainedModel, texts: list[list[int]]) -> None:
    scored = dict(score_tokens(model, texts, [[]], 100))
    for i, text in enumerate(texts):
        assert np.isnan(scored[i].log_prob[0])
        assert scored[i].argmax[0] == -1
        np.testing.assert_allclose(scored[i].log_prob[1:], reference(model, text) if len(text) > 1 else [], atol=1e-5)


def test_a_text_of_one_token_may_be_scored_alone(model: PreTrainedModel) -> None:
    ((_, scores),) = score_tokens(model, [[7]], [[]], 100)
    assert np.isnan(scores.log_prob).tolist() == [True]


def test_statistics_of_a_distribution_worked_out_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    log_prob, mean, deviation, argmax, rank = token_statistics(probs.log(), torch.tensor([0, 2, 0]))
    assert log_prob.sum().item() == pytest.approx(np.log(0.07), abs=1e-6)
    z = (log_prob - mean) / deviation
    torch.testing.assert_close(z, torch.tensor([0.9045340, -0.7023402, 0.6546537]), atol=1e-6, rtol=0)
    assert argmax.tolist() == [0, 1, 0]
    assert rank.tolist() == [0, 1, 0]


def test_a_uniform_distribution_has_no_deviation() -> None:
    _, mean, deviation, _, rank = token_statistics(torch.zeros(1, 8), torch.tensor([3]))
    assert mean.item() == pytest.approx(-np.log(8))
    assert deviation.item() == pytest.approx(0.0, abs=1e-6)
    assert rank.item() == 0


def test_teacher_forcing_says_extracted_exactly_when_greedy_decoding_emits_the_target(model: PreTrainedModel) -> None:
    generator = np.random.default_rng(1)
    for flipped in (None, 0, 3, 5):
        prompt = generator.integers(1, 50, 10).tolist()
        (target,) = continue_prompts(model, [[EOT, *prompt]], [6], 100)
        if flipped is not None:
            target[flipped] = (target[flipped] + 1) % 50
        ((_, scores),) = score_tokens(model, [[*prompt, *target]], [[EOT]], 100)
        assert extracted(scores.argmax, [*prompt, *target], slice(10, 16)) == (flipped is None)


@pytest.mark.parametrize("vocabulary", [8, 64, 200, 256])
def test_statistics_are_those_of_a_softmax_in_double_precision(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(40, vocabulary, generator=generator) * 5
    logits[:20] = logits[:20].round()  # with ties, of the largest, too
    targets = torch.randint(vocabulary, (40,), generator=generator)
    log_probs = logits.double().log_softmax(-1)
    mean = (log_probs.exp() * log_probs).sum(-1)
    deviation = (log_probs.exp() * (log_probs - mean[:, None]).square()).sum(-1).sqrt()
    chosen = log_probs.gather(-1, targets[:, None])
    found = token_statistics(logits.clone(), targets)
    for own, exact in zip(found[:3], (chosen[:, 0], mean, deviation), strict=True):
        torch.testing.assert_close(own.double(), exact, atol=1e-5, rtol=1e-5)
    assert found[3].tolist() == logits.argmax(-1).tolist()
    assert found[4].tolist() == (logits > logits.gather(-1, targets[:, None])).sum(-1).tolist()


def test_each_text_may_have_a_context_of_its_own(model: PreTrainedModel, texts: list[list[int]]) -> None:
    contexts = [[EOT, *range(1, length)] for length in (1, 4, 2, 7, 1, 3)]
    scored = dict(score_tokens(model, texts, contexts, 60))
    for i, (text, context) in enumerate(zip(texts, contexts, strict=True)):
        np.testing.assert_allclose(scored[i].log_prob, reference(model, [*context, *text])[len(context) - 1 :], atol=1e-5)


def test_an_architecture_that_caps_its_logits_is_scored_with_them_capped() -> None:
    settings = Model(architecture="gemma2", layers=1, width=32, heads=2, options={"final_logit_softcapping": 2.0, "head_dim": 16})
    capped = build_model(settings, vocabulary=50, sequence_length=48, end_of_text=EOT, seed=3).eval()
    text = [4, 9, 1, 30]
    ((_, scores),) = score_tokens(capped, [text], [[EOT]], 100)
    np.testing.assert_allclose(scores.log_prob, reference(capped, [EOT, *text]), atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gptj", "gemma2"])  # gptj's head has a bias, gemma2's logits are capped
def test_logits_made_in_parts_are_those_made_at_once(architecture: str) -> None:
    options = {"gptj": {"rotary_dim": 16}, "gemma2": {"head_dim": 16}}.get(architecture, {})
    settings = Model(architecture=architecture, layers=1, width=32, heads=2, options=options)
    built = build_model(settings, vocabulary=50, sequence_length=48, end_of_text=EOT, seed=3).eval()
    forward = Forward(built)
    forward.made_at_once, forward.part = 8, 3
    with torch.inference_mode():
        if forward.linear and (bias := built.get_output_embeddings().bias) is not None:
            bias.copy_(torch.arange(50))
        states = forward.states(torch.arange(21)[None])[0][0]
        made = {(part.start, part.stop): logits.clone() for part, logits in forward.logits_in_parts(states)}
        whole = forward.logits(states)
    assert list(made) == [(0, 3), (3, 6), (6, 8), (8, 11), (11, 14), (14, 16), (16, 19), (19, 21)]
    torch.testing.assert_close(torch.cat(list(made.values())), whole)


def test_in_bf16_a_score_depends_little_on_the_batch(model: PreTrainedModel, texts: list[list[int]]) -> None:
    low = build_model(Model(layers=2, width=32, heads=2), vocabulary=50, sequence_length=48, end_of_text=EOT, seed=3)
    low.load_state_dict(model.state_dict())
    low = low.to(torch.bfloat16).eval()
    alone, together = (dict(score_tokens(low, texts, [[EOT]], tokens)) for tokens in (1, 10_000))
    for i, text in enumerate(texts):
        np.testing.assert_allclose(alone[i].log_prob, together[i].log_prob, atol=BF16_BOUND)
        exact = reference(model, [EOT, *text])
        assert np.abs(alone[i].log_prob - exact).max() > 1e-4  # it is another precision


def test_a_model_of_nan_is_told(texts: list[list[int]]) -> None:
    broken = build_model(Model(layers=1, width=32, heads=2), vocabulary=50, sequence_length=48, end_of_text=EOT, seed=3)
    broken.get_output_embeddings().weight.data[3] = torch.nan
    with pytest.raises(DataError, match="log-probabilities are NaN"):
        list(score_tokens(broken, texts, [[EOT]], 100))


def test_a_text_without_tokens_is_told(model: PreTrainedModel) -> None:
    with pytest.raises(DataError, match="text 1 has no tokens"):
        list(score_tokens(model, [[3], []], [[EOT]], 100))


# ------------------------------------------------------------------------------------------------ shared prefixes


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_continuations_have_the_scores_of_the_whole_sequences(model: PreTrainedModel, batch_tokens: int) -> None:
    prompts = [[EOT, 9, 2, 7], [EOT], [EOT, 4, 4, 8]]
    continuations = [[[11], [30, 5, 6], [30, 6]], [[1, 2]], [[8, 8, 8, 8], [9]]]
    scores = score_continuations(model, prompts, continuations, batch_tokens)
    for prompt, own, found in zip(prompts, continuations, scores, strict=True):
        for each, log_probs in zip(own, found, strict=True):
            np.testing.assert_allclose(log_probs, reference(model, [*prompt, *each])[len(prompt) - 1 :], atol=1e-5)


def test_a_continuation_without_tokens_is_told(model: PreTrainedModel) -> None:
    with pytest.raises(DataError, match="no tokens"):
        score_continuations(model, [[EOT]], [[[1], []]], 100)


@pytest.mark.parametrize("most_tokens", [1, 40, 2**18])
def test_a_trie_has_the_scores_of_its_candidates_one_by_one(model: PreTrainedModel, most_tokens: int) -> None:
    prefix, alphabet = [EOT, 9, 2, 7], [11, 30, 5]
    candidates = [[a, b, c] for a in alphabet for b in alphabet for c in alphabet]
    some = [candidates[i] for i in (20, 3, 3, 14, 0, 26, 9)]  # in any order, and twice
    for wanted in (candidates, some):
        one_by_one = [reference(model, [*prefix, *each])[len(prefix) - 1 :].sum() for each in wanted]
        np.testing.assert_allclose(score_trie(model, prefix, wanted, most_tokens), one_by_one, atol=1e-5)


def test_candidates_of_one_token_need_one_pass(model: PreTrainedModel) -> None:
    scores = score_trie(model, [EOT, 3], [[token] for token in range(50)])
    assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("candidates", [[], [[]], [1, 2]])
def test_candidates_that_are_none_are_told(model: PreTrainedModel, candidates: list[int]) -> None:
    with pytest.raises(DataError, match="need a prefix"):
        score_trie(model, [EOT], candidates)
