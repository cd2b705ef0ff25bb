"""Counterfactual memorization, on scores small enough to work out by hand."""

import pandas as pd
import pytest

from eval.counterfactual import counterfactual

ITEMS = pd.DataFrame({"item_id": list("abcd"), "kind": "fact"})
ASSIGNMENT = pd.DataFrame({"item_id": list("abcd"), "group": list("abcd"), "arm": ["4x", "4x", "1x", "held-out"]})


def scores(*values: float, model: str = "perturbed") -> pd.DataFrame:
    """Log-probabilities of items a, b, ... at step 9, and of all of them 7.0 at step 5, where the branch left."""
    names = "abcd"[: len(values)]
    rows = [
        (model, step, item, "p", "log_prob", v if step == 9 else 7.0)
        for step in (5, 9)
        for item, v in zip(names, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "step", "item_id", "probe_id", "metric", "value"])


def contrasts(*placebos: pd.DataFrame) -> dict[tuple[str, str], float]:
    parent, branch = scores(-1, -2, -3, -8), scores(-4, -6, -3.5, -7, model="b")
    rows = counterfactual("b", (parent, branch), placebos, {"a", "b", "c"}, 5, ITEMS, ASSIGNMENT)
    assert {(row["model"], row["step"]) for row in rows} == {("perturbed", 9)}
    return {(row["contrast"], row["arm"]): row["value"] for row in rows if row["kind"] == "all"}


def test_it_is_the_parents_score_less_the_branchs_item_by_item() -> None:
    found = contrasts()
    assert found["minus b", "4x"] == pytest.approx((3 + 4) / 2)
    assert found["minus b", "1x"] == pytest.approx(0.5)
    assert found["minus b", "all"] == pytest.approx((3 + 4 + 0.5) / 3)


def test_items_that_were_not_removed_tell_how_far_training_diverged() -> None:
    assert contrasts()["minus b, other items", "all"] == pytest.approx(-1)
    assert ("minus b", "held-out") not in contrasts()


def test_what_placebos_change_is_taken_off() -> None:
    first, second = scores(-1.5, -2.5, -4, -8, model="p"), scores(-2.5, -2.5, -3, -9, model="q")
    found = contrasts(first, second)
    assert found["minus b, beyond placebo", "4x"] == pytest.approx((4 - 2 + 6 - 2.5) / 2)
    assert found["minus b, beyond placebo", "1x"] == pytest.approx(3.5 - 3.5)
    assert not [contrast for contrast, _ in contrasts() if "placebo" in contrast]
