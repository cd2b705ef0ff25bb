"""Checkpoints and states: whole, or not there."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from configs.errors import ImprintError
from configs.layout import CheckpointInfo, ModelLayout
from configs.schema import Train
from train import checkpoint
from train.checkpoint import newest_state, save_state
from train.engine import Engine, Execution


def info(step: int) -> CheckpointInfo:
    return CheckpointInfo("perturbed", step, 0, 0, "corpus", "plan", "config", {})


@pytest.fixture
def engine() -> Engine:
    return Engine(torch.nn.Linear(2, 2), Train(), Execution("fp32", 1))


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing_half_written(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = ModelLayout(tmp_path)
    save_state(layout, engine, info(1))

    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ImprintError, match="No space left"):
        save_state(layout, engine, info(2))
    assert [path.name for path in layout.states.iterdir()] == ["step-00000001"]


def test_only_the_newest_two_states_stay_whatever_a_killed_writer_left(engine: Engine, tmp_path: Path) -> None:
    layout = ModelLayout(tmp_path)
    (layout.states / "step-00000009.tmp-host-1").mkdir(parents=True)
    for step in (1, 2, 3):
        save_state(layout, engine, info(step))
    assert sorted(path.name for path in layout.states.glob("step-????????")) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("content", ["", "{}", '{"step": 3}'])
def test_a_state_without_a_readable_marker_is_passed_over(engine: Engine, tmp_path: Path, content: str) -> None:
    layout = ModelLayout(tmp_path)
    for step in (1, 2):
        save_state(layout, engine, info(step))
    (layout.states / "step-00000002/imprint.json").write_text(content)
    state = newest_state(layout)
    assert state is not None
    assert state[0].step == 1
