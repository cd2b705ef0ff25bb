"""The jobs of an experiment that trains its models: corpus -> decontaminate -> plan -> train -> audit -> eval -> report.

Stages come after: facts, which need the model before them, then training, audit and evaluation of each.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import DataError
from configs.layout import read_json, write_json
from configs.schema import Recipe
from configs.stage_checks import parent_of
from configs.stages import START
from slurm.jobs import Experiment, Job, left_by_training

if TYPE_CHECKING:
    from slurm.planning import Drawn


def pipeline_jobs(experiment: Experiment) -> list[Job]:
    """All jobs of a recipe that trains, in an order in which they can be done."""
    run, marks, models = experiment.run, experiment.fingerprints, experiment.models

    def job(
        name: str, identity: str, outputs: list[Path], work: Callable[..., None], array: str, *needs: str, model: str = ""
    ) -> Job:
        done = partial(work, experiment, model) if model else partial(work, experiment)
        found = partial(left_by_training, run.model(model)) if name.startswith("train-") else list
        return Job(name, identity, outputs, done, run.job(name), list(needs), array, run.root / model, found=found)

    tables = [run.items, run.texts, run.assignment, run.plan, run.balance, run.power, run.field_copies]
    planned = [*tables, run.corpus / "meta.json"]  # the cache may have been cleared, or be another one now
    jobs = [job("corpus", marks.corpus, [experiment.cache / marks.corpus / "meta.json"], make_corpus, "corpus")]
    if experiment.recipe.decontaminate.policy != "none":
        found = [run.hits, run.decontaminated, *_decontaminated_corpus(experiment)]
        jobs.append(job("decontaminate", marks.decontaminate, found, decontaminate, "plan", "corpus"))
    jobs.append(job("plan", marks.tables, planned, make_plan, "plan", jobs[-1].name))
    if not models:  # stages begin with a model that exists, or a new one: nothing is inserted
        jobs = jobs[:1]
    for model in models:
        last = run.model(model).checkpoint(experiment.recipe.train.steps) / "imprint.json"
        needs = ["plan", *([f"train-{branch.parent}"] if (branch := experiment.branches.get(model)) else [])]
        jobs.append(job(f"train-{model}", marks.train(model), [last], train, f"train-{model}", *needs, model=model))
    stages = list(experiment.recipe.stages)
    if stages:
        root, before = experiment.staging.root, jobs[-1].name if not models else "plan"
        asked = before if root == START else f"train-{root}"
        jobs.append(job("facts", marks.facts, [run.facts], find_facts, "facts", asked))
    for stage in stages:
        layout, parent = run.model(stage), parent_of(experiment.recipe, stage)
        needs = ["facts", *([f"train-{parent}"] if parent != START else [])]
        made = [layout.finished, layout.rows]
        jobs.append(job(f"train-{stage}", marks.train(stage), made, train_stage, f"stage-{stage}", *needs, model=stage))
    for model in [*models, *stages]:
        certificate = [run.model(model).certificate]
        jobs.append(job(f"audit-{model}", marks.audit(model), certificate, audit, f"eval-{model}", f"train-{model}", model=model))
    for model in models if experiment.recipe.insert else []:
        scores = [run.model(model).scores / name for name in ("scores.parquet", "effects.parquet")]
        needs = [f"audit-{model}", *(["train-standard"] if compares_with_standard(experiment.recipe) else [])]
        jobs.append(job(f"eval-{model}", marks.eval(model), scores, evaluate, f"eval-{model}", *needs, model=model))
    for stage in stages:
        scores = [run.model(stage).scores / name for name in ("facts.parquet", "layers.parquet")]
        jobs.append(job(f"eval-{stage}", marks.eval(stage), scores, evaluate_stage, f"eval-{stage}", f"audit-{stage}", model=stage))
    page = [run.report / name for name in ("index.html", "findings.json")]
    scored = [job.name for job in jobs if job.name.startswith("eval-")]
    return [*jobs, job("report", marks.report([*models, *stages]), page, report, "report", *scored)]


def compares_with_standard(recipe: Recipe) -> bool:
    """Whether the attack `reference` compares with the standard model."""
    return "reference" in recipe.eval.membership and recipe.eval.reference is None


def _decontaminated_corpus(experiment: Experiment) -> list[Path]:
    """The description of the corpus that decontamination left to train of, once that is known."""
    path = experiment.run.decontaminated
    return [experiment.cache / read_json(path)["corpus"] / "meta.json"] if path.exists() else []


# ------------------------------------------------------------------------------------------------ what they do


def make_corpus(experiment: Experiment, shard: tuple[int, int] | None = None) -> None:
    """Tokenize the base documents, or one of `shard`'s equal shares of them, unless the cache holds them."""
    from inject.corpus import build_corpus

    recipe, identity = experiment.recipe, experiment.fingerprints.corpus
    folder = experiment.cache / identity
    if (folder / "meta.json").exists():
        print(f"  found in {folder.parent}", flush=True)
    else:
        build_corpus(recipe.corpus, recipe.seed, folder, identity, shard)


