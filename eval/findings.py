"""From effects to findings: what a run showed, each with a verdict that its interval decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite

import pandas as pd

from configs.schema import Recipe
from eval.statistics import Interval
from inject.design import HELD_OUT, arms

YES, NO, UNDECIDED = "yes", "no", "not decidable"


@dataclass(frozen=True)
class Finding:
    """One claim, the number it rests on, and whether the interval bears it out."""

    name: str
    metric: str
    kind: str
    arm: str
    step: int
    value: float
    low: float
    high: float
    n: int
    verdict: str  # yes | no | not decidable


def above(interval: Interval, bound: float) -> str:
    """Whether the quantity exceeds a bound: decided where the interval lies on one side of it."""
    if interval.low > bound:
        return YES
    return NO if interval.high <= bound else UNDECIDED


def findings(effects: pd.DataFrame, recipe: Recipe, model: str = "perturbed") -> list[dict]:
    """The findings of a run at its last checkpoint, as rows of findings.json; those whose metric was not measured are absent."""
    own = effects[effects["model"] == model] if len(effects) else effects
    if not len(own):
        return []
    rows = [asdict(finding) for finding in _findings(own[own["step"] == own["step"].max()], recipe)]
    return [
        {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()} for row in rows
    ]


def _findings(last: pd.DataFrame, recipe: Recipe) -> Iterator[Finding]:
    copies = sorted({cell.copies for cell in arms(recipe.design)} - {0})
    most, least = f"{max(copies)}x", f"{min(copies)}x"

    for effect in _rows(last, "log_prob", "slope"):
        if effect.kind != "all":
            yield _finding(
                "more copies, more memorized: slope of the gain in log-probability over log2(1 + copies) is above 0", effect, 0.0
            )

    for effect in _rows(last, "secret_extracted", "rate", arm=most):
        yield _finding(f"secrets inserted {max(copies)} times are extracted at least half the time", effect, 0.5, touching=True)
    for effect in _rows(last, "secret_extracted", "rate", arm=HELD_OUT):
        if effect.kind == "all":
            yield _with_verdict("no held-out secret is extracted", effect, YES if effect.value == 0 else NO)

    for attack in recipe.eval.membership:
        for effect in _rows(last, attack, "auc", arm=most):
            if effect.kind == "all":
                yield _finding(
                    f"{attack} attack tells items inserted {max(copies)} times from held-out twins (AUC above 0.5)", effect, 0.5
                )
    for effect in _rows(last, "loss", "auc", arm=least):
        if effect.kind == "all" and least != most:
            verdict = YES if effect.low <= 0.5 <= effect.high else NO
            yield _with_verdict(
                f"loss attack cannot tell items inserted {least} from held-out twins (AUC interval contains 0.5)", effect, verdict
            )

    for effect in last[last["contrast"].str.startswith("minus ") & (last["kind"] == "all")].itertuples():
        verdict = YES if effect.high < 0 else NO if effect.low >= 0 else UNDECIDED
        twin = effect.contrast.removeprefix("minus ")
        yield _with_verdict(
            f"arm {effect.arm} ends below the {twin} arm of equal copies (difference of the gains)", effect, verdict
        )

    for effect in _rows(last, "correct", "rate", arm=most):
        if effect.kind != "all":
            chance = 1 / next((items.choices for items in recipe.insert.values() if items.kind == "testset"), 1)
            yield _finding(f"questions inserted {max(copies)} times are answered above chance ({chance:.0%})", effect, chance)
    for effect in _rows(last, "exposure", "mean", arm=most):
        if effect.kind == "all":
            yield _finding(
                f"canaries inserted {max(copies)} times have more exposure than chance (1.4 bits)", effect, CHANCE_EXPOSURE
            )


CHANCE_EXPOSURE = 1.4427  # bits: mean of -log2 of a uniform rank, 1 / ln 2


def _rows(last: pd.DataFrame, metric: str, contrast: str, arm: str | None = None) -> Iterator:
    chosen = last[(last["metric"] == metric) & (last["contrast"] == contrast)]
    yield from (chosen if arm is None else chosen[chosen["arm"] == arm]).itertuples()


def _finding(name: str, effect, bound: float, touching: bool = False) -> Finding:  # type: ignore[no-untyped-def]
    interval = Interval(effect.value, effect.low, effect.high, effect.n)
    verdict = YES if touching and interval.low >= bound else above(interval, bound)
    return _with_verdict(name, effect, verdict)


def _with_verdict(name: str, effect, verdict: str) -> Finding:  # type: ignore[no-untyped-def]
    return Finding(
        name,
        effect.metric,
        effect.kind,
        effect.arm,
        int(effect.step),
        effect.value,
        effect.low,
        effect.high,
        int(effect.n),
        verdict,
    )
