"""Before anything is trained: what the design asks for, how alike its arms are, and what effect it can detect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import fisher_exact, nct, norm, t

from inject.design import Shape
from inject.items.item import Item

SIGNIFICANCE, POWER = 0.05, 0.8  # two-sided


def demand(
    items: Sequence[Item], assignment: Sequence[Mapping[str, Any]], lengths: Mapping[str, float], shape: Shape
) -> list[dict[str, Any]]:
    """Of each item set, arm and phase: steps, groups, items, occurrences, tokens (end-of-text ones included; where the texts of an
    item differ in length, by their mean) and their share of the tokens of these steps.
    """
    order: dict[str, int] = {}
    found: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    groups: dict[tuple[str, str, int, int], set[str]] = defaultdict(set)
    for item, row in zip(items, assignment, strict=True):
        order.setdefault(item.item_set, len(order))
        for phase in row["phases"]:
            first, last, copies = phase["first_step"], phase["last_step"], phase["copies"]
            key = (item.item_set, row["arm"], first, last)
            cell = found.setdefault(key, dict(zip(("item_set", "arm", "first_step", "last_step"), key, strict=True)))
            groups[key].add(item.group)
            cell["copies"] = copies
            cell["items"] = cell.get("items", 0) + 1
            cell["occurrences"] = cell.get("occurrences", 0) + copies
            cell["tokens"] = cell.get("tokens", 0.0) + copies * (lengths[item.item_id] + 2)
    for key, cell in found.items():
        cell["groups"] = len(groups[key])
        cell["tokens"] = round(cell["tokens"])
        cell["share"] = cell["tokens"] / ((key[3] - key[2]) * shape.global_batch * shape.row_tokens)
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for cell in found.values():
        totals[cell["item_set"], cell["arm"]] += cell["copies"]
    return sorted(found.values(), key=lambda c: (order[c["item_set"]], totals[c["item_set"], c["arm"]], c["arm"], c["first_step"]))


def balance(
    items: Sequence[Item], assignment: Sequence[Mapping[str, Any]], covariates: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """How alike the arms of each item set are: groups, items, and for each covariate (`tokens`, `reference_loss`), a group counting
    once, with the mean of its items,

    - `_mean`: its mean;
    - `_smd`: the standardized mean difference from what is held out, in standard deviations of a group (Austin 2009, Statistics in
      Medicine 28:3083, who calls below 0.1 balanced; 0.25 is the limit of Rubin 2001 and Stuart 2010);
    - `_smd_chance`: how wide chance alone makes it: 95 of 100 random assignments of n groups, against m held out, lie within
      about 1.96 sqrt(1/n + 1/m) of 0. Where groups are few, that is far beyond either limit. NaN where nothing is compared.

    `covariates`: by name, a value of each item.
    """
    held_out = _held_out(items, assignment)
    rows = []
    for (item_set, arm), own in _by_arm(items, assignment).items():
        twins = held_out[item_set]
        row: dict[str, Any] = {"item_set": item_set, "arm": arm, "groups": _groups(own), "items": len(own)}
        for name, values in covariates.items():
            treated, untreated = _group_means(own, values), _group_means(twins, values)
            row[f"{name}_mean"], row[f"{name}_smd"] = float(treated.mean()), _standardized_difference(treated, untreated)
            compared = own != twins and bool(twins)
            row[f"{name}_smd_chance"] = norm.isf(SIGNIFICANCE / 2) * _unit(len(own), len(twins)) if compared else float("nan")
        rows.append(row)
    return rows


def balance(
    items: Sequence[Item], assignment: Sequence[Mapping[str, Any]], covariates: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """How alike the arms of each item set are: groups, items, and for each covariate (`tokens`, `reference_loss`) its mean and the
    standardized mean difference (SMD, Austin 2009) from what is held out; below 0.25 is commonly called balanced.

    `covariates`: by name, a value of each item.
    """
    twins = _held_out(items, assignment)
    rows = []
    for (item_set, arm), own in _by_arm(items, assignment).items():
        row: dict[str, Any] = {"item_set": item_set, "arm": arm, "groups": _groups(own), "items": len(own)}
        for name, values in covariates.items():
            held_out = np.asarray([values[item.item_id] for item in twins[item_set]], float)
            treated = np.asarray([values[item.item_id] for item in own], float)
            row[f"{name}_mean"], row[f"{name}_smd"] = float(treated.mean()), _standardized_difference(treated, held_out)
        rows.append(row)
    return rows


def power(items: Sequence[Item], assignment: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each arm can show against the held-out twins of its set: at significance 0.05 (two-sided),

    - `difference`: the smallest difference of means, in standard deviations, found with probability 0.8
      (Cohen 1988, normal approximation: (z_0.975 + z_0.8) sqrt(1/n + 1/m));
    - `auc`: the AUC that is, of two normal distributions so far apart: Phi(difference / sqrt 2);
    - `extracted`: the smallest share of the arm's groups extracted that differs from none of the twins' (Fisher's exact test),
      null where no share does.

    A set of which nothing is held out has nothing to compare with, and no rows.
    """
    twins = _held_out(items, assignment)
    rows = []
    for (item_set, arm), own in _by_arm(items, assignment).items():
        n, m = _groups(own), _groups(twins[item_set])
        if own[0] in twins[item_set] or not m:
            continue
        difference = float((norm.isf(SIGNIFICANCE / 2) + norm.ppf(POWER)) * np.sqrt(1 / n + 1 / m))
        least = next((k for k in range(1, n + 1) if fisher_exact([[k, n - k], [0, m]])[1] < SIGNIFICANCE), None)
        rows.append(
            {
                "item_set": item_set,
                "arm": arm,
                "groups": n,
                "held_out": m,
                "difference": difference,
                "auc": float(norm.cdf(difference / np.sqrt(2))),
                "extracted": least / n if least else None,
            }
        )
    return rows


def _by_arm(items: Sequence[Item], assignment: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Item]]:
    members: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item, row in zip(items, assignment, strict=True):
        members[item.item_set, row["arm"]].append(item)
    return members


def _held_out(items: Sequence[Item], assignment: Sequence[Mapping[str, Any]]) -> dict[str, list[Item]]:
    """The items without copies, by item set."""
    twins: dict[str, list[Item]] = defaultdict(list)
    for item, row in zip(items, assignment, strict=True):
        if row["copies"] == 0:
            twins[item.item_set].append(item)
    return twins


def _groups(items: Sequence[Item]) -> int:
    return len({item.group for item in items})


def _standardized_difference(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or len(b) < 2:
        return float("nan")
    if np.ptp(np.concatenate([a, b])) == 0:
        return 0.0  # rounding alone may part the means of equal values
    with np.errstate(divide="ignore"):  # arms that are constant, each in its own way, are infinitely far apart
        return float((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
