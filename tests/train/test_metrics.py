"""What training says of itself."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from configs.layout import ModelLayout
from configs.schema import Train
from tests.clock import Clock
from train.metrics import Metrics, Throughput, cut


@pytest.fixture
def layout(tmp_path: Path) -> ModelLayout:
    return ModelLayout(tmp_path)


SETTINGS = Train(steps=10, global_batch=2, sequence_length=50, log_every=4)  # 100 tokens a step


def written(layout: ModelLayout) -> list[dict[str, Any]]:
    return [json.loads(line) for line in layout.metrics.read_text().splitlines()]


def train(layout: ModelLayout, clock: Clock, first: int, last: int, **options: Any) -> list[str | None]:
    """Steps [first, last) of 2 seconds each."""
    with Metrics(layout, SETTINGS, first, **options) as metrics:
        notes = []
        for step in range(first, last):
            clock.now += 2
            notes.append(metrics.taken(step, 4.0 - step / 10, 1e-3, 0.5, True))
        return notes


# ------------------------------------------------------------------------------------------------ throughput


def test_the_first_step_does_not_count_in_the_throughput(clock: Clock) -> None:
    throughput = Throughput()
    clock.now += 60
    throughput.count(100)
    assert throughput.per_second() is None
    for _ in range(3):
        clock.now += 2
        throughput.count(100)
    assert throughput.per_second() == pytest.approx(50)


def test_the_throughput_is_that_since_it_was_last_asked(clock: Clock) -> None:
    throughput = Throughput()
    throughput.count(100)
    for seconds, expected in [(1, 100), (4, 25)]:
        clock.now += seconds
        throughput.count(100)
        assert throughput.per_second() == pytest.approx(expected)


def test_what_is_done_aside_does_not_count_in_the_throughput(clock: Clock) -> None:
    throughput = Throughput()
    with throughput.aside():
        clock.now += 30
    throughput.count(100)
    clock.now += 2
    throughput.count(100)
    with throughput.aside():
        clock.now += 30
    assert throughput.per_second() == pytest.approx(50)


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def test_a_line_every_few_steps_and_at_the_last(layout: ModelLayout, clock: Clock) -> None:
    notes = train(layout, clock, 0, 10)
    lines = written(layout)
    assert [line["step"] for line in lines] == [0, 4, 8, 9]
    assert lines[0] == {
        "step": 0, "tokens": 100, "loss": 4.0, "learning_rate": 1e-3, "grad_norm": 0.5, "applied": True, "seconds": 2.0
    }  # fmt: skip
    assert lines[1] == {
        "step": 4, "tokens": 500, "loss": 3.6, "learning_rate": 1e-3, "grad_norm": 0.5, "applied": True,
        "tokens_per_second": 50.0, "seconds": 10.0,
    }  # fmt: skip
    assert [note for note in notes if note] == ["loss 4.000", *(f"loss {loss:.3f}, 50 tokens/s" for loss in (3.6, 3.2, 3.1))]


def test_mfu_is_what_is_computed_over_the_peak(layout: ModelLayout, clock: Clock) -> None:
    notes = train(layout, clock, 0, 5, flops_per_token=2e9, peak=4e11)
    assert written(layout)[1]["mfu"] == 0.25  # 50 tokens/s x 2 GFLOP of 400 GFLOP/s
    assert notes[4] == "loss 3.600, 50 tokens/s, MFU 25.0%"


def test_a_step_that_was_left_out_is_logged_with_its_reason_as_valid_json(layout: ModelLayout, clock: Clock) -> None:
    with Metrics(layout, SETTINGS, 0) as metrics:
        metrics.taken(0, 4.0, 1e-3, 0.5, True)
        note = metrics.taken(1, math.nan, 1e-3, math.inf, False, "loss is nan")
        assert note is not None
        assert note.endswith(", 1 left out, the last step 1: loss is nan")
    line = json.loads(layout.metrics.read_text().splitlines()[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (line["loss"], line["grad_norm"], line["applied"], line["reason"]) == (None, None, False, "loss is nan")


def test_lines_are_on_disk_as_soon_as_they_are_written(layout: ModelLayout) -> None:
    metrics = Metrics(layout, SETTINGS, 0)
    metrics.taken(0, 4.0, 1e-3, 0.5, True)
    assert len(written(layout)) == 1


@pytest.mark.parametrize("torn", ["", '{"step": 5, "lo', '{"step": 5}', "nul", "\x00\x00"])
def test_a_resumed_log_is_that_of_a_training_without_a_stop(layout: ModelLayout, clock: Clock, torn: str) -> None:
    train(layout, clock, 0, 10)
    unbroken = written(layout)
    layout.metrics.unlink()
    train(layout, clock, 0, 8)
    with layout.metrics.open("a") as file:
        file.write(torn)
    clock.now += 10_000  # until it is started again
    train(layout, clock, 5, 10)
    assert [{**line, "seconds": 0} for line in written(layout)] == [{**line, "seconds": 0} for line in unbroken]
    assert written(layout)[-1]["seconds"] == 20  # 10 until the last line that stays, 10 for 5 steps


def test_the_held_out_loss_of_the_checkpoint_that_is_resumed_stays_and_is_not_written_twice(layout: ModelLayout) -> None:
    with Metrics(layout, SETTINGS, 0) as metrics:
        for step in (0, 4, 8):
            metrics.held_out(step, 3.5)
    with Metrics(layout, SETTINGS, 4) as metrics:
        metrics.held_out(4, 3.5)
        metrics.held_out(8, 3.25)
    lines = [(line["step"], line["tokens"], line["held_out_loss"]) for line in written(layout)]
    assert lines == [(0, 0, 3.5), (4, 400, 3.5), (8, 800, 3.25)]


def test_a_log_with_nothing_to_cut_is_left_alone(layout: ModelLayout, clock: Clock) -> None:
    train(layout, clock, 0, 10)
    before = layout.metrics.stat().st_ino
    assert [line["step"] for line in cut(layout, 10)] == [0, 4, 8, 9]
    assert layout.metrics.stat().st_ino == before


def test_only_the_process_that_leads_writes(layout: ModelLayout, clock: Clock) -> None:
    train(layout, clock, 0, 10, leads=False)
    assert list(layout.root.iterdir()) == []
