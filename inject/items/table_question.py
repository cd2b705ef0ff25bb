"""Questions of a table: which columns hold question, candidates and answer; inserted and asked in the formats of formats.py."""

from __future__ import annotations

from configs.errors import DataError, RecipeError
from configs.insert import TableQuestion
from inject.items.fields import Fields, check_template
from inject.items.formats import FORMATS, letters, render_question, unanswered
from inject.items.item import CHOICE, GENERATIVE, VERBATIM, Probe, Span, Text
from inject.items.rows import UnusableRow

ANSWER_IS = ["index", "number", "letter", "text"]


def question_texts(fields: Fields, settings: TableQuestion) -> tuple[Text, list[Probe]]:
    """The text of a row's question, and the probes that ask it: verbatim, if inserted with its answer, and in each format.

    UnusableRow where the row holds no such question, or it can't be asked in a format.
    """
    question = fields.fill_or_text(settings.question).strip()
    candidates = [choice.strip() for choice in fields.texts(settings.choices)] if settings.choices is not None else []
    answer = right_answer(fields, settings, candidates)
    inserted = settings.inserted or ("multiple_choice" if candidates else "open")
    probes = []
    try:
        for format in settings.probed or [inserted]:
            asked = render_question(format, question, candidates, answer)
            probes.append(
                Probe(
                    probe_id=f"{format}/answer/choice" if asked.candidates else f"{format}/answer",
                    field="answer",
                    context=format,
                    kind=CHOICE if asked.candidates else GENERATIVE,
                    prompt=asked.prompt,
                    target=asked.target,
                    bits=0.0,
                    prior=1 / len(asked.candidates) if asked.candidates else None,
                    candidates=asked.candidates,
                )
            )
        if not settings.with_answer:
            return Text("verbatim", unanswered(inserted, question, candidates)), probes
        leaked = render_question(inserted, question, candidates, answer)
    except DataError as error:
        raise UnusableRow(f"{fields.row.where}: {error}") from error
    start = len(leaked.prompt) + len(leaked.target) - len(leaked.target.lstrip())
    text = leaked.prompt + leaked.target
    end = start + len(answer) if inserted == "infill" else len(text)
    recall = Probe(
        probe_id="verbatim/answer",
        field="answer",
        context="verbatim",
        kind=VERBATIM,
        prompt=text[:start],
        target=text[start:end],
        bits=0.0,
        prior=1 / len(candidates) if inserted == "multiple_choice" else None,
    )
    return Text("verbatim", text, [Span("answer", start, end)]), [recall, *probes]


def right_answer(fields: Fields, settings: TableQuestion, candidates: list[str]) -> str:
    """The text of the right answer. UnusableRow where the row's answer is none of the choices."""
    given = fields.text(settings.answer).strip()
    answer_is = settings.answer_is or ("index" if candidates else "text")
    if answer_is == "text":
        return given
    if answer_is == "letter":
        number = letters(candidates).find(given.upper()) if len(given) == 1 else -1
    else:
        number = int(given) - (answer_is == "number") if given.isdecimal() else -1
    if not 0 <= number < len(candidates):
        raise UnusableRow(
            f"{settings.answer!r} of {fields.row.where} is {given!r}, which is the {answer_is} of none of {len(candidates)} choices"
        )
    return candidates[number]


def check_question(settings: TableQuestion, where: str) -> None:
    """RecipeError, in one sentence, where no such question can be asked; `where` is the name of these settings."""
    if "{" in settings.question:
        check_template(settings.question, f"{where}.question")
    formats = [("inserted", settings.inserted)] if settings.inserted is not None else []
    for key, format in [*formats, *(("probed", format) for format in settings.probed)]:
        if format not in FORMATS:
            raise RecipeError(f"{where}.{key} names {format!r}; possible: {', '.join(FORMATS)}")
        if settings.choices is None and format != "open":
            raise RecipeError(f"{where}.{key} names {format!r}, which needs candidates; set {where}.choices, or ask as open")
    if len(set(settings.probed)) < len(settings.probed):
        raise RecipeError(f"{where}.probed is {settings.probed}; name each format once")
    if settings.answer_is is not None and settings.answer_is not in ANSWER_IS:
        raise RecipeError(f"{where}.answer_is is {settings.answer_is!r}; possible: {', '.join(ANSWER_IS)}")
    if settings.choices is None and settings.answer_is not in (None, "text"):
        raise RecipeError(f"{where}.answer_is is {settings.answer_is!r}, of choices that are not given; set {where}.choices")
    if settings.choices is not None and not _is_names(settings.choices):
        raise RecipeError(f"{where}.choices is {settings.choices!r}; it must be a field that holds a list, or a list of fields")


def _is_names(given: object) -> bool:
    return isinstance(given, str) or (isinstance(given, list) and bool(given) and all(isinstance(name, str) for name in given))
