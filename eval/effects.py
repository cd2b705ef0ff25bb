"""From scores to effects: what an arm's copies did, by kind and checkpoint, against the held-out twins of the same model.

Intervals are over groups, conditional on this training run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from eval.membership import ATTACKS
from eval.statistics import Interval, mean, mean_difference, proportion, slope, stratified_auc
from inject.design import HELD_OUT, arm_name

SHARES = ["extracted", "secret_extracted", "correct", "correct_perturbed", "answered", "answered_perturbed"]


def effects(
    scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, secret_bits: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Rows of the effects table for all metrics, kinds, arms and checkpoints of one model.

    `scores`: the scores table; `items`: item_id, kind, stratum and probes; `assignment`: item_id, group, arm, copies.
    """
    joined = _join(scores, items, assignment, secret_bits)
    attacked = joined["metric"].isin(ATTACKS)
    joined = pd.concat([joined[~attacked], _by_group(joined[attacked])], ignore_index=True)
    rows: list[dict[str, Any]] = []
    for (model, step, metric), part in joined.groupby(["model", "step", "metric"], sort=True):
        for kind, chosen in [("all", part), *part.groupby("kind", sort=True)]:
            for contrast, arm, interval in _contrasts(str(metric), chosen, resamples, seed):
                rows.append(
                    {
                        "metric": metric,
                        "contrast": contrast,
                        "kind": kind,
                        "arm": arm,
                        "model": model,
                        "step": step,
                        **vars(interval),
                    }
                )
    return pd.DataFrame(rows)


def _join(scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, secret_bits: float) -> pd.DataFrame:
    """Scores with kind, stratum, group and arm; `gain` is the value over the mean of the stratum's held-out twins at that step.

    `secret_extracted` repeats `extracted` for the probes whose target has at least `secret_bits` given its prompt.
    """
    joined = scores.merge(items[["item_id", "kind", "stratum"]], on="item_id").merge(
        assignment[["item_id", "group", "arm", "copies"]], on="item_id"
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
    """Whether an arm is named for its copies, as those of `design.copies` are."""
    return arm.removesuffix("x").isdigit()


def _by_group(attacked: pd.DataFrame) -> pd.DataFrame:
    """One membership score a group and variant."""
    cell = ["model", "step", "metric", "kind", "stratum", "arm", "group", "probe_id"]
    return attacked.groupby(cell, sort=False).agg({"value": "mean", "text_exposures": "max"}).reset_index()


def _contrasts(metric: str, part: pd.DataFrame, resamples: int, seed: int) -> Iterator[tuple[str, str, Interval]]:
    """(contrast, arm, interval) of one metric of one kind at one checkpoint."""
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
            if metric == "log_prob" and arm != HELD_OUT and twins is not None:
                yield "gain", arm, mean_difference(chosen["gain"], chosen["group"], twins["gain"], twins["group"])
    if metric == "log_prob" and twins is not None:
        whole_run = part[[arm == HELD_OUT or counts(arm) for arm in part["arm"]]]
        if whole_run["text_exposures"].max() > 0:
            x = np.log2(1 + whole_run["text_exposures"])
            yield "slope", "all", slope(x, whole_run["gain"], whole_run["group"], whole_run["arm"], resamples, seed)
        yield from _window_contrasts(arms)


def _window_contrasts(arms: dict[str, pd.DataFrame]) -> Iterator[tuple[str, str, Interval]]:
    """The gain of each arm with a name of its own less that of the arm of `design.copies` to which as many copies are assigned."""
    for arm, own in arms.items():
        twin = arm_name(int(own["copies"].iloc[0]))
        if arm != HELD_OUT and not counts(arm) and twin in arms:
            other = arms[twin]
            yield f"minus {twin}", arm, mean_difference(own["gain"], own["group"], other["gain"], other["group"])


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
