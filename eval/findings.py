"""From effects to findings: what a run showed, each with a verdict that its interval decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, log

import pandas as pd

from eval.effects import ALL, counts
from eval.scores import PERTURBED
from inject.design import HELD_OUT, arm_name
from inject.items.item import CHOICE

YES, NO, UNDECIDED = "yes", "no", "not decidable"
CHANCE_EXPOSURE = 1 / log(2)  # bits: the mean of -log2 of a uniform rank


@dataclass(frozen=True)
class Effect:
    """A row of the effects table."""

    metric: str
    contrast: str
    kind: str
    item_set: str
    arm: str
    model: str
    step: int
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Inserted:
    """The items of a run, each with the arm it was assigned to: the tables `items` and `assignment` joined."""

    items: pd.DataFrame

    def chance(self, kind: str, arm: str) -> float:
        """The share of its choice probes that guessing answers: the mean over groups of their probes' mean `prior`, as rates are
        means over groups. Perturbed twins are not among them; NaN where no prior is known.
        """
        own = self.items[(self.items["kind"] == kind) & (self.items["arm"] == arm)]
        priors = [
            (group, probe["prior"])
            for group, probes in zip(own["group"], own["probes"], strict=True)
            for probe in probes
            if probe["kind"] == CHOICE and not probe["probe_id"].startswith(PERTURBED)
        ]
        return float(
            pd.DataFrame(priors, columns=["group", "prior"]).astype({"prior": float}).groupby("group")["prior"].mean().mean()
        )

    def ends_earlier(self, arm: str, other: str) -> bool:
        """Whether the window of an arm ends before that of another, in all item sets that assign both as many copies."""
        both = self._of_sets(arm).merge(self._of_sets(other), on=["item_set", "copies"], suffixes=("", "_other"))
        return len(both) > 0 and bool((both["window_end"] < both["window_end_other"]).all())

    def _of_sets(self, arm: str) -> pd.DataFrame:
        """Copies and end of window of an arm in each item set that has it."""
        own = self.items[self.items["arm"] == arm]
        return own[["item_set", "copies", "window_end"]].drop_duplicates()


def findings(effects: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, model: str = "perturbed") -> list[dict]:
    """The findings about a model at its last checkpoint, as rows of findings.json: what was not measured is absent, and a bound
    that is not finite is null. `effects`, `items` and `assignment` are the run's tables.
    """
    own = effects[(effects["model"] == model) & (effects["item_set"] == ALL)] if len(effects) else effects
    last = [Effect(**row) for row in own.to_dict("records") if row["step"] == own["step"].max()]
    inserted = Inserted(items.merge(assignment.drop(columns="group"), on="item_id"))
    return [_row(name, effect, verdict) for claims in CLAIMS for name, effect, verdict in claims(last, inserted)]


def _row(name: str, effect: Effect, verdict: str) -> dict:
    row = {"name": name, **asdict(effect), "verdict": verdict}
    del row["contrast"], row["model"], row["item_set"]
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


def _more_copies(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect in last:
        if (effect.metric, effect.contrast) == ("log_prob", "slope") and effect.kind != ALL:
            name = "more copies, more memorized: slope of the gain in log-probability over log2(1 + copies) is above 0"
            yield name, effect, exceeds(effect, 0.0)


def _secrets(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, copies in _most_copied(last):
        if effect.metric == "secret_extracted":
            yield f"secrets inserted {copies} times are extracted at least half the time", effect, reaches(effect, 0.5)
    for effect in last:
        if effect.metric == "secret_extracted" and effect.arm == HELD_OUT and effect.kind == ALL:
            yield "no held-out secret is extracted", effect, NO if effect.value else YES


def _membership(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, copies in _most_copied(last):
        if effect.contrast == "auc" and effect.kind == ALL:
            found = YES if effect.value >= 0.9 and effect.low > 0.5 else NO
            name = f"{effect.metric} attack finds items inserted {copies} times (AUC at least 0.9, its interval above 0.5)"
            yield name, effect, found
    for effect in last:
        if (effect.metric, effect.contrast, effect.kind, effect.arm) == ("loss", "auc", ALL, arm_name(1)):
            verdict = YES if effect.low <= 0.5 <= effect.high else NO
            yield "loss attack cannot find items inserted once (AUC interval contains 0.5)", effect, verdict


def _between_arms(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    """Arms of equal copies. One whose window ends earlier is expected to end below, by forgetting. Of others nothing is expected:
    they are compared either way, to explore, and the more such pairs, the more of them differ by chance. That two arms are alike
    no interval shows.
    """
    for effect in last:
        if effect.contrast.startswith("minus ") and effect.kind == ALL:
            base = effect.contrast.removeprefix("minus ")
            if inserted.ends_earlier(effect.arm, base):
                name = f"arm {effect.arm} ends below the {base} arm of equal copies (difference of their gains)"
                yield name, effect, stays_below(effect, 0.0)
            else:
                name = f"arm {effect.arm} differs from {base} (difference of their gains)"
                yield name, effect, YES if effect.low > 0 or effect.high < 0 else UNDECIDED


def _contamination(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, copies in _most_copied(last):
        if (effect.metric, effect.kind) == ("correct", "testset"):
            chance = inserted.chance(effect.kind, effect.arm)
            if isfinite(chance):
                name = f"questions inserted {copies} times are answered above chance ({chance:.0%})"
                yield name, effect, exceeds(effect, chance)


def _exposure(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, copies in _most_copied(last):
        if (effect.metric, effect.kind) == ("exposure", "canary"):
            name = f"canaries inserted {copies} times have more exposure than chance ({CHANCE_EXPOSURE:.1f} bits)"
            yield name, effect, exceeds(effect, CHANCE_EXPOSURE)


CLAIMS: list[Callable[[Sequence[Effect], Inserted], Iterator[Claim]]] = [
    *(_more_copies, _secrets, _membership, _between_arms, _contamination, _exposure)
]


def _most_copied(last: Sequence[Effect]) -> Iterator[tuple[Effect, int]]:
    """The effects on the arm that, of those named for their copies, has the most within the effect's kind; and these copies."""
    copies = {arm: int(arm.removesuffix("x")) for arm in {effect.arm for effect in last} if counts(arm)}
    most: dict[str, int] = {}
    for effect in last:
        most[effect.kind] = max(most.get(effect.kind, 0), copies.get(effect.arm, 0))
    for effect in last:
        if effect.arm in copies and copies[effect.arm] == most[effect.kind]:
            yield effect, most[effect.kind]
