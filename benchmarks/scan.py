"""How fast tokens are scanned for items: exact matching of many patterns, and the search for shared runs.

python benchmarks/scan.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from inject.matching import Matcher
from inject.overlap import Search, Sought

TOKENS = 2**25
BLOCK = 2**21  # as inject/decontaminate.py reads them
ROUNDS = 5
SIZES = [(1_000, 20), (1_000, 200), (100_000, 50)]  # texts, and tokens of each


def natural(vocabulary: int, exponent: float = 1.2) -> np.ndarray:
    """Tokens as frequent as a language's words are, uint16 (TOKENS,)."""
    weights = 1 / np.arange(1, vocabulary + 1) ** exponent
    draws = np.random.Generator(np.random.PCG64(1)).random(TOKENS)
    return np.searchsorted(np.cumsum(weights / weights.sum())[:-1], draws).astype(np.uint16)


def sought(number: int, tokens: np.ndarray) -> Sought:
    whole = (0, len(tokens))
    name = f"item-{number}"
    return Sought(name, "", name, "items", tokens, whole, np.ones(len(tokens), bool), [], [], [], None)


def rate(work: Callable[[np.ndarray], object], blocks: list[np.ndarray]) -> float:
    """Million tokens a second, the median of ROUNDS."""
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for block in blocks:
            work(block)
        rates.append(TOKENS / (time.perf_counter() - start) / 1e6)
    return statistics.median(rates)


def main() -> None:
    corpus = natural(50_000)
    blocks = [corpus[start : start + BLOCK] for start in range(0, TOKENS, BLOCK)]
    random = np.random.Generator(np.random.PCG64(2))
    print(f"{TOKENS:,} tokens; million tokens a second, one process")
    for count, length in SIZES:
        texts = [
            random.permutation(corpus[start : start + length]).astype(np.int64)
            for start in random.integers(TOKENS - length, size=count)
        ]
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "exact patterns": Matcher(texts).find,
            "shared runs of 13": Search([sought(number, tokens) for number, tokens in enumerate(texts)], 13).runs,
        }
        for name, work in ways.items():
            print(f"{count:9,} texts of {length:3d} tokens, {name:18s} {rate(work, blocks):6.1f}", flush=True)


if __name__ == "__main__":
    main()
