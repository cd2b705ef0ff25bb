"""Passages: documents of any kind, whole or in chunks, each asked for verbatim after its beginning.

As the book and encyclopedia passages of Hubble (Wei et al. 2025), https://arxiv.org/abs/2510.19811.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from configs.errors import RecipeError
from configs.insert import PassageSet
from inject.items.borders import chunks, given_away
from inject.items.draw import draw
from inject.items.item import VERBATIM, Item, Material, Probe, Span, Text, item_id
from inject.items.rows import Row, UnusableRow, read_rows, text_of
from inject.tokenizer import encode_with_offsets

FIELD = "passage"


def make(settings: PassageSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a passage, called by the number of its document and, of chunks, its own; a document is a group.

    Chunks are cut out of the characters of their document, at borders of its tokens, so a blank may begin one. By itself a
    chunk may have a token more or less than it had in its document.

    Raises RecipeError for impossible settings, and as `draw` does.
    """
    size = chunk_size(settings, item_set)

    def items_of(document: Row) -> Iterator[Item]:
        text = text_of(document, settings.column)
        passages = cut(text, size, settings.rest, material) if size else [text]
        name = item_id(item_set, document.number)
        for number, passage in enumerate(passages[: settings.chunks]):
            fields = {"document": document.where, "chunk": str(number), FIELD: passage}
            inserted = Text("verbatim", passage, [Span(FIELD, 0, len(passage))])
            probe = continuation(inserted, settings.prompt, material, document)
            yield Item(
                item_id=f"{name}-{number}" if size else name,
                item_set=item_set,
                kind="passage",
                stratum=item_set,
                group=name,
                fields=fields,
                texts=[inserted],
                probes=[probe],
            )

    documents = {item_id(item_set, row.number): [row] for row in read_rows(settings, item_set)}
    return draw(documents, items_of, settings, item_set, seed, material.excluded)


def chunk_size(settings: PassageSet, item_set: str) -> int | None:
    """Tokens of a chunk, or None for whole documents. RecipeError for a rule that is not known."""
    tokens = re.fullmatch(r"tokens:([1-9]\d*)", settings.chunk)
    if settings.chunk != "whole" and not tokens:
        raise RecipeError(f"insert.{item_set}.chunk is {settings.chunk!r}; possible: whole, tokens:N")
    if settings.chunks is not None and settings.chunks < 1:
        raise RecipeError(f"insert.{item_set}.chunks is {settings.chunks}; it must be 1 or more, or left out for all")
    if settings.prompt < 1:
        raise RecipeError(f"insert.{item_set}.prompt is {settings.prompt}; it must be 1 or more")
    return int(tokens[1]) if tokens else None


def cut(text: str, size: int, rest: bool, material: Material) -> list[str]:
    """The chunks of a document; those of nothing but blanks are left out."""
    _, characters = encode_with_offsets(material.tokenizer, text)
    found = [text[start:end] for start, end in chunks(characters, size, rest)]
    return [chunk for chunk in found if chunk.strip()]


def continuation(text: Text, prompt: int, material: Material, row: Row) -> Probe:
    """The verbatim probe that asks for a text after its first `prompt` tokens."""
    _, characters = encode_with_offsets(material.tokenizer, text.text)
    split = given_away(characters, prompt) if characters else 0
    if split == 0:
        raise UnusableRow(f"{row.where} has the passage {text.text!r}, too short to be a prompt and its continuation")
    return Probe(
        probe_id=f"{text.variant}/{FIELD}",
        field=FIELD,
        context=text.variant,
        kind=VERBATIM,
        prompt=text.text[:split],
        target=text.text[split : characters[-1][1]],
        bits=0.0,
    )
