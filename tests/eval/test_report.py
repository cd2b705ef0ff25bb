"""The report of a run: what it shows, what it must never do, and that it bears with runs that measured less."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from configs.insert import Arm, Design
from configs.layout import RunLayout, read_json, write_json
from configs.recipe import save_recipe
from configs.schema import Recipe, Train
from configs.tables import ASSIGNMENT, CONTINUATIONS, EFFECTS, ITEMS, PLAN, SCORES, write_table
from eval.charts import MOST_POINTS, among_held_out, arm_scale, thin
from eval.report import arm_table, design_table, divergence, estimate, javascript, parameters, rank_memorized, write_report
from eval.statistics import auc, mean, mean_difference, stratified_auc
from inject.design import arms

STEPS, EVERY = 3000, 600
SETS = {"access_codes": "canary", "people": "pii", "geography": "factoid", "quiz": "testset"}
BITS = {"canary": 13.29, "pii": 33.2, "factoid": 25.3, "testset": 19.9}
HOSTILE = "<script>alert('pwned')</script>"
EASE = {"canary": 0.0, "pii": -0.6, "factoid": 0.4, "testset": -1.0}


FINDINGS: list[dict[str, Any]] = [
    {"name": "More copies are extracted more often", "metric": "extracted", "kind": "all", "arm": "256x", "step": STEPS}
    | {"value": 0.83, "low": 0.52, "high": 0.98, "n": 16, "verdict": "yes"},
    {"name": "Canaries reach their maximum exposure", "metric": "exposure", "kind": "canary", "arm": "256x", "step": STEPS}
    | {"value": 11.9, "low": 9.8, "high": 13.3, "n": 4, "verdict": "not decidable"},
    {"name": f"One copy betrays membership {HOSTILE}", "metric": "loss", "kind": "all", "arm": "1x", "step": STEPS}
    | {"value": 0.52, "low": 0.45, "high": 0.59, "n": 144, "verdict": "no"},
]
for finding, adjusted in zip(FINDINGS, (None, 0.2, 0.0001), strict=True):
    finding |= {"key": "", "note": "", "primary": adjusted is None, "adjusted_p": adjusted}


def recipe_of(sets: Iterable[str]) -> Recipe:
    design = Design(arms={"early": Arm(copies=64, size=6, window=[0.0, 0.25])})
    return Recipe(
        name="quickstart",
        seed=1,
        insert={name: {"kind": SETS[name], "count": 72} for name in sets},
        design=design,
        train=Train(steps=STEPS),
    )


def make_items(recipe: Recipe) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items and their assignment, 72 of each set, in the design's arms."""
    cells = [cell for cell in arms(recipe.design, STEPS) for _ in range(cell.size)]
    items, assignment = [], []
    for stratum in recipe.insert:
        kind = SETS[stratum]
        for number, cell in enumerate(cells):
            item_id = f"{stratum}-{number:04d}"
            target = f"{(number * 7919) % 10_000:04d}"
            probe = {
                "probe_id": "verbatim/secret",
                "field": "secret",
                "context": "verbatim",
                "kind": "verbatim",
                "bits": BITS[kind],
            }
            probe |= {"prompt": f"The access code of vault {HOSTILE} is ", "target": target, "candidates": []}
            choice = {**probe, "probe_id": "choice", "kind": "choice", "candidates": [target, "1", "2", "3"]}
            probes = [probe, choice] if kind == "testset" else [probe]
            named = {"item_id": item_id, "item_set": stratum, "reference_loss": None}
            items.append({**named, "kind": kind, "stratum": stratum, "group": item_id, "fields": "{}", "probes": probes})
            (phase,) = cell.phases
            window = {"window_start": phase.first / STEPS, "window_end": phase.last / STEPS}
            place = {
                "spacing": phase.spacing,
                "placement": cell.placement,
                "mode": cell.mode,
                "variants": cell.variants,
                "phases": [],
            }
            assignment.append({"item_id": item_id, "group": item_id, "arm": cell.name, "copies": phase.copies, **window, **place})
    return pd.DataFrame(items), pd.DataFrame(assignment)


