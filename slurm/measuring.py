"""The jobs of measuring what was trained: every checkpoint of a model scored, and the page about all models."""

from __future__ import annotations

import pandas as pd

from configs.tables import read_table
from eval.evaluation import Evaluation, evaluate
from eval.findings import findings
from eval.report import write_report
from slurm.jobs import Experiment


def evaluate_model(experiment: Experiment, model: str) -> None:
    run, recipe = experiment.run, experiment.recipe
    items, texts, assignment = (read_table(path) for path in (run.items, run.texts, run.assignment))
    evaluation = Evaluation(recipe.eval, items, texts, assignment, experiment.corpus.tokenizer)
    seed = recipe.seed_for("assignment")
    evaluate(evaluation, run.model(model), experiment.plan_of(model), recipe.train.global_batch, seed)


def write_page(experiment: Experiment) -> None:
    run, models = experiment.run, experiment.recipe.train.models
    model = "perturbed" if "perturbed" in models else models[0]
    effects = [read_table(run.model(name).scores / "effects.parquet").to_pandas() for name in models]
    items, assignment = (read_table(path).to_pandas() for path in (run.items, run.assignment))
    write_report(run, experiment.recipe, findings(pd.concat(effects), items, assignment, model))
