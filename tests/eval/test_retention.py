"""Forgetting from tables: curves after the last exposure, decay, attacks that no longer find, windows under two schedules."""

from math import exp, isnan, log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from configs.sweep import load_points
from configs.tables import EFFECTS, PLAN
from eval.figures import Measured, retention
from eval.measures import measures
from eval.report import arm_table, number, render
from eval.retention import curves, exposure_steps, forgetting_effects, item_gains
from inject.design import cells

STEPS = [0, 100, 120, 122, 140, 180, 260, 420, 740, 1000]
LATER = [20, 60, 140, 300, 620, 880]  # steps since 120, the first checkpoint after the window
EXPERIMENTS = Path(__file__).parents[2] / "configs/experiments"


class Run:
    """The tables of a run, made item by item; each item is a group of its own, with one probe of the text that it has."""

    def __init__(self, steps: list[int] = STEPS) -> None:
        self.steps = steps
        self.items: list[dict[str, Any]] = []
        self.assignment: list[dict[str, Any]] = []
        self.scores: list[tuple[Any, ...]] = []
        self.exposures: list[dict[str, Any]] = []
        self.random = np.random.default_rng(0)

    def item(
        self,
        arm: str,
        values: Any,
        exposed: Any = (),
        window: tuple[float, float] = (0.0, 1.0),
        rate: float = 1e-3,
        metric: str = "log_prob",
        kind: str = "canary",
        **factors: Any,
    ) -> None:
        name = f"{kind}-{len(self.items)}"
        self.items.append({"item_id": name, "item_set": kind, "kind": kind, "stratum": kind})
        own = {
            "item_id": name,
            "group": name,
            "arm": arm,
            "copies": len(exposed),
            "window_start": window[0],
            "window_end": window[1],
        }
        self.assignment.append(
            {**own, "spacing": "even", "placement": "anywhere", "mode": "overwrite", "variants": "rotate", **factors}
        )
        self.exposures += [{"item_id": name, "step": step, "learning_rate": rate} for step in exposed]
        for step, value in zip(self.steps, values, strict=True):
            seen = sum(each < step for each in exposed)
            self.scores.append(("perturbed", step, name, "text", metric, value, seen, seen))

    def twins(self, scale: float = 0.01, n: int = 24, drift: Any = 0.0, **more: Any) -> None:
        for _ in range(n):
            self.item("held-out", scale * self.random.normal(size=len(self.steps)) + drift, **more)

    def arm(self, name: str, curve: Any, n: int = 10, scale: float = 0.01, **more: Any) -> None:
        for amplitude in np.linspace(0.9, 1.1, n):
            noise = scale * self.random.normal(size=len(self.steps))
            self.item(name, amplitude * np.asarray(curve) + noise, **{"exposed": [100, 119], "window": (0.1, 0.12), **more})

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        columns = ["model", "step", "item_id", "probe_id", "metric", "value", "exposures", "text_exposures"]
        exposures = pd.DataFrame(self.exposures, columns=["item_id", "step", "learning_rate"]).sort_values(
            "step", ignore_index=True
        )
        scores = pd.DataFrame(self.scores, columns=columns)
        return scores, pd.DataFrame(self.items), pd.DataFrame(self.assignment), exposures

    def effects(self) -> pd.DataFrame:
        return pd.DataFrame(forgetting_effects(*self.tables(), resamples=200, seed=0))


def pick(table: pd.DataFrame, metric: str, contrast: str, kind: str = "all", **cell: Any) -> pd.Series:
    chosen = table[(table["metric"] == metric) & (table["contrast"] == contrast) & (table["kind"] == kind)]
    for column, value in cell.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]


def decaying(a: float, learned: float = 4.0, start: int = 120) -> list[float]:
    """A gain of `learned` nats at step 120, of which 1 - a ln t are left t steps later."""
    return [0.0 if step <= 100 else learned * (1 - a * log(max(1, step - start))) for step in STEPS]


@pytest.fixture(scope="module")
def planted() -> pd.DataFrame:
    """Effects of an arm that forgets a tenth of 4 nats for each factor e of steps, of one that forgets nothing, of one that learned
    nothing, and of one whose window is the whole run; all while raw log-probabilities drift by 2 nats.
    """
    run = Run()
    drift = -2 * np.asarray(STEPS) / STEPS[-1]
    run.twins(drift=drift)
    run.arm("2x", np.asarray(decaying(0.1)) + drift)
    run.arm("keeps", np.asarray(decaying(0.0)) + drift, scale=0.2)
    run.arm("learned nothing", drift, scale=0.2)
    run.arm("whole", np.asarray(decaying(0.1)) + drift, window=(0.0, 1.0))
    return run.effects()


# ------------------------------------------------------------------------------------------------ exposures, items


