"""The overview of a sweep, from the files of its points: which are done, and what each of them found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import DataError, ImprintError
from configs.layout import RunLayout, fingerprint
from slurm.jobs import Experiment, Job
from slurm.submission import OVERVIEW

if TYPE_CHECKING:
    import pandas as pd

    from eval.overview import Point
    from eval.paired_seeds import PairedModel

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
    """Write `overview/index.html` and tables beside the points of a sweep; returns the page. Points need not be done."""
    from eval.overview import write_overview

    home = RunLayout(experiments[0].run.root.parent)  # not recipe.home, from which runs may have been moved since
    points = read_points(experiments)
    others = [name for name in home.points() if name not in {point.name for point in points}]
    across, measured = attack_across(experiments, points), measures_of_points(experiments, points)
    return write_overview(home.overview.parent, experiments[0].recipe.name, points, others, across, measured)


def read_points(experiments: Sequence[Experiment]) -> list[Point]:
    """What the points of a sweep have found, in their order, whether or not all of it is up to date."""
    return [_read(experiment) for experiment in experiments]


def measures_of_points(experiments: Sequence[Experiment], points: Sequence[Point]) -> pd.DataFrame:
    """The effects at the last checkpoint of those points that are done, with a column `point`; empty where there are none."""
    import pandas as pd

    from configs.tables import EFFECTS, read_table
    from eval.overview import DONE

    found = [EFFECTS.empty_table().to_pandas().assign(point="")]
    for experiment, point in zip(experiments, points, strict=True):
        path = experiment.run.root / "effects.parquet"
        if point.state == DONE and path.exists():
            effects = read_table(path).to_pandas()
            found.append(effects[effects["step"] == effects.groupby("model")["step"].transform("max")].assign(point=point.name))
    return pd.concat(found, ignore_index=True)


def attack_across(experiments: Sequence[Experiment], points: Sequence[Point]) -> pd.DataFrame:
    """The table of membership attacks over the perturbed models of those points that are done; empty where they can't be paired."""
    from eval.overview import DONE
    from eval.paired_seeds import shadow_table

    models = [_paired(each, point) for each, point in zip(experiments, points, strict=True) if point.state == DONE]
    return shadow_table([model for model in models if model is not None])


def _paired(experiment: Experiment, point: Point) -> PairedModel | None:
    """The perturbed model of a point; None where there is none, the loss is not among its attacks, or its files are damaged."""
    from configs.tables import read_table
    from eval.overview import settings_of_cell
    from eval.paired_seeds import PairedModel, texts_of

    recipe, run = experiment.recipe, experiment.run
    if recipe.models or "perturbed" not in recipe.train.models or "loss" not in recipe.eval.membership:
        return None
    paths = [run.items, run.assignment, run.model("perturbed").scores / "scores.parquet"]
    try:
        texts = read_table(run.texts, columns=["item_id", "variant", "text", "tokens"])
        items, assignment, scores = (read_table(path).to_pandas() for path in paths)
    except DataError as error:
        print(f"  {point.name} takes no part in attacks across points: {error}", flush=True)
        return None
    own = texts_of(texts.to_pandas(), items, assignment, scores)
    return PairedModel(point.name, settings_of_cell(point), fingerprint(texts.to_pylist()), own)


def side_by_side(points: Sequence[Point]) -> Iterator[tuple[list[int], list[list[str]]]]:
    """For a terminal: numbers of as many points as fit beside each other, and a row a finding: what, of which kind, each value."""
    from eval.overview import collect
    from eval.report import estimate

    findings = collect(points)

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return "-"
        verdict, _, _ = row["verdict"].partition(" (")  # what it could not be decided for is on the page
        return f"{estimate(row)['value']} {SHORT.get(verdict, verdict)}"

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
