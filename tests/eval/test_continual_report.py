"""The part of a report that is about stages: its table, comparisons and figures, and that nothing of it is in other reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.layout import RunLayout
from configs.schema import Recipe, Train
from configs.tables import ASSIGNMENT, EFFECTS, ITEMS
from eval.continual import Continual, StageRecord, stage_effects
from eval.continual_report import continual_section, retained_rows, stage_row
from eval.findings import findings
from eval.methods import method_claims
from eval.report import javascript, write_report

FACTS, STEPS = 40, [0, 20, 40]
RETAINED = {"none": [1.0, 0.5, 0.0], "replay": [1.0, 0.9, 0.9]}
LEARNED = [-8.0, -3.0, -0.5]
HOSTILE = "<script>alert('pwned')</script>"


def facts_of(item_set: str) -> list[str]:
    return [f"{item_set}{i}" for i in range(FACTS)]


@pytest.fixture(scope="module")
def run() -> Continual:
    stages = [
        StageRecord("learn", "perturbed", ["A"], [], "plain", step=300, ended="its steps were over"),
        StageRecord("none", "learn", ["B"], ["A"], "plain → plain", step=40, ended=HOSTILE, held_out={0: 4.25, 40: 5.5}),
        StageRecord("replay", "learn", ["B"], ["A"], "plain → replay ×0.1", False, False, step=40),
    ]
    rows: list[dict[str, Any]] = []
    for model, retained in RETAINED.items():
        for at, step in enumerate(STEPS):
            for i in range(FACTS):
                emitted = i < retained[at] * FACTS
                row = {"model": model, "step": step}
                exposures = int(model == "replay" and i < 4 and step > 0)
                rows.append({**row, "item_id": f"A{i}", "emitted": emitted, "log_prob": -1.0, "exposures": exposures})
                rows.append({**row, "item_id": f"B{i}", "emitted": step == 40, "log_prob": LEARNED[at], "exposures": step})
    scores = pd.DataFrame(rows).assign(token_accuracy=lambda table: (1.0 + table["emitted"]) / 2)
    layers = pd.DataFrame([{"model": "none", "step": 40, "item_id": item, "first": 2} for item in facts_of("B")])
    facts = pd.DataFrame(
        [{"item_id": item, "item_set": one, "inserted": False, "known": False} for one in "AB" for item in facts_of(one)]
    )
    return Continual({stage.name: stage for stage in stages}, facts, scores, layers)


@pytest.fixture(scope="module")
def found(run: Continual) -> list[dict[str, Any]]:
    nothing = [schema.empty_table().to_pandas() for schema in (EFFECTS, ITEMS, ASSIGNMENT)]
    return findings(*nothing, primary=["remix"], others=method_claims(run, 200, 0))


@pytest.fixture(scope="module")
def report(run: Continual, found: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    section = continual_section(run.stages, stage_effects(run), found)
    layout = RunLayout(tmp_path_factory.mktemp("run"))
    return write_report(layout, Recipe(name="remix", train=Train(steps=300)), found, stages=section).parent


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return (report / "index.html").read_text().replace(javascript(), "")


def rows(page: str, table: str) -> list[str]:
    body = page.split(f'<table class="{table}">')[1].split("</table>")[0]
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in body.split("<tr>")[2:]]


def test_stages_stand_side_by_side_with_what_they_learned_retained_and_lost(page: str) -> None:
    none, replay = rows(page, "design stages")  # the stage that has no scores is left out
    assert none.startswith("none plain → plain B after learn, 40 steps: &lt;script&gt;")
    assert "100% 91% to 100% all at 40 0% 0% to 8.8% – 5.50 from 4.25 B 2.0 0.00 bits" in none
    assert replay.startswith("replay plain → replay ×0.1")
    assert "90% 76% to 97% replayed (4): 100% never (36): 89% – – –" in replay


def test_methods_are_compared_with_plain_training(page: str) -> None:
    assert "Against none, plain training: A while B is learned" in page
    [row] = rows(page, "design compared")
    assert re.fullmatch(r"replay 40% \d+% to \d+% yes 20% \d+% to \d+% yes 90% 80% to 100% yes", row)


def test_findings_about_stages_stand_in_their_section_and_not_among_the_others(page: str, found: list[dict[str, Any]]) -> None:
    assert len(found) == 3
    assert "more of A is retained in replay than in none" not in page
    assert 'What is found about methods against forgetting stands under <a href="#stages">' in page


def test_figures_are_drawn_and_lie_beside_the_page(page: str, report: Path) -> None:
    for name in ("retained-B-after-A", "traded-B-after-A"):
        assert f'id="chart-{name}"' in page
        assert (report / f"{name}.svg").read_text().count(">none</text>") > 0  # the plain stage, in the legend


def test_the_page_runs_nothing_that_a_run_says(page: str) -> None:
    assert HOSTILE not in page


def test_a_page_without_stages_says_nothing_of_them(tmp_path: Path) -> None:
    page = write_report(RunLayout(tmp_path), Recipe(name="plain", train=Train(steps=300)), []).read_text()
    assert 'id="stages"' not in page
    assert "Stages" not in page.replace(javascript(), "")


def test_the_curves_have_learning_and_retention_at_each_checkpoint(run: Continual) -> None:
    stages = [run.stages["none"], run.stages["replay"]]
    table = retained_rows(stages, "A", pd.DataFrame(stage_effects(run)))
    own = table[table["stage"] == "replay"]
    assert own["step"].tolist() == STEPS
    np.testing.assert_allclose(own["value"], RETAINED["replay"])
    np.testing.assert_allclose(own["learned"], LEARNED)
    np.testing.assert_allclose(own["tokens"], (1 + np.array(RETAINED["replay"])) / 2)


def test_a_stage_that_learns_rows_of_the_corpus_has_no_learning_of_facts(run: Continual) -> None:
    stage = StageRecord("none", "learn", ["corpus"], ["A"], "plain → plain")
    corpus = Continual({**run.stages, "none": stage}, run.facts, run.scores, run.layers)
    effects = pd.DataFrame(stage_effects(corpus))
    row = stage_row(stage, effects)
    assert row.learning is None
    assert row.retention[0][1]["value"] == 0.0  # type: ignore[index]
    section = continual_section({"none": stage}, effects.to_dict("records"), [])
    assert section.figures[0].by_learning is None