def test_an_exposure_has_the_learning_rate_of_its_step_and_steps_that_were_skipped_have_none() -> None:
    copies = [(0, "a", 0), (9, "a", 1), (5, "b", 0)]
    rows = [
        {"row": r, "offset": 0, "length": 4, "mode": "overwrite", "item_id": i, "copy": c, "variant": "v"} for r, i, c in copies
    ]
    ledger = pd.DataFrame({"step": [0, 1, 2], "learning_rate": [0.1, 0.2, 0.3], "consumed": [True, False, True]})
    found = exposure_steps(pa.Table.from_pylist(rows, PLAN), ledger, global_batch=4)
    assert found[["item_id", "copy", "step", "learning_rate"]].to_numpy().tolist() == [["a", 0, 0, 0.1], ["a", 1, 2, 0.3]]


def test_an_items_curve_counts_steps_from_its_own_last_exposure() -> None:
    run = Run(steps=[0, 10, 20, 30])
    run.item("held-out", [1, 2, 3, 4])
    run.item("2x", [1, 5, 9, 8], exposed=[9, 10])
    tables = run.tables()
    own = item_gains(curves(*tables), tables[3]).query("item_id == 'canary-1'")
    assert own["gain"].tolist() == [0, 3, 6, 4]
    assert own["since"].fillna(-1).tolist() == [-1, 1, 10, 20]  # the copy in the batch of step 10 is not yet seen at step-10


def test_a_model_that_saw_nothing_has_forgotten_nothing() -> None:
    run = Run()
    run.twins(n=3)
    run.item("4x", decaying(0.1))
    assert run.effects().empty


# ------------------------------------------------------------------------------------------------ decay


def test_a_planted_decay_is_found_under_drift(planted: pd.DataFrame) -> None:
    assert pick(planted, "effectivity", "mean", arm="2x").value == pytest.approx(4, abs=0.02)
    assert pick(planted, "decay_constant", "fit", arm="2x").value == pytest.approx(0.1, abs=2e-3)
    assert pick(planted, "decay_r_squared", "fit", arm="2x").value > 0.99
    assert pick(planted, "half_life", "fit", arm="2x").value == pytest.approx(exp(5), rel=0.05)
    assert pick(planted, "half_life", "curve", arm="2x").value == pytest.approx(exp(5), rel=0.05)
    assert pick(planted, "forgetting_baseline", "mean", arm="2x").value == pytest.approx(4 * (1 - 0.1 * log(880)), abs=0.02)


def test_what_is_left_stands_at_each_checkpoint_with_the_steps_since_the_maximum(planted: pd.DataFrame) -> None:
    left = planted[(planted["metric"] == "retainability") & (planted["arm"] == "2x") & (planted["kind"] == "all")]
    assert left["contrast"].tolist() == [f"after {since} steps" for since in [2, *LATER]]
    assert left["step"].tolist() == STEPS[3:]
    assert left["value"].tolist() == pytest.approx([1 - 0.1 * log(since) for since in [2, *LATER]], abs=0.01)
    assert (left["low"] <= left["value"]).all()
    assert (left["value"] <= left["high"]).all()


def test_what_does_not_decay_is_said_not_to_be_distinguishable(planted: pd.DataFrame) -> None:
    constant = pick(planted, "decay_constant", "fit", arm="keeps")
    assert constant.low < 0 < constant.high
    assert "the decay constant is not distinguishable from zero" in constant.note
    assert isnan(pick(planted, "half_life", "fit", arm="keeps").value)


def test_without_a_gain_there_is_no_curve_and_the_reason_is_told(planted: pd.DataFrame) -> None:
    own = planted[planted["arm"] == "learned nothing"]
    assert pick(own, "effectivity", "mean").note == "the gain at its maximum is not distinguishable from zero"
    assert pick(own, "decay_constant", "fit").note.startswith("the gain at its maximum is not distinguishable from zero")
    assert not {"retainability", "half_life"} & set(own["metric"])


def test_an_arm_whose_window_ends_with_training_has_no_curve(planted: pd.DataFrame) -> None:
    assert set(planted[planted["arm"] == "whole"]["metric"]) == {"exposure_learning_rate", "learning_dose"}


def test_too_few_checkpoints_after_the_last_exposure_are_no_curve() -> None:
    run = Run()
    run.twins()
    run.arm("2x", decaying(0.1), exposed=[100, 500])
    assert "effectivity" not in set(run.effects()["metric"])


def test_a_maximum_that_was_not_measured_is_said_to_be_missing() -> None:
    run = Run(steps=[0, 100, 300, 500, 700])
    run.twins()
    run.arm("2x", [0, 0, 3, 2, 1])
    found = pick(run.effects(), "effectivity", "mean", arm="2x")
    assert isnan(found.value)
    assert found.note == "nothing was measured in the 50 steps after the last exposure, where the gain is at its maximum"


