"""Tokenizing a corpus against the tokenizer library's own batch encoding of the same batches, in turns, on all cores.

python benchmarks/tokenize.py                # a vocabulary of 32,768, trained on the text itself
python benchmarks/tokenize.py TOKENIZER      # a tokenizer.json or a folder that holds one
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # the checkout; and this folder would hide the standard library's tokenize

from configs.schema import Corpus, Tokenizer
from inject.corpus import build_corpus
from inject.parts import batches
from inject.source import documents
from inject.tokenizer import load_tokenizer, train_tokenizer

ROUNDS = 9


def seconds_of_library(path: str, texts: list[str]) -> float:
    bare = load_tokenizer(path).backend_tokenizer
    bare.encode_special_tokens = True
    start = time.perf_counter()
    for batch in batches(texts):
        bare.encode_batch_fast(batch, add_special_tokens=False)
    return time.perf_counter() - start


def seconds_of_corpus(settings: Corpus, folder: Path) -> float:
    """From files of JSONL to the finished folder: reading, encoding, writing, syncing."""
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        build_corpus(settings, 0, folder, "benchmark")
    return time.perf_counter() - start


def main() -> None:
    texts = list(documents(Corpus(source="stdlib"), seed=0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        if len(sys.argv) > 1:
            tokenizer = sys.argv[1]
        else:
            train_tokenizer(texts, 32_768).save_pretrained(folder / "tokenizer")
            tokenizer = str(folder / "tokenizer")
        settings = Corpus(source="jsonl", path=str(folder / "texts.jsonl"), tokenizer=Tokenizer(path=tokenizer))
        library, corpus = [], []
        for turn in range(ROUNDS + 1):
            library.append(seconds_of_library(tokenizer, texts))
            corpus.append(seconds_of_corpus(settings, folder / str(turn)))
        tokens = json.loads((folder / "0" / "meta.json").read_text())["tokens"]
    ratios = sorted(ours / theirs for ours, theirs in zip(corpus[1:], library[1:], strict=True))
    low, high = ratios[ROUNDS // 4], ratios[-1 - ROUNDS // 4]
    print(f"{len(texts):,} documents, {sum(map(len, texts)):,} characters, {tokens:,} tokens; {os.cpu_count()} cores")
    print(f"encode_batch_fast alone  {tokens / statistics.median(library[1:]) / 1e6:6.2f} million tokens/s")
    print(f"build_corpus             {tokens / statistics.median(corpus[1:]) / 1e6:6.2f} million tokens/s")
    print(f"time, as a ratio         {statistics.median(ratios):6.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
