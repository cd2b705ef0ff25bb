"""Trainings that go on with another number of processes, under another strategy, or under another launcher: the same data, and the
same model as far as sums in another order allow.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.layout import CheckpointInfo, ModelLayout
from tests.kill.runs import STEPS, Runs, kill_at, ledger, lines

# Another number of processes, or of rows in a forward pass, adds up the same fp32 numbers in another order: in 60 steps losses and
# gradient norms came to differ by at most 5e-7, relatively, and weights by 3e-5 of their tensor's largest.
LOSS, WEIGHT = 2e-6, 1e-4


def goes_on(runs: Runs, name: str, ways: list[tuple[int, tuple[str, ...]]]) -> None:
    """Train with each of the ways, a number of processes and settings, killed at equal parts of the training."""
    for number, (processes, settings) in enumerate(ways, 1):
        training = runs.train(name, *settings, processes=processes)
        if number < len(ways):
            kill_at(training, runs.model(name), number * STEPS // len(ways))
            training.wait(5)  # what is left is ended, as a launcher would
            training.wait()
        else:
            assert training.wait() == [0] * processes, training.told()
        assert number == 1 or "from step" in training.told()


def differences(own: ModelLayout, unbroken: ModelLayout) -> tuple[float, float]:
    """The largest relative difference of a loss or norm, and of a weight of any checkpoint, as a part of its tensor's largest."""
    losses, weights = 0.0, 0.0
    for line, whole in zip(lines(own), lines(unbroken), strict=True):
        assert line.keys() == whole.keys()
        for name in {"loss", "grad_norm", "held_out_loss"} & line.keys():
            losses = max(losses, abs(line[name] / whole[name] - 1))
    for step in unbroken.checkpoints():
        ours, theirs = (_weights(layout.checkpoint(step)) for layout in (own, unbroken))
        for name in theirs:
            weights = max(weights, float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-30)))
    return losses, weights


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Without the biases of keys: they add the same to all scores of a query, so their gradient is nothing but rounding."""
    weights, heads = load_file(checkpoint / "model.safetensors"), 2
    for name in [name for name in weights if name.endswith("query_key_value.bias")]:
        weights[name] = weights[name].reshape(heads, 3, -1)[:, [0, 2]]
    return weights


def assert_same(runs: Runs, name: str) -> None:
    own, unbroken = runs.model(name), runs.model("unbroken")
    assert ledger(own) == ledger(unbroken)
    assert own.checkpoints() == unbroken.checkpoints()
    losses, weights = differences(own, unbroken)
    print(f"{name}: losses and norms differ by up to {losses:.1e}, weights by {weights:.1e}")  # shown where a limit is passed
    assert losses < LOSS
    assert weights < WEIGHT


ZERO_1, ZERO_2, ZERO_3, DDP = (f"train.strategy={name}" for name in ("zero_1", "zero_2", "zero_3", "ddp"))
PARTS = ("train.micro_batch=1",)
WAYS = {
    "2-zero_1-to-1": [(2, (ZERO_1,)), (1, ("train.micro_batch=2",))],
    "1-to-2-zero_3": [(1, PARTS), (2, (ZERO_3, *PARTS))],
    "2-zero_2-to-4-zero_1": [(2, (ZERO_2,)), (4, (ZERO_1,))],
    "2-ddp-to-2-zero_3": [(2, (DDP, *PARTS)), (2, (ZERO_3,))],
    "1-to-2-to-4-to-1": [(1, ()), (2, (DDP,)), (4, (ZERO_3,)), (1, ("train.accumulation=4",))],
}
QUICK = ("2-zero_1-to-1", "1-to-2-zero_3")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in WAYS])
def test_a_training_goes_on_with_other_processes_and_strategies(runs: Runs, name: str) -> None:
    goes_on(runs, name, WAYS[name])
    assert_same(runs, name)
    devices = [CheckpointInfo.read(runs.model(name).checkpoint(step)).made_with["devices"] for step in (3, STEPS)]
    assert devices == [WAYS[name][0][0], WAYS[name][-1][0]]


def test_devices_that_contradict_the_launcher_are_refused(runs: Runs) -> None:
    training = runs.train("contradicted", "train.devices=4", processes=2)
    leading, other = training.wait(120)
    assert leading == 2
    assert other == 2
    assert "train.devices is 4, but srun or torchrun started 2 processes; start 4, or leave it out" in training.told()
    assert not runs.root("contradicted").exists()


# ------------------------------------------------------------------------------------------------ launchers

BOTH = ("train.models=[perturbed,standard]", "eval.resamples=100")


def assert_whole(runs: Runs, name: str, told: str) -> None:
    """A run of two models whose every job was done once, by one process."""
    root = runs.root(name)
    for model in ("perturbed", "standard"):
        layout = ModelLayout(root / model)
        assert [row["step"] for row in ledger(layout)] == list(range(STEPS))
        assert CheckpointInfo.read(layout.checkpoint(STEPS)).made_with["devices"] == 2
        assert json.loads(layout.certificate.read_text())["verdict"] == "certified"
        assert told.count(f"train-{model}: not done yet") == 1
        assert told.count(f"audit-{model}: not done yet") == 1
    assert told.count("report: not done yet") == 1
    assert (root / "report/index.html").exists()
    assert "Findings of" in told
    assert [path for pattern in ("*.tmp-*", "lock.json") for path in root.rglob(pattern)] == []


def test_a_run_of_two_models_is_launched_like_torchrun_does(runs: Runs) -> None:
    training = runs.fork(runs.arguments("run", "launched", *BOTH), processes=2)
    assert training.wait() == [0, 0], training.told()
    assert_whole(runs, "launched", training.told())
    assert_same(runs, "launched")


@pytest.mark.slow
def test_torchrun_launches_a_run(runs: Runs) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    training = runs.command("torchrun", *BOTH, launcher=launcher, job="run")
    assert training.wait(400) == [0], training.told()
    assert_whole(runs, "torchrun", training.told())


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_srun_launches_a_run(runs: Runs) -> None:
    words = runs.folder / "srun.txt"
    command = [sys.executable, str(Path(__file__).parents[2] / "imprint.py"), *runs.arguments("run", "srun", *BOTH)]
    with words.open("w") as file:
        srun = ["srun", "--ntasks=2", "--nodes=1", "--overcommit", *command]
        done = subprocess.run(
            srun, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, stdout=file, stderr=subprocess.STDOUT, timeout=400
        )
    assert done.returncode == 0, words.read_text()
    assert_whole(runs, "srun", words.read_text())
