"""The turn of one submission: no other of the same run or sweep at the same time, and nothing left behind of one that failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from configs.errors import ImprintError, LockError
from configs.layout import RunLayout
from configs.lock import Lock
from slurm.jobs import Experiment
from slurm.submission import Submission


@contextmanager
def turn(home: Path) -> Iterator[list[Path]]:
    """The one submission of a run or a sweep, by its folder, that finds and submits its jobs now; LockError where another does.

    Gives the folders that it has made for its lock, which are gone again where nothing else has come to lie in them.
    """
    made: list[Path] = []
    try:
        _make(home / "slurm", made)
        with Lock(home / "slurm"):
            yield made
    finally:
        _remove_empty(made)


@contextmanager
def nothing_left(submission: Submission, experiments: Sequence[Experiment], made: Sequence[Path]) -> Iterator[None]:
    """Where the block fails before anything is submitted, what this call has written is removed again; `made` are its folders."""
    roots = [experiment.run.root.absolute() for experiment in experiments]
    fresh: list[Path] = []
    try:
        for folder in [*roots, *(experiment.cache for experiment in experiments)]:
            _make(folder, fresh)
        yield
    except BaseException:
        if all(array.job is None for array in submission.arrays):
            shutil.rmtree(submission.folder, ignore_errors=True)
            for root in roots:
                if root in fresh or root in made:
                    _clear(root)
            _remove_empty(fresh)
        raise


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and those it lies in, and note in `made` which of them were not there."""
    folder = folder.absolute()
    try:
        for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            with suppress(FileExistsError):  # another process was faster
                path.mkdir()
                made.append(path)
    except OSError as error:
        raise ImprintError(
            f"{error.filename} can't be written ({error.strerror}); choose other folders with runs= and cache="
        ) from error


def _clear(root: Path) -> None:
    """Remove what was written into the folder of a run, unless another process has come to write there, or to train."""
    run = RunLayout(root)
    with suppress(LockError), Lock(root) as lock:
        for path in root.iterdir() if not run.models() else []:
            if path == lock.path or path.name == "slurm":  # where the lock of this turn lies
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # it holds something, or is gone
            folder.rmdir()
