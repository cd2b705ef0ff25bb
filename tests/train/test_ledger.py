"""The ledger: every consumed step once, whoever read its rows and whenever its writer is stopped."""

import errno
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ImprintError
from configs.layout import ModelLayout, remove_leftovers
from configs.tables import LEDGER
from inject.audit import Record, read_ledger
from train import ledger as module
from train.ledger import Ledger


def digest(step: int, slot: int = 0) -> bytes:
    return bytes([step, slot]) * 16


def record(ledger: Ledger, first: int, last: int) -> None:
    for step in range(first, last):
        ledger.add(step, 1e-3, step != 3, [digest(step, slot) for slot in range(2)])
    ledger.commit()


def three_segments(folder: Path) -> None:
    """Steps 0 to 14, five in each."""
    ledger = Ledger(ModelLayout(folder), 0)
    for first in (0, 5, 10):
        record(ledger, first, first + 5)


def recorded(folder: Path) -> list[Record]:
    return list(read_ledger(ModelLayout(folder).ledgers()))


def expected(steps: int) -> list[Record]:
    return [Record(step, step != 3, [digest(step, 0), digest(step, 1)]) for step in range(steps)]


# ------------------------------------------------------------------------------------------------ segments


def test_steps_are_on_disk_once_they_are_committed(tmp_path: Path) -> None:
    ledger = Ledger(ModelLayout(tmp_path), 0)
    record(ledger, 0, 5)
    ledger.add(5, 1e-3, True, [digest(5)])
    assert recorded(tmp_path) == expected(5)
    assert pq.read_schema(ModelLayout(tmp_path).ledgers()[0]).equals(LEDGER)


def test_a_commit_without_new_steps_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(ModelLayout(tmp_path), 0)
    record(ledger, 0, 5)
    ledger.commit()
    assert [path.name for path in ModelLayout(tmp_path).ledgers()] == ["ledger-00000000-00000005.parquet"]


@pytest.mark.parametrize("step", [0, 1, 5, 7, 10, 14, 15])
def test_a_resumed_ledger_ends_at_its_step_and_goes_on(tmp_path: Path, step: int) -> None:
    three_segments(tmp_path)
    ledger = Ledger(ModelLayout(tmp_path), step)
    assert recorded(tmp_path) == expected(step)
    record(ledger, step, 20)
    assert recorded(tmp_path) == expected(20)
    ends = [path.stem.split("-")[1:] for path in ModelLayout(tmp_path).ledgers()]
    assert [int(end) for _, end in ends] == [int(first) for first, _ in ends[1:]] + [20]  # names say what they hold


def test_steps_that_the_ledger_lacks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    three_segments(tmp_path)
    ModelLayout(tmp_path).ledgers()[1].unlink()
    Ledger(ModelLayout(tmp_path), 15)
    assert "lacks steps 5 to 9," in capsys.readouterr().out
    Ledger(ModelLayout(tmp_path), 3)
    assert capsys.readouterr().out == ""


def test_a_damaged_segment_is_told_and_does_not_stop_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    three_segments(tmp_path)
    ModelLayout(tmp_path).ledgers()[0].write_bytes(b"PAR1 not")
    Ledger(ModelLayout(tmp_path), 12)
    assert "lacks steps 0 to 4," in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ killed


@pytest.mark.parametrize("step", [7, 10])
def test_killed_in_the_midst_of_a_cut_no_step_is_lost_or_there_twice(
    killed_at_every_stage: Callable, capfd: pytest.CaptureFixture, step: int
) -> None:
    found = set()
    for folder in killed_at_every_stage(three_segments, lambda folder: Ledger(ModelLayout(folder), step), module):
        left = recorded(folder)
        assert left == expected(len(left))
        assert len(left) >= step
        found.add(len(left))
        remove_leftovers(folder)
        record(Ledger(ModelLayout(folder), step), step, 12)
        assert recorded(folder) == expected(12)
    assert found == {10, step}  # each stage of the cut was seen
    assert "lacks" not in capfd.readouterr().out


def test_a_cut_that_was_killed_can_be_followed_by_one_further_back(killed_at_every_stage: Callable) -> None:
    for folder in killed_at_every_stage(three_segments, lambda folder: Ledger(ModelLayout(folder), 8), module):
        record(Ledger(ModelLayout(folder), 6), 6, 9)
        assert recorded(folder) == expected(9)


def test_killed_in_the_midst_of_a_commit_all_its_steps_are_there_or_none(killed_at_every_stage: Callable) -> None:
    found = set()
    for folder in killed_at_every_stage(three_segments, lambda folder: record(Ledger(ModelLayout(folder), 15), 15, 20), module):
        left = recorded(folder)
        assert left == expected(len(left))
        found.add(len(left))
    assert found == {15, 20}


def test_a_full_disk_is_told_in_a_sentence_and_the_segments_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_segments(tmp_path)
    ledger = Ledger(ModelLayout(tmp_path), 15)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(ImprintError, match=r"No space left .* running again goes on"):
            record(ledger, 15, 20)
    assert recorded(tmp_path) == expected(15)
    assert len(list(tmp_path.iterdir())) == 3
    record(Ledger(ModelLayout(tmp_path), 15), 15, 20)
    assert recorded(tmp_path) == expected(20)


# ------------------------------------------------------------------------------------------------ several processes


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([(1, 4), (2, 4), (4, 4), (3, 6)]), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_whatever_the_number_of_processes_the_ledger_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], commits: list[int]
) -> None:
    size, batch = shape
    folder = tmp_path_factory.mktemp("ranks")
    given: list[object] = []

    def send(thing: object) -> None:
        given.append(thing)

    def receive(thing: object) -> list:
        received = [thing, *given]
        given.clear()
        return received

    others = [Ledger(ModelLayout(folder / f"never-{rank}"), 0, send) for rank in range(1, size)]
    given.clear()
    ledgers = [Ledger(ModelLayout(folder / "model"), 0, receive), *others]
    step = 0
    for steps in commits:
        for _ in range(steps):
            for rank, ledger in enumerate(ledgers):
                own = range(rank * batch // size, (rank + 1) * batch // size)
                ledger.add(step, 1e-3, True, [digest(step, slot) for slot in own])
            step += 1
        for ledger in [*others, ledgers[0]]:
            ledger.commit()
    assert [each.digests for each in recorded(folder / "model")] == [
        [digest(number, slot) for slot in range(batch)] for number in range(step)
    ]
    assert [path.name for path in folder.iterdir()] == ["model"]  # the others touched no file


def test_a_process_that_does_not_write_leaves_the_segments_alone(tmp_path: Path) -> None:
    three_segments(tmp_path)
    ledger = Ledger(ModelLayout(tmp_path), 5, lambda _: None)
    record(ledger, 5, 8)
    assert recorded(tmp_path) == expected(15)
