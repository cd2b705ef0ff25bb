"""From the probes of a training to effects: gains over twins around an exposure, by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval.figures import Measured, probes
from eval.forgetting import mean_gain
from eval.probe_gains import FIRST, LAST, probe_effects
from eval.report import arm_table, render
from inject.design import HELD_OUT

Table = list[dict[str, Any]]


class Told:
    """Tables of a training that probed items, each a group of its own, with one probe; `exposed` are steps that were consumed."""

    def __init__(self) -> None:
        self.items: Table = []
        self.assignment: Table = []
        self.probes: Table = []
        self.exposures: Table = []

    def item(self, name: str, arm: str, exposed: tuple[int, ...] = (), kind: str = "canary") -> None:
        self.items.append({"item_id": name, "item_set": kind, "kind": kind, "stratum": kind})
        copies = len(exposed)
        self.assignment.append(
            {"item_id": name, "group": name, "arm": arm, "copies": copies, "window_start": 0.0, "window_end": 1.0}
        )
        self.exposures += [{"item_id": name, "variant": "v", "step": step} for step in exposed]

    def probe(self, name: str, step: int, log_prob: float | None, exposure: int | None = None) -> None:
        after = None if exposure is None else step - exposure
        told = {"step": step, "item_id": name, "variant": "v", "exposure_step": exposure, "after": after}
        self.probes.append({**told, "probe_id": None if log_prob is None else "p", "log_prob": log_prob, "extracted": False})

    def effects(self) -> pd.DataFrame:
        frames = [pd.DataFrame(table) for table in (self.items, self.assignment)]
        told = pd.DataFrame(self.probes).astype({"exposure_step": float, "after": float, "log_prob": float})
        exposures = pd.DataFrame(self.exposures, columns=["item_id", "variant", "step"])
        return pd.DataFrame(probe_effects(told, *frames, exposures, resamples=200, seed=0))


def pick(effects: pd.DataFrame, metric: str, contrast: str = "mean", kind: str = "all", arm: str = "1x") -> pd.Series:
    chosen = (effects["metric"] == metric) & (effects["contrast"] == contrast) & (effects["kind"] == kind) & (effects["arm"] == arm)
    [found] = effects[chosen].itertuples()
    return found


@pytest.fixture
def told() -> Told:
    """Two items of one copy each, in steps 5 and 7, and two twins that get worse by 1 nat a step."""
    told = Told()
    for name, exposed in (("a", 5), ("b", 7)):
        told.item(name, "1x", (exposed,))
    for name in ("h", "i"):
        told.item(name, HELD_OUT)
    for name, exposed, learned in (("a", 5, 2.0), ("b", 7, 4.0)):
        told.probe(name, exposed, -10.0 - exposed, exposed)
        told.probe(name, exposed + 1, -11.0 - exposed + learned, exposed)
        told.probe(name, exposed + 10, -20.0 - exposed + learned / 2, exposed)
    for step in (5, 6, 7, 8, 15, 17):
        told.probe("h", step, -10.0 - step + 0.5)
        told.probe("i", step, -10.0 - step - 0.5)
    return told


def test_a_gain_is_over_the_twins_of_the_same_step(told: Told) -> None:
    effects = told.effects()
    for metric in (FIRST, LAST):  # one copy is both
        assert [pick(effects, f"{metric}/{after}").value for after in (0, 1, 10)] == pytest.approx([0.0, 3.0, 1.5])
        assert pick(effects, f"{metric}/1", "minus before").value == pytest.approx(3.0)
        assert pick(effects, f"{metric}/10", kind="canary").value == pytest.approx(1.5)
    assert set(effects["n"]) == {4}
    assert (effects["note"] == "").all()


def test_intervals_are_a_bootstrap_of_the_arms_groups_and_the_twins(told: Told) -> None:
    at = pick(told.effects(), f"{LAST}/1")
    assert (at.low, at.high) == (1.5, 4.5)  # one of two groups at 2 and 4, less one of two twins at 0.5 and -0.5
    since = pick(told.effects(), f"{LAST}/1", "minus before")
    assert (since.low, since.high) == (2.0, 4.0)  # what the twins differ by was there before


def test_groups_show_their_spread_or_the_interval_is_unbounded() -> None:
    random = np.random.default_rng(1)
    own, twins = 3 + random.normal(size=40), random.normal(size=60)
    found = mean_gain(own, twins, 2000, 0)
    error = np.sqrt(own.var(ddof=1) / 40 + twins.var(ddof=1) / 60)
    assert found.value == pytest.approx(own.mean() - twins.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.n == 100
    assert np.isinf(mean_gain([1.0], twins, 100, 0).high)


def test_a_curve_ends_where_a_further_copy_is_seen_and_says_how_many_groups_are_missing(told: Told) -> None:
    told.exposures.append({"item_id": "a", "variant": "v", "step": 10})
    effects = told.effects()
    assert pick(effects, f"{FIRST}/10").value == pytest.approx(2.0)  # of b alone
    assert pick(effects, f"{FIRST}/10").note == "1 of 2 groups are missing: a further copy was seen before"
    assert pick(effects, f"{FIRST}/1").note == ""
    assert pick(effects, f"{LAST}/1").value == pytest.approx(4.0)  # what was followed of a is not its last
    told.exposures[-1]["step"] = 15  # with the weights that are shown the further copy, it has not been seen yet
    assert pick(told.effects(), f"{FIRST}/10").value == pytest.approx(1.5)


def test_a_copy_of_a_step_that_was_left_out_is_no_exposure(told: Told) -> None:
    told.exposures = [row for row in told.exposures if row["item_id"] == "b"]
    assert pick(told.effects(), f"{FIRST}/1").value == pytest.approx(4.0)


def test_what_the_budget_left_out_is_told(told: Told) -> None:
    for row in told.probes:
        if row["step"] == 6:
            row["log_prob"], row["probe_id"] = None, None
    found = pick(told.effects(), f"{LAST}/1")
    assert found.value == pytest.approx(4.0)
    assert found.note == "1 of 2 groups are missing: train.probes.budget left them out"


def test_a_training_without_time_for_any_probe_has_no_gains(told: Told) -> None:
    for row in told.probes:
        row["log_prob"], row["probe_id"] = None, None
    assert told.effects().empty


def test_twins_are_those_of_the_stratum_and_probe(told: Told) -> None:
    told.item("other", HELD_OUT, kind="pii")
    told.probe("other", 6, 100.0)
    assert pick(told.effects(), f"{LAST}/1").value == pytest.approx(3.0)
    told.item("c", "1x", (5,), kind="factoid")
    told.probe("c", 6, -1.0, 5)  # without twins there is no gain
    assert set(told.effects()["kind"]) == {"all", "canary"}


def test_the_chart_has_a_place_for_the_point_before(told: Told) -> None:
    effects = told.effects().assign(model="perturbed", step=20)
    assignment = pd.DataFrame(told.assignment)
    measured = Measured(pd.DataFrame(told.items), arm_table(assignment), assignment, pd.DataFrame(), effects, 20)
    chart = probes(measured)
    assert chart is not None
    panel = render("probes", "perturbed", chart)
    assert "Steps after the exposure" in panel.svg
    assert ">before<" in panel.svg
    [data] = [rows for rows in panel.specification["datasets"].values() if "after" in rows[0]]
    assert sorted({row["x"] for row in data}) == [0.25, 1, 10]
    assert {row["exposure"] for row in data} == {"first exposure", "last exposure"}
    assert probes(Measured(measured.items, measured.arms, assignment, pd.DataFrame(), effects[:0], 20)) is None
