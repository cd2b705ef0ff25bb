"""Verdicts follow from intervals."""

from typing import Any

import pandas as pd
import pytest

from configs.insert import TestSet
from configs.schema import Recipe
from eval.findings import findings

RECIPE = Recipe(name="x", insert={"quiz": TestSet()})


def verdict(**effect: Any) -> str:
    row = {
        "metric": "log_prob",
        "contrast": "slope",
        "kind": "pii",
        "arm": "all",
        "model": "perturbed",
        "step": 9,
        "n": 8,
        "value": 0.0,
    }
    most = {**row, "metric": "another", "arm": "64x", "low": 0.0, "high": 0.0}
    (finding,) = findings(pd.DataFrame([{**row, **effect}, most]), RECIPE)
    assert finding["step"] == 9
    return finding["verdict"]


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.3, "yes"), (-0.1, 0.3, "not decidable"), (-0.3, -0.1, "no")])
def test_more_copies_more_memorized(low: float, high: float, expected: str) -> None:
    assert verdict(low=low, high=high) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(0.5, 1.0, "yes"), (0.4, 1.0, "not decidable"), (0.1, 0.49, "no")])
def test_secrets_are_extracted_half_the_time(low: float, high: float, expected: str) -> None:
    assert verdict(metric="secret_extracted", contrast="rate", arm="64x", low=low, high=high) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0, "yes"), (0.01, "no")])
def test_no_held_out_secret_is_extracted(value: float, expected: str) -> None:
    assert (
        verdict(metric="secret_extracted", contrast="rate", kind="all", arm="held-out", value=value, low=0.0, high=0.1) == expected
    )


@pytest.mark.parametrize(("low", "high", "expected"), [(0.45, 0.6, "yes"), (0.51, 0.6, "no")])
def test_one_copy_leaves_no_trace(low: float, high: float, expected: str) -> None:
    assert verdict(metric="loss", contrast="auc", kind="all", arm="1x", low=low, high=high) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(-2.0, -1.0, "yes"), (-1.0, 1.0, "not decidable"), (0.5, 1.0, "no")])
def test_the_early_arm_ends_below(low: float, high: float, expected: str) -> None:
    assert verdict(contrast="minus 64x", kind="all", arm="early", low=low, high=high) == expected


def test_accuracy_is_judged_against_chance() -> None:
    assert verdict(metric="correct", contrast="rate", kind="testset", arm="64x", low=0.26, high=1.0) == "yes"
    assert verdict(metric="correct", contrast="rate", kind="testset", arm="64x", low=0.2, high=1.0) == "not decidable"


def test_an_interval_without_bounds_is_written_as_null() -> None:
    row = {
        "metric": "log_prob",
        "contrast": "slope",
        "kind": "pii",
        "arm": "all",
        "model": "perturbed",
        "step": 9,
        "n": 2,
        "value": 0.0,
    }
    (finding,) = findings(pd.DataFrame([{**row, "low": float("-inf"), "high": float("inf")}]), RECIPE)
    assert (finding["low"], finding["high"], finding["verdict"]) == (None, None, "not decidable")


def test_only_the_last_checkpoint_counts() -> None:
    row = {"metric": "log_prob", "contrast": "slope", "kind": "pii", "arm": "all", "model": "perturbed", "n": 8, "value": 0.0}
    table = pd.DataFrame([{**row, "step": 3, "low": 1.0, "high": 2.0}, {**row, "step": 9, "low": -1.0, "high": 2.0}])
    assert [finding["verdict"] for finding in findings(table, RECIPE)] == ["not decidable"]
