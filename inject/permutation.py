"""A keyed bijection on row numbers: a shuffle of any number of rows that needs no memory.

A Feistel network on pairs of half-width integers is a bijection of [0, 4^k) whatever its round function is (Luby and
Rackoff, 1988); values that leave [0, n) are sent through again until they come back (cycle walking, Black and Rogaway, 2002).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values one to one (the finalizer of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Permutation:
    """A bijection of [0, size) chosen by a key; the same on every machine.

    >>> sorted(Permutation(5, key=7)(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, key: int):
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, not {size}")
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        golden = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._round_keys = mix(golden ^ mix(np.asarray([key % 2**64], np.uint64)))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Images of `positions` (n,), int64 in [0, size), as int64 (n,)."""
        values = self._feistel(np.asarray(positions).astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._feistel(values[outside])
        return values.astype(np.int64)

    def _feistel(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._round_keys:
            left, right = right, left ^ (mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right
