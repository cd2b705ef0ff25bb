from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.layout import write_json
from configs.sweep import load_points
from configs.tables import ASSIGNMENT, ITEMS, SCORES, TEXTS, write_table
from eval.overview import DONE, MISSING, OUTDATED, Point
from slurm.jobs import Experiment
from slurm.overview import COLUMNS, attack_across, overview, read_points, side_by_side

RECIPE = """
name: rates
corpus: {source: synthetic, documents: 50, tokenizer: {vocabulary: 300}}
insert:
  codes: {kind: canary, count: 4, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 2], sizes: [2, 2]}
model: {layers: 1, width: 32, heads: 2}
train: {steps: 8, global_batch: 2, sequence_length: 32, warmup: 2}
sweep: {train.learning_rate: [1e-3, 4e-3], seed: [1, 2]}
"""


def finding(value: float, name: str = "more copies, more memorized", verdict: str = "yes") -> dict[str, Any]:
    measured = {"step": 8, "value": value, "low": value - 0.5, "high": value + 0.5, "n": 4}
    return {"name": name, "metric": "log_prob", "kind": "canary", "arm": "all", **measured, "verdict": verdict}


def finish(experiment: Experiment, findings: list[dict[str, Any]]) -> None:
    """Leave the files of a point whose report is done."""
    report = experiment.jobs()[-1]
    write_json(experiment.run.report / "findings.json", findings)
    (experiment.run.report / "index.html").write_text("the report")
    write_json(report.record, {"fingerprint": report.fingerprint, "outputs": {}})
    experiment.run.config.write_text("")


@pytest.fixture
def experiments(tmp_path: Path) -> list[Experiment]:
    """Four points: the first is done, the second was done with other settings, the third is damaged, the fourth has not begun."""
    path = tmp_path / "rates.yaml"
    path.write_text(RECIPE)
    points = [Experiment(recipe) for recipe in load_points(path, [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"])]
    finish(points[0], [finding(0.5)])
    finish(points[1], [finding(0.25)])
    write_json(points[1].run.job("report"), {"fingerprint": "another", "outputs": {}})
    finish(points[2], [finding(0.75)])
    (points[2].run.report / "findings.json").write_text("[{")
    return points


def test_the_state_of_a_point_is_that_of_its_files(experiments: list[Experiment]) -> None:
    points = read_points(experiments)
    assert [(point.state, [row["value"] for row in point.findings]) for point in points] == [
        (DONE, [0.5]),
        (OUTDATED, [0.25]),
        (MISSING, []),
        (MISSING, []),
    ]
    assert points[1].why == "corpus: not done yet"  # the first job that would have to be done
    assert "findings.json is damaged" in points[2].why
    assert points[3].settings == {"train.learning_rate": 4e-3, "seed": 2}


def test_the_overview_lies_beside_the_points(experiments: list[Experiment]) -> None:
    page = overview(experiments)
    assert page == experiments[0].run.root.parent / "overview" / "index.html"
    saved = pd.read_csv(page.parent / "findings.csv")
    assert list(saved.point) == [experiment.recipe.point for experiment in experiments]
    assert list(saved.value[:2]) == [0.5, 0.25]


def test_points_that_the_sweep_has_no_more_are_named(experiments: list[Experiment]) -> None:
    page = overview(experiments[1:]).read_text()
    assert f"not of the sweep as it is given now: {experiments[0].recipe.point}." in page


def test_the_table_for_a_terminal_has_a_column_a_point_and_goes_on_below_where_they_are_many() -> None:
    verdicts = ["yes", "no", "not decidable"]
    points = [Point(f"seed-{n}", {"seed": n}, DONE, findings=[finding(n, verdict=verdicts[n % 3])]) for n in range(COLUMNS + 1)]
    tables = list(side_by_side([*points, Point("seed-9", {"seed": 9}, MISSING)]))
    assert [numbers for numbers, _ in tables] == [list(range(1, COLUMNS + 1)), [COLUMNS + 1, COLUMNS + 2]]
    assert tables[0][1][0][:5] == ["more copies, more memorized", "canary", "0.00 yes", "1.00 no", "2.00 ?"]
    assert tables[1][1] == [["more copies, more memorized", "canary", f"{COLUMNS}.00 yes", "-"]]
    assert list(side_by_side([Point("seed-9", {"seed": 9}, MISSING)])) == []


# ------------------------------------------------------------------------------------------------ attacks over several points

ITEMS_MADE = 30


def leave_tables(experiment: Experiment, number: int, shown: str = "vault") -> None:
    """The tables of a run whose items each seed assigns otherwise, and the losses of its last two checkpoints."""
    random, names = np.random.default_rng(number), [f"code-{n}" for n in range(ITEMS_MADE)]
    copies = random.permutation([0, 2] * (ITEMS_MADE // 2)).tolist()
    ease, noise = np.random.default_rng(9).normal(-4, 1, ITEMS_MADE), random.normal(0, 0.1, ITEMS_MADE)
    losses = ease + noise + 0.5 * np.asarray(copies)
    run, of_set = experiment.run, {"item_set": "codes", "kind": "canary", "stratum": "codes"}
    write_table(run.items, [{"item_id": name, "group": name, "probes": [], **of_set} for name in names], ITEMS)
    texts = [{"item_id": name, "variant": "verbatim", "text": f"{shown} {name}", "tokens": [n]} for n, name in enumerate(names)]
    write_table(run.texts, texts, TEXTS)
    assignment = [
        {"item_id": name, "group": name, "arm": f"{own}x", "copies": own} for name, own in zip(names, copies, strict=True)
    ]
    write_table(run.assignment, assignment, ASSIGNMENT)
    scores = [
        {"step": step, "item_id": name, "probe_id": "verbatim", "metric": "loss", "value": value, "text_exposures": own}
        for step, values in ((4, losses * 2), (8, losses))
        for name, value, own in zip(names, values, copies, strict=True)
    ]
    write_table(run.model("perturbed").scores / "scores.parquet", [{"model": "perturbed", **row} for row in scores], SCORES)


@pytest.fixture
def seeds(tmp_path: Path) -> list[Experiment]:
    """Four points that differ in the seed of the assignment, of which the last has not begun."""
    path = tmp_path / "rates.yaml"
    path.write_text(RECIPE.replace("{train.learning_rate: [1e-3, 4e-3], seed: [1, 2]}", "{seeds.assignment: [1, 2, 3, 4]}"))
    points = [Experiment(recipe) for recipe in load_points(path, [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"])]
    for number, point in enumerate(points[:3]):
        finish(point, [finding(0.5)])
        leave_tables(point, number)
    return points


def test_models_of_paired_seeds_are_attacked_with_each_other(seeds: list[Experiment]) -> None:
    page = overview(seeds)
    saved = pd.read_csv(page.parent / "shadow.csv")
    assert set(saved["models"]) == {3}
    assert list(saved[saved["attack"] == "rmia"]["point"]) == [*(point.recipe.point for point in seeds[:3]), "pooled"]
    assert (saved["value"] > saved["loss"] + 0.1).all()  # the references tell how easy a text is
    assert "Membership attacks over several points" in page.read_text()


def test_points_of_other_items_or_without_their_tables_take_no_part(
    seeds: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    leave_tables(seeds[1], 1, shown="door")
    assert attack_across(seeds, read_points(seeds)).empty
    leave_tables(seeds[1], 1)
    assert not attack_across(seeds, read_points(seeds)).empty
    seeds[1].run.items.unlink()
    assert attack_across(seeds, read_points(seeds)).empty
    assert "takes no part in attacks across points" in capsys.readouterr().out
