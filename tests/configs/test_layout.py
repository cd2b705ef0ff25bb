import os
import socket
import time
from dataclasses import replace

import pytest

from configs import layout
from configs.errors import DataError
from configs.layout import CheckpointInfo, ModelLayout, RunLayout, atomic_file, atomic_folder, fingerprint

# ------------------------------------------------------------------------------------------------ atomic writes


def test_a_file_appears_whole_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic_file(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("x")
        assert not path.exists()
    assert (path / "inner" / "file").read_text() == "x"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_behind_does_not_get_into_the_folder(tmp_path):
    path = tmp_path / "folder"
    left = tmp_path / f"folder.tmp-{socket.gethostname()}-{os.getpid()}"
    left.mkdir()
    (left / "stale").write_text("x")
    with atomic_folder(path) as temporary:
        (temporary / "fresh").write_text("x")
    assert [file.name for file in path.iterdir()] == ["fresh"]


def test_the_loser_of_a_race_leaves_the_winners_folder(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("loser")
        path.mkdir()
        (path / "file").write_text("winner")
    assert (path / "file").read_text() == "winner"
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------ json


def test_json_reads_as_it_was_written(tmp_path):
    thing = {"é": [1, 2.5, None], "b": {"c": "<|endoftext|>"}}
    layout.write_json(tmp_path / "thing.json", thing)
    assert layout.read_json(tmp_path / "thing.json") == thing


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    layout.write_json(tmp_path / "thing.json", 1)
    with pytest.raises(TypeError):
        layout.write_json(tmp_path / "thing.json", {1, 2})
    assert layout.read_json(tmp_path / "thing.json") == 1


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), (b'{"a": ', "is damaged"), (b"\xff", "is damaged")])
def test_missing_or_damaged_json_is_a_data_error(content, words, tmp_path):
    if content is not None:
        (tmp_path / "thing.json").write_bytes(content)
    with pytest.raises(DataError, match=f"thing.json {words}"):
        layout.read_json(tmp_path / "thing.json")


# ------------------------------------------------------------------------------------------------ fingerprints


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": [1, 2.5]}, {"b": [1, 2]}, {"a": ["1", 2]}, {"a": [[1, 2]]}])
def test_other_values_have_another_fingerprint(other):
    assert fingerprint({"a": [1, 2]}) != fingerprint(other)


def test_fingerprints_do_not_change_between_versions():
    assert fingerprint(["corpus", 1, {"b": 0.5, "a": None}]) == "744996898a8ae022d3b92e32cd0f251ff18daca2ea6a2b1cc4d7c830b5e3d30c"


def test_the_fingerprint_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert layout.file_fingerprint(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_input_is_read_again_where_it_has_changed_and_only_then(tmp_path, monkeypatch):
    read = []
    fingerprint = layout.file_fingerprint
    monkeypatch.setattr(layout, "file_fingerprint", lambda path: read.append(path) or fingerprint(path))
    path = tmp_path / "input"
    path.write_text("one")
    os.utime(path, (time.time() - 60,) * 2)
    assert layout.input_fingerprint(path) == layout.input_fingerprint(path) == fingerprint(path)
    assert len(read) == 1
    path.write_text("two")
    assert layout.input_fingerprint(path) == fingerprint(path)


def test_an_input_that_was_written_just_now_may_be_written_again_in_the_same_instant(tmp_path):
    path = tmp_path / "input"
    path.write_text("one")
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    before = layout.input_fingerprint(path)
    path.write_text("two")
    os.utime(path, ns=(now, now))
    assert layout.input_fingerprint(path) != before


def test_the_fingerprint_of_a_folder_follows_the_names_and_bytes_of_its_files_but_hidden_ones(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("one")
    before = layout.folder_fingerprint(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").touch()
    assert layout.folder_fingerprint(tmp_path) == before
    (tmp_path / "a" / "b.txt").rename(tmp_path / "a" / "c.txt")
    renamed = layout.folder_fingerprint(tmp_path)
    (tmp_path / "a" / "c.txt").write_text("two")
    assert len({before, renamed, layout.folder_fingerprint(tmp_path)}) == 3
    assert layout.folder_fingerprint(tmp_path / "a" / "c.txt") == layout.file_fingerprint(tmp_path / "a" / "c.txt")


def test_contents_follow_the_files_that_settings_name_at_any_depth(tmp_path):
    (tmp_path / "rows.jsonl").write_text("one")
    settings = {"books": {"path": str(tmp_path / "rows.jsonl"), "hub": "org/texts"}, "arms": [{"places": str(tmp_path)}]}
    before = layout.contents(settings)
    assert list(before) == [str(tmp_path / "rows.jsonl"), str(tmp_path)]
    (tmp_path / "rows.jsonl").write_text("two")
    assert all(layout.contents(settings)[path] != before[path] for path in before)


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(1000))
    (folder / "config.json").write_text("{}")
    files = {name: layout.file_fingerprint(folder / name) for name in ("weights", "config.json")}
    info = CheckpointInfo("perturbed", 4, 512, 32, "corpus", "plan", "config", files)
    info.write(folder)
    return folder, info


def test_the_record_of_a_checkpoint_reads_as_it_was_written(checkpoint):
    folder, info = checkpoint
    assert CheckpointInfo.read(folder) == info


def test_an_intact_checkpoint_is_not_damaged(checkpoint):
    folder, info = checkpoint
    assert info.damaged(folder) is None


def test_one_flipped_bit_is_noticed(checkpoint):
    folder, info = checkpoint
    data = bytearray((folder / "weights").read_bytes())
    data[500] ^= 1
    (folder / "weights").write_bytes(data)
    assert info.damaged(folder) == "weights"


def test_a_missing_file_is_noticed(checkpoint):
    folder, info = checkpoint
    (folder / "config.json").unlink()
    assert info.damaged(folder) == "config.json"


def test_a_file_that_was_not_recorded_does_not_count_as_damage(checkpoint):
    folder, info = checkpoint
    (folder / "README.md").write_text("x")
    assert replace(info).damaged(folder) is None


# ------------------------------------------------------------------------------------------------ paths


def test_checkpoints_are_the_folders_with_a_marker_in_the_order_of_their_steps(tmp_path):
    model = ModelLayout(tmp_path)
    for step in (900, 0, 12_000):
        model.checkpoint(step).mkdir(parents=True)
        (model.checkpoint(step) / "imprint.json").write_text("{}")
    model.checkpoint(300).mkdir()
    assert model.checkpoints() == [0, 900, 12_000]


def test_the_models_of_a_run_are_those_with_whole_checkpoints(tmp_path):
    run = RunLayout(tmp_path)
    for name in ("standard", "perturbed", "stopped"):
        run.model(name).checkpoint(0).mkdir(parents=True)
    for name in ("standard", "perturbed"):
        for step in (0, 300):
            run.model(name).checkpoint(step).mkdir(exist_ok=True)
            (run.model(name).checkpoint(step) / "imprint.json").write_text("{}")
    run.report.mkdir()
    assert run.models() == ["perturbed", "standard"]


def test_ledger_segments_are_in_the_order_of_their_steps(tmp_path):
    model = ModelLayout(tmp_path)
    for first in (1000, 150, 0):
        model.ledger(first, first + 150).touch()
    assert [path.name for path in model.ledgers()] == [model.ledger(first, first + 150).name for first in (0, 150, 1000)]
