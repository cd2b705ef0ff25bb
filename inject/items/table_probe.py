"""What is asked about the rows of a table: a field where it stands in a text, or as the continuation of a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from configs.errors import RecipeError
from configs.insert import TableProbe
from inject.items.borders import given_away
from inject.items.fields import Fields, check_template
from inject.items.item import CHOICE, GENERATIVE, VERBATIM, Material, Probe, Span, Text
from inject.items.rows import Row, UnusableRow
from inject.tokenizer import decode, encode_with_offsets

Pools = Mapping[str, Sequence[str]]  # by field: what it is in any row, each once

KINDS = [VERBATIM, GENERATIVE, CHOICE]


def probe_name(probe: TableProbe) -> str:
    """What tells the probes of a set apart."""
    return {
        VERBATIM: f"{VERBATIM}/{probe.field}",
        GENERATIVE: f"{probe.context}/{probe.field}",
        CHOICE: f"{probe.context}/{probe.field}/choice",
    }.get(probe.kind, probe.kind)


def check_probe(probe: TableProbe, where: str) -> None:
    """RecipeError, in one sentence, where nothing can be asked so; `where` is the name of these settings."""
    if not probe.field:
        raise RecipeError(f"{where} asks for no field; set {where}.field")
    if probe.kind not in KINDS:
        raise RecipeError(f"{where}.kind is {probe.kind!r}; possible: {', '.join(KINDS)}")
    if probe.kind == VERBATIM and (probe.prompt is not None or probe.candidates is not None):
        raise RecipeError(f"{where} is verbatim, so its prompt is the text before the field; set {where}.kind=generative or choice")
    if probe.kind != VERBATIM and not (probe.prompt or "").strip():
        raise RecipeError(f"{where} is {probe.kind}, which needs a prompt; set {where}.prompt")
    if probe.kind != CHOICE and probe.candidates is not None:
        raise RecipeError(f"{where} is {probe.kind}, which has no candidates; set {where}.kind=choice")
    if probe.after < 0 or (probe.after and probe.kind != VERBATIM):
        raise RecipeError(f"{where}.after is {probe.after}; it must be 0 or more, and 0 unless the probe is verbatim")
    if probe.bits is not None and not 0 <= probe.bits < np.inf:
        raise RecipeError(f"{where}.bits is {probe.bits}; it must be 0 or more")
    if probe.kind == CHOICE:
        _check_candidates(probe, where)
    check_template(probe.prompt or "", f"{where}.prompt")
    check_template(probe.target, f"{where}.target")
    if "{}" not in probe.target:
        raise RecipeError(f"{where}.target is {probe.target!r}; it must have a {{}} where the field stands")


def _check_candidates(probe: TableProbe, where: str) -> None:
    given = probe.candidates
    names = isinstance(given, str) or (isinstance(given, list) and all(isinstance(name, str) for name in given) and len(given) > 1)
    number = type(given) is int and given > 1
    if not names and not number:
        raise RecipeError(
            f"{where}.candidates is {given!r}; it must be a field that holds a list, a list of two or more fields, or how many, "
            "2 or more"
        )


def pool(rows: Sequence[Row], columns: Mapping[str, str], field: str) -> list[str]:
    """What a field is in any row, each once, in order; rows without it don't count."""
    found: dict[str, None] = {}
    for row in rows:
        try:
            found.setdefault(Fields(row, columns).text(field))
        except UnusableRow:
            continue
    return list(found)


def ask(
    probe: TableProbe, fields: Fields, texts: Sequence[Text], material: Material, pools: Pools, seed: int
) -> tuple[list[Text], list[Probe]]:
    """The probes of a row, and its texts with the places of the field noted. UnusableRow where it can't be asked for."""
    value = fields.text(probe.field)
    if probe.kind == VERBATIM:
        placed = [_placed(text, probe.field, value) for text in texts]
        found = [_verbatim(probe, text, material, fields.row) for text in placed if _span(text, probe.field)]
        if not found:
            raise UnusableRow(f"{probe.field!r} of {fields.row.where}, {value!r}, stands in none of its texts")
        return placed, found
    prompt, blank = _parted(fields.fill(probe.prompt or "")[0])
    values = _candidates(probe, fields, value, pools, seed) if probe.kind == CHOICE else []
    target, *candidates = (_continued(fields.fill(probe.target, each)[0], blank) for each in [value, *values])
    if probe.kind == CHOICE and (candidates.count(target) != 1 or len(set(candidates)) < len(candidates)):
        raise UnusableRow(
            f"{fields.row.where} has the candidates {candidates}; each must be there once, the right one, {target!r}, among them"
        )
    bits, prior = _randomness(probe)
    asked = Probe(
        probe_id=probe_name(probe),
        field=probe.field,
        context=probe.context,
        kind=probe.kind,
        prompt=prompt,
        target=target,
        bits=bits,
        prior=1 / len(candidates) if candidates else prior,
        candidates=candidates,
    )
    return list(texts), [asked]


