"""What can be seen to be impossible from the settings of SLURM jobs alone; what a site allows, its sbatch says."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from configs.errors import RecipeError
from configs.slurm import Resources, Slurm

RUNTIMES = ["pyxis", "apptainer"]
KINDS = [f.name for f in fields(Slurm) if f.default_factory is Resources]
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
AT_LEAST = {"nodes": 1, "gpus": 0, "tasks": 1, "cpus": 1, "parallel": 1, "warning": 1}
LONGEST_WARNING = 65_535  # seconds; sbatch's --signal takes no more
PROCESSES = ["nodes", "tasks"]  # of which only a training has several: one process does any other job
OWN = {  # options of sbatch that have a setting
    **{name: name for name in ("partition", "account", "qos", "constraint", "time", "nodes")},
    **{"gpus-per-node": "gpus", "ntasks-per-node": "tasks", "cpus-per-task": "cpus", "mem": "memory"},
}
MADE = ["array", "comment", "dependency", "job-name", "kill-on-invalid-dep", "ntasks", "output", "parsable", "wrap"]


def check_slurm(slurm: Slurm) -> None:
    """RecipeError for a value that no site can mean."""
    _check_section(slurm, "slurm")
    for kind in KINDS:
        own = getattr(slurm, kind)
        _check_section(own, f"slurm.{kind}")
        for name in PROCESSES if kind != "train" else []:
            if (getattr(own, name) or 1) > 1:
                raise RecipeError(f"slurm.{kind}.{name} is {getattr(own, name)}, but one process does such a job; leave it out")
    if slurm.runtime not in RUNTIMES:
        raise RecipeError(f"slurm.runtime is {slurm.runtime!r}; possible: {', '.join(RUNTIMES)}")
    if slurm.mounts and slurm.container is None:
        raise RecipeError(f"slurm.mounts is {slurm.mounts}, but there is no slurm.container that would see them")
    limit, warning = seconds(slurm.train.time or slurm.time), slurm.warning
    if warning > LONGEST_WARNING or (limit is not None and warning >= limit):
        key = "slurm.train.time" if slurm.train.time else "slurm.time"
        most = LONGEST_WARNING if limit is None else min(LONGEST_WARNING, limit - 1)
        raise RecipeError(f"slurm.warning is {warning} seconds before the limit of {key}; it can be 1 to {most}")


def seconds(time: str) -> int | None:
    """A time limit in SLURM's way to write it, in seconds; None without a limit.

    >>> [seconds(time) for time in ("90", "30:00", "24:00:00", "2-0", "1-12:30")]
    [5400, 1800, 86400, 172800, 131400]
    """
    if time.lower() in ("unlimited", "infinite"):
        return None
    found = TIME.fullmatch(time)
    if not found:
        raise RecipeError(f"the time limit {time!r} is none that SLURM knows; write minutes, or as 30:00, 24:00:00 or 2-00:00:00")
    first, second, third = (int(found[name] or 0) for name in ("first", "second", "third"))
    if found["days"] is not None:
        return ((int(found["days"]) * 24 + first) * 60 + second) * 60 + third
    if found["third"] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


def _check_section(section: Slurm | Resources, where: str) -> None:
    for f in fields(section):
        value, key = getattr(section, f.name), f"{where}.{f.name}"
        if f.name in AT_LEAST and value is not None and value < AT_LEAST[f.name]:
            raise RecipeError(f"{key} is {value}; it must be {AT_LEAST[f.name]} or more")
        if any("\n" in text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)):
            raise RecipeError(f"{key} is {value!r}, which has several lines; give one")
        if isinstance(value, str) and not value.strip():
            raise RecipeError(f"{key} is empty; give a value, or leave it out")
    if section.time is not None:
        try:
            limit = seconds(section.time)
        except RecipeError as error:
            raise RecipeError(f"{where}.time: {error}") from error
        if limit == 0:
            raise RecipeError(f"{where}.time is {section.time}; it must be more than 0")
    if section.memory is not None and not MEMORY.fullmatch(section.memory):
        raise RecipeError(f"{where}.memory is {section.memory!r}; write it as 200G (of each node; 0 is all of it)")
    for option, value in section.options.items():
        _check_option(option, value, f"{where}.options")


def _check_option(option: str, value: Any, where: str) -> None:
    name = option.replace("_", "-")
    if name in OWN:
        raise RecipeError(f"{where}.{option} has a setting of its own: {where.removesuffix('options')}{OWN[name]}")
    if name in MADE:
        raise RecipeError(f"{where}.{option} can't be set: imprint submit sets it")
    if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
        raise RecipeError(f"{where}.{option} is not an option of sbatch; write its long name without dashes before it")
    if value is not None and not isinstance(value, str | int | float):
        raise RecipeError(f"{where}.{option} is {value!r}; it must be one value, or true for an option without a value")
    if isinstance(value, str) and "\n" in value:
        raise RecipeError(f"{where}.{option} is {value!r}, which has several lines; give one")
