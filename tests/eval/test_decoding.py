"""Decoding: the tokens that follow a prompt, as transformers' generate finds them, and draws whose shares are probabilities."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from configs.schema import Model, Scheme
from eval.decoding import continue_prompts, drawn
from train.model import build_model

EOT = 0
PROMPTS = [[EOT, 4, 8, 15, 16, 23, 42], [EOT, 7], [EOT, 9, 9, 9, 9, 9, 9], [EOT, 30]]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    built = build_model(Model(layers=2, width=32, heads=2), vocabulary=50, sequence_length=48, end_of_text=EOT, seed=3).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4)
    return built


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_greedy_continuations_are_those_of_generate(model: PreTrainedModel, batch_tokens: int) -> None:
    lengths = [8, 3, 5, 6]
    continued = continue_prompts(model, PROMPTS, lengths, batch_tokens)
    for prompt, length, tokens in zip(PROMPTS, lengths, continued, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            generated = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length, eos_token_id=None
            )
        assert tokens == generated[0, len(prompt) :].tolist()


def test_draws_follow_the_schemes_probabilities(model: PreTrainedModel) -> None:
    count = 4000
    choose = drawn(Scheme(temperature=2.0, top_k=3), seed=1)
    tokens = [each[0] for each in continue_prompts(model, [PROMPTS[0]] * count, [1] * count, 10**6, choose)]
    with torch.inference_mode():
        best = (model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 2.0).topk(3)
    shares = [tokens.count(token) / count for token in best.indices.tolist()]
    assert sum(shares) == 1.0
    np.testing.assert_allclose(shares, best.values.softmax(-1), atol=4 * np.sqrt(0.25 / count))


def test_what_is_drawn_depends_on_the_seed_and_on_no_batch(model: PreTrainedModel) -> None:
    def draws(seed: int, batch_tokens: int) -> list[list[int]]:
        return continue_prompts(model, PROMPTS * 5, [9] * 20, batch_tokens, drawn(Scheme(), seed))

    assert draws(5, 1) == draws(5, 10_000) != draws(6, 10_000)
    assert len(set(map(tuple, draws(5, 1)))) > 10  # prompts that are alike have numbers of their own