# ------------------------------------------------------------------------------------------------ verbatim


def ask_tokens(probe: TableProbe, text: Text, material: Material, row: Row) -> Probe:
    """The verbatim probe of a text that is given as tokens: what follows those that are given away, half of them at most."""
    tokens = text.tokens or []
    start = min(probe.after, len(tokens) // 2)
    if start == 0:
        raise UnusableRow(f"{probe.field!r} of {row.where} is a single token, too short to be a prompt and its continuation")
    bits, prior = _randomness(probe)
    return Probe(
        probe_id=f"{text.variant}/{probe.field}",
        field=probe.field,
        context=text.variant,
        kind=VERBATIM,
        prompt=decode(material.tokenizer, tokens[:start]),
        target=decode(material.tokenizer, tokens[start:]),
        bits=bits,
        prior=prior,
        tokens=(start, len(tokens)),
    )


def _span(text: Text, field: str) -> Span | None:
    return next((span for span in text.spans if span.field == field), None)


def _placed(text: Text, field: str, value: str) -> Text:
    """A text with the span of a field: where its template puts it, or else where its value first stands as words of its own."""
    found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text.text)
    if _span(text, field) or not found:
        return text
    return replace(text, spans=[*text.spans, Span(field, *found.span())])


def _verbatim(probe: TableProbe, text: Text, material: Material, row: Row) -> Probe:
    span = _span(text, probe.field)
    assert span is not None
    start = span.start
    if probe.after:
        _, characters = encode_with_offsets(material.tokenizer, text.text)
        of_field = [(first, last) for first, last in characters if last > span.start and first < span.end]
        start = max(start, given_away(of_field, probe.after)) if of_field else start
    target = text.text[start : span.end].rstrip()  # blanks at the end of a text may belong to no token
    if not target:
        raise UnusableRow(
            f"{probe.field!r} of {row.where} is nothing but blanks after the {probe.after} tokens that are given away"
        )
    if start == 0:
        raise UnusableRow(
            f"{probe.field!r} of {row.where} begins its text, so nothing is before it to prompt with; "
            + ("it is too short to give a part of it away" if probe.after else "give a part of it away as `after`")
        )
    bits, prior = _randomness(probe)
    return Probe(
        probe_id=f"{text.variant}/{probe.field}",
        field=probe.field,
        context=text.variant,
        kind=VERBATIM,
        prompt=text.text[:start],
        target=target,
        bits=bits,
        prior=prior,
    )


def _randomness(probe: TableProbe) -> tuple[float, float | None]:
    """Bits and prior of a probe's target; where the bits are not known, neither is what the best guess scores."""
    return (0.0, None) if probe.bits is None else (probe.bits, 2.0**-probe.bits)


# ------------------------------------------------------------------------------------------------ prompts


def _parted(prompt: str) -> tuple[str, str]:
    """A prompt without the blanks at its end, and what parts it from its continuation."""
    bare = prompt.rstrip()
    return bare, prompt[len(bare) :] or " "


def _continued(target: str, blank: str) -> str:
    return target if target[:1].isspace() else blank + target


def _candidates(probe: TableProbe, fields: Fields, value: str, pools: Pools, seed: int) -> list[str]:
    """What the candidates are, as the field; of a number of them, the field and that of other rows, in random order."""
    if not isinstance(probe.candidates, int):
        return fields.texts(probe.candidates)
    others = [other for other in pools[probe.field] if other != value]
    if len(others) < probe.candidates - 1:
        raise UnusableRow(f"{probe.field!r} has {len(others) + 1} values in all rows, too few for {probe.candidates} candidates")
    random = np.random.Generator(np.random.PCG64([seed, fields.row.number]))
    drawn = [others[i] for i in random.choice(len(others), size=probe.candidates - 1, replace=False).tolist()]
    return [[value, *drawn][i] for i in random.permutation(probe.candidates).tolist()]
