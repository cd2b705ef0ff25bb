"""The items of a run that is there, taken as its tables have them: to be scored on a model that exists, or inserted once more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import DataError, RecipeError
from configs.insert import RecordedSet
from configs.layout import RunLayout
from configs.tables import read_table
from inject.items.item import COPIES_OF_TEXTS, RELEASED_COPIES, RELEASED_MEMBER, VERBATIM, Item, Material, Probe, Span, Text
from inject.tokenizer import decode, encode

TABLES = ("items", "texts", "assignment")
REPLACEMENT = "\ufffd"  # what bytes that are no character are decoded to

Row = dict[str, Any]


def make(settings: RecordedSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """The items under the names of their own sets, with the copies that the run planned or that a field of theirs tells.

    Under the run's own tokenizer texts keep their tokens, also those that no string spells; under another they are tokenized anew.
    RecipeError where there is no such run or set; DataError where a text can't be said in the tokens of another tokenizer.
    """
    run = _layout(settings, item_set)
    rows = _drawn(_chosen(settings, item_set, read_table(run.items).to_pylist()), settings, item_set, seed)
    texts: dict[str, list[Row]] = {row["item_id"]: [] for row in rows}
    for text in read_table(run.texts).to_pylist():
        if text["item_id"] in texts:
            texts[text["item_id"]].append(text)
    same = spelled_alike([text for own in texts.values() for text in own], material)
    planned = _planned(run) if settings.copies is None and run.plan.exists() else None
    items = []
    for row in rows:
        fields = _with_copies(json.loads(row["fields"]), row["item_id"], texts[row["item_id"]], settings.copies, planned)
        item = _item(row, fields, texts[row["item_id"]], keep_tokens=same)
        if not same and (unsaid := _unsaid(item)):
            raise DataError(
                f"item {item.item_id} of {run.root} is made of tokens that no text spells ({unsaid!r}), and this model has another "
                f"tokenizer; leave its item set out: insert.{item_set}.sets names those that are taken"
            )
        items.append(item)
    return items


def recorded_tables(run: RunLayout) -> list[Path]:
    """The tables that the items of a run are taken from; those that are not there are missing."""
    return [getattr(run, name) for name in TABLES]


def spelled_alike(texts: Sequence[Mapping[str, Any]], material: Material) -> bool:
    """Whether the tokens of all texts spell them under this tokenizer, as they do under the one that made them.

    Some tokenizers drop blanks when they decode, so a text that is encoded to its tokens counts, too.
    """
    unlike = [text for text in texts if _spelling(text["tokens"], material) != text["text"]]
    return encode(material.tokenizer, [text["text"] for text in unlike]) == [list(text["tokens"]) for text in unlike]


def _spelling(tokens: Sequence[int], material: Material) -> str | None:
    return decode(material.tokenizer, tokens) if max(tokens) < material.vocabulary else None


def _layout(settings: RecordedSet, item_set: str) -> RunLayout:
    if settings.run is None:
        raise RecipeError(f"insert.{item_set} is taken from a run; set insert.{item_set}.run to its folder")
    run = RunLayout(Path(settings.run))
    if missing := [path for path in recorded_tables(run) if not path.exists()]:
        raise RecipeError(
            f"insert.{item_set}.run is {settings.run}, which holds no items of a run: it has no {missing[0].name}, as imprint plan "
            "makes it"
        )
    return run


def _chosen(settings: RecordedSet, item_set: str, rows: list[Row]) -> list[Row]:
    """The rows of the named item sets."""
    there = list(dict.fromkeys(row["item_set"] for row in rows))
    if absent := [name for name in settings.sets if name not in there]:
        raise RecipeError(f"insert.{item_set}.sets holds {absent[0]!r}; the item sets of {settings.run} are: {', '.join(there)}")
    return [row for row in rows if row["item_set"] in (settings.sets or there)]


def _drawn(rows: list[Row], settings: RecordedSet, item_set: str, seed: int) -> list[Row]:
    """The rows of `count` groups, at random; a larger count adds to those of a smaller one."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    if settings.count is None:
        return rows
    if settings.count > len(groups):
        raise RecipeError(f"insert.{item_set}.count is {settings.count}, but {settings.run} has {len(groups)} groups")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(groups))
    taken = {groups[i] for i in order[: settings.count].tolist()}
    return [row for row in rows if row["group"] in taken]


def _planned(run: RunLayout) -> Mapping[tuple[str, str], int]:
    """Copies by item and variant, as the run planned them."""
    plan = read_table(run.plan, columns=["item_id", "variant"])
    return Counter(zip(plan["item_id"].to_pylist(), plan["variant"].to_pylist(), strict=True))


def _with_copies(
    fields: dict[str, str], item: str, texts: Sequence[Row], told_by: str | None, planned: Mapping[tuple[str, str], int] | None
) -> dict[str, str]:
    """The fields of an item with what they say of its copies: those planned, or those that the field `told_by` holds; with neither,
    what they said before.
    """
    if told_by is None and planned is None:
        return fields
    told = fields.get(told_by or "")
    fields = {name: value for name, value in fields.items() if name not in (RELEASED_COPIES, RELEASED_MEMBER, COPIES_OF_TEXTS)}
    if planned is None:
        return fields if told is None else fields | {RELEASED_COPIES: told}
    of_texts = {text["variant"]: planned[item, text["variant"]] for text in texts}
    return fields | {RELEASED_COPIES: str(sum(of_texts.values())), COPIES_OF_TEXTS: json.dumps(of_texts)}


def _item(row: Row, fields: dict[str, str], texts: Sequence[Row], keep_tokens: bool) -> Item:
    targets = {target["probe_id"]: (target["start"], target["end"]) for text in texts for target in text["targets"]}
    probes = [Probe(**probe) for probe in row["probes"]]
    return Item(
        item_id=row["item_id"],
        item_set=row["item_set"],
        kind=row["kind"],
        stratum=row["stratum"],
        group=row["group"],
        fields=fields,
        texts=[
            Text(text["variant"], text["text"], [Span(**span) for span in text["spans"]], text["tokens"] if keep_tokens else None)
            for text in texts
        ],
        probes=[replace(probe, tokens=targets.get(probe.probe_id)) for probe in probes] if keep_tokens else probes,
    )


def _unsaid(item: Item) -> str | None:
    """A text of an item that does not say what its tokens are, or None."""
    said = {text.variant: text.text for text in item.texts}
    for probe in item.probes:
        if probe.kind == VERBATIM and not said[probe.context].startswith(probe.prompt + probe.target):
            return said[probe.context]
    return next((text for text in said.values() if REPLACEMENT in text), None)
