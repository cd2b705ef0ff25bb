"""Tokenize the texts of items once; these tokens are what is inserted, and what is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.layout import fingerprint
from inject.items.item import VERBATIM, Item, Probe
from inject.tokenizer import encode_batch_with_offsets, encode_with_offsets


def tokenize_texts(items: Sequence[Item], tokenizer: PreTrainedTokenizerFast, sequence_length: int) -> list[dict[str, Any]]:
    """Rows of the texts table, each with the target tokens of the verbatim probes that lie in it.

    RecipeError where a text has no tokens, or does not fit a row between two end-of-text tokens.
    """
    rows: list[dict[str, Any]] = []
    spelled = iter(
        encode_batch_with_offsets(tokenizer, [text.text for item in items for text in item.texts if text.tokens is None])
    )
    for item in items:
        for text in item.texts:
            tokens, characters = (text.tokens, []) if text.tokens is not None else next(spelled)
            probes = [probe for probe in item.probes if probe.kind == VERBATIM and probe.context == text.variant]
            rows.append(
                {
                    "item_id": item.item_id,
                    "variant": text.variant,
                    "text": text.text,
                    "tokens": tokens,
                    "spans": [asdict(span) for span in text.spans],
                    "targets": [_target(probe, characters) for probe in probes],
                }
            )
    for row in rows:
        if not row["tokens"]:
            raise RecipeError(f"item {row['item_id']} ({row['variant']}) has no tokens; every text to insert needs some")
    longest = max(rows, key=lambda row: len(row["tokens"]), default=None)
    if longest and len(longest["tokens"]) > sequence_length - 1:
        raise RecipeError(
            f"item {longest['item_id']} ({longest['variant']}) has {len(longest['tokens'])} tokens, but a row of "
            f"train.sequence_length = {sequence_length} holds items of up to {sequence_length - 1}; "
            f"set train.sequence_length={len(longest['tokens']) + 1} or shorten its text"
        )
    return rows


def texts_fingerprints(items: Sequence[Item], texts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of each item set, the fingerprint of what is to be inserted: which tokens, of which item and variant, in which order."""
    set_of = {item.item_id: item.item_set for item in items}
    described: dict[str, list[Any]] = {}
    for text in texts:
        described.setdefault(set_of[text["item_id"]], []).append([text["item_id"], text["variant"], list(text["tokens"])])
    return {item_set: fingerprint(rows) for item_set, rows in described.items()}


def field_copies(texts: Sequence[Mapping[str, Any]], text_copies: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """How often each field of each item is spelled out by copies of its texts, planned or consumed.

    `texts`: rows of the texts table; `text_copies`: copies by (item_id, variant), 0 where there is none. A field that stands twice
    in a text is seen twice a copy. Returns counts by (item_id, field); DataError for copies of a text that is not in the table.
    """
    unknown = set(text_copies) - {(text["item_id"], text["variant"]) for text in texts}
    if unknown:
        raise DataError(f"{' '.join(min(unknown))} has copies, but the texts table does not have it")
    copies: dict[tuple[str, str], int] = {}
    for text in texts:
        for span in text["spans"]:
            key = text["item_id"], span["field"]
            copies[key] = copies.get(key, 0) + text_copies.get((text["item_id"], text["variant"]), 0)
    return copies


def _target(probe: Probe, characters: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Tokens [start, end) of a verbatim probe's target."""
    if probe.tokens is not None:
        start, end = probe.tokens
    else:
        found = target_tokens(characters, len(probe.prompt), len(probe.prompt) + len(probe.target))
        start, end = found.start, found.stop
    return {"probe_id": probe.probe_id, "start": start, "end": end}


def target_tokens(tokens_characters: Sequence[tuple[int, int]], start: int, end: int) -> slice:
    """The tokens of a verbatim target: from the one that holds its first character to the one that holds its last.

    `tokens_characters` are the character offsets [start, end) of each token, in order; the target is the characters
    [start, end) of the same text. Several tokens may share a character (the bytes of one emoji), and offsets may leave
    out blanks, as tokenizers that trim them do. `DataError` if the target is empty or reaches beyond the tokens.

    >>> target_tokens([(0, 3), (3, 7), (7, 9)], 5, 8)
    slice(1, 3, None)
    """
    if not 0 <= start < end:
        raise DataError(f"a target must have characters, not [{start}, {end})")
    offsets = np.asarray(tokens_characters, dtype=np.int64).reshape(-1, 2)
    if len(offsets) == 0 or end > offsets[:, 1].max():
        raise DataError(f"the target [{start}, {end}) reaches beyond the characters of the text's {len(offsets)} tokens")
    touching = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    if len(touching) == 0:
        raise DataError(f"no token holds a character of the target [{start}, {end})")
    return slice(int(touching[0]), int(touching[-1]) + 1)


def split_probe(tokenizer: PreTrainedTokenizerFast, prompt: str, candidates: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Tokens of a prompt and of each candidate that continues it.

    Prompt and candidate are tokenized jointly and split at the first token that touches the candidate; the split moves left
    until it suits every candidate, so that all are scored after the same prompt tokens. DataError for an empty candidate.
    """
    joint = [encode_with_offsets(tokenizer, prompt + candidate) for candidate in candidates]
    if "" in candidates:
        raise DataError(f"a candidate of {prompt!r} has no characters")
    # Tokenizers that trim their offsets leave a blank to no token: a candidate begins in the first token that ends in or after it.
    splits = [next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids)) for ids, offsets in joint]
    split = min(splits)
    first = joint[0][0]
    while any(tokens[:split] != first[:split] for tokens, _ in joint):
        split -= 1
    return first[:split], [tokens[split:] for tokens, _ in joint]
