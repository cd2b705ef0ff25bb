"""The job of training: by the processes that srun or torchrun started, or by those that are started here."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from configs.errors import ImprintError, RecipeError
from configs.lock import Lock
from configs.schema import Model, Recipe, Train
from configs.stage_checks import longest_row, trainings
from configs.tables import read_table
from slurm.jobs import Experiment
from train.world import World, start

if TYPE_CHECKING:
    from train.loop import Trajectory
    from train.probe_schedule import Schedule, Scorer

FOLLOWER_SECONDS = 120  # that a process waits for one that leads and shows no sign of life


def train_model(experiment: Experiment, model: str) -> None:
    """Train a model, with further processes on this machine where `train.devices` asks for them and no launcher started any."""
    recipe, world = experiment.recipe, World.here()
    devices = (recipe.stages[model].train if model in recipe.stages else recipe.train).devices
    with experiment.stop:
        if world.size == 1 and devices > 1:
            with start(devices, ["-P", "-m", "slurm.worker", str(experiment.run.root.resolve()), model]) as leading:
                _train(experiment, model, replace(leading, scheduled=world.scheduled))
        else:
            _train(experiment, model, world)


def _train(experiment: Experiment, model: str, world: World) -> None:
    from train.loop import train

    trajectory = (
        experiment.staging.trajectory(model) if model in experiment.recipe.stages else _pretraining(experiment, model, world)
    )
    train(trajectory, experiment.run.model(model), experiment.cache, world, experiment.stop)


def _pretraining(experiment: Experiment, model: str, world: World) -> Trajectory:
    """The training of a model on the corpus, with what is inserted."""
    from inject.hub import pinned_model
    from inject.stream import check_length
    from slurm.planning import read_plan
    from train.branch import branch_off
    from train.loop import Trajectory
    from train.milestones import exposure_windows

    recipe, corpus, marks = experiment.recipe, experiment.corpus, experiment.fingerprints
    check_length(corpus, recipe.train.sequence_length, recipe.train.steps, recipe.train.global_batch, recipe.corpus.epochs)
    plan = read_plan(experiment.run.plan, ["row", "item_id"])
    layout, branch = experiment.run.model(model), experiment.branches.get(model)
    if branch and world.leads:
        with Lock(layout.root, patient=world.scheduled):
            branch_off(experiment.run.model(branch.parent), layout, branch.step, marks.train(model))
    probes, scorer = _probes(experiment, model)
    pinned = recipe.model.start and pinned_model(recipe.model.start)  # a branch may move while it is read
    return Trajectory(
        model,
        replace(recipe.model, start=pinned),
        recipe.train,
        experiment.stream(model),
        corpus.tokenizer,
        recipe.seed_for("init"),
        windows=exposure_windows(plan, read_table(experiment.run.assignment), recipe.train.global_batch),
        corpus=corpus.meta["fingerprint"],
        plan=marks.plan if model != "standard" else "",
        config=marks.train(model),
        positions=longest_row(recipe),
        branched=branch.step if branch else 0,
        probes=probes,
        scorer=scorer,
    )


def _probes(experiment: Experiment, model: str) -> tuple[Schedule, Scorer | None]:
    """What is scored around exposures while a model is trained, and how; nothing unless it is asked for."""
    from train.probe_schedule import probe_schedule

    recipe, run = experiment.recipe, experiment.run
    settings = recipe.train.probes
    if not settings.items:
        return {}, None
    from eval.probing import TextScorer

    items, texts = read_table(run.items), read_table(run.texts)
    context = [] if recipe.eval.context == "none" else [experiment.corpus.end_of_text]
    contexts = None
    if recipe.eval.context == "as_trained":
        from slurm.evaluating import trained_contexts

        contexts = trained_contexts(experiment)
    scorer = TextScorer(items, texts, context, contexts)
    plan = experiment.plan_of(model, ["row", "offset", "item_id", "variant"])
    shape = recipe.train.global_batch, recipe.train.steps
    return probe_schedule(plan, items, read_table(run.assignment), scorer.texts, settings, *shape), scorer


def refuse_impossible(recipe: Recipe, world: World) -> None:
    """RecipeError for what these processes can't do, and models that can't be built, told before anything is made."""
    from inject.design import cells
    from train.probe_schedule import check_arms
    from train.starts import check_starts

    check_arms(recipe.train.probes, [cell.name for own in cells(recipe.insert, recipe.train.steps).values() for cell in own])
    check_starts(recipe)  # whether the tokenizer fits is seen when it is made
    for settings in trainings(recipe):
        _refuse_impossible(recipe.model, settings, world)


def _refuse_impossible(shape: Model, settings: Train, world: World) -> None:
    import torch

    from train.engine import device_of
    from train.execution import cores, shared_out
    from train.loggers import check_loggers
    from train.model import check_model, prepare

    if world.size > 1 and settings.devices not in (0, world.size):
        raise RecipeError(
            f"train.devices is {settings.devices}, but srun or torchrun started {world.size} processes; "
            f"start {settings.devices}, or leave it out"
        )
    if settings.threads > cores():
        raise RecipeError(
            f"train.threads is {settings.threads}, but there are {cores()} processor cores; 0 measures what is fastest"
        )
    gpus = torch.cuda.device_count()
    if world.size == 1 and 0 < gpus < settings.devices:
        raise RecipeError(
            f"train.devices is {settings.devices}, but this machine has {gpus}; give up to {gpus}, or set CUDA_VISIBLE_DEVICES= to "
            "train on processors"
        )
    strategy = shared_out(settings, replace(world, size=max(world.size, settings.devices))).strategy
    if strategy.startswith("zero_") and find_spec("deepspeed") is None:
        raise RecipeError(
            f"train.strategy {strategy} needs the package deepspeed; run: pip install deepspeed, or set single or ddp"
        )
    check_loggers(settings.loggers)
    model = check_model(shape, 1, settings.sequence_length)
    prepare(model, settings, device_of(world))


def follow(experiment: Experiment, stage: str | None) -> None:
    """What a process does beside the leading one: train with it, once it has done what training needs."""
    before: list[str] = []
    for job in experiment.upto(stage):
        if not job.name.startswith("train-"):
            before.append(job.name)
            continue
        for name in before:
            _await(experiment, name)
        if job.missing():
            job.work()
        before = []


def _await(experiment: Experiment, name: str) -> None:
    """Wait until the leading process, which holds the run's lock, has done a job. ImprintError where it is gone."""
    alone = 0
    while next(job for job in experiment.jobs() if job.name == name).missing():
        alone = 0 if Lock(experiment.run.root).held() else alone + 1
        if alone > FOLLOWER_SECONDS:
            raise ImprintError(f"the leading process does not do the job {name}, which training waits for")
        time.sleep(1)
