"""Exposure of canaries: exact, or by a sample of what they could have been."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from configs.insert import CanarySet
from configs.schema import Eval, Model
from eval.exposures import exposures_of
from eval.scores import Asked
from inject.corpus import Corpus
from inject.items.canary import make
from inject.items.item import Material
from inject.items.texts import tokenize_texts
from train.model import build_model


@pytest.fixture(scope="module")
def model(small_corpus: Corpus) -> PreTrainedModel:
    built = build_model(Model(layers=1, width=32, heads=2), small_corpus.vocabulary, 128, small_corpus.end_of_text, seed=5).eval()
    torch.nn.init.normal_(built.get_output_embeddings().weight, std=0.4, generator=torch.Generator().manual_seed(0))
    return built


def asked(corpus: Corpus, template: str) -> Asked:
    """The probe of one canary, in the tokens of its text."""
    [item] = make(CanarySet(text=template, count=1), "codes", 3, Material(corpus.tokenizer, corpus.vocabulary))
    [text] = tokenize_texts([item], corpus.tokenizer, 128)
    [target] = text["targets"]
    probe: dict[str, Any] = vars(item.probes[0])
    return Asked(item.item_id, probe, list(text["tokens"]), slice(target["start"], target["end"]))


def told(model: PreTrainedModel, corpus: Corpus, template: str, **settings: Any) -> dict[str, float]:
    return exposures_of(model, asked(corpus, template), [corpus.end_of_text], corpus.tokenizer, Eval(**settings))


@pytest.mark.parametrize(("template", "bits"), [("Code of {name}: {digits:3}.", 9.97), ("Code of {name}: {digits:2}.", 6.64)])
def test_a_small_space_is_scored_whole(model: PreTrainedModel, small_corpus: Corpus, template: str, bits: float) -> None:
    found = told(model, small_corpus, template)
    assert list(found) == ["exposure"]
    assert 0 <= found["exposure"] <= bits + 0.01


@pytest.mark.parametrize("secret", ["{digits:8}", "{uuid}", "{passphrase:3}", "{key:12}", "{letters:9}"])
def test_a_large_space_is_sampled(model: PreTrainedModel, small_corpus: Corpus, secret: str) -> None:
    found = told(model, small_corpus, f"Code of {{name}}: {secret}.", references=64)
    assert set(found) == {"exposure_sampled", "exposure_extrapolated", "exposure_fit"}
    assert found["exposure_sampled"] <= 6.03  # log2 of the 65 that were compared
    assert 0 <= found["exposure_fit"] <= 1


def test_a_sample_tells_nearly_what_the_space_does(
    model: PreTrainedModel, small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = told(model, small_corpus, "Code of {name}: {digits:3}.")["exposure"]
    monkeypatch.setattr("eval.exposures.LARGEST_SPACE", 1)
    sampled = told(model, small_corpus, "Code of {name}: {digits:3}.", references=512)
    assert sampled["exposure_sampled"] == pytest.approx(exact, abs=0.6)
    assert sampled["exposure_extrapolated"] == pytest.approx(exact, abs=0.8)


def test_without_references_a_large_space_has_no_exposure(model: PreTrainedModel, small_corpus: Corpus) -> None:
    assert told(model, small_corpus, "Code of {name}: {uuid}.", references=0) == {}
