"""A training whose processes are on two nodes, on a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cluster.slurm import Cluster
from tests.kill.runs import LAUNCHED, REPOSITORY, Runs, faults

SRUN = ["srun", "--nodes=2", "--ntasks-per-node=1", "--time=10", "--immediate=240"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("two-nodes"))


@pytest.mark.parametrize("strategy", ["zero_1", pytest.param("ddp", marks=pytest.mark.slow)])
def test_processes_of_two_nodes_train_what_two_of_one_machine_train(cluster: Cluster, runs: Runs, strategy: str) -> None:
    if len(cluster.nodes) < 2:
        pytest.skip("the SLURM cluster has one node")
    settings = f"train.strategy={strategy}"
    local = runs.train(f"local-{strategy}", settings, processes=2)
    assert local.wait() == [0, 0], local.told()
    planned = runs.fork(runs.arguments("plan", strategy, settings))
    assert planned.wait() == [0], planned.told()
    command = [*SRUN, sys.executable, str(REPOSITORY / "imprint.py"), "job", str(runs.root(strategy)), "train-perturbed"]
    done = subprocess.run(command, env=_outside_a_job() | LAUNCHED, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{strategy} on 2 cpu devices" in done.stdout
    assert faults(runs.root(strategy), runs.root(f"local-{strategy}")) == []


def _outside_a_job() -> dict[str, str]:
    """The environment without what SLURM tells of the job that the tests may run in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
