"""Forgetting in a run: scores, and the steps of exposures, to rows of the effects table, by the measures of eval/forgetting.py.

Of an item those probes count whose text was seen. Steps are those since an arm's last exposure; what is retained counts from the
maximum, which comes soon after. Where an arm's items had their last copies further apart than the maximum takes to come (`WITHIN`),
each item's curve is laid over its own last exposure if checkpoints are dense enough, and else a note says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import inf, nan
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from eval.effects import ALL, levels, matched
from eval.forgetting import (
    WITHIN,
    by_group,
    decay_fit,
    effectivity,
    forgets,
    forgetting_baseline,
    gains,
    half_life,
    local_maximum,
    retainability,
    since_last_exposure,
    verdict,
    window_effect,
)
from eval.statistics import Floats, Interval, mean_difference, proportion
from inject.design import HELD_OUT, arm_name

LEAST_LATER = 3  # checkpoints after an arm's last exposure, without which there is no curve
ATTACK = "loss"  # whose success is followed
FALSE_POSITIVES = 0.1  # that it is allowed on the held-out twins
ALPHA = 0.5  # an arm is forgotten when the attack finds half of its groups at most; guessing finds a tenth
FACTORS = ["copies", "spacing", "placement", "mode", "variants", "item_sets"]  # equal in arms that are compared by their window

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What is told of an arm."""

    metric: str
    contrast: str
    interval: Interval
    note: str = ""
    step: int | None = None  # of the checkpoint; None for the last


def forgetting_effects(
    scores: pd.DataFrame,
    items: pd.DataFrame,
    assignment: pd.DataFrame,
    exposures: pd.DataFrame,
    resamples: int,
    seed: int,
) -> list[Row]:
    """Rows of the effects table of one model, by kind and arm. What is left at a checkpoint stands at its step, all else at the
    last.

    `scores`, `items`, `assignment`: as of `eval.effects.effects`, with all factors of an arm; `exposures`: of `exposure_steps`.
    """
    log_probs, spans, attacked = (
        curves(scores, items, assignment, exposures, metric) for metric in ("log_prob", "longest_span", ATTACK)
    )
    told = chain(
        _by_arm(log_probs, lambda own: _learning_rates(own, exposures)),
        _by_arm(log_probs, lambda own: _retained(log_probs, own, resamples, seed)),
        _by_arm(spans, lambda own: _spans_left(spans, own)),
        _by_arm(attacked, lambda own: _attack_forgotten(attacked, own)),
        _windows(log_probs, exposures, resamples, seed),
    )
    model, last = scores["model"].iloc[0], scores["step"].max()
    return [
        {
            "metric": found.metric,
            "contrast": found.contrast,
            "kind": kind,
            "item_set": item_set,
            "arm": arm,
            "model": model,
            "step": last if found.step is None else found.step,
            **vars(found.interval),
            "note": found.note,
        }
        for kind, item_set, arm, found in told
    ]


# ------------------------------------------------------------------------------------------------ exposures, curves


