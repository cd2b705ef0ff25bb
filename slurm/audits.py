"""Audit and inspect a run: its tables, ledger and corpus, brought together."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from configs.errors import DataError, RecipeError
from configs.layout import CheckpointInfo, RunLayout, file_fingerprint, write_json
from inject.audit import audit, read_ledger
from inject.certificate import Certificate, Violation, summary
from inject.inspection import render, render_mixture, rows_of_step
from slurm.branches import Branch
from slurm.jobs import Experiment, changed_files, not_as_made
from slurm.planning import shape_of


def audit_run(root: Path, model: str | None = None) -> bool:
    """Certify each model of a run that has checkpoints, or one; whether all are certified."""
    experiment = Experiment.of(root)
    models = experiment.run.models() if model is None else [_model(experiment, model)]
    if not models:
        raise DataError(f"{root} holds no checkpoint yet, so there is nothing to audit; imprint train makes some")
    certified = [certify(experiment, name) for name in models]  # all of them, also after one that is not
    return all(certified)


def certify(experiment: Experiment, model: str) -> bool:
    """Write the certificate of a model and print its summary; whether it is certified.

    Steps up to the last checkpoint are looked at: what has not left one is not part of any model.
    """
    if model in experiment.recipe.stages:
        return experiment.staging.certify(model)
    certificate = _audit(experiment, model)
    path = experiment.run.model(model).certificate
    write_json(path, certificate.as_json())
    lines = summary(certificate)
    if branch := experiment.branches.get(model):
        lines += [f"  {line}" for line in (branch.told(), _computed_otherwise(experiment.run, branch)) if line]
    print("\n".join(f"  {line}" for line in [*lines, f"  {path}"]), flush=True)
    return certificate.certified


def _audit(experiment: Experiment, model: str) -> Certificate:
    run, layout = experiment.run, experiment.run.model(model)
    last = layout.checkpoints()[-1]
    info = CheckpointInfo.read(layout.checkpoint(last))
    tables = {path.name: file_fingerprint(path) for path in (run.items, run.texts, run.assignment, run.plan) if path.exists()}
    ledger = {path.name: file_fingerprint(path) for path in layout.ledgers()}
    marks = {"corpus": experiment.corpus.meta["fingerprint"], "checkpoint": info.files.get("model.safetensors"), **tables, **ledger}
    certificate = audit(
        experiment.base_stream(),  # the audit lays the plan over it by itself
        experiment.plan_of(model),
        experiment.texts_of(model),
        layout.ledgers(),
        shape_of(experiment.recipe),
        model=model,
        steps=last,
        assignment=experiment.assignment_of(model),
        fingerprints=marks,
    )
    for what in not_as_made(run.job("plan"), run.root, tables):
        certificate.violate(Violation("plan", what))
    for what in changed_files(run, model):
        certificate.violate(Violation("files", what))
    if model in experiment.branches:
        for what in _not_shared(run, experiment.branches[model]):
            certificate.violate(Violation("branch", what))
    if info.corpus != marks["corpus"]:
        certificate.violate(Violation("ledger", f"the checkpoint was trained of corpus {info.corpus[:12]}, not of the run's"))
    return certificate


def _not_shared(run: RunLayout, branch: Branch) -> list[str]:
    """What of a branch is not its parent's before the step where they part, in ledger and weights; or no longer its placebo."""
    own, parent = run.model(branch.name), run.model(branch.parent)
    shared, theirs = ([r for r in read_ledger(each.ledgers()) if r.step < branch.step] for each in (own, parent))
    weights = {CheckpointInfo.read(each.checkpoint(branch.step)).weights for each in (own, parent)}
    found = []
    if shared != theirs:
        found.append(f"the ledger before step {branch.step:,} is not that of {branch.parent}, whose steps these are")
    if weights != {branch.weights}:
        found.append(f"the weights of step {branch.step:,} are not those of {branch.parent} that it branched off from")
    if branch.placebo is not None and file_fingerprint(own.placebo) != branch.spans:
        found.append(f"{own.placebo.name} is not the file that was made for it")
    return found


def _computed_otherwise(run: RunLayout, branch: Branch) -> str:
    """In what a branch was computed otherwise than its parent, if in anything: then they differ by rounding, too."""
    own, theirs = (
        CheckpointInfo.read(each.checkpoint(each.checkpoints()[-1])).made_with
        for each in (run.model(branch.name), run.model(branch.parent))
    )
    differing = [
        f"{key} {own.get(key)} instead of {theirs.get(key)}"
        for key in sorted(own.keys() | theirs.keys())
        if own.get(key) != theirs.get(key)
    ]
    return (
        f"it was computed otherwise ({', '.join(differing)}), so it differs from {branch.parent} by rounding, too"
        if differing
        else ""
    )


def inspect_run(root: Path, model: str, step: int, row: int | None = None) -> None:
    """Print the rows of a step, or one of them by its number in the step, as the model saw them, insertions coloured."""
    experiment = Experiment.of(root)
    if model in experiment.recipe.stages:
        _inspect_stage(experiment, model, step, row)
        return
    shape = shape_of(experiment.recipe)
    if row is not None and not 0 <= row < shape.global_batch:
        raise RecipeError(f"--row is {row}; a step has rows 0 to {shape.global_batch - 1}")
    stream, plan = experiment.stream(_planned(experiment, model)), experiment.plan_of(model)
    number = None if row is None else step * shape.global_batch + row
    rows = rows_of_step(stream, plan, step, shape, experiment.corpus.tokenizer, number)
    Console(highlight=False, soft_wrap=True).print(render(rows, step))


def _inspect_stage(experiment: Experiment, model: str, step: int, row: int | None) -> None:
    train = experiment.recipe.stages[model].train
    if not 0 <= step < train.steps:
        raise RecipeError(f"--step is {step}; {model} has steps 0 to {train.steps - 1:,}")
    if row is not None and not 0 <= row < train.global_batch:
        raise RecipeError(f"--row is {row}; a step of {model} has rows 0 to {train.global_batch - 1}")
    number = None if row is None else step * train.global_batch + row
    shown = render_mixture(experiment.staging.mixing.stream(model), step, experiment.corpus.tokenizer, number)
    Console(highlight=False, soft_wrap=True).print(shown)


def _model(experiment: Experiment, model: str) -> str:
    """A model that has checkpoints."""
    if model not in experiment.run.models():
        possible = ", ".join(experiment.run.models()) or "none yet"
        raise RecipeError(f"{experiment.run.root} has no checkpoints of {model!r}; models that have some: {possible}")
    return model


def _planned(experiment: Experiment, model: str) -> str:
    """A model that the run trains."""
    if model not in experiment.models:
        possible = [*experiment.models, *experiment.recipe.stages]
        raise RecipeError(f"--model is {model!r}; the run has {', '.join(possible)}")
    return model
