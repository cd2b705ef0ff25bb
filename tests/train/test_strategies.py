"""DDP and DeepSpeed's ZeRO 1, 2 and 3 in two real processes, beside one device: the same losses, and states that fit each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")
STRATEGIES = ["ddp", "zero_1", "zero_2", "zero_3"]
# The sums of a gradient are taken in another order: fp32 losses of 8 steps differ by no more, relatively.
EXACT, MIXED = 1e-6, 2e-4


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("two") / "told.json"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(SCRIPT), str(out)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(out.read_text()))


def losses(steps: list) -> list[float]:
    return [loss for loss, _, _ in steps]


def norms(steps: list) -> list[float]:
    return [norm for _, norm, _ in steps]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_computes_what_one_device_computes(told: dict, strategy: str) -> None:
    steps, alone = told[strategy] + told[f"{strategy}, unbroken"], told["single"]
    assert losses(steps) == pytest.approx(losses(alone), rel=EXACT)
    assert norms(steps) == pytest.approx(norms(alone), rel=1e-5)
    assert all(applied for _, _, applied in steps)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loaded_state_goes_on_to_the_last_bit(told: dict, strategy: str) -> None:
    assert told[f"{strategy}, resumed"] == told[f"{strategy}, unbroken"]


@pytest.mark.parametrize(
    ("way", "source"), [("zero_1 to zero_3", "zero_1"), ("ddp to zero_2", "ddp"), ("zero_3 to single", "zero_3")]
)
def test_a_state_fits_every_other_strategy_and_number_of_processes(told: dict, way: str, source: str) -> None:
    assert losses(told[way]) == pytest.approx(losses(told[f"{source}, unbroken"]), rel=EXACT)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_that_is_refused_is_left_out(told: dict, strategy: str) -> None:
    steps, alone = told[f"{strategy}, second refused"], told["single, second refused"]
    assert [applied for _, _, applied in steps] == [True, False, True, True]
    assert losses(steps) == pytest.approx(losses(alone), rel=EXACT)
    assert losses(steps)[3] != pytest.approx(losses(told[strategy])[3], rel=EXACT)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bf16_is_the_same_under_every_strategy(told: dict, strategy: str) -> None:
    assert losses(told[f"{strategy}, bf16"]) == pytest.approx(losses(told["single, bf16"]), rel=MIXED)
    assert losses(told[f"{strategy}, bf16"]) != pytest.approx(losses(told[strategy]), rel=EXACT)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fp16_takes_its_steps_and_leaves_out_one_that_overflows(told: dict, strategy: str) -> None:
    assert losses(told[f"{strategy}, fp16"]) == pytest.approx(losses(told["single"])[:4], rel=1e-3)
    assert norms(told[f"{strategy}, fp16"]) == pytest.approx(norms(told["single"])[:4], rel=1e-2)
    assert [applied for _, _, applied in told[f"{strategy}, fp16 overflow"]] == [False]
    assert told[f"{strategy}, fp16 scale"] == 2**39


@pytest.mark.parametrize("strategy", ["ddp", "zero_1", "zero_2"])
@pytest.mark.parametrize("way", ["with terms", "low rank"])
def test_terms_of_the_loss_and_low_rank_matrices_are_the_same_on_two_devices(told: dict, strategy: str, way: str) -> None:
    steps, alone = told[f"{strategy}, {way}"], told[f"single, {way}"]
    assert losses(steps) == pytest.approx(losses(alone), rel=EXACT)
    assert norms(steps) == pytest.approx(norms(alone), rel=1e-5)
    assert losses(alone)[0] == pytest.approx(losses(told["single"])[0], rel=EXACT)  # where training starts, they change nothing
    assert losses(alone)[3] != pytest.approx(losses(told["single"])[3], rel=EXACT)


@pytest.mark.parametrize("strategy", ["ddp", "zero_1", "zero_2"])
def test_a_loaded_state_with_low_rank_matrices_goes_on_to_the_last_bit(told: dict, strategy: str) -> None:
    assert told[f"{strategy}, low rank, resumed"] == told[f"{strategy}, low rank, unbroken"]


def test_the_optimizer_may_live_in_the_processors_memory(told: dict) -> None:
    assert losses(told["zero_1, offloaded"]) == pytest.approx(losses(told["single"])[:4], rel=EXACT)
