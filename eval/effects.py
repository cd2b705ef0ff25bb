"""From scores to effects: what an arm's copies did, by kind, item set and checkpoint, against the held-out twins of the same model.

Intervals are over groups, conditional on this training run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from eval.membership import ATTACKS
from eval.statistics import Interval, mean, mean_difference, proportion, slope, stratified_auc
from inject.design import HELD_OUT

ALL = "all"  # kinds, item sets or arms
SHARES = ["extracted", "secret_extracted", "correct", "correct_perturbed", "answered", "answered_perturbed"]


def effects(
    scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, secret_bits: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Rows of the effects table for all metrics, kinds, arms and checkpoints of one model.

    `scores`: the scores table; `items`: item_id, item_set, kind, stratum and probes; `assignment`: item_id, group, arm, copies and
    window_end.
    """
    joined = _join(scores, items, assignment, secret_bits)
    attacked = joined["metric"].isin(ATTACKS)
    joined = pd.concat([joined[~attacked], _by_group(joined[attacked])], ignore_index=True)
    rows: list[dict[str, Any]] = []
    for (model, step, metric), part in joined.groupby(["model", "step", "metric"], sort=True):
        for kind, item_set, chosen in _levels(part):
            for contrast, arm, interval in _contrasts(str(metric), chosen, resamples, seed):
                rows.append(
                    {
                        "metric": metric,
                        "contrast": contrast,
                        "kind": kind,
                        "item_set": item_set,
                        "arm": arm,
                        "model": model,
                        "step": step,
                        **vars(interval),
                    }
                )
    return pd.DataFrame(rows)


