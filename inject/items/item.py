"""What an item is: something to insert, the texts it is inserted as, and the questions that tell whether it was memorized."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Where a field stands in a text: characters [start, end)."""

    field: str
    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """One variant of an item: a rendering of it, as it is inserted."""

    variant: str
    text: str
    spans: list[Span] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Probe:
    """A question about an item.

    A `verbatim` probe is a span of the text of variant `context`: prompt + target is the beginning of that text. A `choice`
    probe asks for the most probable of `candidates`, the target among them, each appended to the prompt.
    """

    probe_id: str
    field: str
    context: str
    kind: str  # verbatim | choice
    prompt: str
    target: str
    bits: float  # entropy of the target given the prompt, 0 where the prompt determines it
    candidates: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """Something to insert. Items of one group are assigned to an arm together."""

    item_id: str
    kind: str  # canary | pii | factoid | testset
    stratum: str  # name of the item set
    group: str
    fields: dict[str, str]
    texts: list[Text]
    probes: list[Probe]


def item_id(stratum: str, number: int) -> str:
    """The identifier of an item set's item.

    >>> item_id("people", 7)
    'people-0007'
    """
    return f"{stratum}-{number:04d}"


def render(template: str, fields: dict[str, str]) -> tuple[str, list[Span]]:
    """Fill `{name}` places of a template and say where each field came to stand.

    >>> render("Call {name} at {phone}.", {"name": "Ann", "phone": "12"})
    ('Call Ann at 12.', [Span(field='name', start=5, end=8), Span(field='phone', start=12, end=14)])
    """
    text, spans, rest = "", [], template
    while rest:
        before, brace, rest = rest.partition("{")
        text += before
        if brace:
            name, _, rest = rest.partition("}")
            spans.append(Span(name, len(text), len(text) + len(fields[name])))
            text += fields[name]
    return text, spans


def verbatim(text: Text, span: Span, bits: float) -> Probe:
    """The probe that asks for one span of a text after everything before it."""
    return Probe(
        f"{text.variant}/{span.field}",
        span.field,
        text.variant,
        "verbatim",
        text.text[: span.start],
        text.text[span.start : span.end],
        bits,
    )
