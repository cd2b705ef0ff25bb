"""Terms that hold a model near the one it starts from: their values and gradients by hand, once a step however it is shared out."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs.errors import RecipeError
from configs.schema import Model, Train
from train.engine import Replicated, connected, require_whole_parameters
from train.execution import Execution
from train.loop import accumulate
from train.model import build_model
from train.objective import Objective, Term
from train.penalty import DivergenceFromFrozen, ElasticWeightConsolidation, fisher_diagonal
from train.world import World

VOCABULARY, LENGTH, END = 61, 24, 5


class Table(torch.nn.Module):
    """A softmax over three tokens, whose logits are one row of a table for each token that precedes."""

    def __init__(self, *rows: Sequence[float]) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.tensor(rows), freeze=False)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.table

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table(input_ids))


PROBABILITIES = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6]]


def new_table(probabilities: Sequence[Sequence[float]] = PROBABILITIES) -> Table:
    return Table(*torch.tensor(probabilities).log().tolist())


def new_model(architecture: str = "gpt_neox", seed: int = 1, **options: Any) -> torch.nn.Module:
    shape = Model(architecture=architecture, layers=2, width=32, heads=4, **options)
    return build_model(shape, VOCABULARY, LENGTH, END, seed=seed)


def moved(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model some way from where it was."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=drawn)
    return model


def rows(count: int, labelled: float = 0.4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(count)
    tokens = torch.randint(0, VOCABULARY, (count, LENGTH + 1), generator=drawn)
    return tokens, torch.rand(count, LENGTH, generator=drawn) < labelled, torch.arange(count)


def gradients(model: torch.nn.Module, value: torch.Tensor) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return {name: g for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}


def added_gradients(model: Any, terms: Sequence[Term], parts: Sequence[torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
    """What `terms` add to the gradient of the objective."""
    with_terms = gradients(model, Objective(model, END, terms=terms, **options)(*parts))
    without = gradients(model, Objective(model, END, **options)(*parts))
    return {name: with_terms[name] - without[name] for name in with_terms}


def distance(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The norm of the difference, over that of all of them."""
    assert ours.keys() == others.keys()
    norm = sum(float(each.square().sum()) for each in others.values()) ** 0.5
    return sum(float((ours[name] - others[name]).square().sum()) for name in ours) ** 0.5 / norm


# ------------------------------------------------------------------------------------------------ Fisher information


def test_the_fisher_information_of_a_softmax_is_that_computed_by_hand() -> None:
    """The gradient of a label's log-likelihood is one-hot minus softmax, in the row of the token before it.

    The first example adds up two labels of row 0; the second has one there, and one of row 1 that does not count.
    """
    first = torch.tensor([[0, 0, 1]]), torch.tensor([[True, True]])  # (1, 0, 0) + (0, 1, 0) - 2 (0.5, 0.25, 0.25) = (0, 0.5, -0.5)
    second = torch.tensor([[0, 1, 2]]), torch.tensor([[True, False]])  # (0, 1, 0) - (0.5, 0.25, 0.25) = (-0.5, 0.75, -0.25)
    fisher = fisher_diagonal(new_table(), [first, second])
    assert fisher.keys() == {"table.weight"}
    expected = torch.tensor([[0.25, 0.5**2 + 0.75**2, 0.25 + 0.0625], [0.0] * 3, [0.0] * 3]) / 2
    torch.testing.assert_close(fisher["table.weight"], expected)


def test_the_fisher_information_is_of_single_examples_without_dropout_and_leaves_the_model_as_it_was() -> None:
    model = new_model(dropout=0.5).train()
    tokens, mask, _ = rows(3)
    fisher = fisher_diagonal(model, [(tokens[i : i + 1], mask[i : i + 1]) for i in range(3)])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for row, labels in zip(tokens, mask, strict=True):
        logits = model(input_ids=row[None, :-1]).logits[0]
        for name, gradient in gradients(model, F.cross_entropy(logits[labels], row[1:][labels], reduction="sum")).items():
            expected[name] += gradient**2 / 3
    assert distance(fisher, expected) < 1e-5


