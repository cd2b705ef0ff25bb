"""Dropout as a function of seed, row, module and place."""

from itertools import combinations

import pytest
import torch
from scipy.stats import binomtest, chisquare

from configs.errors import RecipeError
from configs.schema import Model
from train.dropout import RowDropout, RowKeys, check_no_other_dropout, keep_mask, mix_32, mix_64, replace_dropout
from train.model import build_model
from train.objective import Objective

END = 5


def new_keys(rows: range, seed: int = 0) -> RowKeys:
    keys = RowKeys(seed)
    keys.set(torch.tensor(list(rows)))
    return keys


def mask(rows: range, name: str = "layers.0", p: float = 0.5, places: int = 4096, seed: int = 0) -> torch.Tensor:
    """What RowDropout keeps of ones: (n, places) bool."""
    return RowDropout(p, name, new_keys(rows, seed))(torch.ones(len(rows), places)) != 0


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """In standard deviations of what independent masks have."""
    a, b = one.double().flatten(), other.double().flatten()
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())) * len(a) ** 0.5


# ------------------------------------------------------------------------------------------------ a pure function


def test_the_mask_of_a_row_is_the_same_in_every_micro_batch() -> None:
    whole = mask(range(40, 48))
    parts = torch.cat([mask(range(40, 41)), mask(range(41, 45)), mask(range(45, 48))])
    assert torch.equal(whole, parts)


def test_no_generator_is_asked() -> None:
    state = torch.get_rng_state()
    first = mask(range(4))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(mask(range(4)), first)


def test_the_layout_of_rows_does_not_matter() -> None:
    """(n, S, d), (n x S, d) as mixtures of experts see it, and (1, n x S, d) as FlashAttention's packed sequences have it."""
    module = RowDropout(0.3, "mlp", new_keys(range(7, 10)))
    x = torch.randn(3, 8, 16)
    assert torch.equal(module(x).flatten(0, 1), module(x.flatten(0, 1)))
    assert torch.equal(module(x).flatten(0, 1), module(x.view(1, 24, 16))[0])


def test_row_numbers_beyond_32_bits_have_masks_of_their_own() -> None:
    far = torch.tensor([3, 3 + 2**32, 3 + 2**40])
    keys = RowKeys(0)
    keys.set(far)
    masks = RowDropout(0.5, "mlp", keys)(torch.ones(3, 4096)) != 0
    assert max(abs(correlation(a, b)) for a, b in combinations(masks, 2)) < 4


def test_what_stays_is_scaled_and_the_gradient_masked_alike() -> None:
    x = torch.randn(2, 64, requires_grad=True)
    out = RowDropout(0.25, "mlp", new_keys(range(2)))(x)
    keep = mask(range(2), "mlp", 0.25, 64)
    torch.testing.assert_close(out, x * keep / 0.75)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, keep / 0.75)


def test_evaluation_and_zero_change_nothing_and_one_drops_everything() -> None:
    x = torch.randn(2, 64)
    assert RowDropout(0.5, "mlp", RowKeys(0)).eval()(x) is x
    assert RowDropout(0.0, "mlp", RowKeys(0))(x) is x
    assert not RowDropout(1.0, "mlp", new_keys(range(2)))(x).any()


