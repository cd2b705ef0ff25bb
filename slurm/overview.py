"""The overview of a sweep, from the files of its points: which are done, and what each of them found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ImprintError
from configs.layout import RunLayout
from slurm.jobs import Experiment

if TYPE_CHECKING:
    from eval.overview import Point

COLUMNS = 6  # points beside each other in a terminal
SHORT = {"not decidable": "?"}


def overview(experiments: Sequence[Experiment]) -> Path:
    """Write `overview/index.html` and `findings.csv` beside the points of a sweep; returns the page. Points need not be done."""
    from eval.overview import write_overview

    home = experiments[0].run.root.parent
    points = read_points(experiments)
    others = [name for name in RunLayout(home).points() if name not in {point.name for point in points}]
    return write_overview(home / "overview", experiments[0].recipe.name, points, others)


def read_points(experiments: Sequence[Experiment]) -> list[Point]:
    """What the points of a sweep have found, in their order, whether or not all of it is up to date."""
    return [_read(experiment) for experiment in experiments]


def side_by_side(points: Sequence[Point]) -> Iterator[tuple[list[int], list[list[str]]]]:
    """For a terminal: numbers of as many points as fit beside each other, and a row a finding: what, of which kind, each value."""
    from eval.overview import collect
    from eval.report import estimate

    findings = collect(points)

    def cell(row: dict[str, Any] | None) -> str:
        return "-" if row is None else f"{estimate(row)['value']} {SHORT.get(row['verdict'], row['verdict'])}"

    for first in range(0, len(points) if findings else 0, COLUMNS):
        rows = [[each.name, each.kind, *map(cell, each.found[first : first + COLUMNS])] for each in findings]
        yield list(range(first + 1, min(first + COLUMNS, len(points)) + 1)), rows


def _read(experiment: Experiment) -> Point:
    from eval.overview import DONE, MISSING, OUTDATED, Point

    name, settings = experiment.recipe.point, experiment.recipe.swept
    try:
        jobs = experiment.jobs()
        if jobs[-1].missing() is None:  # its fingerprint covers those of the jobs before
            return Point(name, settings, DONE, findings=experiment.findings())
        next_job, why = next((job.name, why) for job in jobs if (why := job.missing()))
        found = experiment.findings() if (experiment.run.report / "findings.json").exists() else []
    except ImprintError as error:  # damaged files of one point do not hide the others
        return Point(name, settings, MISSING, str(error))
    return Point(name, settings, OUTDATED if found else MISSING, f"{next_job}: {why}", found)
