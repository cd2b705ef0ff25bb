"""Sampling schemes: worked out by hand, and as Hugging Face's own warpers change the distribution."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from configs.schema import Scheme
from eval.schemes import scheme_log_probs

PROBS = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
TARGETS = torch.tensor([0, 2, 0])


@pytest.mark.parametrize(
    ("scheme", "probability"),
    [
        (Scheme(), 0.07),
        (Scheme(top_k=2), 0.1166667),  # in the third row the second place is shared by three, and all are kept
        (Scheme(temperature=0.5), 0.06526807),
        (Scheme(top_p=0.7), 0.1666667),
        (Scheme(temperature=0.5, top_k=2), 0.07538462),
        (Scheme(temperature=2, top_k=3, top_p=0.8), 0.07502701),
    ],
)
def test_the_probability_of_a_target_worked_out_by_hand(scheme: Scheme, probability: float) -> None:
    assert scheme_log_probs(PROBS.log(), TARGETS, scheme).sum().exp().item() == pytest.approx(probability, abs=1e-6)


def test_what_cannot_be_drawn_has_no_probability() -> None:
    assert scheme_log_probs(PROBS.log(), torch.tensor([0, 0, 0]), Scheme(top_k=1)).tolist() == [0.0, -np.inf, 0.0]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("top_k", [0, 1, 5, 500])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.2])
def test_schemes_are_those_of_hugging_face(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(30, 100, generator=torch.Generator().manual_seed(0)) * 3
    logits[:10] = logits[:10].round()  # ties
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.zeros(30, 1, dtype=torch.long), logits.clone()).log_softmax(-1)
    for token in range(0, 100, 7):
        targets = torch.full((30,), token)
        found = scheme_log_probs(logits, targets, Scheme(temperature, top_k, top_p))
        torch.testing.assert_close(found, expected[:, token], atol=1e-6, rtol=1e-6)
