"""Rows of tables as dictionaries: JSONL, parquet, CSV and text files, and data sets of the hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError, RecipeError
from configs.insert import RowSet
from inject.hub import dataset_commit


class UnusableRow(DataError):
    """A row that no item can be made of; the message says which, and why."""


@dataclass(frozen=True)
class Row:
    """A row and where it stands."""

    number: int  # among all rows of the source, from 0
    where: str
    values: dict[str, Any]


def read_rows(settings: RowSet, item_set: str) -> Iterator[Row]:
    """The rows of an item set's files or hub data set that `where` lets through, in order.

    RecipeError where no source is given, or none of that name exists; DataError where one can't be read.
    """
    if settings.path is None and settings.hub is None:
        raise RecipeError(f"insert.{item_set} is read from a file or the hub; set insert.{item_set}.path or insert.{item_set}.hub")
    if settings.limit is not None and settings.limit < 1:
        raise RecipeError(f"insert.{item_set}.limit is {settings.limit}; it must be 1 or more, or left out for all rows")
    found = _read_files(settings.path, item_set) if settings.path is not None else _read_hub(settings, item_set)
    for number, (where, values) in enumerate(islice(found, settings.limit)):
        row = Row(number, where, values)
        if all(_matches(row, name, wanted) for name, wanted in settings.where.items()):
            yield row


def hub_commit(settings: RowSet, item_set: str) -> str | None:
    """The commit of the hub's data set that the rows are read from; None for local files, and for a folder laid out as one.

    DataError where the hub can't be asked for it. It is not where the recipe gives a `path`, or a commit as `revision`.
    """
    if settings.path is not None or settings.hub is None:
        return None
    where = f"insert.{item_set}"
    return dataset_commit(settings.hub, settings.revision or "main", f"{where}.hub", f"{where}.revision")


def lookup(row: Row, column: str) -> Any:
    """The value of a column, or of a part of it: `answer.value`, `answers.0`. Text on the way is read as JSON.

    UnusableRow where there is none.

    >>> lookup(Row(0, "line 1 of my.jsonl", {"meta": '{"names": ["Ann", "Bea"]}'}), "meta.names.1")
    'Bea'
    """
    if column in row.values:
        return row.values[column]
    value: Any = row.values
    for part in column.split("."):
        if isinstance(value, str):
            value = _parsed(value, row, column)
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise UnusableRow(f"{row.where} has no {column!r} (it has: {', '.join(row.values)})")
    return value


def text_of(row: Row, column: str) -> str:
    """The value of a column as text, as it is: numbers are written out. UnusableRow where it is missing, empty or no text."""
    return as_text(lookup(row, column), row, column)


def as_text(value: Any, row: Row, column: str) -> str:
    """A value as text; `column` is what to call it where that can't be done."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UnusableRow(f"{column!r} of {row.where} is empty")
    if isinstance(value, list | dict):
        part = "0" if isinstance(value, list) else next(iter(value), "name")
        raise UnusableRow(f"{column!r} of {row.where} is a {type(value).__name__}, not text; name a part of it, as {column}.{part}")
    if not isinstance(value, str | int | float | date):
        raise UnusableRow(f"{column!r} of {row.where} is {type(value).__name__}, not text")
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UnusableRow(f"{column!r} of {row.where} is not valid Unicode")
    return text


def list_of(row: Row, column: str) -> list[str]:
    """The value of a column that holds a list, or text that holds one as JSON, each of it as text."""
    value = lookup(row, column)
    if isinstance(value, str):
        value = _parsed(value, row, column)
    if not isinstance(value, list) or not value:
        raise UnusableRow(f"{column!r} of {row.where} is {value!r}; it must be a list")
    return [as_text(each, row, f"{column}.{number}") for number, each in enumerate(value)]


def _parsed(text: str, row: Row, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"{column!r} of {row.where} is not there: {text[:40]!r} holds no further columns") from error


