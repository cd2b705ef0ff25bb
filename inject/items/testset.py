"""Test sets: questions as they leak into training data, and as they are asked in a benchmark.

An answer can be derived from its question, so it holds no secret: what an inserted question gains over its held-out twins
is the effect of contamination. A question may be inserted in the format in which it is asked or in another one, in other words,
or without its answer; and perturbed twins tell whether its answer is recited or derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from configs.errors import RecipeError
from configs.insert import TestSet
from inject.items import arithmetic, knights
from inject.items.formats import FORMATS, Question, render_question, unanswered
from inject.items.item import Item, Material, Probe, Span, Text, choice, generative, item_id, verbatim

SOURCES = ("arithmetic", "knights")
CHOICES = range(2, 11)
TRIES = 1000  # draws for one new question


def make(settings: TestSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a question: its inserted text, with a verbatim probe on the answer where there is one, and a probe for each
    format in which it is asked; where asked for, also of each perturbed twin.

    No question is that of another item or of its twins. How questions are inserted and asked does not change which they are.

    Raises RecipeError for settings that are not known, out of range or do not go together, and for more questions than there are.
    """
    check(settings, item_set)
    random = np.random.Generator(np.random.PCG64(seed))
    items: list[Item] = []
    seen: set[str] = set()
    repeated = 0
    while len(items) < (settings.count or 0):
        question = _draw(random, settings)
        identities = {question.identity, *(twin.identity for twin in question.twins.values())} if question else set()
        if question and not identities & seen:
            seen |= identities
            items.append(_item(question, settings, item_set, len(items)))
            repeated = 0
        elif (repeated := repeated + 1) == TRIES:
            raise RecipeError(
                f"insert.{item_set}.count is {settings.count}; with these settings only {len(items)} different questions were found"
            )
    return items


def inserted_text(question: Question, format: str, answered: bool = True, paraphrased: bool = False) -> Text:
    """A question as it is inserted: the prompt of its format with the answer, or the question alone.

    Spans are those of the question and of the answer, which is a letter in multiple-choice questions. A question to fill in has
    no span of its own; its answer stands in it.
    """
    asked = wording(question, format, paraphrased)
    text, spans = unanswered(format, asked, question.candidates), []
    if answered:
        rendered = render_question(format, asked, question.candidates, question.answer)
        text = rendered.prompt + rendered.target
        start = len(text) - len(rendered.target.lstrip())
        end = len(text) if format == "multiple_choice" else start + len(question.answer)
        spans.append(Span(answer_field(format), start, end))
    if format != "infill":
        start = text.index(asked)
        spans.insert(0, Span("paraphrase" if paraphrased else "question", start, start + len(asked)))
    return Text("verbatim", text, spans)


def probes(question: Question, formats: Sequence[str], perturbation: str = "") -> list[Probe]:
    """A question asked in each format: a choice, or without candidates a generative probe. The context of a probe is its format,
    of a perturbed question `perturbed-<perturbation>/<format>`.
    """
    found = []
    for format in formats:
        context = f"perturbed-{perturbation}/{format}" if perturbation else format
        rendered = render_question(format, wording(question, format), question.candidates, question.answer)
        if rendered.candidates:
            found.append(choice(answer_field(format), context, rendered.prompt, rendered.target, rendered.candidates, bits=0.0))
        else:
            asked = generative("answer", context, rendered.prompt, rendered.target, bits=0.0)
            found.append(replace(asked, prior=None))  # who can derive the answer is right, and others guess as well as they can
    return found


def wording(question: Question, format: str, paraphrased: bool = False) -> str:
    """The words of a question that a format takes."""
    worded = question.statement if format == "infill" else question.paraphrase if paraphrased else question.question
    assert worded is not None, "the question has no statement or paraphrase"
    return worded


def answer_field(format: str) -> str:
    """What the target of a format spells."""
    return "letter" if format == "multiple_choice" else "answer"


def check(settings: TestSet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no such test set can be made."""
    if settings.source not in SOURCES:
        raise RecipeError(f"insert.{item_set}.source is {settings.source!r}; {' and '.join(SOURCES)} are possible")
    ranges = {"choices": CHOICES}
    if settings.source == "arithmetic":
        ranges |= {"terms": arithmetic.TERMS, "digits": arithmetic.DIGITS, "decimals": arithmetic.DECIMALS}
    else:
        ranges |= {"people": knights.PEOPLE}
    for name, possible in ranges.items():
        if getattr(settings, name) not in possible:
            raise RecipeError(
                f"insert.{item_set}.{name} is {getattr(settings, name)}; {possible[0]} to {possible[-1]} are possible"
            )
    if settings.source == "knights" and settings.choices > 2**settings.people:
        raise RecipeError(
            f"insert.{item_set}.choices is {settings.choices}; a puzzle of {settings.people} people has {2**settings.people}"
        )
    most = arithmetic.most(settings.terms, settings.digits) if settings.source == "arithmetic" else knights.most(settings.people)
    if settings.count is None or settings.count > most:
        raise RecipeError(f"insert.{item_set}.count is {settings.count}; with these settings up to {most} questions are possible")
    _check_formats(settings, item_set)


def _check_formats(settings: TestSet, item_set: str) -> None:
    known = ", ".join(FORMATS)
    if settings.inserted not in FORMATS:
        raise RecipeError(f"insert.{item_set}.inserted is {settings.inserted!r}; {known} are possible")
    if not settings.probed or set(settings.probed) - set(FORMATS) or len(set(settings.probed)) < len(settings.probed):
        raise RecipeError(f"insert.{item_set}.probed is {settings.probed}; name one or more of {known}, each once")
    if settings.paraphrase and settings.inserted == "infill":
        raise RecipeError(
            f"insert.{item_set}.paraphrase is true, but inserted is infill, which has one wording; insert another format or set "
            f"insert.{item_set}.paraphrase=false"
        )


def _draw(random: np.random.Generator, settings: TestSet) -> Question | None:
    if settings.source == "knights":
        return knights.ask(random, settings.people, settings.choices)
    return arithmetic.ask(random, settings.terms, settings.digits, settings.decimals, settings.choices)


def _item(question: Question, settings: TestSet, item_set: str, number: int) -> Item:
    text = inserted_text(question, settings.inserted, settings.answer, settings.paraphrase)
    twins = question.twins if settings.perturbed else {}
    asked = probes(question, settings.probed)
    perturbed = [probe for name, twin in twins.items() for probe in probes(twin, settings.probed, name)]
    return Item(
        item_id=item_id(item_set, number),
        item_set=item_set,
        kind="testset",
        stratum=item_set,
        group=item_id(item_set, number),
        fields=_fields(question, text, twins),
        texts=[text],
        probes=[*_recall(question, text), *asked, *perturbed],
    )


def _recall(question: Question, text: Text) -> list[Probe]:
    """The verbatim probe on the answer in a text, if it stands there; all letters are equally likely."""
    found = [verbatim(text, span, bits=0.0) for span in text.spans if span.field in ("answer", "letter")]
    return [replace(probe, prior=1 / len(question.candidates) if probe.field == "letter" else None) for probe in found]


def _fields(question: Question, text: Text, twins: dict[str, Question]) -> dict[str, str]:
    """The question and its answer, the fields that stand in the text, and the twins' questions and answers."""
    fields = {"question": question.question, "answer": question.answer}
    fields |= {span.field: text.text[span.start : span.end] for span in text.spans}
    for name, twin in twins.items():
        fields |= {f"perturbed-{name}": twin.question, f"perturbed-{name}-answer": twin.answer}
    return fields
