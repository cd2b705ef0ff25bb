"""The objective as sums over labels."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from configs.errors import RecipeError
from configs.schema import Model
from train.cross_entropy import LinearCrossEntropy
from train.model import build_model
from train.objective import Objective, document_positions, next_token_loss

VOCABULARY, LENGTH, END = 61, 24, 5
ROWS = torch.arange(3)


def new_model(architecture: str = "gpt_neox", dropout: float = 0.0, **options: Any) -> PreTrainedModel:
    shape = Model(architecture=architecture, layers=2, width=32, heads=4, dropout=dropout, options=options)
    return build_model(shape, VOCABULARY, LENGTH, END, seed=1)


def new_tokens(rows: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(seed))


def new_mask(kept: float = 0.95, rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, LENGTH, generator=torch.Generator().manual_seed(1)) < kept


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The largest relative difference, in norm, of any parameter's gradient."""
    assert ours.keys() == others.keys()
    return max(float((ours[name] - others[name]).norm() / others[name].norm()) for name in ours)


class Uniform(torch.nn.Module):
    """A model that finds every one of 8 tokens equally probable."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8, dtype=torch.bfloat16))


# ------------------------------------------------------------------------------------------------ sums over labels


def test_the_loss_is_a_sum_over_the_labels_that_count() -> None:
    tokens = torch.arange(10).reshape(2, 5) % 8
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert Objective(Uniform(), 0)(tokens, mask, torch.arange(2)).item() == pytest.approx(3 * math.log(8))
    assert next_token_loss(Uniform(), tokens, mask).item() == pytest.approx(3 * math.log(8))


def test_rows_without_labels_cost_nothing_and_move_nothing() -> None:
    objective = Objective(new_model(), END)
    loss = objective(new_tokens(), torch.zeros(3, LENGTH, dtype=torch.bool), ROWS)
    assert loss.item() == 0.0
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients(objective.model, loss).values())


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "phi", "gemma2", "cohere"])
def test_the_loss_and_gradients_are_those_of_the_models_own_logits(architecture: str) -> None:
    """gpt2 shares its embedding with its head, phi's head has a bias, gemma2 caps its logits and cohere scales them."""
    model = new_model(architecture)
    tokens, mask = new_tokens(), new_mask()
    logits = model(input_ids=tokens[:, :-1]).logits.double().flatten(0, 1)
    expected = F.cross_entropy(logits, tokens[:, 1:].flatten().masked_fill(~mask.flatten(), -100), reduction="sum")
    loss = Objective(model, END)(tokens, mask, ROWS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert distance(gradients(model, loss), gradients(model, expected)) < 2e-6


def test_the_losses_of_micro_batches_add_up_to_the_whole() -> None:
    objective = Objective(new_model(dropout=0.2), END, seed=3).train()
    tokens, mask, rows = new_tokens(4), new_mask(0.6, 4), torch.arange(40, 44)
    whole = objective(tokens, mask, rows)
    parts = [objective(tokens[i : i + size], mask[i : i + size], rows[i : i + size]) for i, size in ((0, 1), (1, 2), (3, 1))]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)  # type: ignore[union-attr]
    assert objective(tokens, mask, rows + 1).item() != pytest.approx(whole.item(), rel=1e-6)


def test_gradients_of_micro_batches_accumulate_to_those_of_the_whole() -> None:
    objective = Objective(new_model(dropout=0.2), END, seed=3).train()
    tokens, mask = new_tokens(), new_mask()
    whole = gradients(objective.model, objective(tokens, mask, ROWS) / 7)
    objective.model.zero_grad()
    for row in range(3):
        chosen = slice(row, row + 1)
        (objective(tokens[chosen], mask[chosen], ROWS[chosen]) / 7).backward()
    assert distance({name: p.grad for name, p in objective.model.named_parameters() if p.grad is not None}, whole) < 2e-6


# ------------------------------------------------------------------------------------------------ chunks of logits


class Sizes(TorchDispatchMode):
    """Notes the shape of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(t.shape) for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out

    def largest(self) -> int:
        return max(math.prod(shape) for shape in self.shapes)


@pytest.mark.parametrize(("chunk", "largest"), [(8, 32 * 200), (64, 64 * 200), (0, 256 * 200)])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weight(chunk: int, largest: int, monkeypatch: Any) -> None:
    """256 tokens of 32 units and 200 tokens of vocabulary: chunks of 8 are smaller than the weight's gradient."""
    head, hidden = torch.nn.Linear(32, 200, bias=False), torch.randn(256, 32, requires_grad=True)
    module = LinearCrossEntropy(head, chunk)
    with Sizes() as sizes:
        module(hidden, torch.zeros(256, dtype=torch.long), torch.ones(256, dtype=torch.bool)).backward()
    assert sizes.largest() == max(largest, 256 * 32)


