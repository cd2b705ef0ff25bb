"""What an exposure teaches, and how fast it goes: the probes of a training, to rows of the effects table.

Like all of forgetting it is told as gain, mean log-probability of a target less that of the held-out twins of its stratum with the
weights of the same step. Curves are of an item's first exposure and of its last, as far as the ledger says that they took place,
and end where a further copy of the item is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from eval.effects import ALL, levels
from eval.forgetting import mean_gain
from eval.statistics import Floats

FIRST, LAST = "first_exposure", "last_exposure"  # metrics, each with the steps after it
MINUS_BEFORE = "minus before"  # the contrast with the gain just before the exposure, probe by probe

Row = dict[str, Any]


@dataclass(frozen=True)
class ProbeGains:
    """The gain of each probe around each exposure that is followed, and of the twins at the same steps."""

    rows: pd.DataFrame  # metric, kind, item_set, group, arm, label (stratum and probe), step, exposure_step, after, gain, before
    twins: pd.DataFrame  # by label and step, a column for each group: its gain over the twins' mean
    due: pd.DataFrame  # metric, kind, item_set, group, arm, after of all, with `left_out` and `again` (a further copy was seen)

    def of_twins(self, rows: pd.DataFrame, step: str) -> Floats:
        """The gain of each twin group at the step of each row, (rows, groups); NaN where it is no twin of the row's item."""
        at = pd.MultiIndex.from_arrays([rows["label"], rows[step]], names=self.twins.index.names)
        return self.twins.reindex(at).to_numpy(dtype=float)


def probe_effects(
    probes: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, exposures: pd.DataFrame, resamples: int, seed: int
) -> list[Row]:
    """Rows of the effects table, without model and step: of each kind, item set and arm, its mean gain just before its items' first
    or last exposure (`.../0`) and so many steps after, and how much of that came since (MINUS_BEFORE).

    `probes`: the table PROBES; `items`: item_id, item_set, kind, stratum; `assignment`: item_id, group, arm; `exposures`: item_id
    and step of what was consumed. Intervals are a bootstrap of groups, the arm's and the twins'. A note tells how many groups are
    missing, and why.
    """
    found = probe_gains(probes, items, assignment, exposures)
    rows = []
    for kind, item_set, part in levels(found.rows):
        cells = part.groupby(["metric", "arm", "after"], sort=True)
        for (metric, arm, after), own in cells:
            note = _note(found.due, kind=kind, item_set=item_set, metric=metric, arm=arm, after=after)
            label = {"metric": f"{metric}/{after}", "kind": kind, "item_set": item_set, "arm": arm, "note": note}
            for contrast, gain, twins in _contrasts(found, own):
                present = ~np.isnan(twins).all(axis=0)
                interval = mean_gain(gain, np.nanmean(twins[:, present], axis=0), resamples, seed)
                rows.append({**label, "contrast": contrast, **vars(interval)})
    return rows


def probe_gains(probes: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, exposures: pd.DataFrame) -> ProbeGains:
    """The gains of all probes that have twins."""
    told = probes.merge(items[["item_id", "item_set", "kind", "stratum"]], on="item_id").merge(
        assignment[["item_id", "group", "arm"]], on="item_id"
    )
    told["label"] = told["stratum"] + "/" + told["probe_id"].astype(str)  # of what was left out, never asked for
    held_out = told["exposure_step"].isna()
    twins = told[held_out & np.isfinite(told["log_prob"])].astype({"step": np.int64})
    cell = ["label", "step"]
    mean = twins.groupby(cell, as_index=False)["log_prob"].mean().rename(columns={"log_prob": "twins"})
    wide = twins.assign(gain=twins["log_prob"] - twins.groupby(cell)["log_prob"].transform("mean")).pivot_table(
        index=cell, columns="group", values="gain"
    )
    own = told[~held_out].astype({"step": np.int64, "exposure_step": np.int64, "after": np.int64})
    own = own.merge(_consumed(exposures), on=["item_id", "exposure_step"])
    own = pd.concat(
        [own[own["exposure_step"] == own[edge]].assign(metric=name) for name, edge in ((FIRST, "first"), (LAST, "last"))]
    )
    own["left_out"], own["again"] = own["probe_id"].isna(), own["step"] > own["following"]
    rows = own[~own["left_out"] & ~own["again"] & np.isfinite(own["log_prob"])]
    rows = rows.merge(mean, on=cell)
    rows = rows.assign(gain=rows["log_prob"] - rows["twins"])
    one = ["metric", "item_id", "variant", "probe_id", "exposure_step"]
    before = rows[rows["after"] == 0][[*one, "gain"]].rename(columns={"gain": "before"})
    return ProbeGains(rows.merge(before, on=one, how="left"), wide, own)


def _consumed(exposures: pd.DataFrame) -> pd.DataFrame:
    """Each step that an item was exposed in, with its first, its last, and the `following` one, NaN after the last."""
    steps = (
        exposures[["item_id", "step"]].drop_duplicates().sort_values(["item_id", "step"]).rename(columns={"step": "exposure_step"})
    )
    of_item = steps.groupby("item_id")["exposure_step"]
    return steps.assign(first=of_item.transform("min"), last=of_item.transform("max"), following=of_item.shift(-1))


def _contrasts(found: ProbeGains, own: pd.DataFrame) -> Iterator[tuple[str, Floats, Floats]]:
    """(contrast, gain of each group, that of the twin groups beside each row) of rows that lie as many steps after an exposure."""
    yield "mean", own.groupby("group")["gain"].mean().to_numpy(), found.of_twins(own, "step")
    both = own[own["before"].notna()] if own["after"].iloc[0] else own[:0]
    if len(both):
        since = (both["gain"] - both["before"]).groupby(both["group"]).mean()
        yield MINUS_BEFORE, since.to_numpy(), found.of_twins(both, "step") - found.of_twins(both, "exposure_step")


def _note(due: pd.DataFrame, kind: str, item_set: str, **cell: Any) -> str:
    """How many of an arm's groups are missing, and why."""
    chosen = {**cell, **{name: value for name, value in (("kind", kind), ("item_set", item_set)) if value != ALL}}
    for column, value in chosen.items():
        due = due[due[column] == value]
    every = due["group"].nunique()
    missing = {
        "a further copy was seen before": due[due["again"]]["group"].nunique(),
        "train.probes.budget left them out": due[due["left_out"] & ~due["again"]]["group"].nunique(),
    }
    return "; ".join(f"{count} of {every} groups are missing: {why}" for why, count in missing.items() if count)
