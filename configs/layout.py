"""What lies where on disk: paths, table schemas, fingerprints, and writes that happen whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError, ImprintError

# ------------------------------------------------------------------------------------------------ tables

_PROBE = pa.struct(
    [
        ("probe_id", pa.string()),  # unique among the item's probes
        ("field", pa.string()),
        ("context", pa.string()),  # the variant a verbatim probe lies in, else what the prompt gives away
        ("kind", pa.string()),  # verbatim | choice
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("candidates", pa.list_(pa.string())),  # of a choice, the target among them
        ("bits", pa.float64()),  # entropy of the target given the prompt; 0 where it can be derived
    ]
)
_SPAN = pa.struct([("field", pa.string()), ("start", pa.int32()), ("end", pa.int32())])  # characters [start, end)

ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("kind", pa.string()),
        ("stratum", pa.string()),  # the item set's name; groups are randomized within it
        ("group", pa.string()),
        ("fields", pa.string()),  # json
        ("probes", pa.list_(_PROBE)),
    ]
)
TEXTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),  # without the end-of-text tokens around it
        ("spans", pa.list_(_SPAN)),
    ]
)
ASSIGNMENT = pa.schema(
    [
        ("item_id", pa.string()),
        ("group", pa.string()),
        ("arm", pa.string()),
        ("copies", pa.int32()),
        ("window_start", pa.float64()),
        ("window_end", pa.float64()),
        ("spacing", pa.string()),
        ("placement", pa.string()),
    ]
)
PLAN = pa.schema(
    [
        ("row", pa.int64()),
        ("offset", pa.int32()),
        ("length", pa.int32()),  # the end-of-text tokens on both sides included
        ("mode", pa.string()),
        ("item_id", pa.string()),
        ("copy", pa.int32()),
        ("variant", pa.string()),
    ]
)
LEDGER = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("learning_rate", pa.float64()),
        ("consumed", pa.bool_()),
        ("rows_sha256", pa.list_(pa.binary(32))),  # of each row's int64 tokens and label mask, by slot
    ]
)
TOKEN_SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("context", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("log_prob", pa.list_(pa.float32())),  # nats
        ("mean", pa.list_(pa.float32())),  # of log p over the vocabulary under p, nats
        ("deviation", pa.list_(pa.float32())),
        ("argmax", pa.list_(pa.int32())),
        ("rank", pa.list_(pa.int32())),  # of the token among the vocabulary, 0 = most probable
    ]
)
CHOICE_SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),
        ("candidate", pa.string()),
        ("log_prob", pa.float64()),  # of the candidate's tokens given the prompt, nats
        ("characters", pa.int32()),
    ]
)
SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),  # of a whole text, its variant
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("exposures", pa.int32()),  # copies of the item consumed before the step
        ("text_exposures", pa.int32()),  # of them, copies of the text that the probe lies in; of a choice probe, all
    ]
)
EXPOSURE = pa.schema([field for field in SCORES if not field.name.endswith("exposures")])  # of canaries, as scored
CONTINUATIONS = pa.schema(  # of the probes a model knows best
    [(name, pa.string()) for name in ("item_id", "probe_id", "kind", "arm", "prompt", "target", "continuation")]
    + [("exposures", pa.int32()), ("extracted", pa.bool_()), ("log_prob", pa.float64())]
)
EFFECTS = pa.schema(
    [
        ("metric", pa.string()),
        ("contrast", pa.string()),
        ("kind", pa.string()),
        ("arm", pa.string()),
        ("model", pa.string()),
        ("step", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)


def write_table(path: Path, rows: Any, schema: pa.Schema) -> None:
    """Write a list of dictionaries, a data frame or a mapping of columns as parquet, whole or not at all."""
    if isinstance(rows, pa.Table):
        table = rows.select(schema.names).cast(schema)
    elif isinstance(rows, list):
        table = pa.Table.from_pylist(rows, schema)
    elif isinstance(rows, dict):
        table = pa.table(rows, schema)
    else:
        table = pa.Table.from_pandas(rows, schema, preserve_index=False)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(path: Path, rows: Any) -> None:
    """Write a data frame, or a list of dictionaries, as CSV, whole or not at all."""
    with atomic_file(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def read_table(path: Path) -> pa.Table:
    """Read a parquet table, or say in one sentence that it is missing or damaged."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and run again to make it anew") from error


# ------------------------------------------------------------------------------------------------ fingerprints


def fingerprint(thing: Any) -> str:
    """sha256 (hex) of anything that json can write; keys are sorted, so equal settings have equal fingerprints."""
    text = json.dumps(thing, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------ atomic writes


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is synced and renamed to it when the block succeeds, and removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
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
    temporary = _temporary(path)
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


# ------------------------------------------------------------------------------------------------ one writer

HEARTBEAT_SECONDS = 120  # a lock of another host that was not renewed for so long is taken over


class Lock:
    """One writer per folder: a file that names host and process, whose time is renewed while the writer lives.

    Use as a context manager. A lock that was not renewed for HEARTBEAT_SECONDS, or whose process on this host is gone, is taken
    over; any other is an ImprintError that names its holder.
    """

    def __init__(self, folder: Path):
        self.path = folder / "lock.json"
        self._released = threading.Event()

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = _temporary(self.path)
        written.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        try:
            while True:
                try:
                    os.link(written, self.path)  # appears whole, and fails where another lock is
                    break
                except FileExistsError:
                    self._take_over()
        finally:
            written.unlink()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._released.set()
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS / 8):
            with suppress(FileNotFoundError):
                os.utime(self.path)

    def _take_over(self) -> None:
        try:
            age = time.time() - self.path.stat().st_mtime
            written = self.path.read_text()
        except FileNotFoundError:
            return
        try:
            holder = json.loads(written)
        except json.JSONDecodeError:  # its writer was stopped, or is about to write: its age decides
            holder = {}
        host, process = holder.get("host"), holder.get("process")
        gone = host == socket.gethostname() and not _lives(process)
        if age < HEARTBEAT_SECONDS and not gone:
            raise ImprintError(
                f"{self.path.parent} is being written by process {process} on {host}; wait for it, stop it, or use another name="
            )
        self.path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether another process of this number is running on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


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
    def report(self) -> Path:
        return self.root / "report"

    def job(self, name: str) -> Path:
        """The record of a finished job: its fingerprint, and those of what it made."""
        return self.root / "jobs" / f"{name}.json"

    def model(self, name: str) -> ModelLayout:
        return ModelLayout(self.root / name)

    def models(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("*/checkpoints"))


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

    def checkpoint(self, step: int) -> Path:
        return self.root / "checkpoints" / f"step-{step:08d}"

    def checkpoints(self) -> list[int]:
        """Steps of the whole checkpoints, in order: those whose marker is there."""
        return sorted(int(path.parent.name[5:]) for path in self.root.glob("checkpoints/step-*/imprint.json"))

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

    def write(self, folder: Path) -> None:
        (folder / "imprint.json").write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def read(folder: Path) -> CheckpointInfo:
        try:
            return CheckpointInfo(**read_json(folder / "imprint.json"))
        except TypeError as error:
            raise DataError(f"{folder / 'imprint.json'} is damaged: {error}") from error

    def damaged(self, folder: Path) -> str | None:
        """The first file that is missing or not what was written, or None."""
        for name, digest in self.files.items():
            if not (folder / name).exists() or file_fingerprint(folder / name) != digest:
                return name
        return None
