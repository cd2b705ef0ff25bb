"""From scores to effects: what an arm's copies did, by kind, item set and checkpoint, against the held-out twins of the same model.

Intervals are over groups, conditional on this training run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from eval.blind import blind_baseline, confounded
from eval.metrics import is_attack, is_share, metric
from eval.statistics import (
    Interval,
    bootstrap_auc,
    mean,
    mean_difference,
    proportion,
    slope,
    stratified_auc,
    stratified_delong,
    true_positive_rate_at,
)
from inject.assignment import MEMBER
from inject.design import HELD_OUT

ALL = "all"  # kinds, item sets or arms
RATES = [0.01, 0.001]  # false positive rates at which attacks are judged, too
PERMUTATIONS = 999
LEAST_GROUPS = 20  # of a blind baseline, which learns on some and is judged on others


def effects(
    scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, secret_bits: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Rows of the effects table for all metrics, kinds, arms and checkpoints of one model.

    `scores`: the scores table; `items`: item_id, item_set, kind, stratum and probes; `assignment`: item_id, group, arm, copies and
    window_end.
    """
    joined = _join(scores, items, assignment, secret_bits)
    attacked = joined["metric"].map(is_attack)
    joined = pd.concat([joined[~attacked], _by_group(joined[attacked])], ignore_index=True)
    rows: list[dict[str, Any]] = []
    for (model, step, name), part in joined.groupby(["model", "step", "metric"], sort=True):
        for kind, item_set, chosen in levels(part):
            for contrast, arm, interval, note in _contrasts(str(name), chosen, resamples, seed, last=step == scores["step"].max()):
                rows.append(
                    {
                        "metric": name,
                        "contrast": contrast,
                        "kind": kind,
                        "item_set": item_set,
                        "arm": arm,
                        "model": model,
                        "step": step,
                        **vars(interval),
                        "note": note,
                    }
                )
    return pd.DataFrame(rows)