def _levels(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(kind, item set, their rows): everything, each kind, and of a kind that has several item sets each of these."""
    yield ALL, ALL, part
    for kind, of_kind in part.groupby("kind", sort=True):
        yield str(kind), ALL, of_kind
        if of_kind["item_set"].nunique() > 1:
            for item_set, of_set in of_kind.groupby("item_set", sort=True):
                yield str(kind), str(item_set), of_set


def _join(scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, secret_bits: float) -> pd.DataFrame:
    """Scores with kind, item set, stratum, group and arm; `gain` is the value over the mean of the stratum's held-out twins at that
    step, NaN where the stratum has none.

    `secret_extracted` repeats `extracted` for the probes whose target has at least `secret_bits` given its prompt.
    """
    joined = scores.merge(items[["item_id", "item_set", "kind", "stratum"]], on="item_id").merge(
        assignment[["item_id", "group", "arm", "copies", "window_end"]], on="item_id"
    )
    bits = {
        (item, probe["probe_id"]): probe["bits"]
        for item, probes in zip(items["item_id"], items["probes"], strict=True)
        for probe in probes
    }
    joined["bits"] = [bits.get(key, 0.0) for key in zip(joined["item_id"], joined["probe_id"], strict=True)]
    secrets = joined[(joined["metric"] == "extracted") & (joined["bits"] >= secret_bits)]
    joined = pd.concat([joined, secrets.assign(metric="secret_extracted")], ignore_index=True)
    cell = ["model", "step", "metric", "stratum", "probe_id"]
    twins = joined[joined["arm"] == HELD_OUT].groupby(cell)["value"].mean().rename("twins")
    joined = joined.merge(twins, left_on=cell, right_index=True, how="left")
    joined["gain"] = joined["value"] - joined["twins"]
    return joined


def counts(arm: str) -> bool:
    """Whether an arm is named for its copies alone, as those of `design.copies` are; "4x even" of `design.cross` is not."""
    return arm.removesuffix("x").isdigit()


def _by_group(attacked: pd.DataFrame) -> pd.DataFrame:
    """One membership score a group and variant."""
    cell = ["model", "step", "metric", "kind", "item_set", "stratum", "arm", "group", "probe_id"]
    return attacked.groupby(cell, sort=False).agg({"value": "mean", "text_exposures": "max"}).reset_index()


def _contrasts(metric: str, part: pd.DataFrame, resamples: int, seed: int) -> Iterator[tuple[str, str, Interval]]:
    """(contrast, arm, interval) of one metric of some items at one checkpoint."""
    arms = dict(tuple(part.groupby("arm", sort=True)))
    twins = arms.get(HELD_OUT)
    for arm, chosen in arms.items():
        if metric in SHARES:
            yield "rate", arm, _share(chosen)
        elif metric in ATTACKS:
            if arm != HELD_OUT and twins is not None and (strata := _strata(chosen[chosen["text_exposures"] > 0], twins)):
                yield "auc", arm, stratified_auc(strata)
        else:
            bounds = (0.0, chosen["bits"].max()) if metric == "exposure" else (-np.inf, 0.0)
            yield "mean", arm, mean(chosen["value"], chosen["group"], bounds=bounds)
    if metric == "log_prob":
        yield from _gains(part[part["gain"].notna()], resamples, seed)


# ------------------------------------------------------------------------------------------------ gains


def _gains(part: pd.DataFrame, resamples: int, seed: int) -> Iterator[tuple[str, str, Interval]]:
    """What comes of the gains of texts whose stratum has held-out twins: the gain of each arm over the twins of its item sets, the
    slope over copies, and the differences between arms of equal copies.
    """
    arms = dict(tuple(part.groupby("arm", sort=True)))
    twins = arms.pop(HELD_OUT, part[:0])
    for arm, own in arms.items():
        same = twins[twins["item_set"].isin(own["item_set"])]
        yield "gain", arm, mean_difference(own["gain"], own["group"], same["gain"], same["group"])
    whole_run = _dose_response(part)
    if whole_run["text_exposures"].max() > 0:
        x = np.log2(1 + whole_run["text_exposures"])
        yield "slope", ALL, slope(x, whole_run["gain"], whole_run["group"], whole_run["arm"], resamples, seed)
    yield from _between_arms(part[part["arm"] != HELD_OUT])


def _dose_response(part: pd.DataFrame) -> pd.DataFrame:
    """The arms that differ in copies alone, and the held-out twins of the item sets that have such arms.

    Crossed arms ("4x even") are left out as named ones are: beside the copies a further factor moves them.
    """
    dosed = part[part["arm"].isin([arm for arm in part["arm"].unique() if counts(arm)])]
    twins = part[(part["arm"] == HELD_OUT) & part["item_set"].isin(dosed["item_set"])]
    return part.loc[dosed.index.union(twins.index)]


def _between_arms(treated: pd.DataFrame) -> Iterator[tuple[str, str, Interval]]:
    """The gain of an arm less that of each arm to which its item set assigns as many copies, unless both are named for these.

    What is subtracted is the arm named for its copies, else the one whose window ends later, else the first by name. The
    difference is pooled over the item sets that have both arms; a set that has one of them takes no part.
    """
    pairs: dict[tuple[str, str], list[str]] = {}
    for (item_set, _), alike in treated.groupby(["item_set", "copies"], sort=True):
        windows = alike.groupby("arm", sort=True)["window_end"].max()
        ordered = sorted(windows.index, key=lambda arm: (not counts(arm), -windows[arm], arm))
        for base, arm in combinations(ordered, 2):
            if not counts(arm):
                pairs.setdefault((arm, base), []).append(str(item_set))
    for (arm, base), item_sets in sorted(pairs.items()):
        both = treated[treated["item_set"].isin(item_sets)]
        yield f"minus {base}", arm, _difference_within_sets(both[both["arm"] == arm], both[both["arm"] == base])


def _difference_within_sets(own: pd.DataFrame, other: pd.DataFrame) -> Interval:
    """The difference of two arms' gains that share item sets, a weighted mean of its values within each.

    Where the arms draw on the sets in unequal parts, the plain difference of means also holds how much the sets differ: with p and
    q the arms' shares of groups in a set, and c the middle of both means in it, sum (p - q) c, which is taken off. A set then
    weighs (p + q) / 2. The interval is the plain one moved by as much: it errs on the wide side, as sets that differ widen it.
    """
    plain = mean_difference(own["gain"], own["group"], other["gain"], other["group"])
    (share, gain), (other_share, other_gain) = _by_set(own), _by_set(other)
    surplus = float(((share - other_share) * (gain + other_gain) / 2).sum())
    return Interval(plain.value - surplus, plain.low - surplus, plain.high - surplus, plain.n)


def _by_set(arm: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Of each item set, its share of the arm's groups, and their mean gain."""
    gains = arm.groupby(["item_set", "group"])["gain"].mean().groupby("item_set")
    return gains.size() / gains.size().sum(), gains.mean()


# ------------------------------------------------------------------------------------------------ shares and attacks


def _share(chosen: pd.DataFrame) -> Interval:
    """Share of probes; a group counts as one observation, however many probes it has, so the interval errs on the wide side."""
    by_group = chosen.groupby("group")["value"].mean()
    return proportion(float(by_group.sum()), len(by_group))


def _strata(exposed: pd.DataFrame, twins: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of (members, held-out twins), one a group, for each item set and each choice of its texts that members have seen:
    both are scored on these texts alone. A group counts once, for what an AUC counts must be independent.
    """
    by_group = exposed.groupby(["stratum", "group"])
    members = by_group.agg(value=("value", "mean"), seen=("probe_id", lambda texts: tuple(sorted(texts))))
    strata = []
    for (stratum, seen), part in members.groupby(["stratum", "seen"]):
        same = twins[(twins["stratum"] == stratum) & twins["probe_id"].isin(seen)]
        if len(same):
            strata.append((part["value"].to_numpy(), same.groupby("group")["value"].mean().to_numpy()))
    return strata
