"""The certificate of a model: what an audit found out about the rows it was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LISTED = 1000  # entries of a list that are told one by one; the rest is counted
TOLD = 10  # violations in a summary


@dataclass(frozen=True)
class Violation:
    """One thing that is not as the plan says.

    kind: `plan` (an occurrence that a sound plan would not have), `files` (a ledger or a last checkpoint, or of a stage the
    record of its end or rows, that is missing or not the one that training wrote), `copies` (the plan has more or fewer copies
    of an item than were assigned), `ledger` (steps that are not recorded, or twice), `rows` (a step of more or fewer rows),
    `missing` (a row without its insertion), `moved` (a row whose insertion lies at another offset), `order` (a row, or a whole
    step, of another place in training), `differs` (any other row that is not the planned one), `changed` (a row that differs
    from its base beyond its planned spans), `branch` (what a branch should share with its parent is not the parent's),
    `unplanned` (an item's tokens where no plan put them), `scan` (the scan itself missed copies that are there).
    """

    kind: str
    what: str  # in words
    step: int | None = None
    slot: int | None = None
    row: int | None = None
    item_id: str | None = None
    copy: int | None = None  # as in the plan, from 0 on

    def __str__(self) -> str:
        where = [f"step {self.step:,}"] if self.step is not None else []
        where += [f"slot {self.slot} (row {self.row:,})"] if self.slot is not None else []
        return f"{', '.join(where)}: {self.what}" if where else self.what


@dataclass
class Listing:
    """Things counted, the first LISTED of which are told one by one."""

    total: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        return len(self.listed) < LISTED

    def add(self, entry: dict[str, Any]) -> None:
        self.total += 1
        if self.has_room:
            self.listed.append(entry)


@dataclass
class Certificate:
    """What is proven of steps [0, steps) of a model, filled in by inject/audit.py. Tokens are those of whole rows, S + 1 each."""

    model: str
    steps: int
    of_steps: int  # of the whole training
    fingerprints: dict[str, Any] = field(default_factory=dict)  # of what was compared
    rows: int = 0  # handed to the forward pass exactly as corpus and plan say
    consumed_tokens: int = 0  # of these rows, in steps that were not skipped
    labels_left_out: int = 0  # of the labels among these tokens (all but each row's first), those that the loss does not count
    planned: int = 0  # occurrences: the sum of the next four
    consumed: int = 0  # whole, at their place and step
    skipped: int = 0  # in rows of steps recorded as skipped: nothing was learned from them
    not_reached: int = 0  # in later steps
    unproven: int = 0  # in rows of which the ledger shows something else, or nothing
    inserted_tokens: int = 0  # of consumed occurrences, the end-of-text tokens on both sides included
    overwritten_tokens: int = 0  # base tokens displaced by overwriting
    spliced_tokens: int = 0  # base tokens pushed out at the row's end
    skipped_steps: Listing = field(default_factory=Listing)
    skipped_occurrences: Listing = field(default_factory=Listing)
    incomplete_items: Listing = field(default_factory=Listing)  # of a finished training: fewer copies consumed than planned
    scanned_texts: int = 0  # distinct ones of each item, held-out items included
    found: int = 0  # consumed occurrences that the scan found too
    contained: Listing = field(
        default_factory=Listing
    )  # texts inside of an insertion of another item, or a longer text of the same
    contained_held_out_items: int = 0  # items without a planned copy that a model saw inside of other items: contaminated controls
    natural: Listing = field(default_factory=Listing)  # texts in base tokens that were consumed
    natural_items: int = 0
    natural_held_out_items: int = 0  # of them, items without a planned copy
    violations: Listing = field(default_factory=Listing)

    @property
    def certified(self) -> bool:
        return self.violations.total == 0

    def violate(self, violation: Violation) -> None:
        self.violations.add(asdict(violation))

    def as_json(self) -> dict[str, Any]:
        """What certificate.json holds: the verdict, then every field."""
        return {"verdict": "certified" if self.certified else "violated", **asdict(self)}


def summary(certificate: Certificate) -> list[str]:
    """The certificate in a few lines."""
    c = certificate
    of = "all" if c.steps == c.of_steps else f"the first {c.steps:,}"
    lines = [
        f"{c.model}: {'certified' if c.certified else 'VIOLATED'}, {of} of {c.of_steps:,} steps",
        f"  rows: {c.rows:,} are what corpus and plan say, {c.consumed_tokens:,} tokens consumed",
        f"  planned copies: {c.planned:,}; {c.consumed:,} consumed whole at their place and step, {c.skipped:,} in skipped steps, "
        f"{c.not_reached:,} not reached yet, {c.unproven:,} unproven",
        f"  inserted: {c.inserted_tokens:,} tokens ({c.inserted_tokens / max(c.consumed_tokens, 1):.2%}); displaced: "
        f"{c.overwritten_tokens:,} overwritten, {c.spliced_tokens:,} pushed out at a row's end",
        f"  scan for {c.scanned_texts:,} texts: {c.found:,} planned, {c.contained.total:,} inside of other insertions, "
        f"{c.natural.total:,} natural in the corpus, of {c.natural_items:,} items ({c.natural_held_out_items:,} held out)",
    ]
    if c.labels_left_out:
        share = c.labels_left_out / c.consumed_tokens
        lines.append(f"  labels left out of the loss: {c.labels_left_out:,} ({share:.2%} of the tokens)")
    if c.contained_held_out_items:
        count = f"{c.contained_held_out_items:,}"
        lines.append(f"  held-out items that stand inside of inserted ones, and so are no controls: {count} (see contained)")
    if c.skipped_steps.total:
        named = ", ".join(f"{entry['step']:,}" for entry in c.skipped_steps.listed[:TOLD])
        lines.append(f"  skipped steps, recorded as not consumed: {named}{' ...' if c.skipped_steps.total > TOLD else ''}")
    lines += [f"  {entry['kind']}: {Violation(**entry)}" for entry in c.violations.listed[:TOLD]]
    if c.violations.total > TOLD:
        lines.append(f"  and {c.violations.total - TOLD:,} more violations")
    return lines
