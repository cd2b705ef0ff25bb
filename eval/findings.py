"""From effects to findings: what a run showed, each with a verdict that its interval decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, log

import pandas as pd
from scipy.special import ndtr, ndtri

from eval.counterfactual import BEYOND
from eval.effects import ALL, counts
from eval.metrics import is_attack
from eval.scores import PERTURBED
from eval.statistics import holm
from inject.assignment import MEMBER
from inject.design import HELD_OUT, arm_name
from inject.items.item import CHOICE
from inject.models import natural

YES, NO, UNDECIDED = "yes", "no", "not decidable"
LEVEL = 0.95  # of the intervals
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
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim about an effect, and what its interval says of it."""

    key: str  # what a recipe's eval.primary names it by: its family, and what it is about
    name: str
    effect: Effect
    verdict: str
    bound: float | None = None  # from which the effect has to differ; None for a claim that something is absent
    either_way: bool = False  # whether a no says that it differs, too, the other way


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


def findings(
    effects: pd.DataFrame,
    items: pd.DataFrame,
    assignment: pd.DataFrame,
    model: str = "perturbed",
    primary: Sequence[str] = (),
    others: Sequence[Claim] = (),
) -> list[dict]:
    """The findings about a model at its last checkpoint, as rows of findings.json: what was not measured is absent, and a bound
    that is not finite is null. `effects`, `items` and `assignment` are the run's tables; `others`: claims about other models.

    Those whose key begins with one of `primary` are told by their intervals. All others are exploratory: there are many, so some
    would hold by chance, and one that does not survive Holm's adjustment for their number is "not decidable".
    """
    own = effects[(effects["model"] == model) & (effects["item_set"] == ALL)] if len(effects) else effects
    last = [Effect(**row) for row in own.to_dict("records") if row["step"] == own["step"].max()]
    inserted = Inserted(items.merge(assignment.drop(columns="group"), on="item_id"))
    claims = [*(claim for of_family in CLAIMS for claim in of_family(last, inserted)), *others]
    first = [any(claim.key.startswith(key) for key in primary) for claim in claims]
    tested = [i for i, claim in enumerate(claims) if claim.bound is not None and not first[i]]
    adjusted = dict(zip(tested, holm([p_value(claims[i]) for i in tested]).tolist(), strict=True))
    return [_row(claim, first[i], adjusted.get(i)) for i, claim in enumerate(claims)]


def p_value(claim: Claim) -> float:
    """Two-sided p of the effect being the bound, as its interval implies it: normal, with the half of the interval on that side."""
    effect, bound = claim.effect, claim.bound
    assert bound is not None
    half = effect.value - effect.low if bound < effect.value else effect.high - effect.value
    if not isfinite(half) or effect.value == bound:
        return 1.0
    z = abs(effect.value - bound) / half * ndtri((1 + LEVEL) / 2) if half > 0 else float("inf")
    return float(2 * ndtr(-z))


def _row(claim: Claim, primary: bool, adjusted: float | None) -> dict:
    survives = adjusted is None or adjusted < 1 - LEVEL
    verdict = claim.verdict if survives or claim.verdict not in ([YES, NO] if claim.either_way else [YES]) else UNDECIDED
    row = {"key": claim.key, "name": claim.name, **asdict(claim.effect)}
    row |= {"primary": primary, "adjusted_p": adjusted, "verdict": verdict}
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


