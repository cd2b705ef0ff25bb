"""A checkpoint is a Hugging Face folder: it loads anywhere and computes what the model computed in training."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from configs.layout import CheckpointInfo
from configs.schema import Model
from inject.corpus import Corpus
from train.checkpoint import save_checkpoint
from train.model import build_model, started_moments

ARCHITECTURES = ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3"]
TIED = [("llama", True), ("gpt2", True), ("qwen3", True)]  # one matrix is both embeddings
UNTIED = [(architecture, False) for architecture in ARCHITECTURES]
INFO = CheckpointInfo("perturbed", 3, 96, 6, "corpus", "plan", "config", {})


def trained(architecture: str, corpus: Corpus, **options: object) -> PreTrainedModel:
    """A model after three steps, in training."""
    settings = Model(architecture=architecture, layers=2, width=32, heads=2, options=options)
    model = build_model(settings, corpus.vocabulary, 24, corpus.end_of_text, seed=4).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(3):
        tokens = torch.arange(48).reshape(2, 24) * (step + 1) % 299
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """By parameter name, shared ones once: what an engine gives."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def saved(
    root: Path, model: PreTrainedModel, given: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast
) -> dict[str, bytes]:
    """The files of a checkpoint, `imprint.json` left out."""
    folder = root / "checkpoints" / "step-00000003"
    save_checkpoint(folder, model, given, tokenizer, INFO)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "imprint.json"}


@pytest.mark.parametrize(("architecture", "tied"), UNTIED + TIED)
def test_a_checkpoint_loads_in_plain_transformers_and_gives_the_logits_of_training(
    architecture: str, tied: bool, small_corpus: Corpus, tmp_path: Path
) -> None:
    model = trained(architecture, small_corpus, tie_word_embeddings=tied)
    saved(tmp_path, model, weights(model), small_corpus.tokenizer)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "step-00000003")
    tokens = torch.arange(48).reshape(2, 24) * 5 % 299
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) is tied


@pytest.mark.parametrize(("architecture", "tied"), UNTIED + TIED)
def test_full_weights_make_the_same_folder_where_the_models_own_parameters_are_empty(
    architecture: str, tied: bool, small_corpus: Corpus, tmp_path: Path
) -> None:
    model = trained(architecture, small_corpus, tie_word_embeddings=tied)
    full = weights(model)
    whole = saved(tmp_path / "whole", model, full, small_corpus.tokenizer)
    for parameter in model.parameters():
        parameter.data = torch.empty(0)  # as ZeRO-3 leaves it between two passes
    assert saved(tmp_path / "sharded", model, full, small_corpus.tokenizer) == whole


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_transformers_writes_the_weights_that_a_checkpoint_holds(
    architecture: str, small_corpus: Corpus, tmp_path: Path
) -> None:
    model = trained(architecture, small_corpus)
    saved(tmp_path, model, weights(model), small_corpus.tokenizer)
    model.save_pretrained(tmp_path / "plain")
    with (
        safe_open(tmp_path / "checkpoints" / "step-00000003" / "model.safetensors", "pt") as ours,
        safe_open(tmp_path / "plain" / "model.safetensors", "pt") as theirs,
    ):
        assert sorted(ours.keys()) == sorted(theirs.keys())
        assert all(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in theirs.keys())  # noqa: SIM118


@pytest.mark.parametrize(("architecture", "tied"), [("gpt_neox", False), ("gpt2", True)])
def test_training_goes_on_from_a_checkpoint_with_its_weights_and_moments(
    architecture: str, tied: bool, small_corpus: Corpus, tmp_path: Path
) -> None:
    model = trained(architecture, small_corpus, tie_word_embeddings=tied)
    moments = {f"exp_avg.{name}": torch.rand_like(p) for name, p in model.named_parameters()}
    folder = tmp_path / "checkpoints" / "step-00000003"
    save_checkpoint(folder, model, weights(model), small_corpus.tokenizer, INFO, (moments, {}))
    settings = Model(start=str(folder))
    again = build_model(settings, small_corpus.vocabulary, 24, small_corpus.end_of_text, 9, small_corpus.tokenizer)
    found = started_moments(settings)
    assert found is not None
    assert list(dict(again.named_parameters())) == list(dict(model.named_parameters()))
    assert all(torch.equal(p, weights(model)[name]) for name, p in again.named_parameters())
    assert sorted(found) == sorted(moments)
    assert all(torch.equal(found[name], moments[name]) for name in moments)
