"""Spread copies over the rows of a window: uniform, even, expanding, massed or in bursts, one occurrence a row.

The copies of a crowd are proposed rows in rounds; a proposal stands if its row is free, no other copy of the item falls in its
step, and, at a boundary, a document ends where the text has room. So millions are placed in a few passes over arrays; what the
rounds leave over in a nearly full window is packed one by one, and what does not fit at all is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from configs.errors import RecipeError
from inject.design import Phase, Shape

ROUNDS = 64
OPEN, NO_ROOM = -1, -2  # offsets: still free to choose; none that would do
CHUNK_ROWS = 4096  # rows whose tokens are looked at in one go


@dataclass(frozen=True)
class Crowd:
    """Copies that are placed together: those of one item set in one window, with one spacing and placement."""

    where: str  # for what is told to the user
    item: np.ndarray  # int64 (copies in all,): whose copy; an item's copies are neighbours
    copies: np.ndarray  # int64 (items,)
    length: np.ndarray  # int64 (copies in all,): tokens to make room for, end-of-text tokens included
    window: Phase
    placement: str

    @property
    def bounded(self) -> bool:
        """Whether its copies lie where documents end."""
        return self.placement == "boundary"

    @property
    def turn(self) -> np.ndarray:
        """Number of each copy among those of its item."""
        return np.arange(len(self.item)) - np.repeat(np.cumsum(self.copies) - self.copies, self.copies)


class Board:
    """The rows of a training: which are taken, and where in them documents end.

    `base_tokens`: tokens (n, S + 1) of rows (n,) before any insertion; needed for placement at a boundary only.
    """

    def __init__(self, shape: Shape, base_tokens: Callable[[np.ndarray], np.ndarray] | None = None, end_of_text: int = 0):
        self.shape, self.end_of_text = shape, end_of_text
        self.taken = np.zeros(shape.rows, bool)
        self._base_tokens = base_tokens

    def free(self, first: int, last: int) -> np.ndarray:
        """The free rows among [first, last), int64."""
        return first + np.flatnonzero(~self.taken[first:last])

    def offsets(self, crowd: Crowd, rows: np.ndarray, length: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Where in `rows` (n,) texts of `length` (n,) could lie, int64 (n,): at a boundary, one of the places where a document
        ends and the text has room, at random, or NO_ROOM; for other placements OPEN.
        """
        offset = np.full(len(rows), OPEN)
        for chunk in _chunks(len(rows) if crowd.bounded else 0):
            ends = self._ends(rows[chunk])
            ends &= np.arange(self.shape.row_tokens) + length[chunk, None] <= self.shape.row_tokens
            counted = np.cumsum(ends, axis=1)
            wanted = (random.random(len(ends)) * counted[:, -1]).astype(np.int64) + 1
            offset[chunk] = np.where(counted[:, -1] > 0, np.argmax(counted == wanted[:, None], axis=1), NO_ROOM)
        return offset

    def room(self, rows: np.ndarray) -> np.ndarray:
        """Tokens from each row's first document end to its end, 0 where no document ends in it; int64 (n,)."""
        room = np.empty(len(rows), np.int64)
        for chunk in _chunks(len(rows)):
            ends = self._ends(rows[chunk])
            room[chunk] = np.where(ends.any(1), self.shape.row_tokens - np.argmax(ends, axis=1), 0)
        return room

    def _ends(self, rows: np.ndarray) -> np.ndarray:
        if self._base_tokens is None:
            raise RecipeError("placement at a boundary needs the corpus, which is not tokenized yet; run imprint corpus first")
        return self._base_tokens(rows) == self.end_of_text


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, size, CHUNK_ROWS))


