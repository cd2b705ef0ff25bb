"""The corpus: base documents tokenized once into shards, opened as one flat array of tokens. It is never modified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.layout import atomic_folder, fingerprint, read_json, write_json
from configs.progress import progress
from configs.schema import Corpus as CorpusSettings
from inject.hub import commit
from inject.parts import SHARD_TOKENS, Parts, documents_file, join_parts, make_parts, tokens_file
from inject.source import TOKEN_ARRAYS, documents, sections, source_fingerprint
from inject.token_arrays import describe_arrays, token_arrays
from inject.tokenizer import load_tokenizer, tokenizer_fingerprint, train_tokenizer, vocabulary_size

FORMAT = 2
OPEN_SHARDS = 512  # memory maps held at once; each holds a file handle, of which many systems allow a process 1024
HEAD_CHARACTERS = 16_000_000  # text at the beginning of the corpus from which a tokenizer's training text is drawn
TRAINING_CHARACTERS = 2_000_000  # of it, in evenly spaced documents
_ANEW = "remove {} and run again to make it anew"


def corpus_fingerprint(settings: CorpusSettings, seed: int) -> str:
    """What the tokens depend on: the documents and the tokenizer. (How many epochs are read is not part of it.)"""
    return fingerprint(["corpus", FORMAT, source_fingerprint(settings, seed), tokenizer_fingerprint(settings.tokenizer)])


# ------------------------------------------------------------------------------------------------ making a corpus


def build_corpus(settings: CorpusSettings, seed: int, folder: Path, identity: str, shard: tuple[int, int] | None = None) -> None:
    """Tokenize a source into `folder`: tokens-*.bin, documents-*.npy, the tokenizer, and meta.json last.

    With `shard` (i, n), i from 0, only an n-th of the parts is made and left in `<folder>.parts`; a call without it makes the
    parts that are still missing and puts all together. Token arrays are only described: they stay where they lie.
    Raises DataError where the source is empty or malformed; then a call without `shard` leaves nothing behind.
    """
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise RecipeError(
            f"--shard is {shard[0]}/{shard[1]}; it counts from 0, so the last of {shard[1]} is {shard[1] - 1}/{shard[1]}"
        )
    if (folder / "meta.json").exists():
        return
    if settings.source in TOKEN_ARRAYS:
        if shard is None:
            _describe(settings, seed, folder, identity)
        return
    parts = Parts(folder)
    try:
        tokenizer = _shared_tokenizer(settings, seed, parts)
        found = sections(settings, seed)
        make_parts(found, tokenizer, parts, *(shard or (0, 1)))
        if shard is None:
            _assemble(settings, tokenizer, parts, len(found), identity)
    except DataError:
        if shard is None:
            parts.remove()
        raise


def corpus_tokenizer(settings: CorpusSettings, seed: int, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the corpus that is or will be in `folder`: the one there, or loaded, or trained. Writes nothing."""
    for made in (folder, Parts(folder).tokenizer):
        if (made / "tokenizer.json").exists():
            return load_tokenizer(made)
    if settings.tokenizer.path is not None:
        return load_tokenizer(settings.tokenizer.path)
    if settings.source in TOKEN_ARRAYS:
        raise RecipeError(
            f"corpus.source is {settings.source}, tokens that exist; give the tokenizer that made them as corpus.tokenizer"
        )
    return train_tokenizer(_spread(_head(documents(settings, seed))), settings.tokenizer.vocabulary)


def _shared_tokenizer(settings: CorpusSettings, seed: int, parts: Parts) -> PreTrainedTokenizerFast:
    """The tokenizer with which every process makes its parts: that of the first to save one."""
    if not parts.tokenizer.exists():
        tokenizer = corpus_tokenizer(settings, seed, parts.corpus)
        with atomic_folder(parts.tokenizer) as temporary:
            tokenizer.save_pretrained(temporary)
    return load_tokenizer(parts.tokenizer)


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


def _assemble(settings: CorpusSettings, tokenizer: PreTrainedTokenizerFast, parts: Parts, sections: int, identity: str) -> None:
    try:
        with atomic_folder(parts.corpus) as temporary:
            described = join_parts(parts.all(sections), temporary)
            if not described["documents"]:
                raise DataError(f"the corpus is empty: {settings.path or settings.source} holds no document with text in it")
            _finish(temporary, settings, tokenizer, described, identity)
    except FileNotFoundError:
        if not (parts.corpus / "meta.json").exists():  # else another process put the same parts together, and removed them
            raise
    parts.remove()


def _describe(settings: CorpusSettings, seed: int, folder: Path, identity: str) -> None:
    tokenizer = corpus_tokenizer(settings, seed, folder)
    described = describe_arrays(token_arrays(settings), vocabulary_size(tokenizer), int(tokenizer.eos_token_id), SHARD_TOKENS)
    with atomic_folder(folder) as temporary:
        _finish(temporary, settings, tokenizer, described, identity)


def _finish(
    folder: Path, settings: CorpusSettings, tokenizer: PreTrainedTokenizerFast, described: dict[str, Any], identity: str
) -> None:
    """Write what makes a folder of shards a corpus."""
    tokenizer.save_pretrained(folder)
    meta: dict[str, Any] = {"fingerprint": identity, "source": settings.source, "path": settings.path}
    if settings.source == "hub":
        meta |= {"config": settings.config, "split": settings.split, "revision": commit(settings)}
    meta |= {"vocabulary": vocabulary_size(tokenizer), "end_of_text": tokenizer.eos_token_id}
    write_json(folder / "meta.json", meta | described)


