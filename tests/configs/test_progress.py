"""How long work shows itself."""

import io
import sys

import pytest

from configs.progress import _clock, progress
from tests.clock import Clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_a_line_says_how_far_how_fast_and_how_long_still(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", "steps", 1000) as meter:
        clock.now += 10
        meter.advance(10)
        clock.now += 10
        meter.advance(200)
        assert lines(capsys) == ["train: 210 of 1,000 steps, 20 steps/s, 0:39 left"]


def test_the_first_units_which_take_longer_do_not_count_in_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", "steps", 102) as meter:
        clock.now += 60  # compilation
        meter.advance()
        clock.now += 1
        meter.advance()
        assert meter._left() == "1:40"


def test_after_a_resume_the_rate_is_that_of_this_process(clock: Clock) -> None:
    with progress("train", "steps", 1000, done=900) as meter:
        assert meter._left() == ""
        clock.now += 5
        meter.advance()
        clock.now += 2
        meter.advance()
        assert meter._left() == "3:16"  # 98 steps of 2 seconds


def test_a_note_stands_in_place_of_the_rate_until_there_is_another(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", "steps", 100) as meter:
        meter.advance(1, "loss 3.000")
        clock.now += 20
        meter.advance()
        clock.now += 20
        meter.advance(1, "loss 2.000")
        assert lines(capsys) == ["train: 2 of 100 steps, loss 3.000, 32:40 left", "train: 3 of 100 steps, loss 2.000, 32:20 left"]


@pytest.mark.parametrize(("hours", "at_most"), [(0.1, 25), (1, 60), (24, 240)])
def test_a_log_stays_short(clock: Clock, capsys: pytest.CaptureFixture[str], hours: float, at_most: int) -> None:
    seconds = int(hours * 3600)
    with progress("train", "steps", seconds) as meter:
        for _ in range(seconds):
            clock.now += 1
            meter.advance()
    printed = lines(capsys)
    assert at_most / 3 < len(printed) <= at_most
    assert printed[-1] == f"train: {seconds:,} of {seconds:,} steps, 1 steps/s, in {_clock(seconds)}"


def test_the_last_line_has_the_last_note_and_the_time_it_took(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", "steps", 2) as meter:
        meter.advance(1, "loss 3.000")
        clock.now += 4
        meter.advance(1)
    assert lines(capsys) == ["train: 2 of 2 steps, loss 3.000, in 4 s"]


def test_nothing_is_shown_of_the_processes_that_do_not_lead(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", "steps", 10, shown=False) as meter:
        clock.now += 100
        meter.advance(5)
    assert lines(capsys) == []


def test_a_terminal_has_a_bar_with_remaining_time_and_note(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    with progress("train perturbed", "steps", 100, done=50) as meter:
        meter.advance(1, "loss 3.210, 12,345 tokens/s, MFU 41.2%")
        clock.now += 3
        meter.advance()
    shown = terminal.getvalue()
    for word in ("train perturbed", "52%", "2:24", "loss 3.210, 12,345 tokens/s, MFU 41.2%"):
        assert word in shown


def test_times_read_as_on_a_clock() -> None:
    assert [_clock(seconds) for seconds in (5, 65, 3600, 3 * 3600 + 62, 50 * 3600)] == [
        "0:05",
        "1:05",
        "1:00:00",
        "3:01:02",
        "2 d 2 h",
    ]
