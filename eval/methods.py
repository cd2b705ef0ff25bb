"""Methods against forgetting, compared at equal learning: does one retain more of what was learned before than plain training does?

A method that learns the new facts more slowly retains more of the old ones at every step, and where plain training has forgotten
all, or nothing yet, no method can differ. So methods are compared where plain training retains a part: at each such checkpoint, by
how much of the new facts it has learned by then, and each method is looked up where it has learned as much. Learning is the mean
log-probability of the new answers, which moves long before any of them is emitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import isfinite, isnan, nan
from typing import Any

import numpy as np

from eval.continual import FACTS, Continual, Row, StageRecord
from eval.findings import NO, UNDECIDED, YES, Claim, Effect
from eval.statistics import Floats, Interval, mean

FAMILY, KEYS = "remix", ["retention", "tokens", "end"]  # of the findings' keys: FAMILY/stage/KEY/set
LEAST_RETAINED, MOST_RETAINED = 0.2, 0.8  # by plain training, where methods are compared
FLOOR, CEILING = 0.05, 0.95  # retained at the end: where both lie beyond, nothing can be told
LEARNED_LESS = 0.05  # emitted at the end, by which a method has not learned as much
MEASURED = {"retention": "exact match", "retention_tokens": "token accuracy"}  # metrics that are compared at equal learning

Verdict = str


@dataclass(frozen=True)
class Trajectory:
    """One stage, checkpoint by checkpoint (C of them)."""

    steps: list[int]
    learned: Floats  # (m, C): mean log-probability of each new answer, nats
    retained: Floats  # (n, C): whether each earlier fact is emitted
    tokens: Floats  # (n, C): token accuracy of its answer
    emitted: Floats  # (m, C): whether each new answer is emitted


@dataclass(frozen=True)
class Comparison:
    """Stages that learn the same after the same; the plain one is what the others are compared with."""

    baseline: StageRecord
    methods: list[StageRecord]


def comparisons(stages: Iterable[StageRecord]) -> list[Comparison]:
    """Stages with the same data and the same sets learned before. The baseline is the one that is plain, as are those before it; if
    there is none or several of these, the one that itself is plain. Stages among which no single one is are not compared.
    """

    def task(stage: StageRecord) -> tuple[list[str], list[str]]:
        return sorted(stage.data), sorted(stage.before)

    found = []
    for _, group in groupby(sorted(stages, key=task), key=task):
        own = list(group)
        candidates = [[stage for stage in own if stage.plain and stage.plain_lineage], [stage for stage in own if stage.plain]]
        baseline = next((stages[0] for stages in candidates if len(stages) == 1), None)
        if baseline is not None and baseline.before and len(own) > 1:
            found.append(Comparison(baseline, [stage for stage in own if stage is not baseline]))
    return found


def trajectory(run: Continual, stage: StageRecord, new: Sequence[str], earlier: Sequence[str]) -> Trajectory:
    """What a stage learns of new items, and retains of earlier ones."""
    columns = ("log_prob", new), ("emitted", earlier), ("token_accuracy", earlier), ("emitted", new)
    return Trajectory(run.steps(stage), *(run.curves(stage, items, column) for column, items in columns))


def method_claims(run: Continual, resamples: int, seed: int) -> list[Claim]:
    """What each method does against its baseline, as findings, by earlier set: retention at equal learning, by exact match and by
    token accuracy, and retention at the end of both, however much each has learned.
    """
    claims: list[Claim] = []
    for comparison in comparisons(stage for stage in run.stages.values() if run.steps(stage)):
        baseline = comparison.baseline
        new = run.learned(baseline)
        for item_set in baseline.before:
            if earlier := run.taught(baseline, item_set):
                plain = trajectory(run, baseline, new, earlier)
                for stage in comparison.methods:
                    own = trajectory(run, stage, new, earlier)
                    claims += _claims(baseline, stage, item_set, plain, own, resamples, seed)
    return claims


def _claims(
    baseline: StageRecord, stage: StageRecord, item_set: str, plain: Trajectory, own: Trajectory, resamples: int, seed: int
) -> Iterator[Claim]:
    about = f"more of {item_set} is retained in {stage.name} than in {baseline.name}"

    def claim(key: str, name: str, metric: str, contrast: str, step: int, interval: Interval, verdict: str, note: str) -> Claim:
        effect = Effect(metric, contrast, item_set, item_set, stage.name, stage.name, step, **vars(interval), note=note)
        # What could not be tested is no test among those that are adjusted for their number.
        bound = None if isnan(interval.value) else 0.0
        return Claim(f"{FAMILY}/{stage.name}/{key}/{item_set}", name, effect, verdict, bound, either_way=True)

    if len(plain.learned):
        found = compare(plain, own, resamples, seed)
        for metric, interval in found.differences.items():
            name = f"{about} at equal learning of {'+'.join(stage.data)} ({MEASURED[metric]})"
            key = "tokens" if metric == "retention_tokens" else "retention"
            contrast = f"minus {baseline.name} at equal learning"
            yield claim(key, name, metric, contrast, found.step, interval, found.verdict or decided(interval), found.note)
    interval, verdict = at_the_end(plain, own)
    name, contrast = f"{about} at the end of each (exact match)", f"minus {baseline.name}"
    note = "{:.1%} against {:.1%}".format(*(float(each.retained[:, -1].mean()) for each in (own, plain)))
    if len(plain.emitted):
        learned = (float(each.emitted[:, -1].mean()) for each in (own, plain))
        note += ", having learned {:.1%} against {:.1%}".format(*learned)
    yield claim("end", name, "retention", contrast, own.steps[-1], interval, verdict, note)


def decided(interval: Interval) -> Verdict:
    """Whether a difference is above zero, yes, or below it, no."""
    return YES if interval.low > 0 else NO if interval.high < 0 else UNDECIDED


# ------------------------------------------------------------------------------------------------ at equal learning


@dataclass(frozen=True)
class Matched:
    """Differences of a method to plain training at equal learning, by metric."""

    differences: dict[str, Interval]
    step: int  # of plain training, the last that is compared, or the last of all
    verdict: Verdict | None  # where no comparison is possible
    note: str


def compare(plain: Trajectory, own: Trajectory, resamples: int, seed: int, level: float = 0.95) -> Matched:
    """What a method retains less what plain training does, at equal learning, averaged over the matched points.

    Matched points are the checkpoints at which plain training retains from 20% to 80% of the earlier facts (exact match), as far as
    the method ever learns as much. Intervals are a percentile bootstrap of new and of earlier facts, each resampled for both stages
    together, and conditional on these training runs. As in `eval.statistics.slope`, n facts are resampled by n - 1 draws, and
    limits are order statistics, rounded outwards; where a resampled method does not learn as much, its last point stands for it.
    """
    points, why = matched_points(plain.retained.mean(axis=0))
    learned = record(plain.learned.mean(axis=0))[points]
    reached = points[learned <= own.learned.mean(axis=0).max()]
    if len(reached) == 0:
        verdict = f"{UNDECIDED} ({why or 'not reached'})"
        nothing = {metric: Interval(nan, nan, nan, len(own.retained)) for metric in MEASURED}
        return Matched(nothing, plain.steps[-1], verdict, _why(plain, points))
    generator = np.random.default_rng(seed)
    new, earlier = _draws(len(plain.learned), resamples, generator), _draws(len(plain.retained), resamples, generator)
    tail, differences = (1 - level) / 2, {}
    for metric, values in zip(MEASURED, [(plain.retained, own.retained), (plain.tokens, own.tokens)], strict=True):
        curves = plain.learned, own.learned, *values
        value = difference_at([curve.mean(axis=0) for curve in curves], reached)
        resampled = [draws @ curve for draws, curve in zip((new, new, earlier, earlier), curves, strict=True)]
        found = [difference_at(drawn, reached) for drawn in zip(*resampled, strict=True)]
        low, high = np.quantile(found, tail, method="lower"), np.quantile(found, 1 - tail, method="higher")
        differences[metric] = Interval(value, float(low), float(high), len(own.retained))
    return Matched(differences, plain.steps[reached[-1]], None, _where(plain, points, reached))


def matched_points(retained: Floats) -> tuple[np.ndarray, str]:
    """The checkpoints, after the first, at which a share (C,) lies from 20% to 80%; where there are none, why.

    >>> matched_points(np.array([1.0, 0.95, 0.5, 0.1]))[0].tolist()
    [2]
    >>> matched_points(np.array([1.0, 0.1, 0.0]))[1], matched_points(np.array([1.0, 0.9, 0.85]))[1]
    ('floor', 'ceiling')
    """
    later = retained[1:]
    points = 1 + np.flatnonzero((later >= LEAST_RETAINED) & (later <= MOST_RETAINED))
    if len(points):
        return points, ""
    why = "floor" if (later < LEAST_RETAINED).all() else "ceiling" if (later > MOST_RETAINED).all() else "checkpoints too far apart"
    return points, why


def record(learned: Floats) -> Floats:
    """The most that was learned by each checkpoint, (C,)."""
    return np.maximum.accumulate(learned)


def difference_at(curves: Sequence[Floats], points: np.ndarray) -> float:
    """Mean over points (checkpoints of plain training) of what a method retains, where it has learned as much, less what plain
    training retains there. `curves`: what plain training and the method learn, and what they retain, one value a checkpoint.

    Between the checkpoints at which a method has learned more than ever before, its retention is linear in what it has learned.
    What it knew at its first checkpoint it knew without forgetting; beyond its last it is taken as at that.
    """
    plain_learned, learned, plain_retained, retained = curves
    best = np.concatenate([[True], learned[1:] > record(learned)[:-1]])
    there = np.interp(record(plain_learned)[points], learned[best], retained[best])
    return float((there - plain_retained[points]).mean())


def _draws(n: int, resamples: int, generator: np.random.Generator) -> Floats:
    """Weights of n facts in each resample, (resamples, n), of sum 1. One fact alone has no spread to resample."""
    drawn = max(1, n - 1)
    return np.asarray(generator.multinomial(drawn, np.full(n, 1 / n), size=resamples) / drawn, dtype=float)


def _where(plain: Trajectory, points: np.ndarray, reached: np.ndarray) -> str:
    shares = plain.retained.mean(axis=0)[reached]
    spread = f"{shares.max():.0%} to {shares.min():.0%}" if len(shares) > 1 else f"{shares[0]:.0%}"
    steps = ", ".join(f"{plain.steps[point]:,}" for point in reached)
    left_out = f"; {len(points) - len(reached)} of {len(points)} points left out, where the method never learns as much"
    return f"where plain training retains {spread}, step {steps}{left_out if len(reached) < len(points) else ''}"


def _why(plain: Trajectory, points: np.ndarray) -> str:
    shares = plain.retained.mean(axis=0)[1:]
    if len(points):
        return f"the method never learns as much as plain training has where it retains {LEAST_RETAINED:.0%} to {MOST_RETAINED:.0%}"
    if not len(shares):
        return "plain training has no checkpoint after its first"
    between = f"plain training retains {shares.max():.0%} to {shares.min():.0%} at its checkpoints after the first, never between"
    return f"{between} {LEAST_RETAINED:.0%} and {MOST_RETAINED:.0%}"


# ------------------------------------------------------------------------------------------------ at the end


def at_the_end(plain: Trajectory, own: Trajectory) -> tuple[Interval, Verdict]:
    """The mean over earlier facts of a method's exact match less plain training's, at the last checkpoint of each.

    A method that emits fewer of the new facts by then has not done what plain training has, so retaining more decides nothing.
    """
    pairs = own.retained[:, -1], plain.retained[:, -1]
    interval = mean(pairs[0] - pairs[1], np.arange(len(pairs[0])), bounds=(-1.0, 1.0))
    shares = [float(values.mean()) for values in pairs]
    if max(shares) < FLOOR:
        return interval, f"{UNDECIDED} (floor)"
    if min(shares) > CEILING:
        return interval, f"{UNDECIDED} (ceiling)"
    if decided(interval) == YES and len(plain.emitted) and own.emitted[:, -1].mean() < plain.emitted[:, -1].mean() - LEARNED_LESS:
        return interval, f"{UNDECIDED} (learned less)"
    return interval, decided(interval)


def claim_effects(claims: Iterable[Claim]) -> list[Row]:
    """The rows of the effects table that claims are about."""
    return [{**asdict(claim.effect), "kind": FACTS} for claim in claims]


# ------------------------------------------------------------------------------------------------ across seeds


@dataclass(frozen=True)
class AcrossSeeds:
    """A finding of runs that differ in their seeds alone."""

    key: str
    name: str
    metric: str
    cell: str  # the settings that they share, as JSON
    found: list[float | None]  # the difference of every point in order; None where it has none, or is of another cell
    interval: Interval  # of their mean: Student's t over runs, which differ in their facts, too
    verdict: Verdict


def across_seeds(points: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[AcrossSeeds]:
    """Comparisons of methods over runs, (cell, findings) each: the mean of their differences, and whether it holds for other seeds.

    A seed moves the initial weights, the order of the rows and which facts are drawn, so each run is one observation of all that.
    With one of them a claim is not decidable, however narrow its interval within the run.
    """
    rows = []
    own = [(number, cell, finding) for number, (cell, findings) in enumerate(points) for finding in findings]
    own = [each for each in own if str(each[2].get("key", "")).startswith(f"{FAMILY}/")]
    for cell, key in dict.fromkeys((cell, finding["key"]) for _, cell, finding in own):
        told = {number: finding for number, at, finding in own if (at, finding["key"]) == (cell, key)}
        # What a floor, a ceiling or less learning leaves undecided in a run is no observation of the method, though it has a value.
        decidable = {number: finding for number, finding in told.items() if not finding["verdict"].startswith(f"{UNDECIDED} (")}
        found = [decidable[number]["value"] if number in decidable else None for number in range(len(points))]
        interval, verdict = _over_runs([value for value in found if value is not None and isfinite(value)])
        first, verdicts = next(iter(told.values())), {finding["verdict"] for finding in told.values()}
        if len(verdicts) == 1 and (same := verdicts.pop()).startswith(f"{UNDECIDED} ("):  # as the floor in all of them
            verdict = same
        rows.append(AcrossSeeds(key, first["name"], first["metric"], cell, found, interval, verdict))
    return rows


def _over_runs(values: Sequence[float]) -> tuple[Interval, Verdict]:
    if not values:
        return Interval(nan, nan, nan, 0), UNDECIDED
    interval = mean(values, np.arange(len(values)), bounds=(-1.0, 1.0))
    return interval, decided(interval) if len(values) > 1 else f"{UNDECIDED} (one seed)"