# ------------------------------------------------------------------------------------------------ reading a corpus


@dataclass(frozen=True, slots=True)
class Shard:
    """A stretch of whole documents in one file."""

    start: int  # position of its first token in the corpus
    tokens: int
    path: str
    offset: int = 0  # of its first token in the file, in bytes
    modified: int | None = None  # time of the file's last change when it was described, in ns; None where Imprint wrote the file


class Corpus:
    """A tokenized corpus on disk, read as one flat array through memory maps that are opened at first use.

    Raises DataError where the description or a shard's file is missing; a file of the wrong size is told when it is first used.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json")
        self.dtype = np.dtype(self.meta["dtype"])
        sizes = [shard["tokens"] for shard in self.meta["shards"]]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        starts = (self._ends - sizes).tolist()
        self.shards = [_shard(folder, number, *each) for number, each in enumerate(zip(starts, self.meta["shards"], strict=True))]
        self._open: dict[int, np.ndarray] = {}
        _check_existence(self.shards, folder)

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path]]:
        return Corpus, (self.folder,)  # another process opens its own maps

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

    def open(self, number: int) -> np.ndarray:
        """The tokens of a shard, a read-only memory map (tokens,) of the corpus's own dtype.

        The OPEN_SHARDS used last are kept open, so memory does not grow with the corpus.
        """
        array = self._open.pop(number, None)
        if array is None:
            array = _map(self.shards[number], self.dtype, self.folder)
            if len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))
        self._open[number] = array  # last in the order of use
        return array

    def document_starts(self, number: int) -> np.ndarray:
        """Positions in the corpus at which the documents of a shard start, int64 (documents,)."""
        if (path := documents_file(self.folder, number)).exists():
            return np.load(path)
        shard = self.shards[number]
        starts = np.concatenate([[0], np.flatnonzero(self.open(number) == self.end_of_text) + 1])
        return starts[starts < shard.tokens] + shard.start

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [start, start + length) for each of `starts` (n,), as int64 (n, length)."""
        starts = np.asarray(starts, np.int64)
        if len(starts) and not 0 <= starts.min() <= starts.max() <= self.tokens - length:
            raise IndexError(f"tokens from {starts.min()} to {starts.max() + length} of a corpus of {self.tokens}")
        out = np.empty((len(starts), length), np.int64)
        shards = np.searchsorted(self._ends, starts, side="right")
        by_shard = np.argsort(shards, kind="stable")
        for slots in np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1):
            if len(slots):
                self._read_from(int(shards[slots[0]]), starts[slots], length, out, slots)
        return out

    def _read_from(self, number: int, starts: np.ndarray, length: int, out: np.ndarray, slots: np.ndarray) -> None:
        """Write to rows `slots` of `out` the spans from `starts` on, all of which begin in one shard."""
        shard, array = self.shards[number], self.open(number)
        positions = starts - shard.start
        whole = positions <= shard.tokens - length
        if whole.any():  # every span of the shard as a row of one view: numpy gathers rows much faster than a loop does
            step = array.itemsize
            windows = np.ndarray((shard.tokens - length + 1, length), array.dtype, array, strides=(step, step))
            out[slots[whole]] = windows[positions[whole]]
        for slot, start in zip(slots[~whole].tolist(), starts[~whole].tolist(), strict=True):
            out[slot] = self._across(number, start, length)

    def _across(self, number: int, start: int, length: int) -> np.ndarray:
        """A span that goes on in later shards."""
        pieces, missing = [], length
        while missing:
            begin = start + length - missing - self.shards[number].start
            pieces.append(self.open(number)[begin : begin + missing])
            missing -= len(pieces[-1])
            number += 1
        return np.concatenate(pieces)


def _shard(folder: Path, number: int, start: int, written: dict[str, Any]) -> Shard:
    if "path" not in written:
        return Shard(start, written["tokens"], str(tokens_file(folder, number)))
    return Shard(start, written["tokens"], written["path"], written["offset"], written["modified"])


def _check_existence(shards: list[Shard], folder: Path) -> None:
    """Refuse a corpus of which a file is missing, by listing folders: asking for each of thousands of files takes long."""
    present: dict[str, set[str]] = {}
    for shard in shards:
        parent, name = os.path.split(shard.path)
        if parent not in present:
            present[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in present[parent]:
            raise DataError(f"{shard.path} is missing or has the wrong size; {_ANEW.format(folder)}")


def _map(shard: Shard, dtype: np.dtype, folder: Path) -> np.ndarray:
    try:
        status = os.stat(shard.path)
    except FileNotFoundError:
        status = None
    needed = shard.offset + shard.tokens * dtype.itemsize
    own = shard.modified is None
    if status is None or status.st_size < needed or (own and status.st_size != needed):
        raise DataError(f"{shard.path} is missing or has the wrong size; {_ANEW.format(folder)}")
    if not own and status.st_mtime_ns != shard.modified:
        raise DataError(f"{shard.path} was changed since the corpus was made of it; {_ANEW.format(folder)}")
    return np.asarray(np.memmap(shard.path, dtype, "r", shard.offset, (shard.tokens,)))
