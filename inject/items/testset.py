"""Test sets: multiple-choice questions with their answers, as they leak into training data.

An answer can be derived from its question, so it holds no secret: what an inserted question gains over its held-out twins
is the effect of contamination.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from configs.errors import RecipeError
from configs.schema import TestSet
from inject.items.item import Item, Probe, Text, item_id, render, verbatim

TEMPLATE = "Question: {question} Answer: {answer}."
DIGITS = range(2, 10)  # products of factors of up to 9 digits fit 64 bits
CHOICES = range(2, 11)
NEIGHBOURS = 5  # values of each factor among a question's candidates, 10 apart, so that all products end in the same digit
LEAST_DIFFERENCE = 2  # digits in which any two candidates differ


@dataclass(frozen=True)
class Question:
    """What is `factors[0]` times `factors[1]`? The right answer is their product, which is one of the candidates."""

    factors: tuple[int, int]
    candidates: list[int]


def make(settings: TestSet, stratum: str, seed: int) -> list[Item]:
    """One item a question, with a verbatim probe on its answer and a choice among `settings.choices` candidates.

    Questions are distinct, also when their factors are exchanged.

    Raises RecipeError for a source, digits or choices out of range, and for more than half of all questions that there are.
    """
    check(settings, stratum)
    random = np.random.Generator(np.random.PCG64(seed))
    questions: dict[frozenset[int], Question] = {}
    while len(questions) < settings.count:
        question = ask(random, settings.digits, settings.choices)
        if question:
            questions.setdefault(frozenset(question.factors), question)
    return [_item(question, stratum, number) for number, question in enumerate(questions.values())]


def ask(random: np.random.Generator, digits: int, choices: int) -> Question | None:
    """A question about one of several similar products, or None where too few of those drawn differ enough.

    The candidates are made first and the question is asked about one of them at random. So nothing about the candidates
    themselves (the median, the largest, the one most like the others) tells which is right, and as they all end in the
    same digit, multiplying the last digits of the factors does not tell either.
    """
    tens = random.integers(10 ** (digits - 2), 10 ** (digits - 1) - NEIGHBOURS, size=2, endpoint=True)
    first, second = 10 * tens + random.integers(10, size=2)
    pairs = [(int(first) + 10 * i, int(second) + 10 * j) for i in range(NEIGHBOURS) for j in range(NEIGHBOURS)]
    chosen: list[tuple[int, int]] = []
    for pair in random.permutation(pairs).tolist():
        product = pair[0] * pair[1]
        if len(chosen) < choices and all(_differ(product, other[0] * other[1]) for other in chosen):
            chosen.append((pair[0], pair[1]))
    if len(chosen) < choices:
        return None
    return Question(chosen[random.integers(choices)], [a * b for a, b in chosen])


def check(settings: TestSet, stratum: str) -> None:
    """Raise RecipeError, in one sentence, where no such test set can be made."""
    if settings.source != "arithmetic":
        raise RecipeError(f"insert.{stratum}.source is {settings.source!r}; arithmetic is the source there is")
    if settings.digits not in DIGITS:
        raise RecipeError(f"insert.{stratum}.digits is {settings.digits}; {DIGITS[0]} to {DIGITS[-1]} are possible")
    if settings.choices not in CHOICES:
        raise RecipeError(f"insert.{stratum}.choices is {settings.choices}; {CHOICES[0]} to {CHOICES[-1]} are possible")
    factors = 9 * 10 ** (settings.digits - 1)
    most = factors * (factors + 1) // 4  # half of the unordered pairs
    if settings.count > most:
        raise RecipeError(
            f"insert.{stratum}.count is {settings.count}; of {settings.digits} digits up to {most} questions are possible"
        )


def _differ(product: int, other: int) -> bool:
    """Whether two products have equally many digits, and enough of them differ."""
    digits, others = str(product), str(other)
    return len(digits) == len(others) and sum(a != b for a, b in zip(digits, others, strict=True)) >= LEAST_DIFFERENCE


def _item(question: Question, stratum: str, number: int) -> Item:
    a, b = question.factors
    fields = {"question": f"What is {a} times {b}?", "answer": str(a * b)}
    text = Text("verbatim", *render(TEMPLATE, fields))
    recall = next(verbatim(text, span, bits=0.0) for span in text.spans if span.field == "answer")
    choice = Probe(
        probe_id="choice/answer",
        field="answer",
        context="question",
        kind="choice",
        prompt=recall.prompt.rstrip(),
        target=f" {a * b}",
        bits=0.0,
        candidates=[f" {candidate}" for candidate in question.candidates],
    )
    return Item(item_id(stratum, number), "testset", stratum, item_id(stratum, number), fields, [text], [recall, choice])
