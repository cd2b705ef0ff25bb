"""Planning an experiment: items, their texts, their arms and the place of every copy, in memory; then written as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from configs.layout import RunLayout
from configs.schema import Recipe
from configs.tables import ASSIGNMENT, ITEMS, PLAN, TEXTS, read_table, write_csv, write_table
from inject.assignment import assign
from inject.balance import balance, demand, power
from inject.corpus import Corpus, corpus_tokenizer
from inject.design import Shape, cells
from inject.hub import pinned_model
from inject.items.item import Item, Material
from inject.items.make import lint, make_items
from inject.items.redraw import redraw
from inject.items.texts import field_copies, tokenize_texts
from inject.plan import Lengths, make_plan
from inject.spread import Board
from inject.stream import Stream, check_length
from inject.tokenizer import vocabulary_size


@dataclass(frozen=True)
class Drawn:
    """What is to be inserted, before every copy has its place."""

    shape: Shape
    items: list[Item]
    texts: list[dict[str, Any]]  # rows of the texts table
    assignment: list[dict[str, Any]]  # rows of the assignment table, in the order of items
    places: Mapping[tuple[str, str], Sequence[tuple[int, int]]]  # explicit ones, by item set and arm
    reference_loss: dict[str, float]  # of each item, nats a token; empty without design.reference

    def demand(self) -> list[dict[str, Any]]:
        return demand(self.items, self.assignment, mean_lengths(self.texts), self.shape)

    def balance(self) -> list[dict[str, Any]]:
        covariates: dict[str, Mapping[str, float]] = {"tokens": mean_lengths(self.texts)}
        if self.reference_loss:
            covariates["reference_loss"] = self.reference_loss
        return balance(self.items, self.assignment, covariates)

    def power(self) -> list[dict[str, Any]]:
        return power(self.items, self.assignment)


def shape_of(recipe: Recipe) -> Shape:
    return Shape(recipe.train.steps, recipe.train.global_batch, recipe.train.sequence_length)


def make_texts(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, redrawn: Sequence[Sequence[str]] = ()
) -> tuple[list[Item], list[dict[str, Any]]]:
    """Items and the rows of their texts table. `redrawn`: the groups that were drawn again, by round."""
    items = drawn_items(recipe, tokenizer, redrawn)
    return items, tokenize_texts(items, tokenizer, recipe.train.sequence_length)


def drawn_items(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, redrawn: Sequence[Sequence[str]] = ()) -> list[Item]:
    """The items that are inserted."""
    material, seed = material_of(tokenizer), recipe.seed_for("items")
    items = make_items(recipe.insert, seed, material)
    for turn in range(1, len(redrawn) + 1):
        items = redraw(items, recipe.insert, seed, material, redrawn[:turn])
    if redrawn:
        lint(items)
    return items


def material_of(tokenizer: PreTrainedTokenizerFast) -> Material:
    """What items are made of besides their settings."""
    return Material(tokenizer, vocabulary_size(tokenizer), _sample)


def draw(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, redrawn: Sequence[Sequence[str]] = ()) -> Drawn:
    """Make items and assign them to arms; RecipeError for what can be seen to be impossible without the corpus."""
    from train.starts import check_starts

    shape = shape_of(recipe)
    designed = cells(recipe.insert, shape.steps)
    check_starts(recipe, vocabulary_size(tokenizer), tokenizer)
    items, texts = make_texts(recipe, tokenizer, redrawn)
    assignment = assign(items, designed, mean_lengths(texts), shape, recipe.seed_for("assignment"))
    places = {(name, cell.name): cell.places for name, arms in designed.items() for cell in arms if cell.places}
    return Drawn(shape, items, texts, assignment, places, _reference_losses(recipe, items, texts))


def place(drawn: Drawn, recipe: Recipe, corpus: Corpus | None) -> pa.Table:
    """The plan: a place for every copy. Without a corpus, what only its tokens tell stays unchecked, and boundaries are refused."""
    shape = drawn.shape
    if corpus is None:
        board = Board(shape)
    else:
        check_length(corpus, shape.sequence_length, shape.steps, shape.global_batch, recipe.corpus.epochs)
        board = Board(shape, Stream(corpus, recipe.seed_for("order"), shape.sequence_length).base_tokens, corpus.end_of_text)
    lengths = Lengths.of(_lengths(drawn.texts), [item.item_id for item in drawn.items])
    item_sets = [item.item_set for item in drawn.items]
    return make_plan(drawn.assignment, item_sets, lengths, drawn.places, board, recipe.seed_for("placement"))


def preview(recipe: Recipe, folder: Path) -> tuple[Drawn, Callable[[], str]]:
    """What is to be inserted in the corpus that has, or will have, this folder; and a check that places it, too, and says what
    remained unchecked.
    """
    corpus = Corpus(folder) if (folder / "meta.json").exists() else None
    tokenizer = corpus.tokenizer if corpus else corpus_tokenizer(recipe.corpus, recipe.seed, folder)
    drawn = draw(recipe, tokenizer)

    def check() -> str:
        if corpus is None and any(row["placement"] == "boundary" for row in drawn.assignment):
            return "The corpus is not tokenized yet: whether it is long enough, and has room at boundaries, was not checked."
        place(drawn, recipe, corpus)
        if corpus is None:
            return "Everything fits a corpus that is long enough; this one is not tokenized yet, so that was not checked."
        return "Everything fits."

    return drawn, check


def write(drawn: Drawn, plan: pa.Table, run: RunLayout) -> None:
    rows = [
        {
            **asdict(item),
            "fields": json.dumps(item.fields, ensure_ascii=False),
            "reference_loss": drawn.reference_loss.get(item.item_id),
        }
        for item in drawn.items
    ]
    write_table(run.items, rows, ITEMS)
    write_table(run.texts, drawn.texts, TEXTS)
    write_table(run.assignment, drawn.assignment, ASSIGNMENT)
    write_table(run.plan, plan, PLAN)
    write_csv(run.balance, drawn.balance())
    write_csv(run.power, drawn.power())
    write_csv(run.field_copies, _field_copies(drawn, plan))


def _field_copies(drawn: Drawn, plan: pa.Table) -> list[dict[str, Any]]:
    """How often the planned copies tell each field of each item, held-out items included."""
    counted = plan.group_by(["item_id", "variant"]).aggregate([("copy", "count")]).to_pylist()
    copies = field_copies(drawn.texts, {(entry["item_id"], entry["variant"]): entry["copy_count"] for entry in counted})
    return [{"item_id": item, "field": field, "copies": count} for (item, field), count in copies.items()]


def read_plan(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The plan, or some of its columns, with its few distinct names as dictionaries, which takes a tenth of the memory and time."""
    return read_table(path, ["item_id", "variant", "mode"], columns)