def levels(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
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
    """Whether an arm differs from held-out in copies alone, as those of `design.copies` do and the members that a released data set
    names; "4x even" of `design.cross` does not.
    """
    return arm == MEMBER or arm.removesuffix("x").isdigit()


def _by_group(attacked: pd.DataFrame) -> pd.DataFrame:
    """One membership score a group and variant."""
    cell = ["model", "step", "metric", "kind", "item_set", "stratum", "arm", "group", "probe_id"]
    return attacked.groupby(cell, sort=False).agg({"value": "mean", "text_exposures": "max"}).reset_index()


def _contrasts(name: str, part: pd.DataFrame, resamples: int, seed: int, last: bool) -> Iterator[tuple[str, str, Interval, str]]:
    """(contrast, arm, interval, note) of one metric of some items at one checkpoint."""
    arms = dict(tuple(part.groupby("arm", sort=True)))
    twins = arms.get(HELD_OUT)
    for arm, chosen in arms.items():
        if is_share(name):
            yield "rate", arm, _share(chosen), ""
        elif is_attack(name):
            if arm != HELD_OUT and twins is not None and (strata := matched(chosen[chosen["text_exposures"] > 0], twins)):
                yield from _attack(arm, strata, resamples, seed, last)
        else:
            yield "mean", arm, _mean(name, chosen), ""
    if name == "log_prob":
        yield from ((*found, "") for found in _gains(part[part["gain"].notna()], resamples, seed))
    elif last and twins is not None and not is_attack(name):
        for arm in (arm for arm in arms if arm != HELD_OUT):
            yield "minus held-out", arm, _against_twins(name, arms[arm], twins), ""


def _attack(
    arm: str, strata: list[tuple[np.ndarray, np.ndarray]], resamples: int, seed: int, last: bool
) -> Iterator[tuple[str, str, Interval, str]]:
    """How well an attack tells an arm's texts from held-out ones: AUC with three intervals, and true positive rates.

    Of several strata the rates are taken on percentiles among the held-out twins of each, so that kinds of text do not mix.
    """
    yield "auc", arm, stratified_auc(strata), ""
    if not last:
        return
    yield "auc (DeLong)", arm, stratified_delong(strata), ""
    yield "auc (bootstrap)", arm, bootstrap_auc(strata, resamples, seed), ""
    placed = [_percentiles(members, twins) for members, twins in strata] if len(strata) > 1 else strata
    members, others = (np.concatenate(values) for values in zip(*placed, strict=True))
    for rate in RATES:
        value, unresolved = true_positive_rate_at(rate, members, others)
        own = proportion(value * len(members), len(members))
        note = f"{len(others)} held-out texts cannot resolve a false positive rate of {rate:.1%}" if unresolved else ""
        yield f"tpr at {rate:.1%}", arm, own, note


def _percentiles(members: np.ndarray, twins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as shares of the held-out twins below them, ties by half."""
    ordered = np.sort(twins)
    below = [[np.searchsorted(ordered, values, side) for side in ("left", "right")] for values in (members, twins)]
    own, others = ((np.asarray(left) + np.asarray(right)) / 2 / len(twins) for left, right in below)
    return own, others


def _mean(name: str, chosen: pd.DataFrame) -> Interval:
    """The mean of a value, over the probes on which it is finite."""
    least, most = metric(name).bounds
    if name == "exposure":
        most = chosen["bits"].max()
    values = chosen[np.isfinite(chosen["value"])]
    if values.empty:
        return Interval(float(chosen["value"].mean()), -np.inf, np.inf, chosen["group"].nunique())
    return mean(values["value"], values["group"], bounds=(least, most))


def _against_twins(name: str, chosen: pd.DataFrame, twins: pd.DataFrame) -> Interval:
    """A metric of an arm less that of the held-out twins of its item sets, in the same model."""
    same = twins[twins["item_set"].isin(chosen["item_set"])]
    finite = [rows[np.isfinite(rows["value"])] for rows in (chosen, same)]
    if any(rows.empty for rows in finite):
        return Interval(np.nan, -np.inf, np.inf, 0)
    bounds = (0.0, 1.0) if is_share(name) else metric(name).bounds
    bounds = bounds if name != "exposure" else (0.0, max(rows["bits"].max() for rows in finite))
    own, others = finite
    return mean_difference(own["value"], own["group"], others["value"], others["group"], bounds=bounds)


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


def matched(exposed: pd.DataFrame, twins: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of (members, held-out twins), one a group, for each item set and each choice of its texts that members have seen:
    both are scored on these texts alone. A group counts once, for what an AUC counts must be independent.
    """
    held_out = _texts_of_groups(twins)
    members: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for (stratum, _), texts in _texts_of_groups(exposed).items():
        members.setdefault((stratum, tuple(sorted(texts))), []).append(fmean(texts.values()))
    strata = []
    for (stratum, seen), values in sorted(members.items()):
        same = [[value for text, value in texts.items() if text in seen] for (of, _), texts in held_out.items() if of == stratum]
        if others := [fmean(own) for own in same if own]:
            strata.append((np.asarray(values), np.asarray(others)))
    return strata


def _texts_of_groups(rows: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """The scores of each (stratum, group) by text."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for stratum, group, text, value in zip(rows["stratum"], rows["group"], rows["probe_id"], rows["value"], strict=True):
        found.setdefault((stratum, group), {})[text] = value
    return found


# ------------------------------------------------------------------------------------------------ other baselines


def blind_effects(texts: list[dict[str, Any]], items: pd.DataFrame, assignment: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Whether words alone, without any model, tell inserted texts from held-out ones: rows of the effects table, by kind.

    Texts that were assigned at random can't be told so; where they can (p < 0.01), what membership attacks find is confounded.
    """
    joined = pd.DataFrame(texts).drop_duplicates("item_id").merge(items[["item_id", "kind", "stratum"]], on="item_id")
    joined = joined.merge(assignment[["item_id", "group", "arm", "copies"]], on="item_id").dropna(subset="copies")
    joined = joined[joined["text"].str.strip() != ""]
    rows = []
    for kind, own in [(ALL, joined), *joined.groupby("kind", sort=True)]:
        member = own["copies"] > 0
        both = own[member].merge(own[~member], on="stratum")
        if both.empty or own["group"].nunique() < LEAST_GROUPS or own.groupby("group")["copies"].nunique().max() > 1:
            continue
        blind = blind_baseline(own["text"].tolist(), member.to_numpy(), own["group"], own["stratum"], PERMUTATIONS, seed)
        by_group = own.assign(score=blind.scores).groupby(["stratum", "group"]).agg({"score": "mean", "copies": "max"})
        strata = [
            (part["score"][part["copies"] > 0], part["score"][part["copies"] == 0]) for _, part in by_group.groupby("stratum")
        ]
        interval = stratified_auc([pair for pair in strata if len(pair[0]) and len(pair[1])])
        told = "the words alone tell them apart: what attacks find is confounded" if confounded(blind.p_value) else ""
        note = f"permutation p = {blind.p_value:.3f}" + (f"; {told}" if told else "")
        row = {"metric": "bag_of_words", "contrast": "auc", "kind": kind, "item_set": ALL, "arm": ALL}
        rows.append({**row, **vars(interval), "note": note})
    return rows


def item_by_item(
    scores: pd.DataFrame,
    other: pd.DataFrame,
    items: pd.DataFrame,
    assignment: pd.DataFrame,
    contrast: str = "minus standard",
) -> list[dict[str, Any]]:
    """What a model scores above another one, which did not see the items, at the same step: rows of the effects table.

    The standard model shares initial weights and all base rows with it, a branch its training up to a step; each item is its own
    control, so the difference is taken item by item.
    """
    keys = ["step", "item_id", "probe_id", "metric"]
    both = scores.merge(other[[*keys, "value"]], on=keys, suffixes=("", "_other"))
    both = both[np.isfinite(both["value"]) & np.isfinite(both["value_other"])].drop_duplicates(keys)
    both = both.assign(difference=both["value"] - both["value_other"])
    both = both.merge(items[["item_id", "kind"]], on="item_id").merge(assignment[["item_id", "group", "arm"]], on="item_id")
    rows = []
    for (model, step, name, arm), own in both.groupby(["model", "step", "metric", "arm"], sort=True):
        bound = 1.0 if is_share(str(name)) else np.inf
        for kind, part in [(ALL, own), *own.groupby("kind", sort=True)]:
            interval = mean(part["difference"], part["group"], bounds=(-bound, bound))
            row = {"metric": name, "contrast": contrast, "kind": kind, "item_set": ALL, "arm": arm}
            rows.append({**row, "model": model, "step": step, **vars(interval), "note": ""})
    return rows