def _matches(row: Row, column: str, wanted: Any) -> bool:
    options = wanted if isinstance(wanted, list) else [wanted]
    value = lookup(row, column)
    return value in options or str(value) in [str(option) for option in options]


# ------------------------------------------------------------------------------------------------ files

_Found = Iterator[tuple[str, dict[str, Any]]]  # where each row stands, and the row


def _read_files(given: str, item_set: str) -> _Found:
    path = Path(given)
    if not path.exists():
        raise RecipeError(f"insert.{item_set}.path is {path}, which does not exist")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in READERS)
    if not files or _suffix(files[0]) not in READERS:
        possible = f"{', '.join(READERS)}; also .gz and .zst of all but parquet"
        raise RecipeError(f"insert.{item_set}.path is {path}, which is or holds no file that can be read ({possible})")
    for file in files:
        try:
            yield from READERS[_suffix(file)](file)
        except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError, pa.ArrowException) as error:
            raise DataError(f"{file} can't be read: {' '.join(str(error).split())}") from error


def _suffix(file: Path) -> str:
    """The suffix that tells the format; parquet compresses by itself, so a compressed parquet file is none."""
    inner = Path(file.stem).suffix if file.suffix in (".gz", ".zst") else file.suffix
    return file.suffix if inner == ".parquet" else inner


def _open(file: Path) -> io.TextIOWrapper:
    if file.suffix == ".gz":
        raw: Any = gzip.open(file, "rb")  # noqa: SIM115
    elif file.suffix == ".zst":
        raw = io.BufferedReader(pa.input_stream(file, compression="zstd"))
    else:
        raw = file.open("rb")
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _read_jsonl(file: Path) -> _Found:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"line {number} of {file}"
                yield where, _mapping(_json(line, where), where)


def _read_json(file: Path) -> _Found:
    """One list of rows, or JSONL under another name."""
    with _open(file) as opened:
        text = opened.read()
    if not text.lstrip().startswith("["):
        yield from _read_jsonl(file)
        return
    for number, row in enumerate(_json(text, str(file))):
        where = f"row {number} of {file}"
        yield where, _mapping(row, where)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error


def _mapping(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f'{where} is a {type(row).__name__}; a row must be an object, as {{"text": ...}}')
    return row


def _read_parquet(file: Path) -> _Found:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            yield f"row {number} of {file}", row
            number += 1


def _read_separated(delimiter: str) -> Callable[[Path], _Found]:
    def read(file: Path) -> _Found:
        csv.field_size_limit(2**31 - 1)  # a document may be a field
        with _open(file) as lines:
            for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter)):
                where = f"row {number} of {file}"
                if None in row:
                    raise DataError(f"{where} has more cells than the first line of the file names")
                yield where, row

    return read


def _read_text(file: Path) -> _Found:
    with _open(file) as opened:
        yield str(file), {"text": opened.read()}


READERS: dict[str, Callable[[Path], _Found]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".txt": _read_text,
    ".md": _read_text,
}


# ------------------------------------------------------------------------------------------------ the hub


def _read_hub(settings: RowSet, item_set: str) -> _Found:
    """Splits are streamed one after another; nothing is kept on disk."""
    import datasets  # takes a second to import, and only sets of the hub need it

    revision = hub_commit(settings, item_set)
    for split in settings.split.split("+"):
        try:
            rows = datasets.load_dataset(str(settings.hub), name=settings.config, split=split, revision=revision, streaming=True)
            for number, row in enumerate(rows):
                yield f"row {number} of {settings.hub} ({split})", dict(row)
        except Exception as error:  # whatever the hub, the network or a file's format raises
            raise DataError(
                f"insert.{item_set}.hub is {settings.hub}, of which split {split!r}"
                + (f" of config {settings.config!r}" if settings.config else "")
                + f" can't be read: {' '.join(str(error).split())}; set insert.{item_set}.path to read a local copy"
            ) from error