def place(crowd: Crowd, board: Board, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(row, offset) of each copy, int64 (copies in all,), taken from then on; offset OPEN where the placement leaves it free.

    RecipeError where they do not fit, with the room there is.
    """
    spacing = crowd.window.spacing
    _refuse_crowding(crowd, board)
    if spacing == "massed" or spacing.startswith("bursts"):
        return _blocks(crowd, board, random)
    if spacing == "uniform":
        return _uniform(crowd, board, random)
    return _near(crowd, _targets(crowd, random), board, random)


def _refuse_crowding(crowd: Crowd, board: Board) -> None:
    first, last, batch = crowd.window.first, crowd.window.last, board.shape.global_batch
    rows = (last - first) * batch
    room = rows - int(np.count_nonzero(board.taken[first * batch : last * batch]))
    if len(crowd.item) > room:
        raise RecipeError(
            f"{crowd.where}: its copies in steps {first:,}-{last:,} need {len(crowd.item):,} rows, but only {room:,} of these "
            f"{rows:,} are free; lower the copies or sizes, widen the window, or raise train.steps or train.global_batch"
        )
    alone = not crowd.window.spacing.startswith(("massed", "bursts"))
    if alone and crowd.copies.max() > last - first:
        raise RecipeError(
            f"{crowd.where}: {crowd.copies.max():,} copies of an item do not fit steps {first:,}-{last:,}, {last - first:,} steps "
            "that take one copy of an item each; widen the window, raise train.steps, or let copies share steps by spacing: massed"
        )


def _refuse(crowd: Crowd, board: Board, left: int) -> RecipeError:
    """What to tell when `left` copies found no place."""
    what = f"{crowd.where}: {left:,} of its {len(crowd.item):,} copies in steps {crowd.window.first:,}-{crowd.window.last:,}"
    if crowd.bounded:
        batch = board.shape.global_batch
        room = board.room(board.free(crowd.window.first * batch, crowd.window.last * batch))
        shortest, longest = int(crowd.length.min()), int(crowd.length.max())
        return RecipeError(
            f"{what} find no free row in which a document ends with room behind it; {int((room >= shortest).sum()):,} are "
            f"left for the shortest text of {shortest} tokens and {int((room >= longest).sum()):,} for the longest, of {longest}; "
            "lower the copies, widen the window or set placement: anywhere"
        )
    return RecipeError(f"{what} fit the free rows, but not with one copy of an item a step; lower the copies or raise train.steps")


# ------------------------------------------------------------------------------------------------ rounds of proposals


def _rounds(
    crowd: Crowd, propose: Callable[[np.ndarray, int], np.ndarray], board: Board, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, offset) of the copies that found a place in some round, and the numbers of those that did not."""
    row, offset = np.full(len(crowd.item), -1), np.full(len(crowd.item), OPEN)
    used = np.zeros(0, np.int64)  # item and step of every copy placed, as one number, sorted
    left = np.arange(len(crowd.item))
    for attempt in range(ROUNDS):
        proposed = propose(left, attempt)
        key = crowd.item[left] * board.shape.steps + proposed // board.shape.global_batch
        stands = ~board.taken[proposed] & _first_of_each(proposed) & _first_of_each(key) & ~_among(key, used)
        found = board.offsets(crowd, proposed[stands], crowd.length[left[stands]], random)
        offset[left[stands]] = found
        stands[stands] = found != NO_ROOM
        row[left[stands]] = proposed[stands]
        board.taken[proposed[stands]] = True
        used = np.sort(np.concatenate([used, key[stands]]), kind="stable")
        rare = stands.sum() < len(left) / 100
        left = left[~stands]
        if not len(left) or (rare and attempt > ROUNDS // 8):
            break
    return row, offset, left


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Whether each value is the first of its kind, bool (n,)."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.ones(len(values), bool)
    first[order[1:]] = ranked[1:] != ranked[:-1]
    return first


def _among(values: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    if not len(ranked):
        return np.zeros(len(values), bool)
    return ranked[np.minimum(np.searchsorted(ranked, values), len(ranked) - 1)] == values


def _uniform(crowd: Crowd, board: Board, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows at random; where they are scarce, all free ones are listed and dealt out."""
    first, last = crowd.window.first * board.shape.global_batch, crowd.window.last * board.shape.global_batch
    free = last - first - int(np.count_nonzero(board.taken[first:last]))
    if 2 * len(crowd.item) <= free:
        row, offset, left = _rounds(crowd, lambda left, _: random.integers(first, last, len(left)), board, random)
        if not len(left):
            return row, offset
        board.taken[row[row >= 0]] = False
    row = _deal(crowd, board, board.free(first, last), random)
    board.taken[row] = True
    return row, board.offsets(crowd, row, crowd.length, random)


def _near(crowd: Crowd, target: np.ndarray, board: Board, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random row of each copy's target step, or of a near step that has one for it; where the window is so full that this leaves
    a copy over, any packing.
    """
    batch, window = board.shape.global_batch, crowd.window

    def propose(left: np.ndarray, attempt: int) -> np.ndarray:
        away = (attempt // 4 + 1) // 2 * (1 if attempt // 4 % 2 else -1)
        return np.clip(target[left] + away, window.first, window.last - 1) * batch + random.integers(batch, size=len(left))

    row, offset, left = _rounds(crowd, propose, board, random)
    for copy in left.tolist():
        free = board.free(window.first * batch, window.last * batch)
        own_steps = row[(crowd.item == crowd.item[copy]) & (row >= 0)] // batch
        free = free[~np.isin(free // batch, own_steps)]
        free = free[np.argsort(abs(free // batch - target[copy]), kind="stable")]
        for chunk in _chunks(len(free)):
            found = board.offsets(crowd, free[chunk], np.full(len(free[chunk]), crowd.length[copy]), random)
            fits = np.flatnonzero(found != NO_ROOM)
            if len(fits):
                row[copy], offset[copy] = free[chunk][fits[0]], found[fits[0]]
                board.taken[row[copy]] = True
                break
        else:
            board.taken[row[row >= 0]] = False
            row = _pack(crowd, board, board.free(window.first * batch, window.last * batch), random)
            board.taken[row] = True
            return row, board.offsets(crowd, row, crowd.length, random)
    return row, offset


def _targets(crowd: Crowd, random: np.random.Generator) -> np.ndarray:
    """The step at which each copy should lie, int64 (copies in all,).

    even: n copies lie window / n apart, from a random start. expanding: over half of the window from a random start (all of it,
    if the copies need it), the k-th gap is r^k, with r such that the gaps fill it.
    """
    size = crowd.window.last - crowd.window.first
    if crowd.window.spacing == "even":
        start = np.repeat(random.random(len(crowd.copies)), crowd.copies)
        steps: np.ndarray = (crowd.turn + start) * size / np.repeat(crowd.copies, crowd.copies)
    else:
        span = np.maximum(crowd.copies - 1, (size - 1) // 2)
        gaps = {n: _expanding(n, max(n - 1, (size - 1) // 2)) for n in np.unique(crowd.copies).tolist()}
        starts = random.integers(size - np.where(crowd.copies > 1, span, 0)).tolist()
        steps = np.concatenate([at + gaps[n] for at, n in zip(starts, crowd.copies.tolist(), strict=True)])
    return crowd.window.first + np.minimum(steps.astype(np.int64), size - 1)


def _expanding(copies: int, span: int) -> np.ndarray:
    """Steps of `copies` from 0 to `span`, whose gaps grow by a constant factor of at least one.

    >>> _expanding(4, 14).round(6).tolist()
    [0.0, 2.0, 6.0, 14.0]
    """
    exponents = np.arange(1, copies)
    if copies < 3 or span <= copies - 1:
        return np.linspace(0, span if copies > 1 else 0, copies)
    factor = brentq(lambda r: (r**exponents).sum() - span, 1.0, span ** (1 / (copies - 1)), xtol=1e-12)
    return np.concatenate([[0.0], (factor**exponents).cumsum()])


# ------------------------------------------------------------------------------------------------ blocks


def _blocks(crowd: Crowd, board: Board, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An item's copies in neighbouring free rows at a random place: all of them (massed), or N at a time (bursts:N)."""
    batch = board.shape.global_batch
    first, rows = crowd.window.first * batch, (crowd.window.last - crowd.window.first) * batch
    at_once = int(crowd.window.spacing.partition(":")[2] or crowd.copies.max())
    row, offset = np.full(len(crowd.item), -1), np.full(len(crowd.item), OPEN)
    ends = np.cumsum(crowd.copies).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        for block in range(start, end, at_once):
            copies = np.arange(block, min(block + at_once, end))
            start = int(random.integers(rows - len(copies) + 1))
            found = _neighbours(board, first, rows, start, crowd, copies, random)
            if found is None:
                raise _refuse(crowd, board, len(crowd.item) - block)
            row[copies], offset[copies] = found
            board.taken[row[copies]] = True
    return row, offset


def _neighbours(
    board: Board, first: int, rows: int, start: int, crowd: Crowd, copies: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """The first rows of the window from `start` on that take the copies, or its last ones where too few follow; with offsets."""
    reach, low = 4 * len(copies), start
    while True:
        high = min(start + reach, rows)
        seen = board.free(first + low, first + high)
        offset = board.offsets(crowd, seen, np.full(len(seen), crowd.length[copies].max()), random)
        seen, offset = seen[offset != NO_ROOM], offset[offset != NO_ROOM]
        if len(seen) >= len(copies):
            chosen = slice(len(copies)) if low == start else slice(-len(copies), None)
            return seen[chosen], offset[chosen]
        if high == rows and low == 0:
            return None
        low = max(0, start - reach) if high == rows else start
        reach *= 4


# ------------------------------------------------------------------------------------------------ nearly full windows


def _deal(crowd: Crowd, board: Board, free: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A free row for each copy where rows are scarce; RecipeError if none is found."""
    row = _fit(crowd, board, free, random) if crowd.bounded else _shuffle(crowd, free, board.shape.global_batch, random)
    return row if row is not None else _pack(crowd, board, free, random)


def _shuffle(crowd: Crowd, free: np.ndarray, batch: int, random: np.random.Generator) -> np.ndarray | None:
    """Free rows in random order, redrawing copies that fall in a step with another copy of their item; None where the window is
    too full for that to end.
    """
    shuffled = random.permutation(free)
    row, spare = shuffled[: len(crowd.item)].copy(), shuffled[len(crowd.item) :]
    for _ in range(4 * ROUNDS):
        order = np.lexsort((row, crowd.item))
        step, item = row[order] // batch, crowd.item[order]
        clashes = order[1:][(item[1:] == item[:-1]) & (step[1:] == step[:-1])]
        if not len(clashes):
            return row
        if len(clashes) > len(spare):
            return None
        drawn = random.choice(len(spare), len(clashes), replace=False)
        row[clashes], spare[drawn] = spare[drawn], row[clashes]
    return None


def _pack(crowd: Crowd, board: Board, free: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The longest texts first, each item on the steps with the most free rows that have room for it, ties at random.
    Where every row has room for every text, it finds a packing whenever one exists (Gale, 1957; Ryser, 1957).
    """
    length = crowd.length[np.cumsum(crowd.copies) - 1]  # of each item
    free, room = _roomiest_first(crowd, board, free, random)
    by_step: dict[int, list[int]] = {}
    rows: list[list[int]] = [[] for _ in crowd.copies]
    opened = 0
    for i in np.lexsort((-crowd.copies, -length)).tolist():
        fitting = int(np.searchsorted(-room, -length[i], side="right"))
        for row in free[opened:fitting].tolist():
            by_step.setdefault(row // board.shape.global_batch, []).append(row)
        opened = fitting
        steps = sorted((s for s in by_step if by_step[s]), key=lambda s: (-len(by_step[s]), random.random()))
        if len(steps) < crowd.copies[i]:
            raise _refuse(crowd, board, int(crowd.copies[i]) - len(steps))
        rows[i] = [by_step[s].pop() for s in steps[: crowd.copies[i]]]
    return np.asarray([row for item in rows for row in item], np.int64)


def _roomiest_first(crowd: Crowd, board: Board, free: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Free rows and the tokens that each has room for, those with the most first, ties at random."""
    room = board.room(free) if crowd.bounded else np.full(len(free), board.shape.row_tokens)
    order = np.lexsort((random.random(len(free)), -room))
    return free[order], room[order]


def _fit(crowd: Crowd, board: Board, free: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """The longest texts first, each in a random free row with room for it and without its item in the row's step; None where that
    finds none.
    """
    batch = board.shape.global_batch
    free, room = _roomiest_first(crowd, board, free, random)
    row = np.full(len(crowd.item), -1)
    pool: list[int] = []
    opened = 0
    steps: dict[int, set[int]] = {}
    for copy in np.lexsort((random.random(len(row)), -crowd.length)).tolist():
        fitting = int(np.searchsorted(-room, -crowd.length[copy], side="right"))
        pool.extend(free[opened:fitting].tolist())
        opened = max(opened, fitting)
        own = steps.setdefault(int(crowd.item[copy]), set())
        start = int(random.integers(len(pool))) if pool else 0
        chosen = next((i % len(pool) for i in range(start, start + len(pool)) if pool[i % len(pool)] // batch not in own), None)
        if chosen is None:
            return None
        pool[chosen], pool[-1] = pool[-1], pool[chosen]
        row[copy] = pool.pop()
        own.add(row[copy] // batch)
    return row
