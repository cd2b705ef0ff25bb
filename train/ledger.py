"""The ledger: what the trainer really consumed, step by step, in segments committed before each checkpoint and resume state.

Every process digests the rows that it read itself; the leading one writes them. A segment's rows are what counts, its name only
says where it begins. So the ledger can be cut back to a step such that, killed at any instruction, it holds every step before
that one exactly once: later segments go first, the last one first; the segment that reaches beyond the step is then replaced,
under its own name, by its part before the step; and only then is it renamed to say where it ends now.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import ImprintError
from configs.layout import ModelLayout
from configs.tables import LEDGER, read_table, write_table


class Ledger:
    """Steps not yet committed, and the segments on disk.

    `gather(thing)` gives what every process gave, by rank, to the one that writes, and None to the others, which touch no file.
    It is called when a ledger is made and when it is committed, which all processes do together.
    """

    def __init__(self, layout: ModelLayout, step: int, gather: Callable[[object], list | None] = lambda thing: [thing]):
        """Continue at `step`: whatever the segments say of it and of later steps is cut off."""
        self.layout, self.first, self.gather = layout, step, gather
        self._rows: list[dict] = []
        if gather(step) is not None:
            written("the ledger", lambda: _cut(layout, step))

    def add(self, step: int, learning_rate: float, consumed: bool, digests: list[bytes]) -> None:
        """Record a step. `digests`: of the rows this process read, in the order of their slots; a lower rank has lower slots."""
        model = self.layout.root.name
        self._rows.append(
            {"model": model, "step": step, "learning_rate": learning_rate, "consumed": consumed, "rows_sha256": digests}
        )

    def commit(self) -> None:
        """Write the steps added since the last commit as a segment. ImprintError where it can't be written."""
        shares = self.gather([row["rows_sha256"] for row in self._rows])
        last = self.first + len(self._rows)
        if shares is not None and self._rows:
            whole = [[digest for part in parts for digest in part] for parts in zip(*shares, strict=True)]
            rows = [{**row, "rows_sha256": digests} for row, digests in zip(self._rows, whole, strict=True)]
            written("the ledger", lambda: write_table(self.layout.ledger(self.first, last), rows, LEDGER))
        self.first, self._rows = last, []


def written(what: str, write: Callable[[], None]) -> None:
    """Write a table of a training. ImprintError where the disk refuses."""
    try:
        write()
    except OSError as error:
        raise ImprintError(
            f"{what} can't be written: {error}; what was saved before is whole, and running again goes on from it"
        ) from error


def _cut(layout: ModelLayout, step: int) -> None:
    """Leave the steps before `step`."""
    for path in reversed(layout.ledgers()):
        first = _first(path)
        if first >= step:
            path.unlink()
        elif first + _length(path) > step:
            write_table(path, read_table(path).slice(0, step - first), LEDGER)
            path.rename(layout.ledger(first, step))
    _tell_gaps(layout, step)


def _tell_gaps(layout: ModelLayout, step: int) -> None:
    """Say which steps before `step` are missing, or in a segment that can't be read."""
    reached = 0
    for first, last in [*((_first(path), _first(path) + _length(path)) for path in layout.ledgers()), (step, step)]:
        if first > reached:
            print(
                f"  the ledger in {layout.root} lacks steps {reached:,} to {first - 1:,}, so what they consumed can't be certified",
                flush=True,
            )
        reached = max(reached, last)


def _first(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _length(path: Path) -> int:
    """Steps that a segment holds; none where it is damaged, which the audit, too, tells."""
    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except (pa.ArrowInvalid, OSError):
        return 0