def exposure_steps(plan: pa.Table, ledger: pd.DataFrame, global_batch: int) -> pd.DataFrame:
    """When each copy was seen, and at which learning rate: `item_id, variant, copy, step, learning_rate`, in order of steps.

    `ledger`: step, learning_rate and consumed; a step that was not consumed exposes nothing.
    """
    copies = plan.select(["row", "item_id", "copy", "variant"]).to_pandas().astype({"item_id": str, "variant": str})
    copies["step"] = copies.pop("row") // global_batch
    consumed = ledger.loc[ledger["consumed"], ["step", "learning_rate"]]
    return copies.merge(consumed, on="step").sort_values("step", kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Curves:
    """A metric of each probe that was seen, and of its twins, at every checkpoint."""

    rows: (
        pd.DataFrame
    )  # a probe of an item each: who it is, `label` (stratum and probe: who its twins are), `first`, `last` exposure
    values: Floats  # (rows, steps)
    gain: Floats  # the same over the twins
    steps: Floats

    def twins(self, own: pd.DataFrame) -> pd.DataFrame:
        """The rows of the twins of some rows."""
        return self.rows[(self.rows["arm"] == HELD_OUT) & self.rows["label"].isin(own["label"])]


def curves(
    scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, exposures: pd.DataFrame, metric: str = "log_prob"
) -> Curves:
    """The curves of a metric, of all probes that are finite at every checkpoint and have twins."""
    own = scores[(scores["metric"] == metric) & np.isfinite(scores["value"])]
    wide = own.pivot_table(index=["item_id", "probe_id"], columns="step", values="value").dropna()
    seen = own[own["step"] == own["step"].max()][["item_id", "probe_id", "text_exposures"]]
    steps = exposures.groupby("item_id")["step"].agg(first="min", last="max").reset_index()
    rows = wide.index.to_frame(index=False).merge(seen, how="left")
    for table in (items[["item_id", "item_set", "kind", "stratum"]], assignment, steps):
        rows = rows.merge(table, on="item_id", how="left")
    rows["label"] = rows["stratum"] + "/" + rows["probe_id"]
    twin = rows["arm"] == HELD_OUT
    kept = (twin | (rows["text_exposures"] > 0)) & rows["label"].isin(rows[twin]["label"])
    rows, values = rows[kept].reset_index(drop=True), wide.to_numpy()[kept]
    held_out = (rows["arm"] == HELD_OUT).to_numpy()
    label = rows["label"].to_numpy()
    over = gains(values, label, values[held_out], label[held_out]) if len(rows) else values
    return Curves(rows, values, over, wide.columns.to_numpy(dtype=float))


def item_gains(found: Curves, exposures: pd.DataFrame) -> pd.DataFrame:
    """The curve of each item: its gain at every checkpoint, mean over its probes, with the steps since its last exposure by then,
    null before the first: `step, item_id, since, gain`.
    """
    wide = pd.DataFrame(found.gain, columns=found.steps.astype(np.int64)).groupby(found.rows["item_id"]).mean()
    long = wide.rename_axis(columns="step").stack().rename("gain").reset_index().sort_values("step", kind="stable")
    shown = exposures[["item_id", "step"]].assign(exposed=exposures["step"]).astype({"step": np.int64})
    long = pd.merge_asof(long, shown, on="step", by="item_id", allow_exact_matches=False)  # step-c has seen the steps before c
    return long.assign(since=long["step"] - long["exposed"])[["step", "item_id", "since", "gain"]]


def _by_arm(found: Curves, tell: Callable[[pd.DataFrame], Iterable[Found]]) -> Iterator[tuple[str, str, str, Found]]:
    """What is told of the rows of each kind, item set and arm."""
    for kind, item_set, part in levels(found.rows):
        for arm, own in part[part["arm"] != HELD_OUT].groupby("arm", sort=True):
            yield from ((kind, item_set, str(arm), each) for each in tell(own))


def _point(value: float, n: int) -> Interval:
    """A value without an interval."""
    return Interval(value, nan, nan, n)


# ------------------------------------------------------------------------------------------------ after the last exposure


@dataclass(frozen=True)
class Later:
    """An arm's gains and its twins', by group, before the first exposure and at `since` steps after the last."""

    since: Floats  # (T,)
    steps: list[int]  # (T,) of the checkpoints
    own: Floats  # (groups, 1 + T): before, and at each of `since`
    twins: Floats  # (groups', 1 + T)
    note: str


def after_exposure(found: Curves, own: pd.DataFrame) -> Later | None:
    """The curve of an arm after its last exposure; None where its window ends with training, or fewer than 3 checkpoints follow."""
    own = own[own["window_end"] < 1]
    if own.empty:
        return None
    last, final, twins = own["last"].to_numpy(), own["last"].max(), found.twins(own)
    before, later = np.flatnonzero(found.steps <= own["first"].min()), np.flatnonzero(found.steps > final)
    if not len(before) or len(later) < LEAST_LATER:
        return None
    spread, note = final - last.min(), ""
    own_curves, twin_curves = found.gain[own.index][:, later], found.gain[twins.index][:, later]
    if spread > WITHIN:
        soonest = max(found.steps[found.steps > exposed].min() - exposed for exposed in np.unique(last))
        dense = later[found.steps[later] - final >= soonest]
        if len(dense) >= LEAST_LATER and found.steps[dense[0]] - final <= WITHIN:
            later, since = dense, found.steps[dense] - final
            own_curves = since_last_exposure(found.gain[own.index], found.steps, last, since)
            twin_curves = since_last_exposure(found.gain[twins.index], found.steps, np.resize(last, len(twins)), since)
        else:
            note = f"last copies of its items lie {spread:g} steps apart: what the first of them had lost by the end is not counted"

    def grouped(rows: pd.DataFrame, after: Floats) -> Floats:
        return by_group(np.hstack([found.gain[rows.index][:, [before[-1]]], after]), rows["group"])

    steps = found.steps[later]
    return Later(steps - final, steps.astype(int).tolist(), grouped(own, own_curves), grouped(twins, twin_curves), note)


def _retained(found: Curves, own: pd.DataFrame, resamples: int, seed: int) -> Iterator[Found]:
    """Effectivity, retainability at each later checkpoint, decay, half-life and baseline of an arm."""
    later = after_exposure(found, own)
    if later is None:
        return
    n = len(later.own) + len(later.twins)
    if later.since[0] > WITHIN:
        note = f"nothing was measured in the {WITHIN} steps after the last exposure, where the gain is at its maximum"
        yield Found("effectivity", "mean", Interval(nan, -inf, inf, n), note)
        return
    steps = np.concatenate([[0], later.since])
    peak = local_maximum(later.own.mean(axis=0), steps, after=0)
    retention = retainability(later.own, later.twins, steps, 0, peak, resamples, seed)
    learned = effectivity(later.own, later.twins, 0, peak)
    yield Found("effectivity", "mean", learned, "; ".join(filter(None, [retention.note, later.note])))
    if not retention.note:
        measured = zip(retention.since, retention.curve, retention.low, retention.high, strict=True)
        for step, (since, value, low, high) in list(zip(later.steps[peak - 1 :], measured, strict=True))[1:]:
            yield Found("retainability", f"after {since:g} steps", Interval(value, low, high, n), step=step)
    if (retention.since > 0).sum() >= LEAST_LATER:
        fit = decay_fit(retention)
        yield Found("decay_constant", "fit", fit.constant, fit.note)
        if not retention.note:
            yield Found("decay_r_squared", "fit", _point(fit.r_squared, n))
            yield Found("half_life", "fit", fit.half_life, fit.note)
            yield Found("half_life", "curve", half_life(retention))
            yield Found("learnability_threshold", "fit", fit.threshold, fit.note)
    baseline = forgetting_baseline(later.own, later.twins, peak)
    yield Found("forgetting_baseline", "mean", baseline, verdict(baseline, "the forgetting baseline"))


def _spans_left(found: Curves, own: pd.DataFrame) -> Iterator[Found]:
    """The longest verbatim span over that of the twins, at each later checkpoint."""
    if later := after_exposure(found, own):
        groups = [np.arange(len(curves)) for curves in (later.own, later.twins)]
        for column, (since, step) in enumerate(zip(later.since, later.steps, strict=True), 1):
            gain = mean_difference(later.own[:, column], groups[0], later.twins[:, column], groups[1])
            yield Found("span_left", f"after {since:g} steps", gain, verdict(gain, "what is left of the span"), step)


def _attack_forgotten(found: Curves, own: pd.DataFrame) -> Iterator[Found]:
    """(A, alpha, k)-forgetting of an arm by the loss attack, and its success at each later checkpoint."""
    own = own[own["window_end"] < 1]
    later = np.flatnonzero(found.steps > own["last"].max())
    if len(later) < LEAST_LATER:
        return
    since, twins = found.steps[later] - own["last"].max(), found.twins(own)
    judged = [_successes(*(rows.assign(value=found.values[rows.index, at]) for rows in (own, twins))) for at in later]
    n = judged[0][1]
    if n == 0:
        note = f"{len(twins)} held-out texts are too few to calibrate an attack at {FALSE_POSITIVES:.0%} false positives"
        yield Found(f"forgotten/{ATTACK}", "mean", _point(nan, 0), note)
        return
    for (successes, _), at, steps in zip(judged, later, since, strict=True):
        yield Found(f"attack_success/{ATTACK}", f"after {steps:g} steps", proportion(successes, n), step=int(found.steps[at]))
    forgotten = forgets([successes for successes, _ in judged], n, since, ALPHA)
    note = f"{forgotten.verdict}: the {ATTACK} attack finds at most {ALPHA:.0%}, with {FALSE_POSITIVES:.0%} false positives"
    yield Found(f"forgotten/{ATTACK}", "mean", _point(nan if forgotten.since is None else forgotten.since, n), note)


def _successes(own: pd.DataFrame, twins: pd.DataFrame) -> tuple[int, int]:
    """How many groups of an arm the attack finds, of how many it can judge: those above the k-th highest of their n twins.

    A twin does so with probability k / (n + 1), as all orders are as likely, and k is the largest that keeps it within
    FALSE_POSITIVES.
    """
    successes = judged = 0
    cell = ["stratum", "group", "probe_id"]
    for members, others in matched(*(rows.groupby(cell, as_index=False)["value"].mean() for rows in (own, twins))):
        k = int(FALSE_POSITIVES * (len(others) + 1))
        if k:
            successes += int((members > np.sort(others)[-k]).sum())
            judged += len(members)
    return successes, judged


# ------------------------------------------------------------------------------------------------ learning rates, windows


def _learning_rates(own: pd.DataFrame, exposures: pd.DataFrame) -> Iterator[Found]:
    """The mean learning rate at an arm's exposures, and its sum over those of an item: the dose."""
    seen = exposures[exposures["item_id"].isin(own["item_id"])]
    n = own["group"].nunique()
    yield Found("exposure_learning_rate", "mean", _point(float(seen["learning_rate"].mean()), n))
    yield Found("learning_dose", "mean", _point(float(seen.groupby("item_id")["learning_rate"].sum().mean()), n))


def _windows(found: Curves, exposures: pd.DataFrame, resamples: int, seed: int) -> Iterator[tuple[str, str, str, Found]]:
    """What the window did, among arms that differ in nothing else: of all of them, and each arm's gain per dose."""
    exposures = exposures[exposures["learning_rate"] > 0]

    def final(rows: pd.DataFrame) -> Floats:
        return by_group(found.gain[rows.index][:, -1:], rows["group"])[:, 0]

    for kind, item_set, part in levels(found.rows[found.rows["arm"] != HELD_OUT]):
        for label, arms in _comparable(part):
            own = [part[part["arm"] == arm] for arm in arms]
            seen = [exposures[exposures["item_id"].isin(rows["item_id"])] for rows in own]
            if any(each.empty for each in seen):
                continue
            rates = [each.groupby(each.groupby("item_id").cumcount())["learning_rate"].mean() for each in seen]  # of each copy
            twins = found.twins(pd.concat(own))
            effect = window_effect([final(rows) for rows in own], final(twins), rates, resamples, seed)
            name = f"window_effect/{label}"
            yield kind, item_set, ALL, Found(name, "last minus first", effect.last_minus_first, effect.note)
            yield kind, item_set, ALL, Found(name, "trend", effect.trend, effect.note)
            yield kind, item_set, ALL, Found(f"dosed_{name}", "last minus first", effect.per_dose_last_minus_first)
            for arm, gain in zip(arms, effect.per_dose, strict=True):
                yield kind, item_set, arm, Found("gain_per_dose", "mean", gain)


def _comparable(treated: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """(what they share, arms in order of time) of arms that differ in their window alone: two or more that do not overlap."""
    window = ["window_start", "window_end"]
    sets = treated.groupby("arm")["item_set"].agg(lambda names: ", ".join(sorted(set(names)))).rename("item_sets")
    arms = treated.merge(sets, left_on="arm", right_index=True)[["arm", *window, *FACTORS]].drop_duplicates()
    arms = arms[~arms["arm"].duplicated(keep=False)]  # item sets mean different things by one name
    varied = [factor for factor in FACTORS[1:] if arms[factor].nunique() > 1]
    for alike, own in arms.groupby(FACTORS, sort=True):
        kept: list[str] = []
        end = 0.0
        for arm in own.sort_values(["window_end", "window_start"]).itertuples():
            if arm.window_start >= end:
                kept.append(arm.arm)
                end = arm.window_end
        if len(kept) > 1:
            shared = dict(zip(FACTORS, alike, strict=True))
            yield " ".join([arm_name(int(shared["copies"])), *(str(shared[factor]) for factor in varied)]), kept