def test_labels_that_do_not_count_have_no_logits() -> None:
    objective = Objective(new_model(), END)
    mask = torch.zeros(3, LENGTH, dtype=torch.bool)
    mask[0, 3:7] = True
    with Sizes() as sizes:
        objective(new_tokens(), mask, ROWS).backward()
    assert {shape[0] for shape in sizes.shapes if len(shape) == 2 and shape[1] == VOCABULARY} == {
        4,
        32,
    }  # 32: the weight, seen the other way round


def test_held_out_loss_needs_no_gradient() -> None:
    objective = Objective(new_model(), END, chunk=10).eval()
    tokens, mask = new_tokens(), new_mask(1.0)
    with torch.no_grad(), Sizes() as sizes:
        loss = objective(tokens, mask, ROWS)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(objective(tokens, mask, ROWS).item(), rel=1e-6)
    assert (VOCABULARY, 32) not in {shape for shape in sizes.shapes if shape != tuple(objective.head.weight.T.shape)}  # type: ignore[union-attr]


def test_a_gradient_is_taken_once() -> None:
    loss = Objective(new_model(), END)(new_tokens(), new_mask(), ROWS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


@pytest.mark.parametrize(("dtype", "scale", "near"), [(torch.bfloat16, 1.0, 0.02), (torch.float16, 65536.0, 0.003)])
@pytest.mark.parametrize("chunk", [0, 10])
def test_low_precision_is_near_fp32(dtype: torch.dtype, scale: float, near: float, chunk: int) -> None:
    model = new_model()
    objective = Objective(model, END, chunk=chunk)
    tokens, mask = new_tokens(), new_mask()
    exact = objective(tokens, mask, ROWS)
    expected = gradients(model, exact)
    with torch.autocast("cpu", dtype=dtype):
        loss = objective(tokens, mask, ROWS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    ours = gradients(model, loss * scale / 72)
    name = next(name for name in expected if name.startswith("embed_out") or name.startswith("lm_head"))
    assert ours[name].dtype == torch.float32
    assert distance({name: ours[name] * 72 / scale}, {name: expected[name]}) < near


# ------------------------------------------------------------------------------------------------ what a model can do


@pytest.mark.parametrize("architecture", ["gemma2", "cohere"])
def test_logits_that_are_not_linear_are_the_models_own_or_refused(architecture: str) -> None:
    """A cap of 30 moves the small logits of a new model by less than their rounding; it is found all the same."""
    assert Objective(new_model(architecture), END).head is None
    with pytest.raises(RecipeError, match=f"loss_chunk is 64, but the logits of {architecture}"):
        Objective(new_model(architecture), END, chunk=64)


def test_building_it_draws_no_random_number_and_leaves_the_model_as_it_was() -> None:
    model = new_model(dropout=0.1).train()
    model.gpt_neox.layers[0].eval()
    names, state = set(model.state_dict()), torch.get_rng_state()
    objective = Objective(model, END, mask_documents=True)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert model.gpt_neox.layers[1].attention.training
    assert not model.gpt_neox.layers[0].mlp.training
    assert set(model.state_dict()) == names
    assert {name.removeprefix("model.") for name, _ in objective.named_parameters()} == {n for n, _ in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------ documents

DOCUMENTS = [[7, 8, 9, 10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 7, 8, 9, 33, 34, 35, 36, 37, 38]]


def packed(documents: list[list[int]]) -> torch.Tensor:
    """A row: each document after an end-of-text."""
    return torch.tensor([[token for document in documents for token in [END, *document]]])


def document_losses(objective: Objective, row: torch.Tensor) -> list[float]:
    """The loss of each document of a row: of its tokens, and of the end-of-text after it, without that before it."""
    opened = (row[0] == END).nonzero()[:, 0].tolist()
    losses = []
    for start, end in zip(opened, [*opened[1:], row.shape[1] - 1], strict=True):
        mask = torch.zeros(1, row.shape[1] - 1, dtype=torch.bool)
        mask[0, start:end] = True
        losses.append(objective(row, mask, ROWS[:1]).item())
    return losses


ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neox", {}),
    ("llama", {}),
    ("gpt2", {}),
    ("olmo2", {}),
    ("qwen3", {}),
    ("mistral", {"sliding_window": 4}),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_masked_documents_are_scored_as_if_alone(architecture: str, options: dict[str, Any], attention: str) -> None:
    model = new_model(architecture, **options)
    model.set_attn_implementation(attention)
    row = packed(DOCUMENTS)
    masked, plain = Objective(model, END, mask_documents=True), Objective(model, END)
    alone = []
    for document, closed in zip(DOCUMENTS, (True, True, False), strict=True):
        text = torch.tensor([[END, *document, *([END] if closed else [])]])
        alone.append(plain(text, torch.ones(1, text.shape[1] - 1, dtype=torch.bool), ROWS[:1]).item())
    assert document_losses(masked, row) == pytest.approx(alone, abs=1e-5)
    whole = torch.ones(1, row.shape[1] - 1, dtype=torch.bool)
    assert masked(row, whole, ROWS[:1]).item() == pytest.approx(sum(alone), abs=1e-4)
    assert document_losses(plain, row)[1:] != pytest.approx(alone[1:], abs=1e-3)  # what comes before is seen where not masked


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_a_token_of_one_document_changes_no_loss_of_another(architecture: str, options: dict[str, Any]) -> None:
    objective = Objective(new_model(architecture, **options), END, mask_documents=True)
    row = packed(DOCUMENTS)
    before = document_losses(objective, row)
    for place, document in ((3, 0), (10, 1), (15, 2)):
        changed = row.clone()
        changed[0, place] = 50
        after = document_losses(objective, changed)
        assert [a != b for a, b in zip(before, after, strict=True)] == [d == document for d in range(3)]


def test_a_row_that_opens_within_a_document_has_it_as_one_of_its_own() -> None:
    inputs = torch.tensor([[7, 8, END, 9, 9, END, END, 3], [END, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]]) % 61
    inputs[1:][inputs[1:] == END] = 0
    inputs[1, 0] = END
    expected = [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert document_positions(inputs, END).tolist() == expected


def test_without_end_of_text_masking_changes_nothing() -> None:
    model, tokens = new_model(), new_tokens()
    tokens[tokens == END] = 6
    mask = new_mask()
    assert Objective(model, END, mask_documents=True)(tokens, mask, ROWS) == Objective(model, END)(tokens, mask, ROWS)


@pytest.mark.parametrize("architecture", ["bloom", "mamba"])
def test_an_architecture_without_positions_is_refused(architecture: str) -> None:
    with pytest.raises(RecipeError, match=f"mask_documents is true, but {architecture}"):
        Objective(new_model(architecture), END, mask_documents=True)


@contextmanager
def flash_attention_stand_in() -> Iterator[list[int]]:
    """FlashAttention's interface for packed sequences, computed by sdpa sequence by sequence; notes the longest it was promised."""
    longest: list[int] = []

    def forward(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **kwargs: Any) -> Any:
        assert attention_mask is None
        assert query.shape[0] == 1
        ends = kwargs["cu_seq_lens_q"].tolist()
        assert kwargs["cu_seq_lens_q"].dtype == torch.int32
        assert kwargs["cu_seq_lens_k"].tolist() == ends
        longest.append(kwargs["max_length_q"])
        parts = [
            F.scaled_dot_product_attention(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, scale=scaling)
            for a, b in pairwise(ends)
        ]
        return torch.cat(parts, 2).transpose(1, 2).contiguous(), None

    original = ALL_ATTENTION_FUNCTIONS["flash_attention_2"]
    ALL_ATTENTION_FUNCTIONS.register("flash_attention_2", forward)
    try:
        yield longest
    finally:
        ALL_ATTENTION_FUNCTIONS.register("flash_attention_2", original)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3"])
def test_flash_attention_gets_one_sequence_and_where_its_documents_start(architecture: str) -> None:
    model, tokens, mask = new_model(architecture), new_tokens(), new_mask()
    tokens[:, 9] = END
    expected = Objective(model, END, mask_documents=True)(tokens, mask, ROWS).item()
    with flash_attention_stand_in() as longest:
        model.config._attn_implementation = "flash_attention_2"
        objective = Objective(model, END, mask_documents=True)
        assert objective(tokens, mask, ROWS).item() == pytest.approx(expected, rel=1e-6)
    assert longest == [LENGTH, LENGTH]
