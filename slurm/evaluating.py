"""The evaluation of the models of a run: the passes over each checkpoint, what follows from them, and the page about all."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import RecipeError
from configs.layout import write_json
from configs.tables import ASSIGNMENT, EFFECTS, ITEMS, read_table, write_table
from eval.continual import read_continual, stage_effects
from eval.continual_report import continual_section
from eval.counterfactual import counterfactual
from eval.effects import item_by_item
from eval.evaluation import Evaluation, evaluate, score_checkpoints
from eval.findings import Claim, findings
from eval.harness import export_tasks, run_tasks
from eval.membership import unigram_frequencies
from eval.methods import claim_effects, method_claims
from eval.passes import Passes
from eval.report import write_report
from eval.sampling import text_losses
from eval.sets import pii_extractions
from inject.stream import contexts_of_copies
from inject.tokenizer import decode
from slurm.jobs import Experiment

COUNTED = 2**26  # tokens of the corpus of which DC-PDD's frequencies are taken


def evaluate_model(experiment: Experiment, model: str, shard: tuple[int, int] | None = None) -> None:
    """Score every checkpoint of a model, or one of `shard`'s equal shares of them."""
    run, recipe = experiment.run, experiment.recipe
    items, texts, assignment = (read_table(path) for path in (run.items, run.texts, run.assignment))
    contexts = trained_contexts(experiment) if recipe.eval.context == "as_trained" else None
    reference = partial(text_losses, reference_model(experiment))
    longest = recipe.train.sequence_length
    passes = Passes(recipe.eval, items, texts, assignment, experiment.corpus.tokenizer, contexts, reference, longest)
    scored = Evaluation(passes, _frequencies(experiment))
    layout = run.model(model)
    if shard:
        score_checkpoints(scored, layout, shard)
        return
    evaluate(scored, layout, experiment.plan_of(model), recipe.train.global_batch, recipe.seed_for("assignment"))
    if recipe.eval.harness:
        write_json(layout.root / "harness.json", run_tasks(layout.checkpoint(recipe.train.steps), recipe.eval.harness))


def score_share(experiment: Experiment, shard: tuple[int, int]) -> None:
    """Score a share of every model's checkpoints, without recording them as evaluated."""
    if experiment.recipe.models:
        raise RecipeError("--shard is for models that are trained here; of `models`, each is a job: imprint submit, or imprint job")
    for model in experiment.models:
        evaluate_model(experiment, model, shard)


def export_run(root: Path, folder: Path) -> None:
    """Write a run's probes as tasks of lm-evaluation-harness, and say how they are run."""
    experiment = Experiment.of(root)
    run = experiment.run
    items, texts, assignment = (read_table(path) for path in (run.items, run.texts, run.assignment))
    exported = export_tasks(items, texts, assignment, experiment.corpus.tokenizer, folder, experiment.recipe.eval.context)
    print(exported)
    checkpoint = run.model(experiment.recipe.train.models[0]).checkpoint(experiment.recipe.train.steps)
    print(
        f"lm_eval run --model hf --model_args pretrained={checkpoint},dtype=float32,logits_cache=False "
        f"--include_path {folder} --tasks {exported.tag}"
    )


def reference_model(experiment: Experiment) -> str:
    """The model that the attack `reference` compares with: the one that the recipe names, or the standard one's last checkpoint."""
    recipe = experiment.recipe
    return recipe.eval.reference or str(experiment.run.model("standard").checkpoint(recipe.train.steps))


def _frequencies(experiment: Experiment) -> np.ndarray | None:
    """The unigram probabilities of the corpus, as its first tokens tell them."""
    if "dc_pdd" not in experiment.recipe.eval.membership:
        return None
    corpus = experiment.corpus
    [tokens] = corpus.read(np.zeros(1, np.int64), min(COUNTED, corpus.tokens))
    return unigram_frequencies(np.bincount(tokens, minlength=corpus.vocabulary))


