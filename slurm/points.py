"""The points of a sweep one after another on one machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from configs.errors import ImprintError, RecipeError, Stopped
from slurm.jobs import Experiment
from train.world import World


def do_points(
    experiments: Sequence[Experiment],
    work: Callable[[Experiment], object],
    then: Callable[[Sequence[Experiment]], None] | None = None,
) -> None:
    """Do the work of every point, in order, and `then`, once, what is about all of them, in the leading process.

    A point that can't be done is told of, and the others are done all the same; in the end an ImprintError names it. Stopped
    stops everything. What is no sweep is a single point, whose error is the only one.
    """
    if len(experiments) == 1:
        work(experiments[0])
    failed = _each(experiments, work) if len(experiments) > 1 else []
    if then is not None and World.here().leads:
        then(experiments)
    if failed:
        raise ImprintError(
            f"{len(failed)} of {len(experiments)} points failed, for the reasons above: {', '.join(failed)}; run again to do only "
            "what is missing"
        )


def _each(experiments: Sequence[Experiment], work: Callable[[Experiment], object]) -> list[str]:
    """Do the work of every point; those that failed."""
    if (size := World.here().size) > 1:
        raise RecipeError(
            f"srun or torchrun started {size} processes, but the points of a sweep follow one another in one process; set "
            f"train.devices={size}, give one point alone, or use imprint submit"
        )
    failed = []
    for number, experiment in enumerate(experiments, 1):
        print(f"\n{experiment.recipe.point} ({number} of {len(experiments)})", flush=True)
        try:
            work(experiment)
        except Stopped:
            raise
        except ImprintError as error:
            print(f"imprint: {experiment.recipe.point}: {error}", file=sys.stderr, flush=True)
            failed.append(experiment.recipe.point)
    return failed
