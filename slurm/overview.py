"""The overview of a sweep, from the files of its points: which are done, and what each of them found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ImprintError
from configs.layout import RunLayout
from slurm.jobs import Experiment, Job
from slurm.submission import OVERVIEW

if TYPE_CHECKING:
    from eval.overview import Point

COLUMNS = 6  # points beside each other in a terminal
SHORT = {"not decidable": "?"}
REPORTS = "the reports"  # of all points, which the job of an overview needs, done or not


@dataclass(frozen=True)
class Comparison(Job):
    """The job that compares the points of a sweep. Its page is its record, too."""

    reports: list[Path]  # the records of the points' reports

    @staticmethod
    def of(experiments: Sequence[Experiment], reports: Sequence[Job]) -> Comparison:
        def work() -> None:
            overview(experiments)

        page, records = RunLayout(experiments[0].recipe.home).overview, [report.record for report in reports]
        return Comparison(OVERVIEW, "", [page], work, page, [REPORTS], OVERVIEW, page.parent, records)

    def missing(self) -> str | None:
        if not self.record.exists():
            return "not done yet"
        newest = max((path.stat().st_mtime for path in self.reports if path.exists()), default=0.0)
        return "a report is newer" if newest > self.record.stat().st_mtime else None


def overview(experiments: Sequence[Experiment]) -> Path:
    """Write `overview/index.html` and `findings.csv` beside the points of a sweep; returns the page. Points need not be done."""
    from eval.overview import write_overview

    home = RunLayout(experiments[0].run.root.parent)  # not recipe.home, from which runs may have been moved since
    points = read_points(experiments)
    others = [name for name in home.points() if name not in {point.name for point in points}]
    return write_overview(home.overview.parent, experiments[0].recipe.name, points, others)


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
