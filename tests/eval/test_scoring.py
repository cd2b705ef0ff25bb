"""One pass over texts: the numbers in it, and that they depend on nothing else."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from configs.schema import Model
from eval.extraction import extracted
from eval.scoring import _token_statistics, continue_greedily, score_space, score_tokens
from train.model import build_model

EOT = 0


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
        scored = dict(score_tokens(model, texts, [EOT], batch_tokens))
        assert sorted(scored) == list(range(len(texts)))
        for i, text in enumerate(texts):
            np.testing.assert_allclose(scored[i].log_prob, reference(model, [EOT, *text]), atol=1e-5)


def test_without_context_the_first_token_has_no_score(model: PreTrainedModel, texts: list[list[int]]) -> None:
    scored = dict(score_tokens(model, texts, [], 100))
    for i, text in enumerate(texts):
        assert np.isnan(scored[i].log_prob[0])
        assert scored[i].argmax[0] == -1
        np.testing.assert_allclose(scored[i].log_prob[1:], reference(model, text) if len(text) > 1 else [], atol=1e-5)


def test_a_text_of_one_token_may_be_scored_alone(model: PreTrainedModel) -> None:
    ((_, scores),) = score_tokens(model, [[7]], [], 100)
    assert np.isnan(scores.log_prob).tolist() == [True]


def test_statistics_of_a_distribution_worked_out_by_hand() -> None:
    probs = torch.tensor([[[0.5, 0.25, 0.125, 0.125], [0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]]])
    log_prob, mean, deviation, argmax, rank = _token_statistics(probs.log(), torch.tensor([[0, 2, 0]]))
    assert log_prob.sum().item() == pytest.approx(np.log(0.07), abs=1e-6)
    z = (log_prob - mean) / deviation
    torch.testing.assert_close(z, torch.tensor([[0.9045340, -0.7023402, 0.6546537]]), atol=1e-6, rtol=0)
    assert (argmax == torch.tensor([[0, 2, 0]])).tolist() == [[True, False, True]]
    assert rank.tolist() == [[0, 1, 0]]


def test_a_uniform_distribution_has_no_deviation() -> None:
    _, mean, deviation, _, rank = _token_statistics(torch.zeros(1, 1, 8), torch.tensor([[3]]))
    assert mean.item() == pytest.approx(-np.log(8))
    assert deviation.item() == pytest.approx(0.0, abs=1e-6)
    assert rank.item() == 0


def test_teacher_forcing_says_extracted_exactly_when_greedy_decoding_emits_the_target(model: PreTrainedModel) -> None:
    generator = np.random.default_rng(1)
    for flipped in (None, 0, 3, 5):
        prompt = generator.integers(1, 50, 10).tolist()
        target = continue_greedily(model, [EOT, *prompt], 6)
        if flipped is not None:
            target[flipped] = (target[flipped] + 1) % 50
        ((_, scores),) = score_tokens(model, [[*prompt, *target]], [EOT], 100)
        assert extracted(scores.argmax, [*prompt, *target], slice(10, 16)) == (flipped is None)


def test_greedy_continuation_is_that_of_generate(model: PreTrainedModel) -> None:
    prompt = [EOT, 4, 8, 15, 16, 23, 42]
    with torch.inference_mode():
        generated = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, 7), do_sample=False, max_new_tokens=8, eos_token_id=None
        )
    assert continue_greedily(model, prompt, 8) == generated[0, len(prompt) :].tolist()


def test_a_space_has_the_scores_of_its_members_one_by_one(model: PreTrainedModel) -> None:
    prefix, alphabet = [EOT, 9, 2, 7], [11, 30, 5]
    space = score_space(model, prefix, alphabet, 3)
    members = [[a, b, c] for a in alphabet for b in alphabet for c in alphabet]
    one_by_one = [reference(model, [*prefix, *member])[len(prefix) - 1 :].sum() for member in members]
    np.testing.assert_allclose(space, one_by_one, atol=1e-4)
    assert len(space) == 27
