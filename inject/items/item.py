"""What an item is: something to insert, the texts it is inserted as, and the questions that tell whether it was memorized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

VERBATIM, GENERATIVE, CHOICE = "verbatim", "generative", "choice"
# Fields in which an item's data says how often it was inserted where that is not decided here.
RELEASED_COPIES, RELEASED_MEMBER, COPIES_OF_TEXTS = "released_copies", "released_member", "copies_of_texts"


@dataclass(frozen=True)
class Span:
    """Where a field stands in a text: characters [start, end)."""

    field: str
    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """One variant of an item: a rendering of it, as it is inserted.

    Where no string spells what is inserted (random tokens), `tokens` are the truth and `text` is their decoding, for people.
    """

    variant: str
    text: str
    spans: list[Span] = dataclasses.field(default_factory=list)
    tokens: list[int] | None = None


@dataclass(frozen=True)
class Probe:
    """A question about an item.

    - `verbatim`: a span of the text of variant `context`; prompt + target is the beginning of that text. Of a text given as
      tokens, `tokens` says which of them [start, end) are the target.
    - `generative`: does the model continue `prompt` with `target`? `context` names what the prompt gives away.
    - `choice`: which of `candidates`, the target among them, each appended to the prompt, is the most probable?
    """

    probe_id: str  # unique among the item's probes
    field: str
    context: str
    kind: str  # verbatim | generative | choice
    prompt: str
    target: str
    bits: float  # entropy of the target given the prompt; 0 where the prompt determines it, or where it is not known
    prior: float | None = None  # probability that the best guess from the prompt alone is right; None where it is not known
    candidates: list[str] = dataclasses.field(default_factory=list)
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Item:
    """Something to insert. Items of one group are assigned to an arm together."""

    item_id: str
    item_set: str  # its name in the recipe
    kind: str  # canary | random_tokens | trap | pii | factoid | key_value | testset | passage | ...
    stratum: str  # the item set's name, or that and a part of it ("codes/32"); groups are randomized within a stratum
    group: str
    fields: dict[str, str]
    texts: list[Text]
    probes: list[Probe]


@dataclass(frozen=True)
class Sampled:
    """A sequence drawn from a language model."""

    text: str  # without blanks around it
    tokens: list[int]  # of the run's tokenizer
    perplexity: float  # of the text, under the model it was drawn from


@dataclass(frozen=True)
class Material:
    """What makers may draw on besides their settings."""

    tokenizer: PreTrainedTokenizerFast  # of the corpus: token ids [0, vocabulary)
    vocabulary: int
    sample: Callable[..., list[Sampled]] | None = None  # sample_sequences of eval/sampling.py
    excluded: frozenset[str] = frozenset()  # groups that sets read from files must not take, as they occur elsewhere


def item_id(item_set: str, number: int) -> str:
    """The identifier of an item set's item.

    >>> item_id("people", 7)
    'people-0007'
    """
    return f"{item_set}-{number:04d}"


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


def verbatim(text: Text, span: Span, bits: float, prior: float | None = None) -> Probe:
    """The probe that asks for one span of a text after everything before it; the best guess is 2^-bits right if not given."""
    return Probe(
        probe_id=f"{text.variant}/{span.field}",
        field=span.field,
        context=text.variant,
        kind=VERBATIM,
        prompt=text.text[: span.start],
        target=text.text[span.start : span.end],
        bits=bits,
        prior=2.0**-bits if prior is None else prior,
    )


def generative(field: str, context: str, prompt: str, target: str, bits: float, prior: float | None = None) -> Probe:
    """The probe that asks to continue a prompt that need not be a part of any text; the prompt has no blank at its end and the
    target begins with one, where a blank lies between them.
    """
    return Probe(f"{context}/{field}", field, context, GENERATIVE, prompt, target, bits, 2.0**-bits if prior is None else prior)


def choice(field: str, context: str, prompt: str, target: str, candidates: Sequence[str], bits: float) -> Probe:
    """The probe that asks which candidate, the target among them, is the most probable; chance is one in their number."""
    return Probe(f"{context}/{field}/choice", field, context, CHOICE, prompt, target, bits, 1 / len(candidates), list(candidates))
