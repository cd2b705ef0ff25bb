"""The scripts that sbatch is given, one for each array of jobs: what they ask SLURM for, and how they start `imprint job`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os.path import abspath
from pathlib import Path
from typing import Any

from configs.errors import RecipeError
from configs.schema import Recipe
from configs.slurm import Resources, Slurm
from slurm.submission import OVERVIEW, TRAINING, Submission, Task

TEMPLATE = Path(__file__).with_name("script.sbatch")
PLAIN = re.compile(r"[\w@%+=:,./|&()\[\]*^~-]+")  # what sbatch reads as it is in a #SBATCH line
REPLACES = {"no-requeue": "requeue", "mem-per-cpu": "mem", "mem-per-gpu": "mem"}  # options that exclude each other


@dataclass(frozen=True)
class Request:
    """What the tasks of an array ask SLURM for, all alike."""

    nodes: int
    tasks: int  # processes on each node
    gpus: int  # of each node
    cpus: int | None  # of each process
    options: dict[str, Any]  # of sbatch, in order; True for one without a value


def request(recipe: Recipe, kind: str) -> Request:
    """What jobs of a kind (corpus, plan, train, eval, report) ask for: `slurm.<kind>` laid over `slurm`.

    A stage is a training, and finding facts, which takes a model, an evaluation.
    """
    kind = {"stage": "train", "facts": "eval"}.get(kind, kind)
    slurm, own = recipe.slurm, getattr(recipe.slurm, kind, Resources())
    given = {f.name: getattr(own, f.name) for f in fields(Resources) if getattr(own, f.name) is not None}
    common = {name: getattr(slurm, name) for name in ("partition", "account", "qos", "constraint", "time", "cpus", "memory")}
    settings = {**common, **_size(recipe, kind), **given}
    if settings["tasks"] is None:
        settings["tasks"] = settings["gpus"] or _processes(recipe, settings["nodes"])
    chosen = {
        **{name: settings[name] for name in ("partition", "account", "qos", "constraint", "time", "nodes")},
        "ntasks-per-node": settings["tasks"],
        "gpus-per-node": settings["gpus"] or None,
        "cpus-per-task": settings["cpus"],
        "mem": settings["memory"],
        "requeue": True,
        "signal": f"USR1@{slurm.warning}" if kind == "train" else None,
    }
    for name, value in {**slurm.options, **own.options}.items():
        chosen[name.replace("_", "-")] = value
    for name, replaced in REPLACES.items():
        if chosen.get(name):
            chosen[replaced] = None
    options = {name: value for name, value in chosen.items() if value is not None and value is not False}
    return Request(settings["nodes"], settings["tasks"], settings["gpus"], settings["cpus"], options)


def _size(recipe: Recipe, kind: str) -> dict[str, int | None]:
    """Nodes, GPUs and processes that jobs of a kind have where their own settings do not say."""
    slurm = recipe.slurm
    if kind == "train":
        return {"nodes": slurm.nodes, "gpus": slurm.gpus, "tasks": slurm.tasks}
    trained_on = slurm.gpus if slurm.train.gpus is None else slurm.train.gpus
    return {"nodes": 1, "gpus": 1 if kind == "eval" and trained_on else 0, "tasks": 1}


def _processes(recipe: Recipe, nodes: int) -> int:
    """Processes on each node of a training without GPUs."""
    each, remainder = divmod(recipe.train.devices or nodes, nodes)
    if remainder or not each:
        raise RecipeError(
            f"train.devices is {recipe.train.devices}, which the {nodes} nodes of slurm.nodes can't share equally; "
            "make it a multiple of them, or set slurm.tasks, the processes on each node"
        )
    return each


def program(slurm: Slurm) -> str:
    """`imprint` on the nodes, as a word or words of shell; RecipeError where it can't be found out."""
    if slurm.program is not None:
        return slurm.program
    if slurm.container is not None:
        return "imprint"
    path = Path(sys.executable).with_name("imprint")
    if not path.exists():
        raise RecipeError(f"imprint is not installed beside {sys.executable}; give its place on the nodes as slurm.program")
    return shlex.quote(str(path))


