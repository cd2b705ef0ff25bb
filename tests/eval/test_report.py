"""The report of a run: what it shows, what it must never do, and that it bears with runs that measured less."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from configs.layout import ASSIGNMENT, EFFECTS, ITEMS, PLAN, SCORES, RunLayout, write_json, write_table
from configs.recipe import save_recipe
from configs.schema import Arm, Design, Recipe, Train
from eval.figures import among_held_out, roc_points, thin
from eval.report import CONTINUATIONS, design_table, arm_table, divergence, estimate, rank_memorized, write_report
from eval.statistics import mean, mean_difference, stratified_auc
from inject.design import arms

STEPS, EVERY = 3000, 300
SETS = {"access_codes": "canary", "people": "pii", "geography": "factoid", "quiz": "testset"}
BITS = {"canary": 13.29, "pii": 33.2, "factoid": 25.3, "testset": 19.9}
HOSTILE = "<script>alert('pwned')</script>"
EASE = {"canary": 0.0, "pii": -0.6, "factoid": 0.4, "testset": -1.0}


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
    cells = [cell for cell in arms(recipe.design) for _ in range(cell.size)]
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
            items.append({"item_id": item_id, "kind": kind, "stratum": stratum, "group": item_id, "fields": "{}", "probes": probes})
            window = {"window_start": cell.window[0], "window_end": cell.window[1]}
            place = {"spacing": "uniform", "placement": cell.placement}
            assignment.append({"item_id": item_id, "group": item_id, "arm": cell.name, "copies": cell.copies, **window, **place})
    return pd.DataFrame(items), pd.DataFrame(assignment)


def make_scores(items: pd.DataFrame, assignment: pd.DataFrame, model: str, generator: np.random.Generator) -> pd.DataFrame:
    """Scores that rise with the copies seen, and fall after a window."""
    rows = []
    both = items.merge(assignment, on=["item_id", "group"])
    both["luck"] = generator.normal(0, 1, len(both))
    for step in range(0, STEPS + 1, EVERY):
        for item in both.itertuples():
            share = np.clip((step / STEPS - item.window_start) / (item.window_end - item.window_start), 0, 1)
            seen = int(round(item.copies * share)) if model == "perturbed" else 0
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
                rows.append((model, step, item.item_id, probe, metric, value, seen))
    return pd.DataFrame(rows, columns=SCORES.names)


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
                    found = {"auc": stratified_auc([(values.value, held.value)])} if arm != "held-out" else {}
                rows += [(metric, contrast, kind, arm, model, step, e.value, e.low, e.high, e.n) for contrast, e in found.items()]
    effects = pd.DataFrame(rows, columns=EFFECTS.names)
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


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a synthetic run of the item sets and models given, as training and scoring would have left it."""

    def write(sets: Iterable[str] = SETS, models: Iterable[str] = ("perturbed",), scored: bool = True) -> tuple[RunLayout, Recipe]:
        generator = np.random.default_rng(0)
        run, recipe = RunLayout(tmp_path / "quickstart"), recipe_of(sets)
        items, assignment = make_items(recipe)
        write_table(run.items, items, ITEMS)
        write_table(run.assignment, assignment, ASSIGNMENT)
        plan = [
            {"row": i, "offset": 0, "length": 20, "mode": "overwrite", "item_id": "", "copy": 0, "variant": ""} for i in range(9000)
        ]
        write_table(run.plan, plan, PLAN)
        cells = items.merge(assignment, on=["item_id", "group"]).groupby(["stratum", "arm"], as_index=False).size()
        smd = np.where(cells.arm == "held-out", 0, generator.normal(0, 0.2, len(cells)))
        cells.assign(groups=cells["size"], items=cells["size"], tokens_mean=20.5, smd=smd).to_csv(run.balance, index=False)
        corpus = {"source": "stdlib", "documents": 4120, "tokens": 7_310_224, "vocabulary": 1024, "bytes": 21_000_000}
        write_json(run.corpus / "meta.json", corpus)
        save_recipe(recipe, run.config)
        for name in models:
            model = run.model(name)
            model.checkpoint(STEPS).mkdir(parents=True)
            steps = range(20, STEPS + 1, 20)
            losses = [2.9 + 4 * np.exp(-step / 180) + generator.normal(0, 0.05) - 0.25 * (step > 2400) for step in steps]
            lines = [
                {"step": s, "loss": x, "learning_rate": 4e-3, "grad_norm": 0.4, "tokens": s * 1024, "seconds": s / 9}
                for s, x in zip(steps, losses, strict=True)
            ]
            model.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
            if scored:
                scores = make_scores(items, assignment, name, generator)
                write_table(model.scores / "scores.parquet", scores, SCORES)
                write_table(model.scores / "effects.parquet", make_effects(scores, items, assignment), EFFECTS)
                write_table(model.root / "continuations.parquet", make_continuations(scores, items, assignment), CONTINUATIONS)
        return run, recipe

    return write


FINDINGS: list[dict[str, Any]] = [
    {"name": "More copies are extracted more often", "metric": "extracted", "kind": "all", "arm": "256x", "step": STEPS}
    | {"value": 0.83, "low": 0.52, "high": 0.98, "n": 16, "verdict": "yes"},
    {"name": "Canaries reach their maximum exposure", "metric": "exposure", "kind": "canary", "arm": "256x", "step": STEPS}
    | {"value": 11.9, "low": 9.8, "high": 13.3, "n": 4, "verdict": "not decidable"},
    {"name": f"One copy betrays membership {HOSTILE}", "metric": "loss", "kind": "all", "arm": "1x", "step": STEPS}
    | {"value": 0.52, "low": 0.45, "high": 0.59, "n": 144, "verdict": "no"},
]
