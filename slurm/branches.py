"""Branches: models that share their parent's training up to a step, and go on without some items, or with a placebo's spans.

A branch is a further model of a run. Its record, `branch.json`, says all of it; its plan, texts and assignment are functions of its
parent's and that record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import DataError
from configs.layout import RunLayout, fingerprint, read_json, write_json
from configs.tables import ASSIGNMENT, PLACEBO, PLAN, read_table

BRANCH_FORMAT = 1
TEXT_COLUMNS = ["item_id", "variant", "tokens"]
VARIANT = "base"  # of a placebo's spans


@dataclass(frozen=True)
class Branch:
    """What makes a branch. It goes on from the parent's `step` without the items, or, as a placebo, with them, and with as many
    changed base spans; without any items it is the parent again.
    """

    name: str
    parent: str
    step: int  # the first that is its own
    without: list[str]  # what was asked to be removed, in words
    items: list[str]  # ids of the removed items, those with copies in the parent; of a placebo, which it is a placebo for
    placebo: int | None  # the seed of a placebo's spans
    weights: str  # fingerprint of the weights that it starts from
    spans: str = ""  # sha256 of a placebo's placebo.parquet

    def fingerprint(self, parent: str) -> str:
        """What its training depends on, given the fingerprint of its parent's."""
        return fingerprint(["branch", BRANCH_FORMAT, parent, self.step, self.items, self.placebo, self.spans])

    def told(self) -> str:
        """The branch in a sentence."""
        removed = f"{', '.join(self.without)} ({len(self.items):,} items)"
        how = f"without {removed}" if self.placebo is None else f"with as many base spans changed as hold {removed}"
        same = f"{self.name} is {self.parent} up to step {self.step:,}"
        return f"{same}, and goes on {how}" if self.items else f"{same}, and goes on unchanged"


def read_branches(run: RunLayout) -> dict[str, Branch]:
    """The branches of a run by name. DataError where a record is damaged."""
    found = {}
    for name in run.branches():
        path = run.model(name).branch
        try:
            found[name] = Branch(**read_json(path))
        except TypeError as error:
            raise DataError(f"{path} is damaged: {error}") from error
        if found[name].name != name:
            raise DataError(f"{path} is the record of {found[name].name}; give the folder that name again")
    return found


def write_branch(path: Path, branch: Branch) -> None:
    write_json(path, asdict(branch))


def with_branches(models: list[str], branches: Mapping[str, Branch]) -> list[str]:
    """Models, and the branches that come of them, each behind its parent."""
    found, left = list(models), dict(branches)
    while ready := [name for name, branch in left.items() if branch.parent in found]:
        found += ready
        for name in ready:
            del left[name]
    return found


# ------------------------------------------------------------------------------------------------ its tables


@dataclass(frozen=True)
class Tables:
    """The tables of a branch, made of its parent's: a removal filters, and never plans anew; a placebo adds its spans."""

    branch: Branch
    placebo: Path

    @cached_property
    def spans(self) -> pa.Table:
        return read_table(self.placebo)

    def plan(self, parent: pa.Table) -> pa.Table:
        """`parent`: its plan, or some columns of it that include row and offset."""
        if self.branch.placebo is None:
            return without(parent, self.branch.items)
        names = [*PLACEBO.names[:-1], "copy", "variant"]
        count = self.spans.num_rows
        columns = [*self.spans.columns[:-1], pa.array([0] * count, pa.int32()), pa.array([VARIANT] * count)]
        schema = pa.schema([PLAN.field(name) for name in parent.column_names])
        both = [parent.cast(schema), pa.table(columns, names).select(schema.names).cast(schema)]
        return pa.concat_tables(both).sort_by([("row", "ascending"), ("offset", "ascending")])

    def texts(self, parent: pa.Table) -> pa.Table:
        """Item, variant and tokens of all texts, those of the placebo among them."""
        if self.branch.placebo is None:
            return parent
        columns = [self.spans["item_id"], pa.array([VARIANT] * self.spans.num_rows), self.spans["tokens"]]
        return pa.concat_tables([parent.select(TEXT_COLUMNS), pa.table(columns, TEXT_COLUMNS)])

    def assignment(self, parent: pa.Table) -> pa.Table:
        """Who has how many copies; each of the placebo's spans is one copy of its own."""
        if self.branch.placebo is None:
            return without(parent, self.branch.items)
        own = [
            {"item_id": span["item_id"], "group": span["item_id"], "arm": "placebo", "copies": 1, "mode": span["mode"]}
            for span in self.spans.select(["item_id", "mode"]).to_pylist()
        ]
        return pa.concat_tables([parent, pa.Table.from_pylist(own, ASSIGNMENT)])


def without(table: pa.Table, items: list[str]) -> pa.Table:
    """The rows of a table that are of none of the items."""
    return table.filter(pc.invert(pc.is_in(table["item_id"], pa.array(items, pa.string()))))
