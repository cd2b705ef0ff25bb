"""Find many token sequences at once in arrays of tokens: rolling hashes of short windows, every hit confirmed by comparison.

The windows' hashes are those of Karp and Rabin, Efficient randomized pattern-matching algorithms (IBM Journal of Research and
Development 31, 1987), modulo 2^64 and computed for all positions together by doubling: h_2k(i) = h_k(i) B^k + h_k(i + k).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 2**15  # windows hashed at once: their arrays stay in a core's cache
COMPARED = 2**20  # tokens compared at once
LONGEST_ANCHOR = 8  # tokens; longer windows are hardly rarer in text, and cost another pass

_BASE = (
    0xD1342543DE82EF95  # odd, a multiplier with good spectral properties: Steele and Vigna (2022), https://arxiv.org/abs/2001.05304
)
_SCATTER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the high bits of a product with it depend on all bits, Knuth vol. 3, 6.4
_SPARSE = 64  # slots of the prefilter to each anchor: about 1 window in 64 is looked up
_SLOT_BITS = (12, 24)  # of the prefilter, at least and at most: 4 KB to 16 MB


class Matcher:
    """Finds token sequences in token arrays.

    Each pattern is looked for by its anchor, a window of 1, 2, 4 or 8 of its tokens, the longest that fits; of its windows the
    one that the fewest patterns share. Windows of the array whose hash is an anchor's are compared with the whole pattern, so
    a hit is never a mere collision. Reading needs memory for a chunk and for the hits, not for the array.

    >>> matcher = Matcher([np.array([1, 2]), np.array([2, 1, 2])])
    >>> [found.tolist() for found in matcher.find(np.array([1, 2, 1, 2]))]
    [[0, 1, 2], [0, 1, 0]]
    """

    def __init__(self, patterns: Sequence[np.ndarray]):
        """`patterns` are sequences of one or more token ids; one that is given twice is found twice. ValueError if one is empty."""
        if any(len(pattern) == 0 for pattern in patterns):
            raise ValueError("a pattern without tokens would be found everywhere")
        self.lengths = np.asarray([len(pattern) for pattern in patterns], np.int64)
        self._tokens = np.concatenate([np.asarray(pattern, np.int64) for pattern in patterns] or [np.empty(0, np.int64)])
        self._starts = np.cumsum(self.lengths) - self.lengths
        anchors = np.minimum(2 ** np.floor(np.log2(np.maximum(self.lengths, 1))), LONGEST_ANCHOR).astype(np.int64)
        self._anchors = {int(length): self._choose(np.flatnonzero(anchors == length), int(length)) for length in np.unique(anchors)}

    @property
    def longest(self) -> int:
        """Tokens of the longest pattern; 0 without patterns."""
        return int(self.lengths.max(initial=0))

    def find(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every occurrence in an array of token ids (n,) of any integer type: first positions and pattern numbers, int64 both.

        They are sorted by position, then by pattern; occurrences may overlap.
        """
        found = [self._confirm(tokens, *candidates) for candidates in self._candidates(tokens)]
        positions = np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in found)])
        patterns = np.concatenate([np.empty(0, np.int64), *(patterns for _, patterns in found)])
        order = np.lexsort((patterns, positions))
        return positions[order], patterns[order]

    def find_rows(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every occurrence within a row of an array (n, length): rows, positions in them, pattern numbers. None spans two rows."""
        length = tokens.shape[1]
        positions, patterns = self.find(tokens.reshape(-1))
        rows, positions = np.divmod(positions, max(length, 1))
        within = positions + self.lengths[patterns] <= length
        return rows[within], positions[within], patterns[within]

    def _choose(self, patterns: np.ndarray, length: int) -> _Anchors:
        """The anchors of `patterns`, of `length` tokens each."""
        lengths = self.lengths[patterns]
        starts = np.cumsum(lengths) - lengths
        offsets = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # of each token in its pattern
        tokens = self._tokens[np.repeat(self._starts[patterns], lengths) + offsets]
        hashes = np.zeros(len(tokens), np.uint64)  # of the window that begins there
        for size, windows in _hashes(tokens, length):
            if size == length:
                hashes[: len(windows)] = windows
        _, which, shared = np.unique(hashes, return_inverse=True, return_counts=True)
        fits = offsets + length <= np.repeat(lengths, lengths)
        ranked = np.where(fits, shared[which], len(tokens) + 1) * (self.longest + 1) + offsets
        offset = np.minimum.reduceat(ranked, starts) % (self.longest + 1)  # of the first of each pattern's rarest windows
        anchors = hashes[starts + offset]
        order = np.argsort(anchors, kind="stable")
        distinct, first, count = np.unique(anchors[order], return_index=True, return_counts=True)
        bits = int(np.clip(np.ceil(np.log2(_SPARSE * len(distinct))), *_SLOT_BITS))
        shift = np.uint64(64 - bits)
        slots = np.zeros(2**bits, bool)
        slots[(distinct >> shift).view(np.int64)] = True
        return _Anchors(slots, shift, distinct, first, count, patterns[order], offset[order])

    def _candidates(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Where which pattern would begin whose anchor's hash is found."""
        longest = max(self._anchors, default=0)
        for start in range(0, len(tokens) if longest else 0, CHUNK):
            for length, hashes in _hashes(tokens[start : start + CHUNK + longest - 1], longest):
                if length in self._anchors:
                    positions, patterns, offsets = self._anchors[length].look_up(hashes[:CHUNK])
                    if len(positions):
                        yield positions + start - offsets, patterns

    def _confirm(self, tokens: np.ndarray, positions: np.ndarray, patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of candidates, those whose tokens all are the pattern's."""
        inside = (positions >= 0) & (positions + self.lengths[patterns] <= len(tokens))
        positions, patterns = positions[inside], patterns[inside]
        equal = np.zeros(len(positions), bool)
        batch = max(1, COMPARED // max(self.longest, 1))
        for first in range(0, len(positions), batch):
            part = slice(first, first + batch)
            lengths = self.lengths[patterns[part]]
            starts = np.cumsum(lengths) - lengths
            offsets = np.arange(lengths.sum()) - np.repeat(starts, lengths)
            read = tokens[np.repeat(positions[part], lengths) + offsets].astype(np.int64)
            wanted = self._tokens[np.repeat(self._starts[patterns[part]], lengths) + offsets]
            equal[part] = np.logical_and.reduceat(read == wanted, starts)
        return positions[equal], patterns[equal]


@dataclass(frozen=True)
class _Anchors:
    """The anchors of one length, sorted by hash; a hash is first looked up in `slots` by its high bits."""

    slots: np.ndarray
    shift: np.uint64
    distinct: np.ndarray  # hashes
    first: np.ndarray  # of each, the first of its patterns in `patterns`, and how many there are
    count: np.ndarray
    patterns: np.ndarray
    offsets: np.ndarray  # of the anchor in its pattern

    def look_up(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of windows whose hash is an anchor's, each with every pattern that has it, and the anchor's offset there."""
        positions = np.flatnonzero(self.slots[(hashes >> self.shift).view(np.int64)])
        hashes = hashes[positions]
        anchors = np.minimum(np.searchsorted(self.distinct, hashes), len(self.distinct) - 1)
        same = self.distinct[anchors] == hashes
        positions, anchors = positions[same], anchors[same]
        counts = self.count[anchors]
        each = np.repeat(self.first[anchors], counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(positions, counts), self.patterns[each], self.offsets[each]


def _hashes(tokens: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Hashes of the windows of 1, 2, 4, ... up to `longest` tokens, uint64 (n - length + 1,), of the lengths that there are."""
    length, power = 1, _BASE
    hashes = tokens.astype(np.uint64) * np.uint64(_SCATTER)
    while length <= longest and len(hashes):
        yield length, hashes
        hashes = hashes[:-length] * np.uint64(power) + hashes[length:]
        length, power = 2 * length, power * power % 2**64