def scattered(steps: list[int]) -> pd.DataFrame:
    """Effects of items that were exposed once each, up to 80 steps apart, and forget by the same curve since their own exposure."""
    run = Run(steps)
    run.twins()
    for exposed in (100, 120, 140, 180) * 2:
        since = np.asarray(steps) - exposed
        run.item("1x", np.where(since > 0, 4 * (1 - 0.1 * np.log(np.maximum(since, 1))), 0), exposed=[exposed], window=(0.1, 0.2))
    return run.effects()


def test_curves_of_items_exposed_apart_are_laid_over_each_other_where_checkpoints_are_dense() -> None:
    found = scattered([0, 100, *range(105, 800, 5), 1000])
    assert pick(found, "effectivity", "mean").note == ""
    since = 5
    left = (1 - 0.1 * log(since + 300)) / (1 - 0.1 * log(since))
    assert pick(found, "retainability", "after 300 steps").value == pytest.approx(left, abs=0.01)


def test_where_they_are_not_a_note_says_what_is_missing() -> None:
    found = scattered([0, 100, 190, 250, 400, 700, 1000])
    note = "last copies of its items lie 80 steps apart: what the first of them had lost by the end is not counted"
    assert pick(found, "effectivity", "mean").note == note


def test_kinds_have_curves_of_their_own() -> None:
    run = Run()
    for kind, a in (("canary", 0.05), ("pii", 0.12)):
        run.twins(kind=kind)
        run.arm("2x", decaying(a), kind=kind)
    found = run.effects()
    constants = [pick(found, "decay_constant", "fit", kind=kind).value for kind in ("canary", "all", "pii")]
    assert constants == pytest.approx([0.05, 0.085, 0.12], abs=3e-3)


# ------------------------------------------------------------------------------------------------ spans, attacks


def test_the_longest_span_is_followed_over_that_of_the_twins() -> None:
    run = Run()
    for length in (1, 2, 3):
        run.item("held-out", [length] * len(STEPS), metric="longest_span")
    for length in (8, 9, 10):
        run.item("2x", [0, 0, length, length, 6, 6, 6, 5, 5, length - 5], [100, 119], (0.1, 0.12), metric="longest_span")
    found = run.effects()
    assert pick(found, "span_left", "after 1 steps").value == 9 - 2
    assert pick(found, "span_left", "after 881 steps").value == 4 - 2


def attacked(found_of_ten: list[int], twins: int = 19) -> pd.DataFrame:
    """Effects of an arm of 40 groups, of whose tenths so many score above all but the highest of the held-out texts."""
    run = Run()
    for rank in range(twins):
        run.item("held-out", [rank] * len(STEPS), metric="loss")
    for group in range(40):
        values = [0.5] * 2 + [17.5 if group % 10 < found else 16.5 for found in found_of_ten]
        run.item("2x", values, [100, 119], (0.1, 0.12), metric="loss")
    return run.effects()


def test_an_arm_is_forgotten_when_the_attack_finds_half_of_it_at_most() -> None:
    found = attacked([10, 9, 8, 5, 4, 3, 2, 2])
    rates = found[(found["metric"] == "attack_success/loss") & (found["kind"] == "all")]
    assert rates["value"].tolist() == [
        1.0,
        0.9,
        0.8,
        0.5,
        0.4,
        0.3,
        0.2,
        0.2,
    ]  # 17.5 lies above the second highest of 19, of 20 the tenth
    forgotten = pick(found, "forgotten/loss", "mean")
    assert forgotten.value == 301  # 12 of 40: at most 0.47; 16 of 40: at most 0.57
    assert forgotten.note == "forgotten from 301 steps on: the loss attack finds at most 50%, with 10% false positives"


def test_an_attack_that_still_finds_them_is_told() -> None:
    forgotten = pick(attacked([10] * 8), "forgotten/loss", "mean")
    assert isnan(forgotten.value)
    assert forgotten.note.startswith("not forgotten after 881 steps")


def test_a_threshold_needs_nine_twins() -> None:
    forgotten = pick(attacked([10] * 8, twins=8), "forgotten/loss", "mean")
    assert forgotten.note == "8 held-out texts are too few to calibrate an attack at 10% false positives"


# ------------------------------------------------------------------------------------------------ windows


def windows(rates: tuple[float, float, float], final: tuple[float, float, float] = (1.0, 2.0, 4.0), **third: Any) -> pd.DataFrame:
    """Effects of three arms of two copies each in thirds of training, and of one over all of it."""
    run = Run(steps=[0, 300, 600, 900])
    run.twins()
    for name, start, end, rate in zip(("a", "b", "c"), final, (300, 600, 900), rates, strict=True):
        window = ((end - 300) / 900, end / 900)
        more = third if name == "c" else {}
        run.arm(name, [0, 0, 0, start], exposed=[end - 200, end - 100], window=window, rate=rate, **more)
    run.arm("2x", [0, 0, 0, 3.0], exposed=[100, 800], window=(0.0, 1.0))
    return run.effects()