def test_low_precision_keeps_its_type() -> None:
    assert RowDropout(0.5, "mlp", new_keys(range(2)))(torch.ones(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_part_dropped_is_p(p: float) -> None:
    dropped = ~mask(range(100), p=p, places=10_000)
    assert binomtest(int(dropped.sum()), dropped.numel(), p).pvalue > 1e-4


def test_rows_and_places_drop_alike() -> None:
    """Counts over 500 rows and over 500 places vary as binomial ones do: neither more nor less."""
    dropped = ~mask(range(1000, 1500), p=0.2, places=500)
    for axis in (0, 1):
        counts = dropped.sum(axis).double()
        statistic = float(((counts - 100) ** 2).sum() / (500 * 0.2 * 0.8))
        assert 500 - 4 * 1000**0.5 < statistic < 500 + 4 * 1000**0.5


def test_patterns_of_neighbours_are_equally_frequent() -> None:
    """Eight places in line, and eight rows at a place: each of 256 patterns as often as another."""
    drawn = mask(range(4096), places=256)
    weights = 2 ** torch.arange(8)
    for bits in (drawn.view(-1, 8), drawn.T.reshape(-1, 8)):
        patterns = torch.bincount((bits * weights).sum(1), minlength=256)
        assert chisquare(patterns.numpy()).pvalue > 1e-4


def test_rows_modules_seeds_and_steps_are_independent() -> None:
    places = 100_000
    base = mask(range(1), places=places)
    others = [
        mask(range(1, 2), places=places),  # the next row
        mask(range(512, 513), places=places),  # the same slot, a step of 512 rows later
        mask(range(1), "layers.1", places=places),
        mask(range(1), seed=1, places=places),
        base.roll(1, 1),  # the next place
        base.roll(768, 1),  # the next token
    ]
    drawn = [base, *others]
    assert max(abs(correlation(a, b)) for a, b in combinations(drawn, 2)) < 4.5


def test_neighbouring_keys_differ_in_half_of_their_bits() -> None:
    for mix, dtype, bits in ((mix_64, torch.int64, 64), (mix_32, torch.int32, 32)):
        x = torch.arange(2000, dtype=dtype)
        changed = mix(x) ^ mix(x ^ 1)
        flipped = sum(((changed >> bit) & 1).double().mean() for bit in range(bits))
        assert float(flipped) == pytest.approx(bits / 2, rel=0.02)
        assert len(mix(x).unique()) == 2000


def test_a_probability_is_met_to_its_last_bit() -> None:
    """Thresholds lie 2^-32 apart, so that the expected share is exact for p = 2^-k; all 32 bits at 0.5 are one bit."""
    keep = keep_mask(torch.tensor([123]), 1 << 16, 2.0**-12)
    assert binomtest(int((~keep).sum()), 1 << 16, 2.0**-12).pvalue > 1e-4


# ------------------------------------------------------------------------------------------------ in a model


def new_objective(architecture: str = "gpt_neox", seed: int = 3, **execution: bool) -> Objective:
    model = build_model(Model(architecture=architecture, layers=2, width=32, heads=4, dropout=0.2), 61, 16, END, seed=1)
    if execution.get("checkpointing"):
        model.activation_checkpointing_enable()
    return Objective(model, END, seed=seed).train()


def loss_and_gradients(objective: Objective, rows: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    tokens = torch.arange(2 * 17).reshape(2, 17) % 61
    loss = objective(tokens, torch.ones(2, 16, dtype=torch.bool), rows)
    return loss.item(), list(torch.autograd.grad(loss, list(objective.model.parameters())))


@pytest.mark.parametrize(("architecture", "modules"), [("gpt_neox", 5), ("gpt2", 5), ("phi", 3)])
def test_every_dropout_module_is_replaced(architecture: str, modules: int) -> None:
    """gpt_neox: embeddings, and two a layer; gpt2 alike; phi: embeddings, and one a layer, used twice."""
    objective = new_objective(architecture)
    ours = [module.name for module in objective.modules() if isinstance(module, RowDropout)]
    assert len(ours) == len(set(ours)) == modules
    assert not [m for m in objective.modules() if type(m) is torch.nn.Dropout and m.p > 0]
    rows = torch.tensor([8, 9])
    assert loss_and_gradients(objective, rows)[0] == loss_and_gradients(objective, rows)[0]
    assert loss_and_gradients(objective, rows)[0] != loss_and_gradients(objective, rows + 2)[0]
    assert loss_and_gradients(objective, rows)[0] != loss_and_gradients(new_objective(architecture, seed=4), rows)[0]


def test_a_block_computed_twice_has_the_same_mask() -> None:
    rows = torch.tensor([8, 9])
    kept, again = loss_and_gradients(new_objective(), rows), loss_and_gradients(new_objective(checkpointing=True), rows)
    assert kept[0] == again[0]
    assert all(torch.equal(a, b) for a, b in zip(kept[1], again[1], strict=True))


def test_dropout_outside_modules_is_refused() -> None:
    """llama's attention and opt's layers call the function."""
    model = build_model(Model(architecture="llama", layers=1, width=32, heads=4), 61, 16, END, seed=1)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    state = torch.get_rng_state()
    with pytest.raises(RecipeError, match="llama draws random numbers outside its dropout modules"):
        check_no_other_dropout(model, RowKeys(0))
    assert torch.equal(state, torch.get_rng_state())


def test_replacing_keeps_names_weights_and_probability() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Dropout(0.0))).eval()
    names = list(model.state_dict())
    assert replace_dropout(model, RowKeys(0)) == ["1.0"]
    assert model[1][0].p == 0.1
    assert not model[1][0].training
    assert list(model.state_dict()) == names


def test_a_forward_without_rows_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="needs the rows"):
        RowDropout(0.5, "mlp", RowKeys(0))(torch.ones(1, 2))


def test_it_is_one_graph_for_every_step() -> None:
    """torch.compile traces it whole, and once: rows are an input, not a constant."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    keys, x = new_keys(range(4)), torch.ones(4, 32)
    module = RowDropout(0.5, "mlp", keys)
    compiled = torch.compile(module, backend=count, fullgraph=True)
    for step in range(3):
        keys.set(torch.arange(4) + 4 * step)
        assert torch.equal(compiled(x), module(x))
    assert len(graphs) == 1
