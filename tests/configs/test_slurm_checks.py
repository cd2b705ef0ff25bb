"""The settings of SLURM jobs: times as people write them, and values that no site can mean."""

from pathlib import Path

import pytest

from configs.errors import RecipeError
from configs.recipe import load_recipe, save_recipe

RECIPE = """
insert: {codes: {kind: canary, count: 6}}
design: {copies: [0, 3], sizes: [2, 4]}
slurm:
  time: 24:00:00
  train: {time: 1:30:00}
  options: {begin: 16:00}
"""
REFUSED = {
    "slurm.nodes=0": "slurm.nodes is 0; it must be 1 or more",
    "slurm.eval.gpus=-1": "slurm.eval.gpus is -1; it must be 0 or more",
    "slurm.plan.nodes=2": "slurm.plan.nodes is 2, but one process does such a job",
    "slurm.eval.tasks=8": "slurm.eval.tasks is 8, but one process does such a job",
    "slurm.time=0": "slurm.time is 0; it must be more than 0",
    "slurm.plan.time=soon": "slurm.plan.time: the time limit 'soon' is none that SLURM knows",
    "slurm.warning=5400": "slurm.warning is 5400 seconds before the limit of slurm.train.time; it can be 1 to 5399",
    "slurm.runtime=docker": "slurm.runtime is 'docker'; possible: pyxis, apptainer",
    "slurm.mounts=[/data]": "there is no slurm.container that would see them",
    "slurm.memory=much": "slurm.memory is 'much'; write it as 200G",
    "slurm.options.partition=gpu": "slurm.options.partition has a setting of its own: slurm.partition",
    "slurm.eval.options.gpus_per_node=1": "slurm.eval.options.gpus_per_node has a setting of its own: slurm.eval.gpus",
    "slurm.options.array=0-3": "slurm.options.array can't be set: imprint submit sets it",
    "slurm.options={p: gpu}": "slurm.options.p is not an option of sbatch; write its long name",
    "slurm.options.gres=[a]": "slurm.options.gres is \\['a'\\]; it must be one value",
    'slurm.setup=["a\\nb"]': "which has several lines; give one",
    "slurm.partition=''": "slurm.partition is empty",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def test_times_are_taken_as_they_are_written_without_quotes(path: Path) -> None:
    slurm = load_recipe(path).slurm
    assert (slurm.time, slurm.train.time, slurm.options) == ("24:00:00", "1:30:00", {"begin": "16:00"})


@pytest.mark.parametrize("time", ["12:00:00", "90", "2-00:00:00", "4:00:00"])
def test_times_are_taken_as_they_are_written_on_the_command_line(path: Path, time: str) -> None:
    assert load_recipe(path, [f"slurm.time={time}"]).slurm.time == time


def test_times_of_a_saved_recipe_are_the_same(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, ["name=a"])
    save_recipe(recipe, tmp_path / "config.yaml")
    assert load_recipe(tmp_path / "config.yaml") == recipe


@pytest.mark.parametrize("setting", REFUSED)
def test_a_value_that_no_site_can_mean_is_refused(path: Path, setting: str) -> None:
    with pytest.raises(RecipeError, match=REFUSED[setting]):
        load_recipe(path, [setting])