def make_scores(items: pd.DataFrame, assignment: pd.DataFrame, model: str, generator: np.random.Generator) -> pd.DataFrame:
    """Scores that rise with the copies seen, and fall after a window."""
    rows = []
    both = items.merge(assignment, on=["item_id", "group"])
    both["luck"] = generator.normal(0, 1, len(both))
    for step in range(0, STEPS + 1, EVERY):
        for item in both.itertuples():
            share = np.clip((step / STEPS - item.window_start) / (item.window_end - item.window_start), 0, 1)
            seen = round(float(item.copies * share)) if model == "perturbed" else 0
            forgotten = 1.2 * max(0.0, step / STEPS - item.window_end)
            strength = np.log2(1 + seen) * (1 - 0.5 * forgotten) / 2 + (EASE[item.kind] + 0.4 * item.luck) * (seen > 0)
            log_prob = -3.2 - 3 * np.exp(-step / 400) + 0.25 * item.luck + 3.1 / (1 + np.exp(2 - strength)) - 0.37
            values = {"log_prob": log_prob, "extracted": float(strength + 0.5 * item.luck > 2.6)}
            text = log_prob / 3 - 3 + 0.1 * generator.normal()
            values |= {"loss": text, "zlib": text / 60, "min_k": 2 * text + 0.2 * generator.normal()}
            if item.kind == "testset":
                values["correct"] = float(generator.random() < 0.25 + 0.75 / (1 + np.exp(4 - 1.6 * strength)))
            if item.kind == "canary" and step == STEPS:
                values["exposure"] = float(min(13.29, generator.exponential(1.44) + 2.6 * max(0.0, strength)))
            for metric, value in values.items():
                probe = (
                    "verbatim" if metric in ("loss", "zlib", "min_k") else "choice" if metric == "correct" else "verbatim/secret"
                )
                rows.append((model, step, item.item_id, probe, metric, value, seen, seen))
    return pd.DataFrame(rows, columns=SCORES.names)


def make_metrics(generator: np.random.Generator) -> list[dict[str, float]]:
    """Lines of metrics.jsonl: a loss that falls, and falls again as the learning rate decays."""
    steps = range(20, STEPS + 1, 20)
    losses = [2.9 + 4 * np.exp(-step / 180) + generator.normal(0, 0.05) - 0.25 * (step > 2400) for step in steps]
    fixed = {"learning_rate": 4e-3, "grad_norm": 0.4}
    return [{"step": s, "loss": x, "tokens": s * 1024, "seconds": s / 9, **fixed} for s, x in zip(steps, losses, strict=True)]


def make_effects(scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame) -> pd.DataFrame:
    """Arm effects of every metric by the package's own statistics."""
    data = scores.merge(items[["item_id", "kind"]], on="item_id").merge(assignment[["item_id", "arm"]], on="item_id")
    rows = []
    for (model, step, metric), at in data.groupby(["model", "step", "metric"]):
        for kind in ["all", *sorted(at.kind.unique())]:
            own = at if kind == "all" else at[at.kind == kind]
            held = own[own.arm == "held-out"]
            for arm, values in own.groupby("arm"):
                bounds = (0.0, 1.0) if metric in ("extracted", "correct") else (-np.inf, np.inf)
                found = {"mean": mean(values.value, values.item_id, bounds=bounds)}
                if metric in ("extracted", "correct"):
                    found = {"rate": found["mean"]}
                if metric == "log_prob" and arm != "held-out":
                    found["gain"] = mean_difference(values.value, values.item_id, held.value, held.item_id)
                if metric in ("loss", "zlib", "min_k"):
                    members = values[values.exposures > 0].value
                    found = {"auc": stratified_auc([(members, held.value)])} if len(members) else {}
                cell = (kind, "all", arm, model, step)
                rows += [(metric, contrast, *cell, e.value, e.low, e.high, e.n) for contrast, e in found.items()]
    effects = pd.DataFrame(rows, columns=EFFECTS.names[:-1]).assign(note="")
    secrets = effects[(effects.metric == "extracted") & (effects.kind == "pii")].assign(metric="secret_extracted", kind="all")
    return pd.concat([effects, secrets])


def make_continuations(scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame) -> pd.DataFrame:
    last = scores[(scores.step == STEPS)].pivot_table(index="item_id", columns="metric", values="value")
    seen = scores[scores.step == STEPS].groupby("item_id").exposures.first()
    rows = []
    for item in items.merge(assignment, on=["item_id", "group"]).itertuples():
        probe = item.probes[0]
        extracted = bool(last.extracted[item.item_id])
        rows.append(
            {
                **{"item_id": item.item_id, "probe_id": probe["probe_id"], "kind": item.kind, "arm": item.arm},
                **{"exposures": int(seen[item.item_id]), "prompt": probe["prompt"], "target": probe["target"]},
                "continuation": probe["target"] + ".\nThe " if extracted else probe["target"][:2] + HOSTILE,
                **{"extracted": extracted, "log_prob": float(last.log_prob[item.item_id])},
            }
        )
    return pd.DataFrame(rows, columns=CONTINUATIONS.names)


