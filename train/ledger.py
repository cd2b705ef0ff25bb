"""The ledger: what the trainer really consumed, step by step, in segments committed with each resume state."""

from __future__ import annotations

from configs.layout import ModelLayout
from configs.tables import LEDGER, read_table, write_table


class Ledger:
    """Steps not yet committed, and the segments on disk."""

    def __init__(self, layout: ModelLayout, step: int):
        """Continue at `step`: whatever the segments say of later steps is cut off."""
        self.layout, self.first = layout, step
        self._rows: list[dict] = []
        for path in layout.ledgers():
            first, last = (int(part) for part in path.stem.split("-")[1:])
            if last > step:
                if first < step:
                    write_table(layout.ledger(first, step), read_table(path).slice(0, step - first), LEDGER)
                path.unlink()

    def add(self, step: int, learning_rate: float, consumed: bool, digests: list[bytes]) -> None:
        model = self.layout.root.name
        self._rows.append(
            {"model": model, "step": step, "learning_rate": learning_rate, "consumed": consumed, "rows_sha256": digests}
        )

    def commit(self) -> None:
        if self._rows:
            last = self.first + len(self._rows)
            write_table(self.layout.ledger(self.first, last), self._rows, LEDGER)
            self.first, self._rows = last, []
