"""One writer per folder: who holds a lock, who may take it over, and who must end."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import lock
from configs.errors import ImprintError, LockError
from configs.lock import Lock


@pytest.fixture(autouse=True)
def outside_a_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def held_by(folder, host, process, seconds_ago=0.0):
    path = folder / "lock.json"
    path.write_text(json.dumps({"host": host, "process": process}))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_names_its_holder_and_is_gone_afterwards(tmp_path):
    with Lock(tmp_path / "run") as held:
        assert json.loads(held.path.read_text()) == {"host": socket.gethostname(), "process": os.getpid()}
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_is_gone_when_the_work_fails(tmp_path):
    def fail():
        with Lock(tmp_path):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_living_process_is_refused(tmp_path):
    held_by(tmp_path, socket.gethostname(), os.getppid(), seconds_ago=lock.HEARTBEAT_SECONDS - 10)
    with pytest.raises(ImprintError, match=rf"being written by process {os.getppid()} on {socket.gethostname()}"):
        Lock(tmp_path).__enter__()
    assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getppid()


def test_a_silent_lock_is_taken_over_although_its_number_belongs_to_a_living_process(tmp_path):
    held_by(tmp_path, socket.gethostname(), os.getppid(), seconds_ago=lock.HEARTBEAT_SECONDS + 10)
    with Lock(tmp_path) as held:
        assert json.loads(held.path.read_text())["process"] == os.getpid()


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    held_by(tmp_path, socket.gethostname(), dead_process())
    with Lock(tmp_path) as held:
        assert json.loads(held.path.read_text())["process"] == os.getpid()


def test_a_lock_of_another_host_is_refused_while_it_beats(tmp_path):
    held_by(tmp_path, "another-host", 1, seconds_ago=lock.HEARTBEAT_SECONDS - 10)
    with pytest.raises(ImprintError, match="process 1 on another-host; wait for it, stop it, or use another name="):
        Lock(tmp_path).__enter__()


def test_a_lock_of_another_host_is_taken_over_when_it_is_silent(tmp_path):
    held_by(tmp_path, "another-host", 1, seconds_ago=lock.HEARTBEAT_SECONDS + 10)
    with Lock(tmp_path) as held:
        assert json.loads(held.path.read_text())["host"] == socket.gethostname()


@pytest.mark.parametrize("content", ["", '{"host": "a'])
def test_a_lock_that_was_half_written_long_ago_is_taken_over(content, tmp_path):
    (tmp_path / "lock.json").write_text(content)
    os.utime(tmp_path / "lock.json", (time.time() - lock.HEARTBEAT_SECONDS - 10,) * 2)
    with Lock(tmp_path) as held:
        assert json.loads(held.path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", ["", '{"host": "a'])
def test_a_lock_that_is_just_being_written_is_refused(content, tmp_path):
    (tmp_path / "lock.json").write_text(content)
    with pytest.raises(ImprintError):
        Lock(tmp_path).__enter__()


def test_the_holder_of_a_lock_is_told_while_it_lives(tmp_path):
    assert Lock(tmp_path).holder() is None
    held_by(tmp_path, "another-host", 1)
    assert Lock(tmp_path).holder() == {"host": "another-host", "process": 1}
    held_by(tmp_path, "another-host", 1, seconds_ago=lock.HEARTBEAT_SECONDS + 10)
    assert Lock(tmp_path).holder() is None
    held_by(tmp_path, socket.gethostname(), dead_process())
    assert Lock(tmp_path).holder() is None


def test_the_lock_of_a_slurm_job_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "63")
    with Lock(tmp_path) as held:
        assert json.loads(held.path.read_text())["job"] == "63"


def test_a_held_lock_is_renewed_while_its_holder_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.08)
    with Lock(tmp_path) as held:
        os.utime(held.path, (0, 0))
        time.sleep(0.5)
        assert held.path.stat().st_mtime > time.time() - 60


# ------------------------------------------------------------------------------------------------ patience


def test_who_is_patient_waits_until_the_lock_of_another_host_is_silent_and_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.4)
    held_by(tmp_path, "another-host", 7)
    start = time.monotonic()
    with Lock(tmp_path, patient=True) as held:
        assert json.loads(held.path.read_text())["process"] == os.getpid()
        assert time.monotonic() - start > 0.3
    wait = "this waits until it has given no sign of life for 0.4 seconds"
    assert capsys.readouterr().out == f"{tmp_path} was being written by process 7 on another-host; {wait}\n"


def test_a_lock_that_keeps_being_renewed_is_refused_to_the_patient_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.4)
    held_by(tmp_path, "another-host", 7)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            os.utime(tmp_path / "lock.json")

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(LockError, match="is being written by process 7 on another-host"):
            Lock(tmp_path, patient=True).__enter__()
    finally:
        ended.set()
        renewing.join()
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


def test_who_is_patient_takes_a_lock_as_soon_as_it_is_released(tmp_path):
    held_by(tmp_path, "another-host", 7)
    release = threading.Timer(0.1, (tmp_path / "lock.json").unlink)
    release.start()
    start = time.monotonic()
    with Lock(tmp_path, patient=True) as held:
        assert json.loads(held.path.read_text())["process"] == os.getpid()
    assert time.monotonic() - start < lock.HEARTBEAT_SECONDS / 8


# ------------------------------------------------------------------------------------------------ taken over

HOLDER = """
import time
from collections.abc import Iterator
from pathlib import Path
from configs import lock
lock.HEARTBEAT_SECONDS = 0.4
with lock.Lock(Path({folder!r})):
    print("holds it", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of a folder and does nothing else."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER.format(folder=str(tmp_path))]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds it\n"
    yield process
    process.kill()
    process.communicate()


def test_a_holder_whose_lock_was_taken_over_ends_and_leaves_it_to_the_other(tmp_path, holder):
    other = tmp_path / "other"
    other.write_text(json.dumps({"host": "another-host", "process": 7}))
    other.replace(tmp_path / "lock.json")
    _, told = holder.communicate(timeout=20)
    assert holder.returncode == 2
    assert told.startswith(f"imprint: {tmp_path} is held by process 7 on another-host now: this process's lock was")
    assert json.loads((tmp_path / "lock.json").read_text())["host"] == "another-host"


def test_a_holder_whose_lock_was_taken_over_and_released_ends(tmp_path, holder):
    (tmp_path / "lock.json").unlink()
    _, told = holder.communicate(timeout=20)
    assert holder.returncode == 2
    assert "is held by nobody now" in told


def test_a_lock_that_another_has_taken_over_is_not_removed_by_its_former_holder(tmp_path):
    with Lock(tmp_path):
        held_by(tmp_path, "another-host", 7)
    assert json.loads((tmp_path / "lock.json").read_text())["host"] == "another-host"
