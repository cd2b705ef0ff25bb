"""Reading rows: with ten million occurrences planned against none, and against a torch DataLoader over `datasets`, in turns.

python benchmarks/read.py

The corpus is small and read again epoch after epoch, so that it stays in the page cache. Half of the rows have an occurrence of 64
tokens; or one in fifty, as ten million of them would be in 10^12 tokens.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader

from configs.layout import write_json
from inject.corpus import Corpus
from inject.stream import Overlay, Stream

TOKENS, OCCURRENCES, TEXTS, TEXT_TOKENS, ROUNDS = 2**26, 10_000_000, 100_000, 64, 15
ROWS_A_ROUND = 8192
SHAPES = [
    (128, 64, 0.5),
    (2048, 64, 0.5),
    (2048, 1024, 0.5),
    (2048, 1024, 0.02),
]  # sequence length, rows at once, share with a text


def make_corpus(folder: Path) -> Corpus:
    random = np.random.default_rng(0)
    random.integers(0, 50_000, TOKENS, dtype=np.uint16).tofile(folder / "tokens-00000.bin")
    shards = [{"tokens": TOKENS, "documents": 1}]
    write_json(folder / "meta.json", {"vocabulary": 50_000, "end_of_text": 0, "dtype": "uint16", "shards": shards})
    return Corpus(folder)


def make_overlay(sequence_length: int, share: float) -> Overlay:
    """Occurrences in a share of the rows, at random."""
    random = np.random.default_rng(1)
    row = np.cumsum(random.geometric(share, OCCURRENCES))
    offset = random.integers(0, sequence_length + 1 - TEXT_TOKENS, len(row)).astype(np.int32)
    text = random.integers(0, TEXTS, len(row)).astype(np.int32)
    pool = random.integers(1, 50_000, TEXTS * TEXT_TOKENS)
    first = np.arange(TEXTS) * TEXT_TOKENS
    return Overlay(row, offset, text, np.zeros(len(row), bool), first, np.full(TEXTS, TEXT_TOKENS), pool)


def seconds(read: Callable[[int], object], start: int, steps: int) -> float:
    began = time.perf_counter()
    for step in range(start, start + steps):
        read(step)
    return time.perf_counter() - began


def report(name: str, times: list[float], others: list[float], tokens: int) -> None:
    """Tokens a second, and the median and spread of paired ratios."""
    ratios = sorted(other / own for own, other in zip(times, others, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    rate = tokens / statistics.median(times) / 1e6
    print(f"  {name}: {rate:,.0f} million tokens/s; {statistics.median(ratios):.3f} of its pair ({low:.3f} to {high:.3f})")


def main() -> None:
    for sequence_length, batch, share in SHAPES:
        steps = ROWS_A_ROUND // batch
        with tempfile.TemporaryDirectory() as folder:
            corpus = make_corpus(Path(folder))
            plain, laid = (
                Stream(corpus, 1, sequence_length),
                Stream(corpus, 1, sequence_length, make_overlay(sequence_length, share)),
            )

            def rows(stream: Stream, batch: int = batch) -> Callable[[int], object]:
                return lambda step: stream.rows(np.arange(step * batch, (step + 1) * batch))

            length = sequence_length + 1
            flat = corpus.read(np.arange(min(2 * ROWS_A_ROUND, plain.base_rows)) * length, length)
            loader = DataLoader(
                Dataset.from_dict({"input_ids": flat}).with_format("torch"), batch_size=batch, shuffle=True, drop_last=True
            )

            def load(_: int, loader: DataLoader = loader, iterator: list = []) -> object:  # noqa: B006
                if not iterator:
                    iterator.append(iter(loader))
                try:
                    return next(iterator[0])["input_ids"]
                except StopIteration:
                    iterator[0] = iter(loader)
                    return next(iterator[0])["input_ids"]

            timed: dict[str, list[float]] = {"plain": [], "overlay": [], "loader": []}
            for round_ in range(ROUNDS):
                start = round_ * steps * 7
                timed["plain"].append(seconds(rows(plain), start, steps))
                timed["overlay"].append(seconds(rows(laid), start, steps))
                timed["loader"].append(seconds(load, start, steps))
            tokens = ROWS_A_ROUND * length
            print(f"rows of {length} tokens, {batch} at once, {len(laid.overlay.row):,} occurrences in {share:.0%} of the rows")
            report("plain stream", timed["plain"], timed["plain"], tokens)
            report("with the overlay", timed["overlay"], timed["plain"], tokens)
            report("torch DataLoader over datasets", timed["loader"], timed["overlay"], tokens)


if __name__ == "__main__":
    main()
