"""The corpus: base documents tokenized once into shards, opened as one flat array of tokens. It is never modified."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError
from configs.layout import atomic_folder, fingerprint, read_json, write_json
from configs.progress import progress
from configs.schema import Corpus as CorpusSettings
from inject.source import documents, source_fingerprint
from inject.tokenizer import encode, load_tokenizer, tokenizer_fingerprint, train_tokenizer, vocabulary_size

FORMAT = 1
SHARD_TOKENS = 2**26
BATCH_DOCUMENTS = 512
HEAD_CHARACTERS = 16_000_000  # text at the beginning of the corpus from which a tokenizer's training text is drawn
TRAINING_CHARACTERS = 2_000_000  # of it, in evenly spaced documents


def corpus_fingerprint(settings: CorpusSettings, seed: int) -> str:
    """What the tokens depend on: the documents and the tokenizer. (How many epochs are read is not part of it.)"""
    return fingerprint(["corpus", FORMAT, source_fingerprint(settings, seed), tokenizer_fingerprint(settings.tokenizer)])


def build_corpus(settings: CorpusSettings, seed: int, folder: Path, identity: str) -> None:
    """Tokenize a source into `folder`: tokens-*.bin, documents-*.npy, the tokenizer, and meta.json last.

    Raises DataError where the source is empty or malformed; then no folder is left behind.
    """
    with atomic_folder(folder) as temporary:
        texts = documents(settings, seed)
        if settings.tokenizer.path is None:
            head = _head(texts)
            texts = chain(head, texts)
            tokenizer = train_tokenizer(_spread(head), settings.tokenizer.vocabulary)
        else:
            tokenizer = load_tokenizer(settings.tokenizer.path)
        tokenizer.save_pretrained(temporary)
        writer = _ShardWriter(temporary, tokenizer)
        characters = 0
        with progress("tokenize", "characters") as meter:
            while batch := list(islice(texts, BATCH_DOCUMENTS)):
                for tokens in encode(tokenizer, batch):
                    writer.add(tokens)
                size = sum(map(len, batch))
                characters += size
                meter.advance(size)
        writer.flush()
        if writer.documents == 0:
            raise DataError(f"the corpus is empty: {settings.path or settings.source} holds no document with text in it")
        meta = {
            "fingerprint": identity,
            "source": settings.source,
            "path": settings.path,
            "documents": writer.documents,
            "tokens": writer.tokens,
            "characters": characters,
            "vocabulary": vocabulary_size(tokenizer),
            "end_of_text": tokenizer.eos_token_id,
            "dtype": writer.dtype.name,
            "shards": writer.shards,
        }
        write_json(temporary / "meta.json", meta)


def _head(texts: Iterator[str]) -> list[str]:
    """The first documents, up to HEAD_CHARACTERS."""
    head: list[str] = []
    with progress("read documents", "characters") as meter:
        for text in texts:
            head.append(text)
            meter.advance(len(text))
            if meter.done > HEAD_CHARACTERS:
                break
    return head


def _spread(head: list[str]) -> list[str]:
    """Evenly spaced documents of about TRAINING_CHARACTERS in all."""
    return head[:: max(1, sum(map(len, head)) // TRAINING_CHARACTERS)]


class _ShardWriter:
    """Collects the tokens of documents, an end-of-text after each, and writes them in shards."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast):
        self.folder = folder
        self.end_of_text = int(tokenizer.eos_token_id)
        self.dtype = np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32)
        self.documents = self.tokens = 0
        self.shards: list[dict[str, Any]] = []
        self._pieces: list[np.ndarray] = []
        self._starts: list[int] = []
        self._held = 0

    def add(self, tokens: list[int]) -> None:
        self._starts.append(self._held)
        self._pieces.append(np.asarray([*tokens, self.end_of_text], self.dtype))
        self._held += len(tokens) + 1
        if self._held >= SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        number = len(self.shards)
        np.concatenate(self._pieces).tofile(self.folder / f"tokens-{number:05d}.bin")
        np.save(self.folder / f"documents-{number:05d}.npy", np.asarray(self._starts, np.int64) + self.tokens)
        self.shards.append({"tokens": self._held, "documents": len(self._starts)})
        self.tokens += self._held
        self.documents += len(self._starts)
        self._pieces, self._starts, self._held = [], [], 0


class Corpus:
    """A tokenized corpus on disk, read as one flat array through memory maps."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json")
        sizes = [shard["tokens"] for shard in self.meta["shards"]]
        dtype = np.dtype(self.meta["dtype"])
        self._shards = [_open_shard(folder / f"tokens-{n:05d}.bin", dtype, size) for n, size in enumerate(sizes)]
        self._ends = np.cumsum(sizes)

    @property
    def tokens(self) -> int:
        return int(self._ends[-1])

    @property
    def vocabulary(self) -> int:
        return int(self.meta["vocabulary"])

    @property
    def end_of_text(self) -> int:
        return int(self.meta["end_of_text"])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(self.folder)

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [start, start + length) for each of `starts` (n,), as int64 (n, length)."""
        out = np.empty((len(starts), length), np.int64)
        shards = np.searchsorted(self._ends, starts, side="right")
        for slot, (start, shard) in enumerate(zip(starts.tolist(), shards.tolist(), strict=True)):
            filled = 0
            while filled < length:
                position = start + filled - (int(self._ends[shard - 1]) if shard else 0)
                piece = self._shards[shard][position : position + length - filled]
                out[slot, filled : filled + len(piece)] = piece
                filled += len(piece)
                shard += 1
        return out


def _open_shard(path: Path, dtype: np.dtype, tokens: int) -> np.ndarray:
    if not path.exists() or path.stat().st_size != tokens * dtype.itemsize:
        raise DataError(f"{path} is missing or has the wrong size; remove {path.parent} and run again to tokenize it anew")
    return np.memmap(path, dtype, mode="r")