def test_without_an_example_there_is_no_fisher_information() -> None:
    with pytest.raises(RecipeError, match="no example"):
        fisher_diagonal(new_table(), [])


# ------------------------------------------------------------------------------------------------ elastic weight consolidation


def test_elastic_weight_consolidation_is_that_computed_by_hand() -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.data, model.bias.data = torch.tensor([[1.0, -2.0]]), torch.tensor([0.5])
    term = ElasticWeightConsolidation(model, {"weight": torch.tensor([[3.0, 1.0]]), "bias": torch.tensor([4.0])}, weight=10.0)
    assert term.penalty(model).item() == 0.0
    model.weight.data, model.bias.data = torch.tensor([[1.5, -3.0]]), torch.tensor([0.25])
    penalty = term.penalty(model)
    assert penalty.item() == pytest.approx(10 / 2 * (3 * 0.5**2 + 1 * 1.0**2 + 4 * 0.25**2))  # 10
    weight, bias = torch.autograd.grad(penalty, [model.weight, model.bias])
    torch.testing.assert_close(weight, torch.tensor([[10 * 3 * 0.5, 10 * 1 * -1.0]]))
    torch.testing.assert_close(bias, torch.tensor([10 * 4 * -0.25]))


def test_fisher_information_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter of the model"):
        ElasticWeightConsolidation(torch.nn.Linear(2, 1), {"other": torch.zeros(1)}, weight=1.0)


# ------------------------------------------------------------------------------------------------ divergence from the frozen model


def test_the_divergence_on_three_tokens_is_that_computed_by_hand() -> None:
    """Of three labels one does not count; the others are predicted after 0, where nothing has changed, and after 1."""
    model = new_table()
    term = DivergenceFromFrozen(model, weight=3.0)
    with torch.no_grad():
        model.table.weight[1:] = torch.tensor([[0.5, 0.25, 0.25], [0.98, 0.01, 0.01]]).log()
    objective = Objective(model, END, terms=[term])
    inputs, mask = torch.tensor([[0, 1, 2]]), torch.tensor([True, True, False])
    value = term(objective, inputs, objective.outputs(model, inputs), mask)
    kept, now = np.array([0.1, 0.2, 0.7]), np.array([0.5, 0.25, 0.25])
    assert value.item() == pytest.approx(3.0 * float(np.sum(kept * np.log(kept / now))))
    (gradient,) = torch.autograd.grad(value, [model.table.weight])
    expected = torch.tensor(np.stack([np.zeros(3), 3.0 * (now - kept), np.zeros(3)]), dtype=torch.float32)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "gemma2"])
def test_the_divergence_begins_at_zero_with_no_gradient(architecture: str) -> None:
    """gemma2's logits are not linear in its hidden states."""
    model = new_model(architecture)
    parts = rows(3)
    term = DivergenceFromFrozen(model, weight=1.0)
    objective = Objective(model, END, terms=[term])
    inputs = parts[0][:, :-1]
    value = term(objective, inputs, objective.outputs(model, inputs), parts[1].flatten())
    assert value.item() == 0.0
    assert max(float(each.abs().max()) for each in gradients(model, value).values()) < 1e-5


@pytest.mark.parametrize(
    ("architecture", "mask_documents", "chunk"),
    [("gpt_neox", False, 0), ("gpt_neox", True, 5), ("gpt2", False, 5), ("gpt2", True, 0), ("gemma2", False, 0)],
)
def test_the_gradient_of_the_divergence_is_that_of_the_plain_formula(architecture: str, mask_documents: bool, chunk: int) -> None:
    model, parts = new_model(architecture), rows(3)
    frozen = new_model(architecture)
    terms = [DivergenceFromFrozen(model, weight=0.7)]
    moved(model)
    ours = added_gradients(model, terms, parts, mask_documents=mask_documents, chunk=chunk)
    objective = Objective(frozen, END, mask_documents=mask_documents)
    inputs, mask = parts[0][:, :-1], parts[1].flatten()
    expected, found = (objective.logits(m, objective.outputs(m, inputs))[mask].softmax(-1) for m in (frozen, model))
    naive = 0.7 * (expected.detach() * (expected.detach() / found).log()).sum()
    naive_gradients = {n: g for n, g in gradients(model, naive).items() if n in ours}
    assert distance(ours, naive_gradients) < 1e-4


