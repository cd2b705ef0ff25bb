"""Low-rank matrices beside frozen weights: they change nothing before training, alone change in it, and are merged when written."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from configs.errors import RecipeError
from configs.layout import CheckpointInfo, ModelLayout
from configs.schema import Model, Train
from train.checkpoint import read_state, save_checkpoint, save_state
from train.engine import Replicated, connected
from train.execution import Execution
from train.loop import accumulate
from train.lora import expand, is_expanded, merged
from train.model import build_model, prepare
from train.objective import Objective
from train.world import World

VOCABULARY, LENGTH, END, ROWS = 61, 24, 5, 4
ARCHITECTURES = ["gpt_neox", "gpt2", "llama"]  # gpt2's layers are Conv1D, whose weights lie the other way


def new_model(architecture: str = "gpt_neox", seed: int = 1) -> PreTrainedModel:
    return build_model(Model(architecture=architecture, layers=2, width=32, heads=4), VOCABULARY, LENGTH, END, seed=seed)


def new_expanded(architecture: str = "gpt_neox", rank: int = 4) -> PreTrainedModel:
    model = new_model(architecture)
    expand(model, rank, alpha=16.0, seed=3)
    return model


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(0, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=tokens).logits  # type: ignore[no-any-return]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with connected(Train(strategy="single"), World()) as one:
        yield one


@pytest.fixture
def new_engine(fabric: Fabric) -> Callable[..., Replicated]:
    def build(model: PreTrainedModel, **settings: Any) -> Replicated:
        chosen = Train(strategy="single", micro_batch=ROWS, accumulation=1, weight_decay=0.1, **settings)
        objective = Objective(model, END)
        prepare(model, chosen, fabric.device)
        return Replicated(fabric, objective, chosen, Execution("fp32", 1), World(), lambda *_: True)

    return build


def train(engine: Replicated, first: int, last: int) -> list[float]:
    """The losses of steps [first, last)."""
    losses = []
    for step in range(first, last):
        drawn = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=drawn)
        mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
        accumulate(engine, tokens.numpy(), mask.numpy(), torch.arange(ROWS).numpy(), mask.numel(), engine.settings)
        losses.append(engine.step(1e-2).loss)
    return losses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_before_training_it_computes_what_the_model_does_to_the_last_bit(architecture: str) -> None:
    assert torch.equal(logits(new_expanded(architecture)), logits(new_model(architecture)))


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("gpt_neox", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_the_linear_layers_of_blocks_have_matrices_and_no_other(architecture: str, layers: set[str]) -> None:
    base, model = new_model(architecture), new_expanded(architecture)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in names} == layers
    linear = [n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and n not in ("embed_out", "lm_head")]
    assert names == {f"{name}.lora_{matrix}" for name in linear for matrix in "AB"}
    assert {name for name, _ in model.named_parameters()} == names | {name for name, _ in base.named_parameters()}
    for name in linear:
        outputs, inputs = base.get_parameter(f"{name}.weight").shape
        if architecture == "gpt2":
            outputs, inputs = inputs, outputs
        assert model.get_parameter(f"{name}.lora_A").shape == (4, inputs)
        assert model.get_parameter(f"{name}.lora_B").shape == (outputs, 4)


def test_the_product_is_added_as_the_papers_equation_says() -> None:
    layer = new_expanded(rank=4).gpt_neox.layers[0].mlp.dense_h_to_4h
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(5, 32)
    expected = x @ layer.weight.T + layer.bias + 16 / 4 * (layer.lora_B @ layer.lora_A @ x.T).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_matrices_are_a_function_of_the_seed_and_draw_no_other_random_number() -> None:
    state = torch.get_rng_state()
    first, again, other = new_model(), new_model(), new_model()
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        expand(model, 4, 16.0, seed)
    assert torch.equal(state, torch.get_rng_state())
    assert equal(weights(first), weights(again))
    assert not equal(weights(first), weights(other))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_training_changes_the_matrices_alone(
    new_engine: Callable[..., Replicated], architecture: str, activation_checkpointing: bool
) -> None:
    model = new_expanded(architecture)
    before = weights(model)
    losses = train(new_engine(model, activation_checkpointing=activation_checkpointing), 0, 3)
    for name, after in weights(model).items():
        assert torch.equal(after, before[name]) != ("lora_" in name), name
    assert losses[2] != losses[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_checkpoint_is_a_plain_model_with_the_same_logits(
    new_engine: Callable[..., Replicated], tmp_path: Path, architecture: str
) -> None:
    model = new_expanded(architecture)
    engine = new_engine(model)
    train(engine, 0, 3)
    plain = merged(model, engine.weights())
    assert plain.keys() == weights(new_model(architecture)).keys()
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    info = CheckpointInfo("stage-2", 3, 16, 2, "corpus", "plan", "config", {})
    folder = ModelLayout(tmp_path / "stage-2").checkpoint(3)
    save_checkpoint(folder, model, plain, PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0"), info)
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not is_expanded(loaded)
    model.eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-5)
    assert float((logits(loaded) - logits(new_model(architecture))).abs().max()) > 1e-2


def test_weights_without_matrices_are_merged_into_themselves() -> None:
    model = new_model()
    assert not is_expanded(model)
    assert equal(merged(model, weights(model)), weights(model))


def test_training_goes_on_from_a_state_to_the_last_bit(new_engine: Callable[..., Replicated], tmp_path: Path) -> None:
    unbroken = new_engine(new_expanded())
    train(unbroken, 0, 3)
    layout = ModelLayout(tmp_path / "stage-2")
    info = CheckpointInfo("stage-2", 3, 16, 2, "corpus", "plan", "config", {})
    save_state(layout, unbroken.weights(), unbroken.moments(), {}, info)
    model = new_expanded()
    state = read_state(layout.states / "step-00000003", {name: p.shape for name, p in model.named_parameters()})
    assert {name for name in state.moments if name != "step"} == {
        f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq") for name, p in model.named_parameters() if p.requires_grad
    }
    model.load_state_dict(state.weights, strict=False)
    resumed = new_engine(model)
    resumed.load_moments(state.moments)
    assert train(resumed, 3, 6) == train(unbroken, 3, 6)
    assert equal(resumed.weights(), unbroken.weights())
    assert equal(resumed.moments(), unbroken.moments())


@pytest.mark.parametrize("rank", [0, -1, 33])
def test_a_rank_that_no_layer_has_is_refused(rank: int) -> None:
    with pytest.raises(RecipeError, match=f"lora.rank is {rank}; possible: 1 to 32"):
        expand(new_model(), rank, 16.0, 0)


def test_a_model_that_reads_the_weights_of_its_layers_itself_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"reads the weight of backbone.layers.0.mixer.dt_proj itself"):
        expand(new_model("mamba"), 4, 16.0, 0)


def test_a_model_without_linear_layers_in_blocks_is_refused() -> None:
    with pytest.raises(RecipeError, match="Linear has no linear layer in a transformer block"):
        expand(torch.nn.Linear(3, 2), 1, 16.0, 0)
