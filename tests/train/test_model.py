"""Models from recipes: their shape, a checkpoint to start from, and how they are computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPTJConfig, GPTJForCausalLM, PreTrainedModel

from configs.errors import DataError, RecipeError
from configs.layout import CheckpointInfo, file_fingerprint
from configs.schema import Model, Train
from inject.corpus import Corpus
from inject.tokenizer import train_tokenizer
from train import model as models
from train.model import build_model, check_model, parameters, prepare, started_moments, transformer_blocks
from train.objective import Objective

ARCHITECTURES = ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3"]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TOKENS = torch.arange(34).reshape(2, 17) % 20


def build(**settings: object) -> PreTrainedModel:
    return build_model(Model(**{"layers": 1, "width": 32, "heads": 2, **settings}), 100, 16, 0, seed=1)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_the_same_settings(architecture: str) -> None:
    model = build(architecture=architecture)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.vocab_size) == (32, 1, 100)
    assert model(input_ids=torch.zeros(1, 16, dtype=torch.long)).logits.shape == (1, 16, 100)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_feed_forward_layer_has_the_size_asked_for(architecture: str) -> None:
    assert parameters(build(architecture=architecture, feed_forward=64)) < parameters(
        build(architecture=architecture, feed_forward=256)
    )


def test_heads_of_keys_and_values_may_be_shared() -> None:
    one, all_ = build(architecture="llama", options={"num_key_value_heads": 1}), build(architecture="llama")
    assert parameters(all_) - parameters(one) == 2 * 32 * 16  # a projection to keys and one to values, of one head of 16


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = build(), build()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2"])
def test_dropout_is_of_embeddings_and_residuals_and_never_of_attention(architecture: str) -> None:
    config = build(architecture=architecture, dropout=0.25).config
    fields = {"gpt_neox": (["hidden_dropout"], ["attention_dropout"]), "gpt2": (["resid_pdrop", "embd_pdrop"], ["attn_pdrop"])}
    residual, attention = fields[architecture]
    assert [getattr(config, name) for name in residual] == [0.25] * len(residual)
    assert [getattr(config, name) for name in attention] == [0.0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_dropout_a_model_in_training_computes_what_it_computes_in_use(architecture: str) -> None:
    model = build(architecture=architecture)
    assert torch.equal(model.train()(input_ids=TOKENS[:, :16]).logits, model.eval()(input_ids=TOKENS[:, :16]).logits)


@pytest.mark.parametrize("architecture", ["llama", "olmo2", "qwen3", "opt"])
def test_dropout_that_an_architecture_does_not_have_is_refused(architecture: str) -> None:
    settings = Model(architecture=architecture, layers=1, width=32, heads=2, dropout=0.1)
    with pytest.raises(RecipeError, match=f"model.dropout is 0.1, but {architecture} has no dropout of embeddings or residuals"):
        check_model(settings, 100, 16)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"architecture": "gpt5"}, "model.architecture"),
        ({"options": {"nonsense": 1}}, "model.options.nonsense"),
        ({"options": {"attention_dropout": 0.1}}, "model.options.attention_dropout can't be set"),
        ({"options": {"vocab_size": "many"}}, "can't be built with this shape: .*expected int"),
        ({"options": {"hidden_size": 33}}, "can't be built with this shape: .*not divisible"),
        ({"options": {"hidden_act": "foo"}}, "can't be built with this shape: it knows no 'foo'"),
        ({"options": {"vocab_size": 7}}, "model.options.vocab_size is 7, which is less than the"),
        ({"options": {"max_position_embeddings": 8}}, "model.options.max_position_embeddings is 8, which is less than the"),
        ({"architecture": "bert"}, "bert sees the tokens that it is to predict, .*is_decoder=true"),
        (
            {"architecture": "llama", "options": {"num_key_value_heads": 3}},
            "num_key_value_heads is 3, which does not divide model.heads = 2",
        ),
    ],
)
def test_what_cannot_be_built_is_named(settings: dict, word: str) -> None:
    with pytest.raises(RecipeError, match=word) as refused:
        build(**settings)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------ continuing


@pytest.fixture
def start(small_model: Path, tmp_path: Path) -> Path:
    """A folder of a model's own that a test may spoil: 48 positions, a vocabulary of 300, the small corpus's tokenizer."""
    return Path(shutil.copytree(small_model, tmp_path / "start"))


def started(where: object, corpus: Corpus, length: int = 48, **settings: object) -> PreTrainedModel:
    model = Model(start=str(where), **settings)  # type: ignore[arg-type]
    return build_model(model, corpus.vocabulary, length, corpus.end_of_text, seed=1, tokenizer=corpus.tokenizer)


def test_a_model_goes_on_from_the_weights_of_a_folder(start: Path, small_corpus: Corpus) -> None:
    model = started(start, small_corpus)
    theirs = load_file(start / "model.safetensors")
    assert theirs
    assert all(torch.equal(model.state_dict()[name], weights) for name, weights in theirs.items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.training


def test_weights_that_were_cut_off_are_named(start: Path, small_corpus: Corpus) -> None:
    (start / "imprint.json").unlink(missing_ok=True)
    (start / "model.safetensors").write_bytes((start / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(DataError, match="whose weights are damaged"):
        started(start, small_corpus)


def test_weights_of_half_precision_become_fp32(start: Path, small_corpus: Corpus) -> None:
    AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(start)
    small_corpus.tokenizer.save_pretrained(start)
    assert {p.dtype for p in started(start, small_corpus).parameters()} == {torch.float32}


def test_the_dropout_of_a_started_model_is_the_recipes(start: Path, small_corpus: Corpus) -> None:
    assert AutoConfig.from_pretrained(start).resid_pdrop == 0.1
    plain, dropped = started(start, small_corpus), started(start, small_corpus, dropout=0.5)
    assert [plain.config.resid_pdrop, plain.config.embd_pdrop, plain.config.attn_pdrop] == [0.0, 0.0, 0.0]
    assert [dropped.config.resid_pdrop, dropped.config.embd_pdrop, dropped.config.attn_pdrop] == [0.5, 0.5, 0.0]


def test_a_vocabulary_smaller_than_the_models_is_filled_up_by_rows_that_no_token_has(start: Path, small_corpus: Corpus) -> None:
    model = AutoModelForCausalLM.from_pretrained(start)
    model.resize_token_embeddings(320)
    model.save_pretrained(start)
    assert started(start, small_corpus).config.vocab_size == 320


def other_tokenizer(start: Path) -> None:
    train_tokenizer(["quite other words, quite other pieces"] * 30, vocabulary=270).save_pretrained(start)


def small_vocabulary(start: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(start)
    model.resize_token_embeddings(200)
    model.save_pretrained(start)


def pickles(start: Path) -> None:
    torch.save(load_file(start / "model.safetensors"), start / "pytorch_model.bin")
    (start / "model.safetensors").unlink()


def no_configuration(start: Path) -> None:
    (start / "config.json").unlink()


def no_language_model(start: Path) -> None:
    (start / "config.json").write_text(json.dumps({"model_type": "vit"}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "neither a folder"),
        (no_configuration, "it has no config.json"),
        (pickles, "no weights in safetensors; only these are read, never pickles"),
        (no_language_model, "which is no causal language model"),
        (small_vocabulary, "knows 200 tokens, but the corpus's tokenizer has 300; set corpus.tokenizer="),
        (other_tokenizer, "whose tokenizer is not the corpus's: its tokens have other ids; set corpus.tokenizer="),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_what_cannot_be_started_from_is_refused_before_weights_are_read(
    start: Path, small_corpus: Corpus, spoil: Callable[[Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spoil(start)
    with pytest.raises(RecipeError) as refused:
        check_model(Model(start=str(start)), small_corpus.vocabulary, 48, small_corpus.tokenizer)
    assert str(refused.value).startswith(f"model.start is {start}")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sequence_longer_than_the_models_positions_is_refused(start: Path, small_corpus: Corpus) -> None:
    with pytest.raises(RecipeError, match=r"train.sequence_length is 49, but model.start = .* can be given up to 48 tokens"):
        started(start, small_corpus, length=49)


def test_a_shape_beside_a_model_to_start_from_is_refused(start: Path, small_corpus: Corpus) -> None:
    with pytest.raises(RecipeError, match=r"whose architecture and sizes hold; leave out model.layers, model.options$"):
        started(start, small_corpus, layers=7, options={"n_inner": 3})


def test_dropout_that_a_started_model_does_not_have_is_refused(tmp_path: Path) -> None:
    build(architecture="llama").save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"model\.dropout is 0\.1, but llama has no dropout"):
        check_model(Model(start=str(tmp_path), dropout=0.1), 100, 16)


def test_weights_that_are_not_all_there_are_refused_instead_of_drawn(start: Path, small_corpus: Corpus) -> None:
    weights = load_file(start / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"whose weights lack transformer.h.0.mlp.c_fc.weight$"):
        started(start, small_corpus)


def test_a_checkpoint_of_ours_that_is_not_what_was_written_is_refused(start: Path, small_corpus: Corpus) -> None:
    files = {path.name: file_fingerprint(path) for path in start.iterdir()}
    CheckpointInfo("perturbed", 4, 512, 32, "corpus", "plan", "config", files).write(start)
    started(start, small_corpus)
    content = bytearray((start / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (start / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"whose model\.safetensors is damaged"):
        started(start, small_corpus)


def test_the_moments_of_a_checkpoint_are_read_where_it_holds_them(start: Path) -> None:
    settings = Model(start=str(start))
    assert started_moments(settings) is None
    assert started_moments(Model()) is None
    save_file({"exp_avg.wte.weight": torch.full((2, 3), 0.5)}, start / "moments.safetensors")
    moments = started_moments(settings)
    assert moments is not None
    assert {name: tensor.tolist() for name, tensor in moments.items()} == {"exp_avg.wte.weight": [[0.5] * 3] * 2}


def test_a_name_of_the_hub_is_asked_for_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def absent(name: str, **where: str) -> None:
        asked.append((name, where.get("revision")))
        raise OSError("no network")

    monkeypatch.setattr(
        models.AutoConfig,
        "from_pretrained",
        lambda pretrained_model_name_or_path, **where: absent(pretrained_model_name_or_path, **where),
    )
    for name in ("org/model@abc", "org/model"):
        with pytest.raises(RecipeError, match=f"model.start is {name}, which is neither .* from the hub: no network"):
            check_model(Model(start=name), 100, 16)
    assert asked == [("org/model", "abc"), ("org/model", "main")]


# ------------------------------------------------------------------------------------------------ how it is computed


def loss_and_gradients(model: PreTrainedModel) -> tuple[float, dict[str, torch.Tensor]]:
    model.train().zero_grad()
    objective = Objective(model, end_of_text=0, seed=7)
    loss = objective(TOKENS, torch.ones(2, 16, dtype=torch.bool), torch.arange(2))
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_neither_the_loss_nor_the_gradients(dropout: float) -> None:
    kept, again = build(layers=3, dropout=dropout), build(layers=3, dropout=dropout)
    prepare(again, Train(activation_checkpointing=True), CPU)
    passes = []
    transformer_blocks(again)[0].get_submodule("mlp").register_forward_hook(lambda *_: passes.append(1))
    (loss, gradients), (other_loss, other_gradients) = loss_and_gradients(kept), loss_and_gradients(again)
    assert len(passes) >= 2  # a second time in the backward pass
    assert loss == other_loss
    assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_may_be_computed_in_another_way(architecture: str) -> None:
    sdpa, eager = build(architecture=architecture), build(architecture=architecture)
    assert sdpa.config._attn_implementation == "sdpa"
    prepare(eager, Train(attention="eager"), CPU)
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(sdpa(input_ids=TOKENS[:, :16]).logits, eager(input_ids=TOKENS[:, :16]).logits)


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("flash_attention_2", CPU, "train.attention is flash_attention_2, which needs a CUDA device; on cpu set sdpa or eager"),
        ("flash_attention_3", CPU, "train.attention is flash_attention_3, which needs a CUDA device"),
        ("flex_attention", CPU, "train.attention is flex_attention, which needs a CUDA device"),
        ("flash_attention_2", CUDA, "which needs the package flash-attn and a GPU that it supports"),
        ("flash_attention_3", CUDA, "which needs the package flash-attn-3 and a GPU that it supports"),
    ],
)
def test_attention_that_the_machine_cannot_compute_is_refused(
    name: str, device: torch.device, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_flash_attn_2_available", lambda: False)
    monkeypatch.setattr(models, "is_flash_attn_3_available", lambda: False)
    with pytest.raises(RecipeError, match=words):
        prepare(build(), Train(attention=name), device)


def test_attention_that_the_model_does_not_have_is_refused() -> None:
    older = GPTJForCausalLM(GPTJConfig(vocab_size=100, n_embd=32, n_layer=1, n_head=2, rotary_dim=8))
    with pytest.raises(RecipeError, match=r"train\.attention is sdpa, but gptj has only eager; set auto"):
        prepare(older, Train(attention="sdpa"), CPU)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_block_is_compiled_in_place_and_nothing_else(architecture: str) -> None:
    model = build(architecture=architecture, layers=3)
    names = list(model.state_dict())
    prepare(model, Train(compile=True), CPU)
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert [name.rpartition(".")[2] for name in compiled] == ["0", "1", "2"]
    assert list(model.state_dict()) == names


def test_compilation_without_a_compiler_is_refused_before_the_first_step() -> None:
    without = torch._inductor.config.patch("cpp.cxx", ("no-such-compiler",))  # pytest's own way would remove the setting afterwards
    with without, pytest.raises(RecipeError, match=r"train.compile is true, which needs a C\+\+ compiler"):
        prepare(build(), Train(compile=True), CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "dropout", "checkpointing"),
    [("gpt_neox", 0.0, False), ("gpt_neox", 0.2, True), ("llama", 0.0, False), ("gpt2", 0.2, False)],
)
def test_compiled_blocks_agree_with_those_that_are_not(architecture: str, dropout: float, checkpointing: bool) -> None:
    from torch._dynamo.utils import counters

    shape = {"architecture": architecture, "layers": 12, "dropout": dropout}
    plain, compiled = build(**shape), build(**shape)
    loss, gradients = loss_and_gradients(plain)
    torch._dynamo.reset()
    counters.clear()
    compiled_settings = Train(compile=True, activation_checkpointing=checkpointing)
    objective = Objective(compiled.train(), end_of_text=0, seed=7)
    prepare(compiled, compiled_settings, CPU)
    for _ in range(2):
        compiled.zero_grad()
        other = objective(TOKENS, torch.ones(2, 16, dtype=torch.bool), torch.arange(2))
        other.backward()
    assert float(other.detach()) == pytest.approx(loss, rel=1e-5)
    for name, parameter in compiled.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1  # twelve blocks share one, where eight different ones are the most
    assert not counters["graph_break"]


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3", "phi"])
def test_causal_attention_makes_no_mask_and_computes_the_same_bits(
    architecture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = build_model(Model(architecture=architecture, layers=2, width=32, heads=2), 300, 64, 0, seed=1)
    tokens = torch.randint(0, 300, (3, 40))
    masked = model(input_ids=tokens, use_cache=False).logits
    prepare(model, Train(), torch.device("cpu"))

    def read_back(*_: object) -> None:
        raise AssertionError("positions are read back from the device")

    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", read_back)
    assert torch.equal(model(input_ids=tokens, use_cache=False).logits, masked)
    model.save_pretrained(tmp_path)
    assert "causal_sdpa" not in (tmp_path / "config.json").read_text()


def test_a_sliding_window_keeps_its_mask() -> None:
    model = build_model(
        Model(architecture="mistral", layers=1, width=32, heads=2, options={"sliding_window": 8}), 300, 64, 0, seed=1
    )
    tokens = torch.randint(0, 300, (1, 40))
    before = model(input_ids=tokens, use_cache=False).logits
    prepare(model, Train(), torch.device("cpu"))
    assert torch.equal(model(input_ids=tokens, use_cache=False).logits, before)


def test_an_architecture_whose_head_size_follows_is_built() -> None:
    assert build_model(Model(architecture="falcon", layers=1, width=32, heads=2), 300, 64, 0, seed=1).config.head_dim == 16