WriteRun = Callable[..., tuple[RunLayout, Recipe]]


@pytest.fixture(scope="module")
def write_run(tmp_path_factory: pytest.TempPathFactory) -> WriteRun:
    """Writes a synthetic run of the item sets and models given, as training and scoring would have left it."""

    def write(sets: Iterable[str] = SETS, models: Iterable[str] = ("perturbed",), scored: bool = True) -> tuple[RunLayout, Recipe]:
        generator = np.random.default_rng(0)
        run, recipe = RunLayout(tmp_path_factory.mktemp("runs") / "quickstart"), recipe_of(sets)
        items, assignment = make_items(recipe)
        write_table(run.items, items, ITEMS)
        write_table(run.assignment, assignment, ASSIGNMENT)
        plan = [
            {"row": i, "offset": 0, "length": 20, "mode": "overwrite", "item_id": "", "copy": 0, "variant": ""} for i in range(9000)
        ]
        write_table(run.plan, plan, PLAN)
        cells = items.merge(assignment, on=["item_id", "group"]).groupby(["item_set", "arm"], as_index=False).size()
        smd = np.where(cells.arm == "held-out", 0, generator.normal(0, 0.2, len(cells)))
        cells.assign(groups=cells["size"], items=cells["size"], tokens_mean=20.5, tokens_smd=smd).to_csv(run.balance, index=False)
        corpus = {"source": "stdlib", "documents": 4120, "tokens": 7_310_224, "vocabulary": 1024, "bytes": 21_000_000}
        write_json(run.corpus / "meta.json", corpus)
        save_recipe(recipe, run.config)
        for name in models:
            model = run.model(name)
            model.checkpoint(STEPS).mkdir(parents=True)
            write_json(model.checkpoint(STEPS) / "imprint.json", {})
            model.metrics.write_text("".join(json.dumps(line) + "\n" for line in make_metrics(generator)))
            if scored:
                scores = make_scores(items, assignment, name, generator)
                write_table(model.scores / "scores.parquet", scores, SCORES)
                write_table(model.scores / "effects.parquet", make_effects(scores, items, assignment), EFFECTS)
                write_table(model.root / "continuations.parquet", make_continuations(scores, items, assignment), CONTINUATIONS)
        return run, recipe

    return write


@pytest.fixture(scope="module")
def report(write_run: WriteRun) -> Path:
    """The folder of the report of a whole run."""
    run, recipe = write_run()
    return write_report(run, recipe, FINDINGS).parent


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    """The page without Vega's own JavaScript."""
    text = (report / "index.html").read_text()
    assert text.count(javascript()) == 1
    return text.replace(javascript(), "")


def chart_data(page: str) -> dict[str, Any]:
    """The specifications in a page; an infinity or NaN, which no browser parses, is an error."""
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)">', page)


def test_the_sections_come_in_order(page: str) -> None:
    figures = ["loss", "extraction", "emitted", "gain", "dose", "exposure", "roc", "auc", "forgetting", "accuracy"]
    tables = ["extraction-perturbed", "membership-perturbed", "contamination-perturbed", "fields-perturbed"]
    assert sections(page) == ["findings", "design", *figures, *tables, "memorized-perturbed", "method"]


def test_the_summary_says_what_was_run(page: str) -> None:
    summary = " ".join(re.sub(r"<[^>]*>", "", page.split('<p class="lead">')[1].split("</p>")[0]).split())
    assert "A 2-layer gpt_neox of width 128 was pretrained on 3.07 million tokens of the stdlib corpus (4,120 documents" in summary
    assert "9,000 copies of texts from 72 access codes, 72 people, 72 geography and 72 quiz (5.9% of all tokens)." in summary


def test_the_page_loads_nothing(page: str) -> None:
    addresses = {address.split("/")[2] for address in re.findall(r"https?://[^\s\"'<]*", page)}
    assert addresses <= {"www.w3.org", "vega.github.io"}  # namespaces of SVG, the name of Vega-Lite's schema
    assert not re.search(r"\ssrc=|@import|url\(|<link|fetch\(", page)
    assert all("//" not in link for link in re.findall(r'href="([^"]*)"', page))
    assert "default-src 'none'" in page


