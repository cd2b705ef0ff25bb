"""Questions, and the formats in which they are asked: the prompts of lm-evaluation-harness.

Each format is a pure function of a question, its candidate answers and the right one.

- `multiple_choice` (MMLU, CommonsenseQA): the candidates are listed by letter, and the letter is the answer.
- `cloze` (ARC, PIQA): the candidates are not shown; each is scored as the continuation of the prompt.
- `open` (TriviaQA, Natural Questions): the prompt of `cloze`, to be continued without candidates.
- `infill` (WinoGrande, HellaSwag): the question is a sentence with a blank `_`, which the candidates fill.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase

from configs.errors import DataError

ANSWER = "\nAnswer:"

_BLANK = re.compile(r"(?<!\w)_(?!_)")  # neither a part of a name_like_this nor of a line ______


@dataclass(frozen=True)
class Question:
    """A question with its right answer, which is one of the candidates where there are any."""

    question: str
    answer: str
    candidates: list[str] = field(default_factory=list)  # in the order in which they are shown
    paraphrase: str | None = None  # the question in other words
    statement: str | None = None  # the question as a sentence with a blank `_` that the answer fills
    identity: str = ""  # two questions of one identity are the same one, however worded
    twins: dict[str, Question] = field(default_factory=dict)  # perturbed ones by name of the perturbation


@dataclass(frozen=True)
class Rendered:
    """A question in a format. Prompt + target is the answered question, as it would leak."""

    prompt: str  # no blank at its end
    target: str  # begins with the blank that parts it from the prompt
    candidates: list[str]  # continuations of the prompt, the target among them; empty for open questions


def render_question(format: str, question: str, candidates: Sequence[str], answer: str) -> Rendered:
    """A question in one of FORMATS. DataError where it cannot be asked so, or has no right answer among its candidates."""
    if format != "open" and (len(candidates) < 2 or list(candidates).count(answer) != 1):
        raise DataError(
            f"the question {question!r} has the candidates {list(candidates)}; to be asked as {format} it needs two or more, "
            f"of which one is its answer {answer!r}"
        )
    return FORMATS[format](question, candidates, answer)


def multiple_choice(question: str, candidates: Sequence[str], answer: str) -> Rendered:
    r"""The candidates by letter; the right letter is the target.

    >>> multiple_choice("What is 2 times 3?", ["5", "6"], "6")
    Rendered(prompt='Question: What is 2 times 3?\nA. 5\nB. 6\nAnswer:', target=' B', candidates=[' A', ' B'])
    """
    shown = letters(candidates)
    return Rendered(
        prompt=unanswered("multiple_choice", question, candidates) + ANSWER,
        target=f" {shown[list(candidates).index(answer)]}",
        candidates=[f" {letter}" for letter in shown],
    )


def cloze(question: str, candidates: Sequence[str], answer: str) -> Rendered:
    r"""Each candidate is scored in full.

    >>> cloze("What is 2 times 3?", ["5", "6"], "6")
    Rendered(prompt='Question: What is 2 times 3?\nAnswer:', target=' 6', candidates=[' 5', ' 6'])
    """
    return Rendered(f"Question: {question}{ANSWER}", f" {answer}", [f" {candidate}" for candidate in candidates])


def open_question(question: str, candidates: Sequence[str], answer: str) -> Rendered:
    r"""No candidates; those given are not used.

    >>> open_question("What is 2 times 3?", [], "6")
    Rendered(prompt='Question: What is 2 times 3?\nAnswer:', target=' 6', candidates=[])
    """
    return Rendered(f"Question: {question}{ANSWER}", f" {answer}", [])


def infill(question: str, candidates: Sequence[str], answer: str) -> Rendered:
    """Each candidate fills the blank `_` of a sentence, and is scored with the rest of the sentence after it.

    lm-evaluation-harness scores WinoGrande by the rest of the sentence alone, after each candidate in turn (partial evaluation,
    Trinh and Le 2018). Here all candidates continue one prompt, so the candidate's own probability counts too. With the blank
    at the end this is HellaSwag: a context and its endings.

    >>> infill("The cup is in the box because _ is small.", ["the cup", "the box"], "the cup")  # doctest: +ELLIPSIS
    Rendered(prompt='The cup is in the box because', target=' the cup is small.', candidates=[..., ' the box is small.'])
    """
    before, after = parts_of_blank(question)
    prompt = before.rstrip()
    filled = {candidate: before[len(prompt) :] + candidate + after for candidate in [*candidates, answer]}
    return Rendered(prompt, filled[answer], [filled[candidate] for candidate in candidates])


FORMATS: dict[str, Callable[[str, Sequence[str], str], Rendered]] = {
    "multiple_choice": multiple_choice,
    "cloze": cloze,
    "open": open_question,
    "infill": infill,
}


def unanswered(format: str, question: str, candidates: Sequence[str]) -> str:
    r"""The question alone, as it leaks without its answer; a multiple-choice question shows its candidates.

    >>> unanswered("multiple_choice", "What is 2 times 3?", ["5", "6"])
    'Question: What is 2 times 3?\nA. 5\nB. 6'
    """
    if format == "infill":
        return question
    listed = zip(letters(candidates), candidates, strict=True) if format == "multiple_choice" else []
    return "\n".join([f"Question: {question}", *(f"{letter}. {candidate}" for letter, candidate in listed)])


def letters(candidates: Sequence[str]) -> str:
    """The letters that stand for the candidates. DataError for more than there are in the alphabet."""
    if len(candidates) > len(ascii_uppercase):
        raise DataError(f"a question has {len(candidates)} candidates; letters stand for up to {len(ascii_uppercase)}")
    return ascii_uppercase[: len(candidates)]


def parts_of_blank(sentence: str) -> tuple[str, str]:
    """What comes before and after the one blank `_` of a sentence. DataError where there is none, or more than one.

    >>> parts_of_blank("In snake_case, _ is small.")
    ('In snake_case, ', ' is small.')
    """
    parts = _BLANK.split(sentence)
    if len(parts) != 2:
        raise DataError(f"{sentence!r} has {len(parts) - 1} blanks; a question to fill in has one, written _")
    return parts[0], parts[1]