def test_the_last_window_less_the_first_and_the_trend() -> None:
    found = windows((1e-3, 1e-3, 1e-3))
    effect = pick(found, "window_effect/2x", "last minus first")
    assert (effect.arm, effect.note) == ("all", "")
    assert effect.value == pytest.approx(3, abs=0.02)
    assert effect.low > 2.5
    assert pick(found, "window_effect/2x", "trend").value == pytest.approx(1.5, abs=0.02)
    assert pick(found, "gain_per_dose", "mean", arm="c").value == pytest.approx(4 / 2e-3, rel=0.01)
    assert not len(found[(found["metric"] == "gain_per_dose") & (found["arm"] == "2x")])  # its window overlaps the others


def test_a_learning_rate_that_falls_hides_recency_and_is_told() -> None:
    found = windows((1e-3, 6e-4, 1e-4), final=(2.0, 2.0, 2.0))
    effect = pick(found, "window_effect/2x", "last minus first")
    assert effect.low < 0 < effect.high
    assert effect.note == "recency is confounded: the learning rate falls from 0.001 in the first window to 0.0001 in the last"
    assert pick(found, "dosed_window_effect/2x", "last minus first").value == pytest.approx(2 / 2e-4 - 2 / 2e-3, rel=0.02)
    assert pick(found, "exposure_learning_rate", "mean", arm="c").value == pytest.approx(1e-4)
    assert pick(found, "learning_dose", "mean", arm="c").value == pytest.approx(2e-4)


def test_arms_that_differ_in_more_than_their_window_are_not_compared() -> None:
    found = windows((1e-3, 1e-3, 1e-3), spacing="massed")
    assert pick(found, "window_effect/2x even", "last minus first").value == pytest.approx(1, abs=0.02)  # of a and b


# ------------------------------------------------------------------------------------------------ what is shown


def test_the_table_shows_the_last_checkpoint_and_whom_a_note_is_about(planted: pd.DataFrame) -> None:
    arms = ["held-out", "2x", "keeps", "learned nothing", "whole"]
    [(_, table)] = measures(planted, arms, ["perturbed"])
    assert table.title == "What is forgotten"
    shown = {row.name: row for row in table.rows}
    [left] = [row for name, row in shown.items() if name.startswith("retainability")]
    assert left.name == "retainability, at the end"
    assert left.cells[0].value == pytest.approx(1 - 0.1 * log(880), abs=0.01)
    assert number(shown["half_life, fit"].cells[0].value, shown["half_life, fit"].form).startswith("14")
    assert number(shown["exposure_learning_rate"].cells[0].low, ".3g") == "–"
    assert "the gain at its maximum is not distinguishable from zero (learned nothing)" in table.notes


def drawn(effects: pd.DataFrame) -> Any:
    """The figure of effects, as a Vega-Lite specification; None if there is none."""
    names = ["held-out", "2x", "keeps", "learned nothing", "whole"]
    arms = arm_table(pd.DataFrame({"arm": names, "copies": [0, 2, 2, 2, 2], "window_start": 0.0, "window_end": 0.1}))
    chart = retention(Measured(pd.DataFrame(), arms, pd.DataFrame(), pd.DataFrame(), effects, steps=1000))
    return chart and render("retention", "", chart).specification


def test_the_figure_draws_what_is_left_of_each_arm_and_its_fit(planted: pd.DataFrame) -> None:
    points, lines = (pd.DataFrame(rows) for rows in drawn(planted)["datasets"].values() if "since" in rows[0])
    of_all = points[points["kind"] == "all"]
    assert set(of_all["arm"]) == {"2x", "keeps"}
    assert of_all[of_all["arm"] == "2x"]["since"].tolist() == [2, *LATER]
    fitted = lines[(lines["kind"] == "all") & (lines["arm"] == "2x")]
    assert fitted["value"].tolist() == pytest.approx([1 - 0.1 * log(since) for since in [2, *LATER]], abs=0.01)


def test_without_a_curve_there_is_no_figure(planted: pd.DataFrame) -> None:
    assert drawn(planted[planted["arm"] == "learned nothing"]) is None
    assert drawn(EFFECTS.empty_table().to_pandas()) is None


@pytest.mark.parametrize("name", ["retention", "windows"])
def test_the_recipes_resolve_and_their_items_fill_the_arms(name: str) -> None:
    for recipe in load_points(EXPERIMENTS / f"{name}.yaml"):
        arms = cells(recipe.insert, recipe.train.steps)["sequences"]
        assert sum(cell.size for cell in arms) == recipe.insert["sequences"].count