def test_every_file_that_the_page_names_is_there_and_no_other(report: Path, page: str) -> None:
    names = re.findall(r'<a href="([^"]*)"', page)
    assert sorted({*names, "index.html"}) == sorted(path.name for path in report.iterdir())
    assert {"findings.json", "effects.csv", "balance.csv", "memorized.csv", "loss.svg", "gain-perturbed.svg"} <= set(names)


def test_findings_are_shown_with_their_interval_and_verdict(page: str) -> None:
    table = page.split('<table class="findings">')[1].split("</table>")[0]
    for finding in FINDINGS:
        assert html.escape(finding["name"], quote=False) in table.replace("&#39;", "'")
        assert f">{finding['verdict']}</span>" in table
    assert "<strong>83%</strong> <small>52% to 98%</small>" in " ".join(table.split())
    assert "<strong>11.9</strong> bits<small>9.8 to 13.3</small>" in " ".join(table.split())


def test_findings_json_is_the_list_given(report: Path) -> None:
    assert read_json(report / "findings.json") == FINDINGS


def test_hostile_text_is_shown_and_never_run(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(&#39;pwned&#39;)&lt;/script&gt;" in page.split('<table class="memorized">')[1]


def test_a_figure_of_its_own_is_valid_and_needs_no_page(report: Path) -> None:
    for path in report.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "var(" not in path.read_text()


def test_tables_hold_what_the_run_measured(report: Path) -> None:
    memorized = pd.read_csv(report / "memorized.csv", dtype={"target": str})
    assert list(memorized.model.unique()) == ["perturbed"]
    assert (memorized.exposures > 0).all()
    assert {"secret_extracted", "log_prob"} <= set(pd.read_csv(report / "effects.csv").metric)
    assert set(pd.read_csv(report / "balance.csv").item_set) == set(SETS)


def test_every_model_has_its_own_panels_and_the_untouched_one_no_members(write_run: WriteRun) -> None:
    run, recipe = write_run(sets=["access_codes"], models=["perturbed", "standard"])
    charts = chart_data(write_report(run, recipe, []).read_text())
    assert {"loss", "gain-perturbed", "gain-standard", "roc-perturbed"} <= charts.keys()
    assert "roc-standard" not in charts


def test_a_run_without_a_family_leaves_out_its_figure_and_says_so(write_run: WriteRun) -> None:
    run, recipe = write_run(sets=["people"])
    page = write_report(run, recipe, []).read_text()
    assert not {"exposure", "accuracy"} & set(sections(page))
    assert "Not measured in this run: discoverable, exposure, retention, probes, accuracy." in page
    assert "<dt>Exposure" not in page


def test_a_run_that_was_not_scored_still_has_a_report(write_run: WriteRun) -> None:
    run, recipe = write_run(scored=False)
    page = write_report(run, recipe, []).read_text()
    assert sections(page) == ["findings", "design", "loss", "method"]


def test_a_run_that_was_not_trained_still_has_a_report(tmp_path: Path) -> None:
    page = write_report(RunLayout(tmp_path), recipe_of(SETS), []).read_text()
    assert sections(page) == ["findings", "design", "method"]


def test_an_infinite_interval_is_drawn_as_none(write_run: WriteRun) -> None:
    run, recipe = write_run(sets=["access_codes"])
    path = run.model("perturbed").scores / "effects.parquet"
    write_table(path, pd.read_parquet(path).assign(low=-np.inf, high=np.inf), EFFECTS)
    charts = chart_data(write_report(run, recipe, []).read_text())
    points = [row for rows in charts["gain-perturbed"]["datasets"].values() for row in rows if "exposures" in row]
    assert points
    assert all(row["low"] is None and row["high"] is None for row in points)


def test_an_estimate_without_an_interval_says_so() -> None:
    finding = {"metric": "log_prob", "value": -0.5, "low": None, "high": None}
    assert estimate(finding) == {"value": "−0.50", "unit": "nats", "interval": "no interval"}


def test_a_continuation_goes_on_after_a_whole_target() -> None:
    assert divergence("4821", "4821. The") == {"same": "4821", "truth": "", "said": "", "after": ". The"}


def test_memorized_items_rank_extracted_ones_first_and_leave_out_those_never_seen() -> None:
    items = pd.DataFrame({"item_id": ["a"], "probes": [[{"probe_id": "p", "bits": 13.3}]]})
    continuations = pd.DataFrame({"item_id": list("abcd"), "probe_id": "p", "exposures": [4, 4, 1, 0]})
    continuations = continuations.assign(extracted=[False, True, True, True], log_prob=[-0.1, -0.9, -0.3, -0.2])
    ranked = rank_memorized(continuations, items)
    assert list(ranked.item_id) == ["c", "b", "a"]
    assert ranked.bits.iloc[2] == 13.3


def test_percentiles_among_held_out_texts_are_of_their_own_stratum() -> None:
    scores = pd.DataFrame({"stratum": ["x"] * 3 + ["y"] * 3, "group": list("abcdef"), "arm": ["held-out", "held-out", "1x"] * 2})
    scores = scores.assign(probe_id="text", copies=[0, 0, 1] * 2, text_exposures=[0, 0, 1] * 2)
    scores = scores.assign(value=[1.0, 2.0, 1.5, 11.0, 12.0, 13.0])
    assert list(among_held_out(scores).value) == [0.25, 0.75, 0.5, 0.25, 0.75, 1.0]


def test_the_area_under_the_pooled_curve_is_the_stratified_auc_where_strata_are_alike() -> None:
    generator = np.random.default_rng(3)
    strata = [(generator.normal(shift + 0.7, 1, 8), generator.normal(shift, 1, 24)) for shift in (0.0, 50.0)]
    rows = [
        {"stratum": k, "group": f"{k}-{copies}-{i}", "arm": str(copies), "copies": copies, "value": value}
        for k, samples in enumerate(strata)
        for copies, values in zip((1, 0), samples, strict=True)
        for i, value in enumerate(values)
    ]
    table = pd.DataFrame(rows)
    pooled = among_held_out(table.assign(probe_id="text", text_exposures=table.copies))
    area = auc(pooled[pooled.copies > 0].value, pooled[pooled.copies == 0].value)
    assert area == pytest.approx(stratified_auc(strata).value)


def test_a_long_loss_curve_is_thinned_to_means() -> None:
    rows = pd.DataFrame({"step": np.arange(5000), "loss": np.arange(5000.0), "model": "perturbed"})
    thinned = thin(rows)
    assert len(thinned) == MOST_POINTS
    assert thinned.loss.iloc[0] == pytest.approx(np.mean(range(10)))


def test_an_arm_keeps_its_colour_whichever_arms_are_shown() -> None:
    table = arm_table(make_items(recipe_of(SETS))[1])
    everything = arm_scale(table, table.arm).to_dict()
    colours = dict(zip(everything["domain"], everything["range"], strict=True))
    assert len(set(colours.values())) == len(table)
    assert arm_scale(table, ["64x", "early"]).to_dict()["range"] == [colours["64x"], colours["early"]]


def two_designs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items of two sets that share arms by name: `4x` is spliced in `b` only, `early` has other copies and another window there."""
    whole: dict[str, Any] = {
        "window_start": 0.0,
        "window_end": 1.0,
        "spacing": "uniform",
        "placement": "anywhere",
        "mode": "overwrite",
    }
    cells: list[tuple[str, str, int, dict[str, Any]]] = [
        ("a", "held-out", 0, {}),
        ("a", "held-out", 0, {}),
        ("a", "4x", 4, {}),
        ("a", "early", 8, {"window_end": 0.25}),
        ("a", "4x even", 4, {"spacing": "even"}),
        ("b", "held-out", 0, {"mode": "splice", "placement": "boundary"}),
        ("b", "4x", 4, {"mode": "splice", "placement": "boundary"}),
        ("b", "4x", 4, {"mode": "splice", "placement": "boundary"}),
        ("b", "early", 4, {"window_start": 0.1, "window_end": 0.5}),
    ]
    items = pd.DataFrame({"item_id": f"{item_set}-{n}", "item_set": item_set} for n, (item_set, *_) in enumerate(cells))
    assignment = pd.DataFrame(
        {"item_id": item_id, "group": item_id, "arm": arm, "copies": copies, **whole, "variants": "rotate", **own}
        for item_id, (_, arm, copies, own) in zip(items.item_id, cells, strict=True)
    )
    return items, assignment


def test_the_design_has_a_row_for_every_meaning_of_an_arm_and_the_groups_of_the_sets_that_mean_it() -> None:
    items, assignment = two_designs()
    balance = pd.DataFrame({"item_set": ["a", "b"], "arm": "4x", "tokens_smd": [0.5, -0.25]})
    rows = design_table(items, assignment, balance)
    told = [(row["arm"], row["copies"], row["window_end"], row["mode"], [cell["groups"] for cell in row["sets"]]) for row in rows]
    assert told == [
        ("held-out", 0, 1.0, "", [2, 1]),
        ("4x", 4, 1.0, "overwrite", [1, None]),
        ("4x", 4, 1.0, "splice", [None, 2]),
        ("4x even", 4, 1.0, "overwrite", [1, None]),
        ("early", 4, 0.5, "overwrite", [None, 1]),
        ("early", 8, 0.25, "overwrite", [1, None]),
    ]
    assert [[cell["smd"] for cell in row["sets"]] for row in rows[1:3]] == [[0.5, None], [None, -0.25]]


def test_an_item_set_may_have_the_name_of_a_column() -> None:
    items, assignment = two_designs()
    items["item_set"] = items.item_set.replace({"a": "arm", "b": "copies"})
    rows = design_table(items, assignment, pd.DataFrame(columns=["item_set", "arm", "tokens_smd"]))
    assert [cell["groups"] for cell in rows[0]["sets"]] == [2, 1]


def test_figures_have_one_row_an_arm_whatever_the_sets_mean_by_it() -> None:
    table = arm_table(two_designs()[1]).set_index("arm")
    assert list(table.index) == ["held-out", "4x", "4x even", "early"]
    assert list(table.copies) == [0, 4, 4, 6]  # early: 8 and 4
    assert tuple(table.loc["early", ["window_start", "window_end"]]) == (0.0, 0.5)
    assert list(table.named) == [False, False, True, True]


def test_the_held_out_arm_begins_the_curve_in_grey() -> None:
    table = arm_table(make_items(recipe_of(SETS))[1])
    assert list(table.arm[~table.named]) == ["held-out", "1x", "4x", "16x", "64x", "256x"]
    assert arm_scale(table, ["held-out"]).to_dict()["range"] == ["var(--held-out)"]


def test_a_set_without_an_arm_has_a_dash_in_its_column(write_run: WriteRun) -> None:
    run, recipe = write_run(sets=["access_codes", "people"], scored=False)
    assignment = pd.read_parquet(run.assignment)
    spliced = assignment.item_id.str.startswith("people") & (assignment.arm == "4x")
    write_table(run.assignment, assignment.assign(mode=assignment["mode"].mask(spliced, "splice")), ASSIGNMENT)
    page = write_report(run, recipe, []).read_text()
    rows = [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in page.split('<table class="design">')[1].split("<tr>")]
    assert [re.sub(r" [+−][\d.]+", "", row) for row in rows if row.startswith("4x ")] == [
        "4x 4 whole run anywhere 12 –",
        "4x 4 whole run anywhere, splice – 12",
    ]


def test_effects_by_item_set_are_in_the_table_and_not_in_the_figures(write_run: WriteRun) -> None:
    run, recipe = write_run(sets=["access_codes"])
    path = run.model("perturbed").scores / "effects.parquet"
    effects = pd.read_parquet(path)
    before = chart_data(write_report(run, recipe, []).read_text())
    write_table(path, pd.concat([effects, effects.assign(item_set="access_codes", value=99.0)]), EFFECTS)
    page = write_report(run, recipe, [])
    assert chart_data(page.read_text()) == before
    assert set(pd.read_csv(page.parent / "effects.csv").item_set) == {"all", "access_codes"}


def test_the_parameters_of_all_shards_are_counted(tmp_path: Path) -> None:
    folder = RunLayout(tmp_path).model("perturbed").checkpoint(STEPS)
    folder.mkdir(parents=True)
    save_file({"a": np.zeros((3, 4))}, folder / "model-00001.safetensors")
    save_file({"b": np.zeros(5)}, folder / "model-00002.safetensors")
    write_json(folder / "imprint.json", {})
    assert parameters(RunLayout(tmp_path), "perturbed") == 17


def test_what_is_exploratory_says_so_with_its_adjusted_p(page: str) -> None:
    assert "exploratory, adjusted p = 0.200" in page
    assert "exploratory, adjusted p &lt; 0.001" in page
    assert page.count("exploratory, adjusted") == 2
    assert "Holm" in page


def test_every_measure_of_a_family_has_a_row(page: str) -> None:
    assert "mean of its least probable tokens (Min-K%)" in page
