"""`imprint branch`: find where a branch can leave its parent, refuse where it can't, and record it; its jobs are then the run's.

Full state is kept before each window's first exposure (`train.checkpoints.resumable`), so a branch goes on from there: what both
share is not trained again, and what differs after it comes of what was removed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ImprintError, RecipeError
from configs.layout import CheckpointInfo, file_fingerprint, fingerprint
from configs.lock import Lock
from configs.tables import PLACEBO, read_table, write_table
from inject.placebo import placebo_spans
from slurm.branches import Branch, write_branch
from slurm.jobs import Experiment
from slurm.planning import shape_of
from slurm.training import FOLLOWER_SECONDS
from train.checkpoint import is_resumable
from train.held_out import held_out_rows
from train.stop import Stop

NOTHING = "nothing"
READINGS = {"set": "item_set", "arm": "arm", "group": "group", "item": "item_id"}  # what a name can be the name of
RESERVED = ["perturbed", "standard", "report", "overview", "jobs", "slurm", "corpus", "all", NOTHING]


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    without: Sequence[str]  # item sets, arms, groups, items, files of such names; or `nothing`
    step: int | None  # where to branch off; the last possible one if not given
    parent: str
    name: str | None
    placebo: int | None  # the seed of a placebo


def branch_run(root: Path, request: Request, stop: Stop | None = None) -> Experiment:
    """Record a branch of a run, unless it is recorded; the run with it. RecipeError, and nothing written, where it can't be."""
    experiment = Experiment.of(root, stop)
    branch = plan_branch(experiment, request)
    record = experiment.run.model(branch.name).branch
    if branch.name not in experiment.branches:
        if experiment.world.leads:
            _write(experiment, branch)
        _await(record)
    return Experiment.of(root, stop)


def plan_branch(experiment: Experiment, request: Request) -> Branch:
    """The branch that a request asks for, its placebo's spans not yet made; or the recorded one, where it is this."""
    recipe, run, parent = experiment.recipe, experiment.run, request.parent
    if recipe.models:
        raise RecipeError(f"{run.root} scores models that exist; nothing was trained there, so there is nothing to branch off from")
    if parent not in experiment.models:
        raise RecipeError(f"--model is {parent!r}; the run has {', '.join(experiment.models)}")
    training = next(job for job in experiment.jobs() if job.name == f"train-{parent}")
    if reason := training.missing():
        raise RecipeError(
            f"{parent} of {run.root} is not trained to its end ({reason}), which imprint train does; a branch comes after"
        )
    items, words = named_items(request.without, read_table(run.items), read_table(run.assignment))
    plan = experiment.plan_of(parent)
    removed = plan.filter(pc.is_in(plan["item_id"], pa.array(items, pa.string())))
    if items and not removed.num_rows:
        raise RecipeError(f"--without names {', '.join(words)}, of which {parent} has no copy, so there is nothing to remove")
    if request.placebo is not None and not removed.num_rows:
        raise RecipeError("--placebo changes as many base spans as --without removes copies, and it removes nothing; name items")
    step = _step(experiment, request, removed)
    started = CheckpointInfo.read(run.model(parent).checkpoint(step))
    ids = sorted(pc.unique(removed["item_id"]).to_pylist())
    branch = Branch("", parent, step, words, ids, request.placebo, started.weights)
    branch = replace(branch, name=request.name or _name(branch))
    if known := experiment.branches.get(branch.name):
        if replace(known, without=words, spans="") != branch:
            raise RecipeError(f"{run.root} has another branch of that name: {known.told()}; give this one another with --name")
        return known
    _check_name(experiment, branch.name)
    return branch


def named_items(names: Sequence[str], items: pa.Table, assignment: pa.Table) -> tuple[list[str], list[str]]:
    """The ids of the items that names stand for, sorted; and the names. A file stands for the names in it, one a line.

    RecipeError for a name that stands for nothing, or for two things of different items.
    """
    ids = assignment["item_id"].to_pylist()
    sets = dict(zip(items["item_id"].to_pylist(), items["item_set"].to_pylist(), strict=True))
    columns = {"item_set": [sets[item] for item in ids], "item_id": ids}
    columns |= {name: assignment[name].to_pylist() for name in ("arm", "group")}
    found: set[str] = set()
    for name in _read(names):
        kind, colon, rest = name.partition(":")
        readings = {kind: READINGS[kind]} if colon and kind in READINGS else READINGS
        wanted = rest if len(readings) == 1 else name
        members = {
            key: {i for i, own in zip(ids, columns[column], strict=True) if own == wanted} for key, column in readings.items()
        }
        members = {key: own for key, own in members.items() if own}
        if not members:
            known = f"item sets {', '.join(dict.fromkeys(columns['item_set']))}; arms {', '.join(dict.fromkeys(columns['arm']))}"
            raise RecipeError(
                f"--without names {name!r}, which is no item set, arm, group or item of the run, nor a file; it has {known}"
            )
        if any(own != next(iter(members.values())) for own in members.values()):
            kinds = ", ".join(f"{key}:{wanted} ({len(own):,} items)" for key, own in members.items())
            raise RecipeError(f"--without names {name!r}, which can mean {kinds}; give one of these")
        found |= next(iter(members.values()))
    return sorted(found), list(names)


