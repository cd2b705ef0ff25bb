"""Which tasks of which arrays are submitted, and what they wait for."""

from collections.abc import Sequence
from pathlib import Path

from slurm.arrays import Arrays, Call, Wait
from slurm.jobs import Job
from slurm.submission import Task


def job(name: str, array: str, *needs: str) -> Job:
    return Job(name, "", [], lambda: None, Path(name), list(needs), array, Path())


def arrays(*points: Sequence[Job]) -> Arrays:
    names = [f"point-{number}" for number in range(len(points))]
    states = {(point, each.name): ("missing", "") for point, own in zip(names, points, strict=True) for each in own}
    return Arrays(names, points, states, list(range(len(points))))


def test_jobs_of_one_array_that_need_nothing_of_each_other_are_tasks_of_their_own() -> None:
    models = [job(f"eval-{name}", "eval", "items") for name in "abc"]
    found = arrays([job("items", ""), *models, job("report", "report", *(each.name for each in models))])
    assert found.tasks["eval"] == [Task("point-0", [f"eval-{name}"]) for name in "abc"]
    assert found.calls() == [
        Call("eval", [0, 1, 2], []),
        Call("report", [0], [Wait("afterok", 0)]),
    ]


def test_an_array_of_several_tasks_a_point_is_waited_for_by_the_tasks_of_the_point() -> None:
    models = [job(f"eval-{name}", "eval") for name in "ab"]
    found = arrays(*([*models, job("report", "report", "eval-a", "eval-b")] for _ in range(2)))
    assert found.calls()[1:] == [
        Call("report", [0], [Wait("afterok", 0, 0), Wait("afterok", 0, 1)]),
        Call("report", [1], [Wait("afterok", 0, 2), Wait("afterok", 0, 3)]),
    ]


def test_points_with_other_models_keep_their_index_in_every_array() -> None:
    def point(*models: str) -> list[Job]:
        trained = [job(f"train-{model}", f"train-{model}") for model in models]
        evaluated = [job(f"eval-{model}", f"eval-{model}", f"train-{model}") for model in models]
        return [*trained, *evaluated, job("report", "report", *(each.name for each in evaluated))]

    found = arrays(point("perturbed"), point("standard"), point("perturbed", "standard"))
    assert [task.jobs for task in found.tasks["train-standard"]] == [[], ["train-standard"], ["train-standard"]]
    assert found.calls()[4:] == [
        Call("report", [0], [Wait("aftercorr", 2)]),
        Call("report", [1], [Wait("aftercorr", 3)]),
        Call("report", [2], [Wait("aftercorr", 2), Wait("aftercorr", 3)]),
    ]
