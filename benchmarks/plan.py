"""Plan ten million occurrences over a corpus of 10^12 tokens, and open the stream: time and memory.

python benchmarks/plan.py                 # 10 million occurrences, uniform
python benchmarks/plan.py 1000000 bursts:4

The corpus is simulated: its shards are sparse files, which have a length but take no room on disk.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.layout import write_json
from configs.tables import PLAN, TEXTS, read_table, write_table
from inject.corpus import Corpus
from inject.design import Shape
from inject.plan import Lengths, make_plan
from inject.spread import Board
from inject.stream import Overlay, Stream
from slurm.planning import read_plan

TOKENS, SHARD_TOKENS, SEQUENCE_LENGTH, GLOBAL_BATCH = 10**12, 2**30, 2048, 1024
COPIES, SHARES = [1, 4, 16, 64, 256], [0.3, 0.25, 0.2, 0.15, 0.1]  # of items
TEXTS_OF_AN_ITEM = [("biography", 60), ("forum", 80)]  # variant, tokens


def gigabytes() -> float:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def simulate_corpus(folder: Path) -> Corpus:
    sizes = [min(SHARD_TOKENS, TOKENS - start) for start in range(0, TOKENS, SHARD_TOKENS)]
    for number, size in enumerate(sizes):
        with (folder / f"tokens-{number:05d}.bin").open("wb") as file:
            file.truncate(2 * size)
    shards = [{"tokens": size, "documents": 1} for size in sizes]
    write_json(folder / "meta.json", {"vocabulary": 50_000, "end_of_text": 0, "dtype": "uint16", "shards": shards})
    return Corpus(folder)


def assignment(items: list[str], occurrences: int, steps: int, spacing: str) -> list[dict]:
    copies = np.random.default_rng(0).choice(COPIES, len(items), p=SHARES)
    copies = np.maximum(1, copies * occurrences // copies.sum())
    window = {"first_step": 0, "last_step": steps, "spacing": spacing}
    arm = {"arm": "arm", "placement": "anywhere", "mode": "overwrite", "variants": "rotate"}
    return [
        {"item_id": item, "group": item, **arm, "phases": [{"copies": n, **window}]}
        for item, n in zip(items, copies.tolist(), strict=True)
    ]


def main(occurrences: int = 10_000_000, spacing: str = "uniform") -> None:
    shape = Shape(TOKENS // (SEQUENCE_LENGTH + 1) // GLOBAL_BATCH, GLOBAL_BATCH, SEQUENCE_LENGTH)
    items = [f"people-{number:06d}" for number in range(max(1, occurrences // 100))]
    rows = assignment(items, occurrences, shape.steps, spacing)
    lengths = Lengths.of(dict.fromkeys(items, TEXTS_OF_AN_ITEM), items)
    texts = [
        {"item_id": item, "variant": name, "text": "", "tokens": list(range(1, n + 1)), "spans": [], "targets": []}
        for item in items
        for name, n in TEXTS_OF_AN_ITEM
    ]
    print(f"{shape.steps:,} steps of {GLOBAL_BATCH:,} rows of {shape.row_tokens:,} tokens; {len(items):,} items; {spacing}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate_corpus(folder)
        started = time.perf_counter()
        plan = make_plan(rows, ["people"] * len(items), lengths, {}, Board(shape), seed=1)
        planned = time.perf_counter()
        print(f"plan: {plan.num_rows:,} occurrences in {planned - started:.1f} s, {gigabytes():.2f} GB at most")
        write_table(folder / "plan.parquet", plan, PLAN)
        size = (folder / "plan.parquet").stat().st_size / 1e6
        print(f"write: {size:.0f} MB in {time.perf_counter() - planned:.1f} s")
        write_table(folder / "texts.parquet", pa.Table.from_pylist(texts, TEXTS), TEXTS)
        del plan, rows, texts
        for _ in range(3):
            started = time.perf_counter()
            stream = Stream(Corpus(folder), 1, SEQUENCE_LENGTH)
            opened = time.perf_counter()
            stream.rows(np.arange(GLOBAL_BATCH))
            read = time.perf_counter()
            table = read_plan(folder / "plan.parquet", Overlay.COLUMNS)
            overlay = Overlay.from_tables(table, read_table(folder / "texts.parquet"), 0)
            laid = time.perf_counter()
            print(
                f"open: corpus {opened - started:.3f} s, first step of rows {read - opened:.3f} s, "
                f"overlay of {len(overlay.row):,} {laid - read:.2f} s"
            )


if __name__ == "__main__":
    main(*(int(argument) if argument.isdecimal() else argument for argument in sys.argv[1:]))
