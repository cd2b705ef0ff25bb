"""From effects to findings: what a run showed, each with a verdict that its interval decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, log

import pandas as pd

from configs.insert import TestSet
from configs.schema import Recipe
from eval.effects import counts
from inject.design import HELD_OUT, arm_name

YES, NO, UNDECIDED = "yes", "no", "not decidable"
CHANCE_EXPOSURE = 1 / log(2)  # bits: the mean of -log2 of a uniform rank


@dataclass(frozen=True)
class Effect:
    """A row of the effects table."""

    metric: str
    contrast: str
    kind: str
    arm: str
    model: str
    step: int
    value: float
    low: float
    high: float
    n: int


def findings(effects: pd.DataFrame, recipe: Recipe, model: str = "perturbed") -> list[dict]:
    """The findings about a model at its last checkpoint, as rows of findings.json: what was not measured is absent, and a bound
    that is not finite is null.
    """
    own = effects[effects["model"] == model] if len(effects) else effects
    last = [Effect(**row) for row in own.to_dict("records") if row["step"] == own["step"].max()]
    return [_row(name, effect, verdict) for claims in CLAIMS for name, effect, verdict in claims(last, recipe)]


def _row(name: str, effect: Effect, verdict: str) -> dict:
    row = {"name": name, **asdict(effect), "verdict": verdict}
    del row["contrast"], row["model"]
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()}


# ------------------------------------------------------------------------------------------------ verdicts


def exceeds(effect: Effect, bound: float) -> str:
    """Whether the quantity lies above a bound: decided where its interval lies on one side."""
    return YES if effect.low > bound else NO if effect.high <= bound else UNDECIDED


def reaches(effect: Effect, bound: float) -> str:
    """Whether the quantity is at least a bound."""
    return YES if effect.low >= bound else NO if effect.high < bound else UNDECIDED


def stays_below(effect: Effect, bound: float) -> str:
    """Whether the quantity lies below a bound."""
    return YES if effect.high < bound else NO if effect.low >= bound else UNDECIDED


# ------------------------------------------------------------------------------------------------ claims

Claim = tuple[str, Effect, str]


def _more_copies(last: Sequence[Effect], recipe: Recipe) -> Iterator[Claim]:
    for effect in last:
        if (effect.metric, effect.contrast) == ("log_prob", "slope") and effect.kind != "all":
            name = "more copies, more memorized: slope of the gain in log-probability over log2(1 + copies) is above 0"
            yield name, effect, exceeds(effect, 0.0)


def _secrets(last: Sequence[Effect], recipe: Recipe) -> Iterator[Claim]:
    most, copies = _most(last)
    for effect in last:
        if effect.metric == "secret_extracted" and effect.arm == most:
            yield f"secrets inserted {copies} times are extracted at least half the time", effect, reaches(effect, 0.5)
    for effect in last:
        if effect.metric == "secret_extracted" and effect.arm == HELD_OUT and effect.kind == "all":
            yield "no held-out secret is extracted", effect, NO if effect.value else YES


def _membership(last: Sequence[Effect], recipe: Recipe) -> Iterator[Claim]:
    most, copies = _most(last)
    pooled = [effect for effect in last if effect.contrast == "auc" and effect.kind == "all"]
    for effect in pooled:
        if effect.arm == most:
            found = YES if effect.value >= 0.9 and effect.low > 0.5 else NO
            name = f"{effect.metric} attack finds items inserted {copies} times (AUC at least 0.9, its interval above 0.5)"
            yield name, effect, found
    for effect in pooled:
        if effect.arm == arm_name(1) and effect.metric == "loss":
            verdict = YES if effect.low <= 0.5 <= effect.high else NO
            yield "loss attack cannot find items inserted once (AUC interval contains 0.5)", effect, verdict


def _windows(last: Sequence[Effect], recipe: Recipe) -> Iterator[Claim]:
    for effect in last:
        if effect.contrast.startswith("minus ") and effect.kind == "all":
            twin = effect.contrast.removeprefix("minus ")
            name = f"arm {effect.arm} ends below the {twin} arm of equal copies (difference of their gains)"
            yield name, effect, stays_below(effect, 0.0)


def _contamination(last: Sequence[Effect], recipe: Recipe) -> Iterator[Claim]:
    most, copies = _most(last)
    choices = [items.choices for items in recipe.insert.values() if isinstance(items, TestSet)]
    for effect in last:
        if choices and effect.metric == "correct" and effect.arm == most and effect.kind == "testset":
            chance = 1 / min(choices)
            yield f"questions inserted {copies} times are answered above chance ({chance:.0%})", effect, exceeds(effect, chance)


def _exposure(last: Sequence[Effect], recipe: Recipe) -> Iterator[Claim]:
    most, copies = _most(last)
    for effect in last:
        if effect.metric == "exposure" and effect.arm == most and effect.kind == "canary":
            name = f"canaries inserted {copies} times have more exposure than chance ({CHANCE_EXPOSURE:.1f} bits)"
            yield name, effect, exceeds(effect, CHANCE_EXPOSURE)


CLAIMS: list[Callable[[Sequence[Effect], Recipe], Iterator[Claim]]] = [
    *(_more_copies, _secrets, _membership, _windows, _contamination, _exposure)
]


def _most(last: Sequence[Effect]) -> tuple[str, int]:
    """The arm named for the most copies, and these."""
    copies = max((int(effect.arm.removesuffix("x")) for effect in last if counts(effect.arm)), default=0)
    return f"{copies}x", copies
