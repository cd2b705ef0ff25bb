"""Killed and started again: real processes, real SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.layout import Lock

REPOSITORY = Path(__file__).parents[2]
RECIPE = """
name: killed
corpus: {source: synthetic, documents: 100, tokenizer: {vocabulary: 320}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 3], sizes: [2, 4]}
model: {layers: 1, width: 32, heads: 2, dropout: 0.1}
train:
  {steps: 60, global_batch: 4, sequence_length: 64, warmup: 2,
   checkpoints: {every: 20, resume_every: 5}, threads: 1, precision: fp32}
"""


def start(folder: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, str(REPOSITORY / "imprint.py"), "train", str(folder / "r.yaml")]
    command += [f"name={name}", f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    (folder / "r.yaml").write_text(RECIPE)
    assert start(folder, "unbroken").wait() == 0
    return folder


def kill_at(folder: Path, name: str, step: int) -> None:
    """Start a training and kill it as soon as it has left a state of `step` or later."""
    process = start(folder, name)
    states = folder / "runs" / name / "perturbed/state"
    while not any(path.name >= f"step-{step:08d}" for path in states.glob("step-????????")):  # only the newest two stay
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def weights(folder: Path, name: str) -> bytes:
    return (folder / "runs" / name / "perturbed/checkpoints/step-00000060/model.safetensors").read_bytes()


def ledger(folder: Path, name: str) -> list[dict]:
    return [
        row for path in sorted((folder / "runs" / name / "perturbed").glob("ledger-*")) for row in pq.read_table(path).to_pylist()
    ]


SLOW = [pytest.param(step, marks=pytest.mark.slow) for step in range(10, 60, 5) if step != 40]


@pytest.mark.parametrize("step", [5, 40, *SLOW])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(unbroken: Path, step: int) -> None:
    name = f"killed-{step}"
    kill_at(unbroken, name, step)
    process = start(unbroken, name)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "from step" in output
    assert weights(unbroken, name) == weights(unbroken, "unbroken")
    assert ledger(unbroken, name) == ledger(unbroken, "unbroken")
    lines = (unbroken / "runs" / name / "perturbed/metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, lines) if "loss" in line] == [0, 20, 40, 59]


def test_a_damaged_state_is_passed_over_and_named(unbroken: Path) -> None:
    kill_at(unbroken, "damaged", 15)
    states = sorted((unbroken / "runs/damaged/perturbed/state").glob("step-????????"))
    file = states[-1] / "moments.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    process = start(unbroken, "damaged")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "moments.safetensors is damaged" in output
    assert weights(unbroken, "damaged") == weights(unbroken, "unbroken")
    assert ledger(unbroken, "damaged") == ledger(unbroken, "unbroken")


def test_a_second_writer_is_refused_while_the_first_lives(unbroken: Path) -> None:
    with Lock(unbroken / "runs/twice"):
        second = start(unbroken, "twice")
        output = second.communicate()[0]
    assert second.returncode == 2
    assert f"is being written by process {os.getpid()}" in output
