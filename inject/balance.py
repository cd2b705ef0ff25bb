"""Before anything is trained: what the design asks for, how alike its arms are, and what effect it can detect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from statistics import fmean
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import fisher_exact, nct, norm, t

from inject.design import Shape
from inject.items.item import Item

SIGNIFICANCE, POWER = 0.05, 0.8  # two-sided
Z = float(norm.isf(SIGNIFICANCE / 2))


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
    rows = []
    for (item_set, arm), (own, twins) in _compared(items, assignment).items():
        row: dict[str, Any] = {"item_set": item_set, "arm": arm, "groups": _groups(own), "items": len(own)}
        for name, values in covariates.items():
            means, means_of_twins = _group_means(own, values), _group_means(twins, values)
            compared = len(twins) > 0 and own is not twins
            row[f"{name}_mean"] = float(means.mean())
            row[f"{name}_smd"] = _standardized_difference(means, means_of_twins)
            row[f"{name}_smd_chance"] = Z * _unit(len(means), len(means_of_twins)) if compared else float("nan")
        rows.append(row)
    return rows


def power(items: Sequence[Item], assignment: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each arm of n groups can show against the m held-out ones of its set: at significance 0.05 (two-sided),

    - `difference`: the smallest difference of means, in standard deviations, that Student's t test of two samples finds with
      probability 0.8 (Cohen 1988; the noncentral t of n + m - 2 degrees of freedom), null where n + m is 2;
    - `auc`: the AUC that is, of two normal distributions so far apart: Phi(difference / sqrt 2);
    - `extracted_significant`: the smallest share of the arm's groups extracted that differs from none of the twins' (Fisher's exact
      test), null where no share does. It is an outcome, not an effect found with probability 0.8: that one is larger.

    A set of which nothing is held out has nothing to compare with, and no rows.
    """
    rows = []
    for (item_set, arm), (own, twins) in _compared(items, assignment).items():
        n, m = _groups(own), _groups(twins)
        if own is twins or not m:
            continue
        difference = detectable_difference(n, m)
        least = next((k for k in range(1, n + 1) if fisher_exact([[k, n - k], [0, m]])[1] < SIGNIFICANCE), None)
        rows.append(
            {
                "item_set": item_set,
                "arm": arm,
                "groups": n,
                "held_out": m,
                "difference": difference,
                "auc": None if difference is None else float(norm.cdf(difference / np.sqrt(2))),
                "extracted_significant": least / n if least else None,
            }
        )
    return rows


@cache
def detectable_difference(n: int, m: int) -> float | None:
    """The difference of the means of n and m normal values, in standard deviations, that a two-sided t test at significance 0.05
    finds with probability 0.8; None where there are too few for a test.
    """
    freedom = n + m - 2
    if freedom < 1:
        return None
    critical = t.isf(SIGNIFICANCE / 2, freedom)

    def excess(noncentrality: float) -> float:  # a difference so large is never significant with the wrong sign
        return float(nct.sf(critical, freedom, noncentrality)) - POWER

    most = next(bound for bound in (2.0**k * critical for k in count()) if excess(bound) > 0)
    return float(brentq(excess, 0.0, most)) * _unit(n, m)


# ------------------------------------------------------------------------------------------------ arms and groups


def _compared(
    items: Sequence[Item], assignment: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], tuple[list[Item], list[Item]]]:
    """By item set and arm, its items and the held-out ones of the set, which have no copies; of the held-out arm, these are it."""
    members: dict[tuple[str, str], list[Item]] = defaultdict(list)
    held_out: dict[str, str] = {}
    for item, row in zip(items, assignment, strict=True):
        members[item.item_set, row["arm"]].append(item)
        if row["copies"] == 0:
            held_out[item.item_set] = row["arm"]
    twins = {item_set: members[item_set, arm] for item_set, arm in held_out.items()}
    return {(item_set, arm): (own, twins.get(item_set, [])) for (item_set, arm), own in members.items()}


def _groups(items: Sequence[Item]) -> int:
    return len({item.group for item in items})


def _group_means(items: Sequence[Item], values: Mapping[str, float]) -> np.ndarray:
    """The mean value of the items of each group, for these are not independent."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in items:
        groups[item.group].append(values[item.item_id])
    return np.asarray([fmean(own) for own in groups.values()], float)


def _unit(n: int, m: int) -> float:
    """The standard error of a difference of the means of n and m values, in their standard deviations."""
    return float(np.sqrt(1 / n + 1 / m))


def _standardized_difference(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or len(b) < 2:
        return float("nan")
    if np.ptp(np.concatenate([a, b])) == 0:
        return 0.0  # rounding alone may part the means of equal values
    with np.errstate(divide="ignore"):  # arms that are constant, each in its own way, are infinitely far apart
        return float((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
