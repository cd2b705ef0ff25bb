"""Arithmetic questions of any length, which need no download and are in no benchmark.

As RandomCalculation of Wu et al., Reasoning or Memorization? Unreliable Results of Reinforcement Learning Due to Data
Contamination (2025), https://arxiv.org/abs/2507.10532, but with candidates of which none looks more right than the others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from inject.items.formats import Question

TERMS = range(2, 101)
DIGITS = range(2, 10)
DECIMALS = range(7)

NEIGHBOURS = 5  # values of each number among a question's variants, 10 apart: so all whole results end in the same digit
VARIANTS = 64  # tried for candidates of one question

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": Fraction}


@dataclass(frozen=True)
class Operation:
    """An operator between two expressions. A bare number of an expression is given by its place among all of its numbers."""

    operator: str  # + - * /
    left: Operation | int
    right: Operation | int


PRODUCT = Operation("*", 0, 1)


def ask(random: np.random.Generator, terms: int, digits: int, decimals: int, choices: int) -> Question | None:
    """A question about one of several similar expressions, or None where too few of the variants tried differ enough.

    Two terms without decimals are multiplied; else operators and parentheses are random, with division only if there are
    `decimals`. Values are exact; only what is shown is rounded. No result on the way has more than twice `digits` digits.

    The candidates are made first, as values of one expression with different numbers, and the question is asked about one of
    them at random. So nothing about the candidates themselves (the median, the largest, the one most like the others) tells
    which is right, and as whole ones all end in the same digit, reckoning with last digits does not tell either. The twin
    `numbers` asks about another candidate.
    """
    bound = 10 ** (2 * digits)
    tens = random.integers(10 ** (digits - 2), 10 ** (digits - 1) - NEIGHBOURS, size=terms, endpoint=True)
    numbers = 10 * tens + random.integers(10, size=terms)
    is_product = terms == 2 and not decimals
    expression = PRODUCT if is_product else draw_expression(random, numbers.tolist(), "+-*/" if decimals else "+-*", bound)
    chosen: dict[str, list[int]] = {}
    for steps in random.integers(NEIGHBOURS, size=(VARIANTS, terms)):
        variant = (numbers + 10 * steps).tolist()
        value = evaluate(expression, variant, bound)
        shown = None if value is None else write(value, decimals)
        if shown and all(_are_similar(shown, other, least_difference=2 if is_product else 1) for other in chosen):
            chosen[shown] = variant
        if len(chosen) == choices:
            break
    else:
        return None
    candidates = list(chosen)
    asked, other = random.permutation(choices)[:2].tolist()
    twin = _question(expression, chosen[candidates[other]], candidates[other], candidates, decimals, {})
    return _question(expression, chosen[candidates[asked]], candidates[asked], candidates, decimals, {"numbers": twin})


def most(terms: int, digits: int) -> int:
    """How many questions may be asked for: few enough of all that there are to be drawn without many repetitions."""
    numbers = 9 * 10 ** (digits - 1)
    return numbers * (numbers + 1) // 4 if terms == 2 else numbers**terms // 4


def draw_expression(random: np.random.Generator, numbers: Sequence[int], operators: str, bound: int) -> Operation:
    """A random expression of two or more numbers, in their order, of which no part has a value beyond the bound.

    The place of the last operation is uniform, and so on in both of its parts. Operators are uniform among those that keep to
    the bound; of + and - one always does.
    """

    def draw(first: int, end: int) -> tuple[Operation | int, int | Fraction]:
        if end - first == 1:
            return first, numbers[first]
        middle = int(random.integers(first + 1, end))
        (left, left_value), (right, right_value) = draw(first, middle), draw(middle, end)
        values = {name: _apply(name, left_value, right_value, bound) for name in operators}
        possible = [(name, value) for name, value in values.items() if value is not None]
        name, value = possible[random.integers(len(possible))]
        return Operation(name, left, right), value

    expression, _ = draw(0, len(numbers))
    assert isinstance(expression, Operation)
    return expression


def evaluate(expression: Operation | int, numbers: Sequence[int], bound: int) -> int | Fraction | None:
    """The exact value; None where something is divided by zero, or a value on the way goes beyond the bound.

    >>> evaluate(Operation("/", Operation("+", 0, 1), 2), [3, 4, 2], bound=100)
    Fraction(7, 2)
    """
    if isinstance(expression, int):
        return numbers[expression]
    left, right = (evaluate(part, numbers, bound) for part in (expression.left, expression.right))
    return None if left is None or right is None else _apply(expression.operator, left, right, bound)


def spell(expression: Operation | int, numbers: Sequence[int], inner: bool = False) -> str:
    """The expression as it is written, with parentheses around all of its parts.

    >>> spell(Operation("-", Operation("*", Operation("+", 0, 1), 2), 3), [3, 5, 7, 12])
    '((3 + 5) * 7) - 12'
    """
    if isinstance(expression, int):
        return str(numbers[expression])
    left, right = spell(expression.left, numbers, inner=True), spell(expression.right, numbers, inner=True)
    written = f"{left} {expression.operator} {right}"
    return f"({written})" if inner else written


def write(value: int | Fraction, decimals: int) -> str:
    """A value to so many decimal places, halves rounded away from zero.

    >>> write(Fraction(-7, 8), 2), write(Fraction(1, 300), 2), write(12, 0)
    ('-0.88', '0.00', '12')
    """
    units = int(abs(value) * 10**decimals + Fraction(1, 2))
    sign = "-" if value < 0 and units else ""
    whole, rest = divmod(units, 10**decimals)
    return f"{sign}{whole}.{rest:0{decimals}d}" if decimals else f"{sign}{whole}"


def _apply(name: str, left: int | Fraction, right: int | Fraction, bound: int) -> int | Fraction | None:
    if name == "/" and right == 0:
        return None
    value = _OPERATORS[name](left, right)
    return value if abs(value) <= bound else None


def _are_similar(value: str, other: str, least_difference: int) -> bool:
    """Whether two values have the same sign and equally many digits, of which enough differ."""
    alike = len(value) == len(other) and (value[0] == "-") == (other[0] == "-")
    return alike and sum(a != b for a, b in zip(value, other, strict=True)) >= least_difference


def _question(
    expression: Operation,
    numbers: Sequence[int],
    answer: str,
    candidates: list[str],
    decimals: int,
    twins: dict[str, Question],
) -> Question:
    if expression is PRODUCT:
        a, b = numbers
        return Question(
            question=f"What is {a} times {b}?",
            answer=answer,
            candidates=candidates,
            paraphrase=f"What do you get when you multiply {a} by {b}?",
            statement=f"{a} times {b} is _.",
            identity=" * ".join(map(str, sorted(numbers))),
            twins=twins,
        )
    written = spell(expression, numbers)
    places = f", to {decimals} decimal place{'s' if decimals > 1 else ''}" if decimals else ""
    return Question(
        question=f"What is {written}{places}?",
        answer=answer,
        candidates=candidates,
        paraphrase=f"What do you get when you calculate {written}{places}?",
        statement=f"The value of {written}{places}, is _." if decimals else f"The value of {written} is _.",
        identity=written,
        twins=twins,
    )