def test_the_frozen_model_never_changes_and_is_no_part_of_the_objective() -> None:
    model = new_model()
    term = DivergenceFromFrozen(model, weight=1.0)
    objective = Objective(moved(model), END, terms=[term]).train()
    assert not {id(p) for p in term.frozen.parameters()} & {id(p) for p in objective.parameters()}
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    objective(*rows(3)).backward()
    optimizer.step()
    assert not any(module.training for module in term.frozen.modules())
    assert all(torch.equal(a, b) for a, b in zip(term.frozen.parameters(), new_model().parameters(), strict=True))


# ------------------------------------------------------------------------------------------------ in the objective


def test_the_loss_told_is_the_cross_entropy_to_the_last_bit() -> None:
    model, parts = new_model(), rows(4)
    terms = [ElasticWeightConsolidation(model, {n: torch.ones_like(p) for n, p in model.named_parameters()}, weight=1e6)]
    terms.append(DivergenceFromFrozen(model, weight=3.0))
    moved(model)
    assert torch.equal(Objective(model, END, terms=terms)(*parts), Objective(model, END)(*parts))


def test_a_term_that_is_not_finite_makes_a_loss_that_is_not() -> None:
    assert Objective(new_model(), END, terms=[lambda *_: torch.tensor(float("inf"))])(*rows(1)).isnan()


def test_without_a_gradient_no_term_is_computed() -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise AssertionError

    with torch.no_grad():
        Objective(new_model(), END, terms=[fail])(*rows(1))


def new_terms(model: Any) -> list[Term]:
    tokens, mask, _ = rows(5)
    fisher = fisher_diagonal(model, [(tokens[i : i + 1], mask[i : i + 1]) for i in range(5)])
    return [ElasticWeightConsolidation(model, fisher, weight=2.0), DivergenceFromFrozen(model, weight=2.0)]


def test_a_steps_gradient_has_the_terms_once_however_its_rows_are_parted() -> None:
    """Rows with different numbers of labels, one of them with none."""
    tokens, mask, numbers = rows(6)
    mask[0] = False
    mask[1] = True
    found, told = [], []
    for micro_batch in (6, 3, 2, 1):
        model = new_model()
        terms = new_terms(model)
        settings = Train(strategy="single", micro_batch=micro_batch, accumulation=6 // micro_batch, clip=0.0)
        with connected(settings, World()) as fabric:
            objective = Objective(moved(model), END, terms=terms)
            engine = Replicated(fabric, objective, settings, Execution("fp32", 1), World(), lambda *_: True)
            accumulate(engine, tokens.numpy(), mask.numpy(), numbers.numpy(), int(mask.sum()), settings)
            found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            told.append(engine.step(0.0).loss)
    assert all(distance(each, found[0]) < 1e-5 for each in found[1:])
    assert told == pytest.approx([told[0]] * 4, rel=1e-6)
    once = gradients(model, terms[0].penalty(model))  # type: ignore[attr-defined]
    both = {n: g / int(mask.sum()) for n, g in added_gradients(model, terms, (tokens, mask, numbers)).items()}
    divergence = {n: g / int(mask.sum()) for n, g in added_gradients(model, terms[1:], (tokens, mask, numbers)).items()}
    assert distance({n: both[n] - divergence[n] for n in both}, once) < 1e-4


def test_parameters_that_are_shared_out_are_refused_in_a_sentence() -> None:
    for strategy in ("single", "ddp", "zero_1", "zero_2"):
        require_whole_parameters(strategy)
    with pytest.raises(RecipeError, match=r"train.strategy is zero_3, .* possible: single, ddp, zero_1, zero_2"):
        require_whole_parameters("zero_3")
