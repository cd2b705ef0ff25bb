"""The record of what was submitted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import DataError
from slurm.submission import Array, Submission, Task, submissions


def test_a_submission_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Submission(tmp_path / "slurm/20261122-223501", "a.yaml", ["train.steps=5"])
    written.arrays = [Array("plan", 7, [Task("seed-1", ["plan"]), Task("seed-2", [])], [0]), Array("report", None, [], [])]
    written.write()
    assert submissions(tmp_path) == [written]


def test_submissions_come_oldest_first_also_of_one_second(tmp_path: Path) -> None:
    stamps = ["20251231-235959", "20261122-223501", "20261122-223501-2", "20261122-223501-10", "20261123-000000"]
    for stamp in reversed(stamps):
        Submission(tmp_path / "slurm" / stamp, "a.yaml", []).write()
    assert [found.folder.name for found in submissions(tmp_path)] == stamps


def test_a_new_submission_has_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20261122-223501")
    for expected in ("20261122-223501", "20261122-223501-2", "20261122-223501-3"):
        new = Submission.new(tmp_path, "a.yaml", [])
        assert new.folder == tmp_path / "slurm" / expected
        new.write()


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: "{}", lambda text: json.dumps({"arrays": [{}]})])
def test_a_damaged_record_is_told_with_its_path(tmp_path: Path, damage: Callable[[str], str]) -> None:
    written = Submission(tmp_path / "slurm/20261122-223501", "a.yaml", [])
    written.write()
    path = written.folder / "submission.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=r"submission.json is damaged"):
        submissions(tmp_path)


def test_no_submission_is_no_error(tmp_path: Path) -> None:
    assert submissions(replace(Submission(tmp_path / "never", "", []), arrays=[]).folder) == []
