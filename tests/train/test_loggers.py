"""TensorBoard and Weights & Biases, for real: TensorBoard's files as it reads them, and runs of wandb offline."""

import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from configs.errors import ImprintError, RecipeError
from configs.layout import ModelLayout
from configs.schema import Train
from train import loggers
from train.loggers import check_loggers
from train.metrics import Metrics

STEPS = 8


@pytest.fixture
def layout(tmp_path: Path) -> ModelLayout:
    return ModelLayout(tmp_path / "runs/name/perturbed")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


def train(layout: ModelLayout, first: int, last: int, logger: str | None) -> None:
    """Log each of the steps [first, last), and a held-out loss before every second of them."""
    layout.root.mkdir(parents=True, exist_ok=True)
    names = [logger] if logger else []
    settings = Train(steps=STEPS, global_batch=2, sequence_length=50, log_every=1, loggers=names)
    with Metrics(layout, settings, first, described={"model": "perturbed"}) as metrics:
        for step in range(first, last):
            if step % 2 == 0:
                metrics.held_out(step, 5.0 - step)
            metrics.taken(step, math.nan if step == 5 else 4.0 - step, 1e-3, 0.5, step != 5, "loss is nan")


LOSSES = [(step, 4.0 - step) for step in range(STEPS) if step != 5]
HELD_OUT = [(step, 5.0 - step) for step in range(0, STEPS, 2)]


# ------------------------------------------------------------------------------------------------ TensorBoard


def drawn(layout: ModelLayout, name: str) -> list[tuple[int, float]]:
    shown = EventAccumulator(str(layout.root / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in shown.Scalars(name)]


def test_tensorboard_shows_what_is_finite_by_step(layout: ModelLayout) -> None:
    train(layout, 0, STEPS, "tensorboard")
    assert drawn(layout, "loss") == LOSSES
    assert drawn(layout, "held_out_loss") == HELD_OUT
    assert drawn(layout, "applied") == [(step, float(step != 5)) for step in range(STEPS)]


@pytest.mark.parametrize("resumed", [0, 4])
def test_tensorboard_shows_a_resumed_training_as_one_without_a_stop(layout: ModelLayout, resumed: int) -> None:
    train(layout, 0, 7, "tensorboard")
    train(layout, resumed, STEPS, "tensorboard")
    assert drawn(layout, "loss") == LOSSES
    assert drawn(layout, "held_out_loss") == HELD_OUT


def test_a_logger_that_is_added_at_a_resume_shows_what_was_before(layout: ModelLayout) -> None:
    train(layout, 0, 6, None)
    train(layout, 4, STEPS, "tensorboard")
    assert drawn(layout, "loss") == LOSSES
    assert drawn(layout, "held_out_loss") == HELD_OUT


# ------------------------------------------------------------------------------------------------ Weights & Biases


def records(file: Path) -> list[Any]:
    """The records of a run's file: after 7 bytes, blocks of 32 KiB with parts of (checksum, length, type) and data."""
    content, at, part, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if at % 2**15 > 2**15 - 7:  # no room for another part in this block
            at += -at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


def sent(layout: ModelLayout, name: str) -> list[tuple[str, list[tuple[int, float]]]]:
    """Of each process, in order: its run, and the numbers of one name by step."""
    out = []
    for file in sorted(layout.root.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        found = records(file)
        (run,) = {record.run.run_id for record in found if record.WhichOneof("record_type") == "run"}
        rows = [record.history for record in found if record.WhichOneof("record_type") == "history"]
        items = [(row.step.num, item) for row in rows for item in row.item]
        out.append((run, [(at, float(item.value_json)) for at, item in items if name in (item.key, *item.nested_key)]))
    return out


def test_wandb_goes_on_offline_in_the_same_run_after_a_resume(layout: ModelLayout, offline: None) -> None:
    train(layout, 0, 5, "wandb")
    train(layout, 4, STEPS, "wandb")
    (one, before), (other, after) = sent(layout, "loss")
    assert one == other == (layout.root / "wandb/run-id").read_text()
    assert before == LOSSES[:5]
    assert after == LOSSES[4:]
    assert [numbers for _, numbers in sent(layout, "held_out_loss")] == [HELD_OUT[:3], HELD_OUT[2:]]
    assert not (Path.cwd() / "wandb").exists()


def test_wandb_keeps_what_it_has_of_steps_that_are_repeated(layout: ModelLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[int] = []
    run = SimpleNamespace(offline=False, step=6, log=lambda numbers, step: logged.append(step), finish=lambda exit_code: None)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    train(layout, 4, STEPS, "wandb")
    assert sorted(set(logged)) == [6, 7]


def test_a_wandb_that_cannot_start_is_told_in_a_sentence(layout: ModelLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ImprintError, match=r"wandb, which can't start: No API key .*WANDB_MODE=offline"):
        train(layout, 0, 1, "wandb")


# ------------------------------------------------------------------------------------------------ what is not installed


@pytest.mark.parametrize("name", loggers.LOGGERS)
def test_a_logger_that_is_not_installed_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_loggers([name])
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(RecipeError, match=rf"train\.loggers holds {name}, .* pip install 'imprint-testbed\[loggers\]'"):
        check_loggers([name])