def _read(names: Sequence[str]) -> list[str]:
    """The names, those of files in place of the files'."""
    if NOTHING in names:
        if len(names) > 1:
            raise RecipeError(f"--without is {', '.join(names)}; `{NOTHING}` stands alone")
        return []
    read: list[str] = []
    for name in names:
        try:
            lines = Path(name).read_text().splitlines() if Path(name).is_file() else [name]
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"--without names the file {name}, which can't be read: {error}; give one with a name a line"
            ) from error
        read += [line.strip() for line in lines if line.strip()]
    if not read:
        raise RecipeError(f"--without names nothing; give item sets, arms, groups or items, a file of such names, or `{NOTHING}`")
    return read


def _step(experiment: Experiment, request: Request, removed: pa.Table) -> int:
    """Where the branch leaves: the step asked for, or the last that is possible.

    The first planned copy counts, also one in a step that was left out as a spike: without the copy it might have been taken.
    """
    layout, last = experiment.run.model(request.parent), experiment.recipe.train.steps
    resumable = [step for step in layout.checkpoints() if is_resumable(layout.checkpoint(step)) and step < last]
    first, seen = last, "its end"
    if removed.num_rows:
        place = int(pc.index(removed["row"], pc.min(removed["row"])).as_py())
        first = removed["row"][place].as_py() // experiment.recipe.train.global_batch
        seen = f"the first copy to be removed, of {removed['item_id'][place].as_py()}, in step {first:,}"
    possible = [step for step in resumable if step <= first]
    told = f"the checkpoints that hold full state and have not seen it: {', '.join(f'{step:,}' for step in possible) or 'none'}"
    more = "" if possible else "; train.checkpoints.resumable=all keeps full state in all, for a run of another name="
    if request.step is None and possible:
        return possible[-1]
    if request.step is None:
        raise RecipeError(f"{request.parent} has no checkpoint to branch off from before {seen}; {told}{more}")
    if request.step > first:
        raise RecipeError(f"--from is {request.step}, but {request.parent} has then seen {seen}; {told}{more}")
    if request.step not in possible:
        there = request.step in layout.checkpoints()
        what = (
            f"the checkpoint of step {request.step:,} holds a model without the optimizer's state" if there else "there is no such"
        )
        what += "" if there else f" checkpoint of {request.parent}"
        raise RecipeError(f"--from is {request.step}, but {what}, so training can't go on from it to {seen}; {told}{more}")
    return request.step


def _name(branch: Branch) -> str:
    """A name that says what the branch is."""
    [word, *others] = branch.without
    plain = not others and re.fullmatch(r"[\w.-]+", word) and not Path(word).is_file()
    what = word if plain else f"{len(branch.items)}-items-{fingerprint(branch.items)[:6]}"
    how = "without" if branch.placebo is None else f"placebo-{branch.placebo}-for"
    return f"{'' if branch.parent == 'perturbed' else branch.parent + '-'}from-{branch.step}-{how}-{what}"


def _check_name(experiment: Experiment, name: str) -> None:
    arms = pc.unique(read_table(experiment.run.assignment, columns=["arm"])["arm"]).to_pylist()
    taken = [*RESERVED, *arms, *(f"without-{item_set}" for item_set in experiment.recipe.insert)]
    if not re.fullmatch(r"\w[\w.-]*", name) or name in taken or (experiment.run.root / name).exists():
        raise RecipeError(
            f"--name is {name!r}; it must be made of letters, digits, dots, dashes and underscores, and not be the name of a "
            "model, an arm or anything else of the run"
        )


def _write(experiment: Experiment, branch: Branch) -> None:
    """Make the spans of a placebo, and then the record."""
    layout = experiment.run.model(branch.name)
    spans = _spans(experiment, branch) if branch.placebo is not None else None
    with Lock(experiment.run.root, experiment.world.scheduled):
        if spans is not None:
            write_table(layout.placebo, spans, PLACEBO)
            branch = replace(branch, spans=file_fingerprint(layout.placebo))
        layout.root.mkdir(exist_ok=True)
        write_branch(layout.branch, branch)


def _spans(experiment: Experiment, branch: Branch) -> pa.Table:
    recipe, stream = experiment.recipe, experiment.base_stream()
    plan = experiment.plan_of(branch.parent)
    removed = plan.filter(pc.is_in(plan["item_id"], pa.array(branch.items, pa.string())))
    shape, held_out = shape_of(recipe), held_out_rows(recipe.train, stream.base_rows)
    unread = range(shape.rows, stream.base_rows)
    beside = range(unread.start, unread.stop - len(held_out))  # what the loss is taken on stays unseen, where there is other text
    assert branch.placebo is not None
    return placebo_spans(removed, plan, stream, beside or unread, shape, branch.placebo)


def _await(record: Path) -> None:
    """Wait until the leading process has written the record, which it does before it trains."""
    end = time.monotonic() + FOLLOWER_SECONDS
    while not record.exists():
        if time.monotonic() > end:
            raise ImprintError(f"the leading process does not write {record}, which training waits for")
        time.sleep(0.2)