def _more_copies(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect in last:
        if (effect.metric, effect.contrast) == ("log_prob", "slope") and effect.kind != ALL:
            name = "more copies, more memorized: slope of the gain in log-probability over log2(1 + copies) is above 0"
            yield Claim(f"dose/{effect.kind}", name, effect, exceeds(effect, 0.0), 0.0)


def _secrets(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, which in _most_copied(last):
        if (effect.metric, effect.contrast) == ("secret_extracted", "rate"):
            name = f"secrets {which} are extracted at least half the time"
            yield Claim(f"secrets/{effect.kind}", name, effect, reaches(effect, 0.5), 0.5)
    for effect in last:
        if (effect.metric, effect.contrast) == ("secret_extracted", "rate") and effect.arm == HELD_OUT and effect.kind == ALL:
            yield Claim("secrets/held-out", "no held-out secret is extracted", effect, NO if effect.value else YES)


def _membership(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, which in _most_copied(last):
        if effect.contrast == "auc" and effect.kind == ALL and is_attack(effect.metric):
            found = YES if effect.value >= 0.9 and effect.low > 0.5 else NO
            name = f"{effect.metric} attack finds items {which} (AUC at least 0.9, its interval above 0.5)"
            yield Claim(f"membership/{effect.metric}", name, effect, found, 0.5)
    for effect in last:
        if (effect.metric, effect.contrast, effect.kind, effect.arm) == ("loss", "auc", ALL, arm_name(1)):
            verdict = YES if effect.low <= 0.5 <= effect.high else NO
            name = "loss attack cannot find items inserted once (AUC interval contains 0.5)"
            yield Claim("membership/once", name, effect, verdict)


def _between_arms(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    """Arms of equal copies. One whose window ends earlier is expected to end below, by forgetting. Of others nothing is expected:
    they are compared either way, to explore, and the more such pairs, the more of them differ by chance. That two arms are alike
    no interval shows.
    """
    arms = set(inserted.items["arm"]) - {HELD_OUT}
    for effect in last:
        base = effect.contrast.removeprefix("minus ")
        if base != effect.contrast and base in arms and effect.kind == ALL:
            if inserted.ends_earlier(effect.arm, base):
                name = f"arm {effect.arm} ends below the {base} arm of equal copies (difference of their gains)"
                yield Claim(f"arms/{effect.arm}", name, effect, stays_below(effect, 0.0), 0.0)
            else:
                name = f"arm {effect.arm} differs from {base} (difference of their gains)"
                yield Claim(f"arms/{effect.arm}", name, effect, YES if effect.low > 0 or effect.high < 0 else UNDECIDED, 0.0)


def _forgetting(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    """What was gained and then lost; and whether what came later is remembered better, which a falling learning rate can hide."""
    for effect in sorted(last, key=lambda effect: natural(effect.arm)):
        if (effect.metric, effect.contrast, effect.kind) == ("decay_constant", "fit", ALL):
            name = f"what arm {effect.arm} gained is forgotten: its decay constant is above 0"
            yield Claim(f"forgetting/{effect.arm}", name, effect, exceeds(effect, 0.0), 0.0)
    for effect in last:
        metric, _, label = effect.metric.partition("/")
        if (metric, effect.contrast, effect.kind) == ("window_effect", "last minus first", ALL):
            name = f"later windows end above earlier ones at equal copies ({label}; the last window's gain less the first's)"
            yield Claim(f"windows/{label}", name, effect, exceeds(effect, 0.0), 0.0)


def _counterfactual(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect in last:
        if (effect.metric, effect.kind, effect.arm) == ("log_prob", ALL, ALL) and effect.contrast.endswith(BEYOND):
            branch = effect.contrast.removeprefix("minus ").removesuffix(BEYOND)
            name = f"items that {branch} was trained without are known by their copies (log-probability, beyond placebo)"
            yield Claim(f"counterfactual/{branch}", name, effect, exceeds(effect, 0.0), 0.0)


def _contamination(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, which in _most_copied(last):
        if (effect.metric, effect.contrast, effect.kind) == ("correct", "rate", "testset"):
            chance = inserted.chance(effect.kind, effect.arm)
            if isfinite(chance):
                name = f"questions {which} are answered above chance ({chance:.0%})"
                yield Claim("contamination/testset", name, effect, exceeds(effect, chance), chance)


def _exposure(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, which in _most_copied(last):
        if (effect.metric, effect.contrast, effect.kind) == ("exposure", "mean", "canary"):
            name = f"canaries {which} have more exposure than chance ({CHANCE_EXPOSURE:.1f} bits)"
            yield Claim("exposure/canary", name, effect, exceeds(effect, CHANCE_EXPOSURE), CHANCE_EXPOSURE)


def _leaks(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, which in _most_copied(last):
        if (effect.metric, effect.contrast) == ("leaked_bits", "mean") and effect.kind != ALL:
            name = f"targets {which} leak more than their best guess tells (bits above 0)"
            yield Claim(f"leaks/{effect.kind}", name, effect, exceeds(effect, 0.0), 0.0)


def _untargeted(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    for effect, which in _most_copied(last):
        if (effect.metric, effect.contrast, effect.kind) == ("emitted_untargeted", "minus held-out", ALL):
            name = f"freely drawn text holds n-grams of texts {which} more often than of held-out ones"
            yield Claim("untargeted", name, effect, exceeds(effect, 0.0), 0.0)


def _blind(last: Sequence[Effect], inserted: Inserted) -> Iterator[Claim]:
    """Without a model nothing can tell texts that were assigned at random; where it can, membership attacks are confounded."""
    for effect in last:
        if effect.metric == "bag_of_words" and effect.kind == ALL:
            name = "words alone, without a model, do not tell inserted texts from held-out ones"
            yield Claim("blind", name, effect, NO if "confounded" in effect.note else YES)


CLAIMS: list[Callable[[Sequence[Effect], Inserted], Iterator[Claim]]] = [
    *(
        _more_copies,
        _secrets,
        _membership,
        _between_arms,
        _counterfactual,
        _forgetting,
        _contamination,
        _exposure,
        _leaks,
        _untargeted,
        _blind,
    )
]


def _most_copied(last: Sequence[Effect]) -> Iterator[tuple[Effect, str]]:
    """The effects on the arm that, of those that differ in copies alone, has the most within the effect's kind; and who that is."""
    copies = {arm: 1 if arm == MEMBER else int(arm.removesuffix("x")) for arm in {effect.arm for effect in last} if counts(arm)}
    most: dict[str, int] = {}
    for effect in last:
        most[effect.kind] = max(most.get(effect.kind, 0), copies.get(effect.arm, 0))
    for effect in last:
        if effect.arm in copies and copies[effect.arm] == most[effect.kind]:
            yield effect, "that are members" if effect.arm == MEMBER else f"inserted {most[effect.kind]} times"
