"""Tokens a second of an audit: a simulated training of 64 million tokens, one row in `every` with an insertion.

python benchmarks/audit.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.layout import ModelLayout, write_json
from configs.tables import PLAN, TEXTS
from inject.audit import audit
from inject.corpus import Corpus
from inject.design import Shape
from inject.stream import Overlay, Stream, row_digests
from train.ledger import Ledger

TOKENS, VOCABULARY, END = 2**26, 50_000, 0
TEXT_TOKENS, ITEMS = 60, 10_000
SHAPE = Shape(steps=254, global_batch=256, sequence_length=1024)
ROUNDS = 3


def make_corpus(folder: Path) -> Corpus:
    tokens = np.random.default_rng(1).integers(1, VOCABULARY, TOKENS).astype(np.uint16)
    tokens[::700] = END
    tokens.tofile(folder / "tokens-00000.bin")
    meta = {"dtype": "uint16", "end_of_text": END, "vocabulary": VOCABULARY, "shards": [{"tokens": TOKENS, "documents": 1}]}
    write_json(folder / "meta.json", meta)
    return Corpus(folder)


def make_tables(every: int) -> tuple[pa.Table, pa.Table]:
    """An insertion in one of `every` rows (0: in none), and its texts."""
    random = np.random.default_rng(2)
    names = [f"item-{number:05d}" for number in range(ITEMS)]
    tokens = random.integers(1, VOCABULARY, (ITEMS, TEXT_TOKENS)).tolist()
    texts = [{"item_id": n, "variant": "only", "text": "", "tokens": t, "spans": []} for n, t in zip(names, tokens, strict=True)]
    rows = np.arange(0, SHAPE.rows, every) if every else np.zeros(0, np.int64)
    offset = random.integers(0, SHAPE.row_tokens - TEXT_TOKENS - 1, len(rows))
    shared = {"length": TEXT_TOKENS + 2, "mode": "overwrite", "variant": "only"}
    plan = [
        {"row": row, "offset": at, "item_id": names[number % ITEMS], "copy": number // ITEMS, **shared}
        for number, (row, at) in enumerate(zip(rows.tolist(), offset.tolist(), strict=True))
    ]
    return pa.Table.from_pylist(plan, PLAN), pa.Table.from_pylist(texts, TEXTS)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name))
        for every in (0, 100, 10, 1):
            plan, texts = make_tables(every)
            stream = Stream(corpus, 1, SHAPE.sequence_length, Overlay.from_tables(plan, texts, END))
            layout = ModelLayout(Path(name) / f"every-{every}")
            ledger = Ledger(layout, 0)
            for step in range(SHAPE.steps):
                rows = stream.rows(np.arange(step * SHAPE.global_batch, (step + 1) * SHAPE.global_batch))
                ledger.add(step, 1e-3, True, row_digests(rows.tokens, rows.label_mask))
            ledger.commit()
            seconds = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                certificate = audit(stream, plan, texts, layout.ledgers(), SHAPE, model="perturbed", steps=SHAPE.steps)
                seconds.append(time.perf_counter() - start)
                assert certificate.certified, certificate.violations
            tokens = SHAPE.rows * SHAPE.row_tokens
            where = f"an insertion in one row of {every}" if every else "no insertions"
            print(f"{where:34s} {tokens / statistics.median(seconds) / 1e6:6.1f} million tokens/s", flush=True)


if __name__ == "__main__":
    main()
