"""Tokenizing a corpus against the tokenizer library's own batch encoding of the same batches, in turns, on all cores.

python benchmarks/tokenizing.py                # a vocabulary of 32,768, trained on the text itself
python benchmarks/tokenizing.py TOKENIZER      # a tokenizer.json or a folder that holds one
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

from transformers import PreTrainedTokenizerFast

from configs.schema import Corpus
from inject.parts import Parts, batches, make_parts
from inject.source import documents, sections
from inject.tokenizer import load_tokenizer, train_tokenizer

ROUNDS = 9


def library(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    """The library alone: texts in memory, and what it makes of them is thrown away."""
    bare = tokenizer.backend_tokenizer
    bare.encode_special_tokens = True
    for batch in batches(texts):
        bare.encode_batch_fast(batch, add_special_tokens=False)


def corpus(tokenizer: PreTrainedTokenizerFast, settings: Corpus, folder: Path) -> None:
    """From a file of JSONL to shards of tokens, written and synced."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        make_parts(sections(settings, seed=0), tokenizer, Parts(folder))


def main() -> None:
    texts = list(documents(Corpus(source="stdlib"), seed=0))
    tokenizer = load_tokenizer(sys.argv[1]) if len(sys.argv) > 1 else train_tokenizer(texts, 32_768)
    seconds: dict[str, list[float]] = {"library": [], "corpus": []}
    processor: dict[str, list[float]] = {"library": [], "corpus": []}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        settings = Corpus(source="jsonl", path=str(file))
        for turn in range(ROUNDS + 1):
            for way in seconds:
                start, used = time.perf_counter(), time.process_time()
                library(tokenizer, texts) if way == "library" else corpus(tokenizer, settings, Path(name) / str(turn))
                seconds[way].append(time.perf_counter() - start)
                processor[way].append(time.process_time() - used)
        tokens = sum(path.stat().st_size for path in (Path(name) / "0.parts").rglob("tokens-*.bin")) // 2
    print(f"{len(texts):,} documents, {sum(map(len, texts)):,} characters, {tokens:,} tokens; {os.cpu_count()} cores")
    for way, taken in seconds.items():
        print(f"{way:8s} {tokens / statistics.median(taken[1:]) / 1e6:6.2f} million tokens/s")
    for what, of in {"time": seconds, "processor time": processor}.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(of["corpus"][1:], of["library"][1:], strict=True))
        low, high = ratios[ROUNDS // 4], ratios[-1 - ROUNDS // 4]
        print(f"corpus / library, {what}: {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