def render(
    recipe: Recipe, array: str, tasks: Sequence[Task], folders: Mapping[str, Path], submission: Submission, here: Path
) -> str:
    """The script of an array, with a #SBATCH --array line for all its tasks that have jobs.

    `folders` are those of the points' runs, in order, as seen from `here`, where the script is to run.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(TEMPLATE.read_text())
    kind, _, model = array.partition("-")
    compares = array == OVERVIEW
    asked, indices = request(recipe, "report" if compares else kind), [index for index, task in enumerate(tasks) if task.jobs]
    named = {
        "job-name": array,
        "comment": submission.folder,
        "output": f"{_percent(submission.logs)}/{_percent(array)}-%A_%a.out",
        "open-mode": "append",
        "array": ranges(indices, recipe.slurm.parallel),
    }
    again = shlex.join(["imprint", "submit", submission.recipe, *submission.arguments])
    return template.render(
        purpose=_purpose(kind, model, recipe.name, len(indices)),
        command=" ".join(again.split()),  # it is a comment of one line
        options=[_option(name, value) for name, value in {**named, **asked.options}.items()],
        here=shlex.quote(str(here)),
        points=[shlex.quote(str(folder)) for folder in folders.values()] if compares else [],
        home=shlex.quote(str(recipe.home)),
        tasks=[] if compares else [_line(index, tasks[index], folders) for index in indices],
        modules=[shlex.quote(name) for name in recipe.slurm.modules],
        setup=recipe.slurm.setup,
        model=shlex.quote(model) if kind in TRAINING else "",
        srun=_srun(recipe, asked, here, 'overview "${points[@]}"' if compares else 'job "$run" "${jobs[@]}"'),
    )


def ranges(indices: Sequence[int], parallel: int | None = None) -> str:
    """Ascending indices in SLURM's way to write them, of which so many may run at once.

    >>> ranges([0, 1, 2, 5, 7, 8], 4)
    '0-2,5,7-8%4'
    """
    starts = [index for index in indices if index - 1 not in indices]
    ends = [index for index in indices if index + 1 not in indices]
    parts = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]
    return ",".join(parts) + (f"%{parallel}" if parallel and len(indices) > 1 else "")


def _purpose(kind: str, model: str, name: str, points: int) -> str:
    """What a script does, for its first line."""
    of = f"of {name}" if points == 1 else f"of {points} points of {name}"
    work = {
        "corpus": f"Tokenizes the corpus {of}",
        "plan": f"Makes and places the items {of}",
        "train": f"Trains the model {model} {of}",
        "facts": f"Finds the facts that stages learn {of}",
        "stage": f"Trains the stage {model} {of}",
        "eval": f"Audits and evaluates the model {model} {of}" if model else f"Evaluates models {of}",
        "report": f"Writes the report {of}",
        "overview": f"Compares the points of {name}",
    }
    return work.get(kind, f"Does the jobs {kind} {of}")


def _line(index: int, task: Task, folders: Mapping[str, Path]) -> dict[str, Any]:
    return {"index": index, "run": shlex.quote(str(folders[task.point])), "jobs": shlex.join(task.jobs)}


def _option(name: str, value: Any) -> str:
    """One option as a #SBATCH line has it: sbatch takes quotes there as a shell would."""
    if value is True:
        return f"--{name}"
    text = str(value)
    quoted = text if PLAIN.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"--{name}={quoted}"


def _percent(path: object) -> str:
    """Part of the name of a log in which a % is no placeholder."""
    return str(path).replace("%", "%%")


def _srun(recipe: Recipe, asked: Request, here: Path, arguments: str) -> list[str]:
    """What follows `srun`, a line each."""
    slurm = recipe.slurm
    first = ["--kill-on-bad-exit=1"] + (['--cpus-per-task="$SLURM_CPUS_PER_TASK"'] if asked.cpus else [])
    job = f"{program(slurm)} {arguments}"
    if slurm.container is None:
        return [" ".join([*first, job])]
    image, mounts = shlex.quote(slurm.container), [shlex.quote(mount) for mount in _mounts(recipe, here)]
    if slurm.runtime == "pyxis":
        lines = [
            f"--container-image={image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={shlex.quote(str(here))}",
        ]
        return [" ".join(first), *lines, job]
    nvidia = ["--nv"] if asked.gpus else []
    lines = [f"--bind {mount}" for mount in mounts]
    return [" ".join(first), " ".join(["apptainer exec", *nvidia]), *lines, f"--pwd {shlex.quote(str(here))}", image, job]


def _mounts(recipe: Recipe, here: Path) -> list[str]:
    """Folders that a container sees, as FROM:TO: those given, and where runs and corpora lie."""
    own = [here, *(Path(abspath(here / folder)) for folder in (recipe.runs, recipe.cache))]
    needed = [path for path in own if not any(path.is_relative_to(other) for other in own if other != path)]
    given = [mount if ":" in mount else f"{mount}:{mount}" for mount in recipe.slurm.mounts]
    seen = {mount.split(":")[1] for mount in given}
    return [*(f"{path}:{path}" for path in dict.fromkeys(needed) if str(path) not in seen), *given]