# ------------------------------------------------------------------------------------------------ covariates


def mean_lengths(texts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean tokens of each item's texts."""
    return {item: fmean(tokens for _, tokens in variants) for item, variants in _lengths(texts).items()}


def _lengths(texts: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    lengths: dict[str, list[tuple[str, int]]] = {}
    for text in texts:
        lengths.setdefault(text["item_id"], []).append((text["variant"], len(text["tokens"])))
    return lengths


def _sample(model: str, *arguments: Any, **named: Any) -> Any:
    from eval.sampling import sample_sequences

    return sample_sequences(pinned_model(model), *arguments, **named)


def _reference_losses(recipe: Recipe, items: Sequence[Item], texts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean loss of each item's texts under design.reference, nats a token; empty without one."""
    names = {name: items.design.reference for name, items in recipe.insert.items() if items.design.reference}
    if not names:
        return {}
    from eval.sampling import text_losses

    set_of = {item.item_id: item.item_set for item in items}
    losses: dict[str, list[float]] = {}
    for name in dict.fromkeys(names.values()):
        own = [text for text in texts if names.get(set_of[text["item_id"]]) == name]
        for text, loss in zip(own, text_losses(pinned_model(name), [text["text"] for text in own]), strict=True):
            losses.setdefault(text["item_id"], []).append(loss)
    return {item.item_id: fmean(losses.get(item.item_id, [float("nan")])) for item in items}