def trained_contexts(experiment: Experiment) -> dict[tuple[str, str], list[int]]:
    """What preceded the first copy of each text in its row of training, the row rebuilt.

    A text that was never inserted gets the context of a copy of another item of its stratum, so that contexts of members and of
    held-out twins are alike.
    """
    run = experiment.run
    items, texts = read_table(run.items, columns=["item_id", "stratum"]), read_table(run.texts, columns=["item_id", "variant"])
    stratum = dict(zip(items["item_id"].to_pylist(), items["stratum"].to_pylist(), strict=True))
    found = contexts_of_copies(experiment.stream("perturbed"), read_table(run.plan))
    lent: dict[str, list[list[int]]] = {}
    for (item, _), context in found.items():
        lent.setdefault(stratum[item], []).append(context)
    contexts = {}
    for number, (item, variant) in enumerate(zip(texts["item_id"].to_pylist(), texts["variant"].to_pylist(), strict=True)):
        own = lent.get(stratum[item]) or [[experiment.corpus.end_of_text]]
        contexts[item, variant] = found.get((item, variant), own[number % len(own)])
    return contexts


def _beyond_standard(experiment: Experiment, model: str, items: pd.DataFrame, assignment: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the effects table: the personal values that texts drawn from a model hold and those of the standard model do not."""
    step, drawn = experiment.recipe.train.steps, []
    for name in (model, "standard"):
        table = read_table(experiment.run.model(name).scores / f"step-{step:08d}" / "samples.parquet")
        drawn.append([decode(experiment.corpus.tokenizer, tokens) for tokens in table["tokens"].to_pylist()])
    return [{"model": model, "step": step, **row} for row in pii_extractions(drawn[0], items, assignment, drawn[1])]


def _against_branches(
    experiment: Experiment, scores: dict[str, pd.DataFrame], items: pd.DataFrame, assignment: pd.DataFrame
) -> list[dict[str, Any]]:
    """Rows of the effects table: what models score above their branches, where items were removed told against placebos."""
    branches = [branch for name, branch in experiment.branches.items() if name in scores]
    rows = []
    for branch in branches:
        same = [b for b in branches if (b.parent, b.step, b.items) == (branch.parent, branch.step, branch.items)]
        placebos = [scores[b.name] for b in same if b.placebo is not None] if branch.placebo is None else []
        both, removed = (scores[branch.parent], scores[branch.name]), set(branch.items)
        rows += counterfactual(branch.name, both, placebos, removed, branch.step, items, assignment)
    return rows


def report_run(experiment: Experiment) -> None:
    """Write the page about all models, and the findings about one of them and about the stages."""
    run, recipe = experiment.run, experiment.recipe
    models = experiment.models if recipe.insert else []  # with nothing inserted there is nothing to say of pretraining
    model = "perturbed" if "perturbed" in models or not models else models[0]
    items, assignment, effects = ITEMS.empty_table().to_pandas(), ASSIGNMENT.empty_table().to_pandas(), []
    if models:
        items, assignment = (read_table(path).to_pandas() for path in (run.items, run.assignment))
        effects = _effects(experiment, models, items, assignment)
    claims: list[Claim] = []
    stages = read_continual(run, recipe) if recipe.stages else None
    if stages:
        told = stage_effects(stages)
        claims = method_claims(stages, recipe.eval.resamples, recipe.seed_for("assignment"))
        effects.append(pd.DataFrame([*told, *claim_effects(claims)], columns=EFFECTS.names))
    together = pd.concat(effects, ignore_index=True)
    write_table(run.root / "effects.parquet", together, EFFECTS)
    found = findings(together, items, assignment, model, recipe.eval.primary, claims)
    branches = [branch.told() for name, branch in experiment.branches.items() if name in models]
    section = continual_section(stages.stages, told, found) if stages else None
    write_report(run, recipe, found, branches=branches, stages=section)


def _effects(experiment: Experiment, models: list[str], items: pd.DataFrame, assignment: pd.DataFrame) -> list[pd.DataFrame]:
    """The effects of each model, and those between models."""
    run = experiment.run
    effects = [read_table(run.model(name).scores / "effects.parquet").to_pandas() for name in models]
    if "standard" in models or experiment.branches:
        scores = {name: read_table(run.model(name).scores / "scores.parquet").to_pandas() for name in models}
        if rows := _against_branches(experiment, scores, items, assignment):
            effects.append(pd.DataFrame(rows))
    if "standard" in models:
        for name in models:
            if name != "standard" and (rows := item_by_item(scores[name], scores["standard"], items, assignment)):
                effects.append(pd.DataFrame(rows))
        effects += [pd.DataFrame(_beyond_standard(experiment, name, items, assignment)) for name in models if name != "standard"]
    return effects
