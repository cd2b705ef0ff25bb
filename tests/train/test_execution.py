"""Precision and threads: measured once a machine, recorded for a model."""

from pathlib import Path

import pytest

from configs.errors import DataError
from configs.layout import read_json
from configs.schema import Train
from train.execution import Execution, settle, shared_out
from train.world import World


def test_the_fastest_number_of_threads_is_measured_once_a_machine(tmp_path: Path) -> None:
    tried: list[int] = []

    def try_step(execution: Execution) -> None:
        tried.append(execution.threads)

    first = settle(Train(precision="fp32"), World(), tmp_path, tmp_path / "one.json", "shape", try_step)
    measured = len(tried)
    second = settle(Train(precision="fp32"), World(), tmp_path, tmp_path / "two.json", "shape", try_step)
    assert first == second
    assert len(tried) == measured


def test_a_recorded_execution_is_kept(tmp_path: Path) -> None:
    record = tmp_path / "execution.json"
    settle(Train(precision="fp32", threads=1), World(), tmp_path, record, "shape", lambda _: None)
    again = settle(Train(precision="bf16", threads=2), World(), tmp_path, record, "shape", lambda _: None)
    assert again == Execution("fp32", 1)


def test_another_number_of_processes_has_its_own_threads_and_the_same_precision(tmp_path: Path) -> None:
    record = tmp_path / "execution.json"
    settle(Train(precision="fp32", threads=3), World(), tmp_path, record, "shape", lambda _: None)
    other = settle(Train(precision="bf16", threads=2), World(0, 4, 0, 4), tmp_path, record, "shape", lambda _: None)
    assert other == Execution("fp32", 2)
    assert read_json(record) == {"precision": "fp32", "threads": {"1": 3, "4": 2}}


def test_processes_of_one_machine_share_its_cores_unmeasured(tmp_path: Path) -> None:
    def never(execution: Execution) -> None:
        raise AssertionError

    settled = settle(Train(precision="fp32"), World(0, 64, 0, 64), tmp_path, tmp_path / "r.json", "shape", never)
    assert settled.threads == 1


@pytest.mark.parametrize("written", ['{"precision": "fp3', "[]", '{"precision": "fp32", "threads": 2}', '{"threads": {"1": 2}}'])
def test_a_record_that_is_damaged_or_of_another_version_is_named(tmp_path: Path, written: str) -> None:
    (record := tmp_path / "execution.json").write_text(written)
    with pytest.raises(DataError, match=r"execution\.json is damaged or of another version; remove it"):
        settle(Train(precision="fp32", threads=1), World(), tmp_path, record, "shape", lambda _: None)


def test_what_is_offloaded_goes_through_deepspeed_on_one_device_too() -> None:
    assert shared_out(Train(offload=True), World()).strategy == "zero_1"
    assert shared_out(Train(), World()).strategy == "single"
