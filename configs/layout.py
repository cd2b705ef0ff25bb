"""What lies where on disk: paths, fingerprints, and writes that happen whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.errors import DataError

# ------------------------------------------------------------------------------------------------ fingerprints

READ_FROM = ["path", "hub", "model", "places", "reference", "start"]  # settings that may name local files
SETTLED_NANOSECONDS = 2 * 10**9  # two writes of one size within a tick of the clock leave a file with the same time


def fingerprint(thing: Any) -> str:
    """sha256 (hex) of anything that json can write; keys are sorted, so equal settings have equal fingerprints."""
    text = json.dumps(thing, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_fingerprint(path: Path) -> str:
    """The same of a file that is only read, which this process reads again only where its size, its time or itself has changed."""
    known = path.stat()
    if time.time_ns() - known.st_mtime_ns < SETTLED_NANOSECONDS:
        return file_fingerprint(path)
    return _settled_fingerprint(path.absolute(), known.st_size, known.st_mtime_ns, known.st_ino)


@lru_cache(maxsize=2**16)
def _settled_fingerprint(path: Path, *_: int) -> str:
    return file_fingerprint(path)


def folder_fingerprint(path: Path) -> str:
    """sha256 (hex) of the names and bytes of a folder's files, hidden ones left out; or of a file's bytes, whatever its name."""
    if not path.is_dir():
        return input_fingerprint(path)
    names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return fingerprint([(str(name), input_fingerprint(path / name)) for name in shown])


def contents(settings: Any) -> dict[str, str]:
    """Fingerprints of the local files and folders that nested settings name (by a key of READ_FROM), and of the tables of a `run`
    whose items are taken, by path.
    """
    found: dict[str, str] = {}
    for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
        if isinstance(value, dict | list):
            found |= contents(value)
        elif key in READ_FROM and isinstance(value, str) and (path := Path(value)).exists():
            found[value] = folder_fingerprint(path)
        elif key == "run" and isinstance(value, str):
            run = RunLayout(Path(value))
            tables = [path for path in (run.items, run.texts, run.assignment, run.plan) if path.exists()]
            found |= {str(path): input_fingerprint(path) for path in tables}
    return found


# ------------------------------------------------------------------------------------------------ atomic writes


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that no other process uses; what bears it and is left behind, `remove_leftovers` finds."""
    return path.with_name(f"{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is synced and renamed to it when the block succeeds, and removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block succeeds; the loser of a race leaves the winner's in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in [*temporary.rglob("*"), temporary]:
            _sync(file)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, thing: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(thing, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left behind in a folder that has no other writer now."""
    for path in folder.glob("*.tmp-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# ------------------------------------------------------------------------------------------------ paths


@dataclass(frozen=True)
class RunLayout:
    """The files of one run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def corpus(self) -> Path:
        return self.root / "corpus"

    @property
    def items(self) -> Path:
        return self.root / "items.parquet"

    @property
    def texts(self) -> Path:
        return self.root / "texts.parquet"

    @property
    def assignment(self) -> Path:
        return self.root / "assignment.parquet"

    @property
    def plan(self) -> Path:
        return self.root / "plan.parquet"

    @property
    def balance(self) -> Path:
        return self.root / "balance.csv"

    @property
    def power(self) -> Path:
        return self.root / "power.csv"

    @property
    def field_copies(self) -> Path:
        """How often the planned copies of each item tell each of its fields."""
        return self.root / "field_copies.csv"

    @property
    def facts(self) -> Path:
        """What stages learn and are asked, and which of it the model before them knew."""
        return self.root / "facts.parquet"

    @property
    def hits(self) -> Path:
        return self.root / "hits.parquet"

    @property
    def decontaminated(self) -> Path:
        """What came of decontamination: the corpus to train of, the groups that were drawn again, and fingerprints of the texts."""
        return self.root / "decontaminated.json"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def overview(self) -> Path:
        """Of a sweep, in whose folder its points lie: the page that compares them."""
        return self.root / "overview" / "index.html"

    def job(self, name: str) -> Path:
        """The record of a finished job: its fingerprint, and those of what it made."""
        return self.root / "jobs" / f"{name}.json"

    def model(self, name: str) -> ModelLayout:
        return ModelLayout(self.root / name)

    def points(self) -> list[str]:
        """The points of a sweep that lie in this folder: runs of their own."""
        return sorted(path.parent.name for path in self.root.glob("*/config.yaml"))

    def branches(self) -> list[str]:
        """The models that branch off from another, trained or not."""
        return sorted(path.parent.name for path in self.root.glob("*/branch.json"))

    def models(self) -> list[str]:
        """The models that have a whole checkpoint."""
        return sorted({path.parents[2].name for path in self.root.glob("*/checkpoints/step-????????/imprint.json")})


@dataclass(frozen=True)
class ModelLayout:
    """The files of one training trajectory."""

    root: Path

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def states(self) -> Path:
        return self.root / "state"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def certificate(self) -> Path:
        return self.root / "certificate.json"

    @property
    def branch(self) -> Path:
        """Of a branch: what it branches off from, at which step and without what."""
        return self.root / "branch.json"

    @property
    def placebo(self) -> Path:
        """Of a placebo branch: the base spans that it changes."""
        return self.root / "placebo.parquet"

    @property
    def finished(self) -> Path:
        """Of a stage: the step at which it ended, and why."""
        return self.root / "finished.json"

    def ended(self) -> int:
        """The step at which a stage ended. DataError where it has not, or what says so is damaged."""
        record = read_json(self.finished)
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DataError(f"{self.finished} is damaged; remove it, and running again makes it anew")
        return int(record["step"])

    @property
    def rows(self) -> Path:
        """Of a stage: which rows of its stream hold which facts and items."""
        return self.root / "rows.parquet"

    @property
    def stopped(self) -> Path:
        """Step, steps and signal of a training that was stopped; gone when it goes on."""
        return self.root / "stopped.json"

    def checkpoint(self, step: int) -> Path:
        return self.root / "checkpoints" / f"step-{step:08d}"

    def checkpoints(self) -> list[int]:
        """Steps of the whole checkpoints, in order: those whose marker is there."""
        return sorted(int(path.parent.name[5:]) for path in self.root.glob("checkpoints/step-????????/imprint.json"))

    def probes(self, step: int) -> Path:
        """What training scored around exposures, after the segment before and up to the weights of a step."""
        return self.root / f"probes-{step:08d}.parquet"

    def probe_segments(self) -> list[Path]:
        return sorted(self.root.glob("probes-????????.parquet"))

    def ledger(self, first: int, last: int) -> Path:
        """The ledger segment of steps [first, last)."""
        return self.root / f"ledger-{first:08d}-{last:08d}.parquet"

    def ledgers(self) -> list[Path]:
        return sorted(self.root.glob("ledger-*.parquet"))


@dataclass(frozen=True)
class CheckpointInfo:
    """`imprint.json` of a checkpoint or a resume state: what it is and what made it."""

    model: str
    step: int  # steps before this one were consumed
    tokens: int  # tokens predicted so far
    row: int  # the next row of the stream
    corpus: str  # fingerprints
    plan: str
    config: str
    files: dict[str, str]  # sha256 of each file in the folder
    weights: str = ""  # fingerprint of the digests of the weights' files: equal where and only where the weights are
    made_with: dict[str, Any] = field(default_factory=dict)  # versions of the programs, precision, strategy, devices

    def write(self, folder: Path) -> None:
        """Write `imprint.json`, with a digest of what it says itself."""
        record = asdict(self)
        record["files"] = record.pop("files")  # many names, so last
        (folder / "imprint.json").write_text(json.dumps({**record, "sha256": fingerprint(record)}, indent=2) + "\n")

    @staticmethod
    def read(folder: Path) -> CheckpointInfo:
        """DataError where it is missing, or is not what was written."""
        path = folder / "imprint.json"
        record = read_json(path)
        if not isinstance(record, dict) or record.pop("sha256", None) != fingerprint(record):
            raise DataError(f"{path} is damaged: it is not what was written")
        try:
            return CheckpointInfo(**record)
        except TypeError as error:
            raise DataError(f"{path} is damaged: {error}") from error

    def damaged(self, folder: Path) -> str | None:
        """The first file that is missing, can't be read or is not what was written, or None."""
        for name, digest in self.files.items():
            try:
                if file_fingerprint(folder / name) != digest:
                    return name
            except OSError:  # an error of the disk, as a rule
                return name
        return None