def decontaminate(experiment: Experiment, shard: tuple[int, int] | None = None) -> None:
    """Look for the items elsewhere, or in one of `shard`'s equal shares of the corpus, and do what the policy says."""
    from slurm import decontamination

    outcome = decontamination.decontaminate(experiment.recipe, experiment.base_corpus, experiment.cache, shard)
    if outcome:
        shutil.copyfile(outcome.hits, experiment.run.hits)
        write_json(experiment.run.decontaminated, outcome.record())


def make_plan(experiment: Experiment) -> None:
    """Draw the items, assign them to arms, and place every copy in the corpus that decontamination left."""
    from inject.corpus import Corpus
    from slurm.decontamination import refuse_other_texts
    from slurm.planning import draw, place, write

    recipe, run = experiment.recipe, experiment.run
    if recipe.decontaminate.policy == "none":
        corpus = experiment.base_corpus
        drawn = draw(recipe, corpus.tokenizer)
    else:
        outcome = read_json(run.decontaminated)
        corpus = Corpus(experiment.cache / outcome["corpus"])
        drawn = draw(recipe, corpus.tokenizer, outcome["redrawn"])
        refuse_other_texts(drawn.items, drawn.texts, outcome["texts"], run.decontaminated)
    plan = place(drawn, recipe, corpus)
    run.corpus.unlink(missing_ok=True)
    run.corpus.symlink_to(corpus.folder.resolve())
    if recipe.stages:
        experiment.staging.refuse_impossible(drawn.items)
    write(drawn, plan, run)
    tokens = int(plan["length"].to_numpy().sum())
    share = tokens / (drawn.shape.rows * drawn.shape.row_tokens)
    print(f"  {len(drawn.items):,} items, {plan.num_rows:,} occurrences, {tokens:,} tokens: {share:.1%} of training", flush=True)


def preview(experiment: Experiment) -> tuple[Drawn, Callable[[], str]]:
    """What is to be inserted, drawn in memory; and a check that places it, too, and says what remained unchecked."""
    from slurm import planning

    return planning.preview(experiment.recipe, experiment.cache / experiment.fingerprints.corpus)


def train(experiment: Experiment, model: str) -> None:
    """Train a model, from its newest state if there is one."""
    from slurm.training import train_model

    train_model(experiment, model)


def find_facts(experiment: Experiment) -> None:
    """Draw the facts of stages, and ask the model before them which it knows."""
    experiment.staging.write_facts()


def train_stage(experiment: Experiment, name: str) -> None:
    """Train a stage, from its newest state if there is one; and say which rows of its stream hold which facts."""
    from slurm.training import train_model

    train_model(experiment, name)
    if experiment.world.leads:
        experiment.staging.write_rows(name)


def evaluate_stage(experiment: Experiment, name: str) -> None:
    """Ask every checkpoint of a stage for all facts."""
    experiment.staging.evaluate(name)


def audit(experiment: Experiment, model: str) -> None:
    """Write a model's certificate; DataError where it is not certified."""
    from slurm.audits import certify

    if not certify(experiment, model):
        raise DataError(f"what {model} was trained on is not what was planned; see {experiment.run.model(model).certificate}")


def evaluate(experiment: Experiment, model: str) -> None:
    """Score every checkpoint of a model."""
    from slurm.evaluating import evaluate_model

    evaluate_model(experiment, model)


def report(experiment: Experiment) -> None:
    """Write the page about all models, and the findings about one of them."""
    from slurm.evaluating import report_run

    report_run(experiment)


def score(experiment: Experiment, shard: tuple[int, int]) -> None:
    """Score a share of every model's checkpoints."""
    from slurm.evaluating import score_share

    score_share(experiment, shard)


SHARED: dict[str, Callable[[Experiment, tuple[int, int]], None]] = {  # stages of which a share can be done, by --shard
    "corpus": make_corpus,
    "decontaminate": decontaminate,
    "eval": score,
}
