from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import ImprintError, RecipeError, Stopped
from slurm.points import do_points


class Work:
    """Work that notes which points it was done for, and fails for some of them."""

    def __init__(self, failing: str = "", error: type[Exception] = ImprintError):
        self.done: list[str] = []
        self.failing, self.error = failing, error

    def __call__(self, experiment: Any) -> None:
        self.done.append(experiment.recipe.point)
        if experiment.recipe.point == self.failing:
            raise self.error("there is no room")


def points(*names: str) -> list[Any]:
    return [SimpleNamespace(recipe=SimpleNamespace(point=name), run=SimpleNamespace(config=Path("config.yaml"))) for name in names]


def test_points_are_done_in_order_each_under_its_name(capsys: pytest.CaptureFixture) -> None:
    work, then = Work(), Work()
    do_points(points("a", "b"), work, lambda all_of_them: then.done.extend(each.recipe.point for each in all_of_them))
    assert (work.done, then.done) == (["a", "b"], ["a", "b"])
    assert [line for line in capsys.readouterr().out.splitlines() if line] == ["a (1 of 2)", "b (2 of 2)"]


def test_a_point_that_fails_is_told_of_and_the_others_go_on(capsys: pytest.CaptureFixture) -> None:
    work, ended = Work("a"), []
    with pytest.raises(ImprintError, match="1 of 3 points failed, for the reasons above: a; run again") as refused:
        do_points(points("a", "b", "c"), work, lambda _: ended.append("then"))
    assert "\n" not in str(refused.value)
    assert (work.done, ended) == (["a", "b", "c"], ["then"])
    assert capsys.readouterr().err == "imprint: a: there is no room\n"


def test_a_stopped_point_stops_everything_at_once() -> None:
    work, ended = Work("a", Stopped), []
    with pytest.raises(Stopped):
        do_points(points("a", "b"), work, lambda _: ended.append("then"))
    assert (work.done, ended) == (["a"], [])


def test_what_is_no_sweep_says_nothing_of_points(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ImprintError, match=r"^there is no room$"):
        do_points(points(""), Work(""))
    assert capsys.readouterr().out == ""


def test_several_processes_that_were_started_outside_are_refused_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    work = Work()
    with pytest.raises(RecipeError, match="started 2 processes"):
        do_points(points("a", "b"), work)
    do_points(points("a"), work, lambda _: work.done.append("then"))
    assert work.done == ["a"]  # and only the leading process goes on
