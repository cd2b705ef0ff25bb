"""Membership attacks over several models: runs of one recipe with the same items, assigned to other arms by each seed.

Each is the target once, and the others are its references (eval/shadow.py). What an attack adds is its AUC against that of the
plain loss on the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from eval.effects import ALL
from eval.shadow import lira_scores, rmia_scores
from eval.statistics import stratified_auc

LEAST_MODELS = 3
POOLED = "pooled"  # over all targets
ATTACKS: dict[str, Callable[..., np.ndarray]] = {
    "lira_online": lira_scores,
    "lira_offline": partial(lira_scores, online=False),
    "rmia": rmia_scores,
}
COLUMNS = ["cell", "models", "kind", "attack", "point", "value", "low", "high", "loss", "loss_low", "loss_high", "n"]

Strata = list[tuple[np.ndarray, np.ndarray]]  # scores of (members, non-members)


@dataclass(frozen=True)
class PairedModel:
    """A model that may be a reference of others."""

    point: str
    cell: str  # what tells the settings of its run but for the seeds
    items: str  # a fingerprint of its items and their texts
    texts: pd.DataFrame  # item_id, variant, kind, stratum, group, member, and loss: mean log-probability, NaN where not known


def texts_of(texts: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The texts of a `PairedModel` from the tables of its run, as its last checkpoint scores them.

    A text that was seen is a member, and one of a held-out item is none. One that was not seen of an item that was is neither: it
    has no loss.
    """
    last = scores[(scores["metric"] == "loss") & (scores["step"] == scores["step"].max())]
    last = last.rename(columns={"probe_id": "variant", "value": "loss"})[["item_id", "variant", "loss", "text_exposures"]]
    joined = texts[["item_id", "variant"]].merge(items[["item_id", "kind", "stratum"]], on="item_id")
    joined = joined.merge(assignment[["item_id", "group", "copies"]], on="item_id").merge(
        last, on=["item_id", "variant"], how="left"
    )
    member = joined["text_exposures"] > 0
    known = joined["loss"].where(member | (joined["copies"] == 0))
    return joined.assign(member=member, loss=known)[["item_id", "variant", "kind", "stratum", "group", "member", "loss"]]


def shadow_table(models: Sequence[PairedModel]) -> pd.DataFrame:
    """COLUMNS: the AUC of each attack against each target ("pooled": all of them), by kind, and that of the loss on the same texts.

    Models of one cell with the same items go together, three or more, of which two differ in their members; without such models
    the table is empty. AUCs compare within strata, a group counts once, and `n` counts groups. A pooled AUC has no interval, as a
    group is in it once for every target.
    """
    cells: dict[tuple[str, str], list[PairedModel]] = {}
    for model in models:
        cells.setdefault((model.cell, model.items), []).append(model)
    rows = [row for own in cells.values() if _differ(own) for row in _attacked(own)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _differ(models: Sequence[PairedModel]) -> bool:
    first = models[0].texts["member"]
    return len(models) >= LEAST_MODELS and any(not first.equals(model.texts["member"]) for model in models[1:])


def _attacked(models: Sequence[PairedModel]) -> Iterator[dict[str, Any]]:
    texts = models[0].texts
    signal, member = (np.stack([model.texts[name].to_numpy() for model in models], axis=1) for name in ("loss", "member"))
    kinds = sorted(texts["kind"].unique())
    for attack, score in ATTACKS.items():
        scores = np.full(signal.shape, np.nan)
        for kind in kinds:  # a kind at a time, as variances are pooled over texts that vary alike
            own = (texts["kind"] == kind).to_numpy()
            scores[own] = score(signal[own].astype(float), member[own])
        for kind in kinds if len(kinds) == 1 else [ALL, *kinds]:
            chosen = np.ones(len(texts), bool) if kind == ALL else (texts["kind"] == kind).to_numpy()
            label = {"cell": models[0].cell, "models": len(models), "kind": kind, "attack": attack}
            compared = [_strata(texts, scores[:, j], signal[:, j], member[:, j], chosen) for j in range(len(models))]
            for model, (own_strata, loss_strata) in zip(models, compared, strict=True):
                if own_strata:
                    yield {**label, "point": model.point, **_aucs(own_strata, loss_strata)}
            pooled = [list(chain.from_iterable(strata[i] for strata in compared)) for i in (0, 1)]
            if pooled[0]:
                yield {**label, "point": POOLED, **_aucs(*pooled), **dict.fromkeys(["low", "high", "loss_low", "loss_high"], nan)}


def _strata(
    texts: pd.DataFrame, scores: np.ndarray, losses: np.ndarray, member: np.ndarray, chosen: np.ndarray
) -> tuple[Strata, Strata]:
    """Mean scores, and losses, of the groups of each stratum with members and others, on texts that have both."""
    both = chosen & ~np.isnan(scores) & ~np.isnan(losses)
    table = texts.assign(score=scores, own_loss=losses, inside=member)[both]
    groups = table.groupby(["stratum", "group"]).agg({"score": "mean", "own_loss": "mean", "inside": "max"})
    parts = [part for _, part in groups.groupby("stratum") if part["inside"].nunique() == 2]
    by_scores, by_losses = (
        [(part[part["inside"]][name].to_numpy(), part[~part["inside"]][name].to_numpy()) for part in parts]
        for name in ("score", "own_loss")
    )
    return by_scores, by_losses


def _aucs(scores: Strata, losses: Strata) -> dict[str, Any]:
    own, plain = stratified_auc(scores), stratified_auc(losses)
    return {**vars(own), "loss": plain.value, "loss_low": plain.low, "loss_high": plain.high}
