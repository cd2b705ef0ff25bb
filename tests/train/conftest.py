"""What several tests of training share: work that is killed at every stage that it leaves on the disk."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from configs import layout, tables
from tests.kill.runs import Runs


@pytest.fixture
def killed_at_every_stage(tmp_path: Path) -> Callable[..., Iterator[Path]]:
    """`killed_at_every_stage(prepare, work, *modules)`: does `prepare(folder)`, then `work(folder)` in a process of its own that
    kills itself after its first, second, ... change of what lies on the disk; yields each folder as it was left.

    Before every line of the modules (and of those that write files) the process looks whether the last line changed something.
    """

    def kills(prepare: Callable[[Path], None], work: Callable[[Path], None], *modules: ModuleType) -> Iterator[Path]:
        files = {str(module.__file__) for module in (*modules, layout, tables)}
        for stage in range(1, 1000):
            folder = tmp_path / f"stage-{stage}"
            folder.mkdir()
            prepare(folder)
            child = os.fork()
            if not child:
                _work_until(stage, folder, work, files)
            outcome = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if outcome == 0:
                assert stage > 1, "the work changed nothing"
                return
            assert outcome == -signal.SIGKILL
            yield folder

    return kills


def _work_until(stage: int, folder: Path, work: Callable[[Path], None], files: set[str]) -> None:
    """Never returns: the process is killed after so many changes, or exits with 0 after the work, or with 1 where that fails."""
    left, before = stage, _on_disk(folder)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left, before
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and (now := _on_disk(folder)) != before:
            before, left = now, left - 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    signal.alarm(60)
    try:
        sys.settrace(trace)
        work(folder)
        sys.settrace(None)
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def _on_disk(folder: Path) -> list[tuple]:
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return [(path, is_.st_ino, is_.st_size, is_.st_mtime_ns) for path, is_ in found]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A folder with a run in one process that was never killed."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    unbroken = runs.train("unbroken")
    assert unbroken.wait() == [0], unbroken.told()
    return runs
