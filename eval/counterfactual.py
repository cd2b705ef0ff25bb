"""Counterfactual memorization: what a model scores on items above a branch of it that was trained without them, item by item.

Both share all training up to the step where they part, so the difference is what the items' copies did in this training run (of
Zhang et al. 2023, arXiv:2112.12938, equation 1, with one pair of models in place of means over many). Whatever is changed makes the
rest of training diverge, which moves scores, too: so it is told against placebo branches, in which as many base spans were changed.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import pandas as pd

from eval.effects import ALL, item_by_item

BEYOND = ", beyond placebo"  # ends the contrast with the placebos
KEYS = ["step", "item_id", "probe_id", "metric"]


def counterfactual(
    name: str,
    scores: tuple[pd.DataFrame, pd.DataFrame],
    placebos: Sequence[pd.DataFrame],
    removed: Set[str],
    step: int,
    items: pd.DataFrame,
    assignment: pd.DataFrame,
) -> list[dict[str, Any]]:
    """Rows of the effects table about branch `name`, which left at `step`: contrasts at the later checkpoints, by arm and of all.

    `scores`: the scores tables of its parent and of the branch; `placebos`: of the placebos for the removal of the same items.
    - `minus NAME`: the parent's score on the removed items less the branch's; of a placebo, this is divergence alone.
    - `minus NAME, other items`: the same of all others: divergence, and what the removed items did to what is like them.
    - `minus NAME, beyond placebo`: the first less what the placebos are below the parent, on average over them. Intervals are over
      groups, conditional on these few trainings.
    """
    parent, branch = (table[table["step"] > step] for table in scores)
    kept = parent["item_id"].isin(list(removed))

    def against(own: pd.DataFrame, contrast: str) -> list[dict[str, Any]]:
        whole = item_by_item(own, branch, items, assignment.assign(arm=ALL), contrast)
        return whole + item_by_item(own, branch, items, assignment, contrast)

    rows = against(parent[kept], f"minus {name}")
    rows += item_by_item(parent[~kept], branch, items, assignment.assign(arm=ALL), f"minus {name}, other items")
    if placebos:
        values = pd.concat(placebos).groupby(KEYS, as_index=False)["value"].mean()
        between = parent[kept].drop(columns="value").merge(values, on=KEYS)  # what the parent scored cancels out
        note = f"{len(placebos)} placebo{'s' if len(placebos) > 1 else ''}"
        rows += [{**row, "note": note} for row in against(between, f"minus {name}{BEYOND}")]
    return rows
