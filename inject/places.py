"""Explicit places: (row, offset) pairs of a recipe, written out or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from configs.errors import RecipeError

READERS = {".csv": pd.read_csv, ".jsonl": lambda path: pd.read_json(path, lines=True), ".parquet": pd.read_parquet}


def read_places(given: Any, where: str) -> list[tuple[int, int]]:
    """Places of a list of [row, offset], or of the columns `row` and `offset` of a CSV, JSONL or parquet file."""
    pairs = _read(Path(given), where) if isinstance(given, str) else given
    if not isinstance(pairs, list):
        raise RecipeError(f"{where} is {given!r}; it must be a list of [row, offset], or a file with these columns")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(n) is int and n >= 0 for n in pair):
            raise RecipeError(f"{where} holds {pair!r}; each place is [row, offset], two whole numbers from 0 on")
    return [(row, offset) for row, offset in pairs]


def _read(path: Path, where: str) -> list[list[int]]:
    if path.suffix not in READERS or not path.is_file():
        raise RecipeError(f"{where} is {path}; it must be a {', '.join(READERS)} file that exists, or a list of [row, offset]")
    try:
        table = READERS[path.suffix](path)
    except (ValueError, OSError) as error:
        raise RecipeError(f"{where} is {path}, which can't be read: {error}") from error
    absent = [column for column in ("row", "offset") if column not in table]
    if absent:
        raise RecipeError(f"{where} is {path}, which has no column {absent[0]!r} (it has: {', '.join(map(str, table.columns))})")
    return table[["row", "offset"]].to_numpy().tolist()
