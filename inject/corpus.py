"""The corpus: base documents tokenized once into shards, opened as one flat array of tokens. It is never modified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.errors import DataError, RecipeError
from configs.layout import atomic_folder, fingerprint, read_json, write_json
from configs.progress import progress
from configs.schema import Corpus as CorpusSettings
from inject.hub import commit
from inject.parts import SHARD_TOKENS, Parts, documents_file, join_parts, make_parts, tokens_file
from inject.source import TOKEN_ARRAYS, documents, sections, source_fingerprint
from inject.token_arrays import describe_arrays, token_arrays
from inject.tokenizer import load_tokenizer, tokenizer_fingerprint, train_tokenizer, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 2
OPEN_FILES = 512  # held at once; many systems allow a process 1024
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
    except (DataError, FileNotFoundError) as error:
        if not (folder / "meta.json").exists():  # else another process put the same parts together, and removed them meanwhile
            if shard is None and isinstance(error, DataError):
                parts.remove()
            raise
    if (folder / "meta.json").exists():
        parts.remove()


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
    with atomic_folder(parts.corpus) as temporary:
        described = join_parts(parts.all(sections), temporary)
        if not described["documents"]:
            raise DataError(f"the corpus is empty: {settings.path or settings.source} holds no document with text in it")
        _finish(temporary, settings, tokenizer, described, identity)


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
    """A tokenized corpus on disk, read as one flat array. Files are opened at first use; nothing is held in memory.

    Raises DataError where the description or a file is missing; that a file has the wrong size is told when it is opened.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json")
        self.dtype = np.dtype(self.meta["dtype"])
        sizes = np.asarray([shard["tokens"] for shard in self.meta["shards"]], np.int64)
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        described = zip(self._starts.tolist(), self.meta["shards"], strict=True)
        self.shards = [_shard(folder, number, *each) for number, each in enumerate(described)]
        self._offsets = np.asarray([shard.offset for shard in self.shards], np.int64)
        self._files: dict[int, _File] = {}
        _check_existence(self.shards, folder)

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path]]:
        return Corpus, (self.folder,)  # another process opens its own files

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
        """The tokens of a shard, to be read from one end to the other: a read-only memory map (tokens,) of the corpus's dtype."""
        shard = self.shards[number]
        self._open(number)  # checks its size
        return np.asarray(np.memmap(shard.path, self.dtype, "r", shard.offset, (shard.tokens,)))

    def document_starts(self, number: int) -> np.ndarray:
        """Positions in the corpus at which the documents of a shard start, int64 (documents,)."""
        if (path := documents_file(self.folder, number)).exists():
            return np.load(path)
        shard = self.shards[number]
        starts = np.concatenate([[0], np.flatnonzero(self.open(number) == self.end_of_text) + 1])
        return starts[starts < shard.tokens] + shard.start

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [start, start + length) for each of `starts` (n,), as int64 (n, length).

        Spans are read, not mapped: for rows in random order, a memory map makes the kernel fetch megabytes around each.
        """
        starts = np.asarray(starts, np.int64)
        if len(starts) and not 0 <= starts.min() <= starts.max() <= self.tokens - length:
            raise IndexError(f"tokens from {starts.min()} to {starts.max() + length} of a corpus of {self.tokens}")
        shards = np.searchsorted(self._ends, starts, side="right")
        places = self._offsets[shards] + (starts - self._starts[shards]) * self.dtype.itemsize
        size, files = length * self.dtype.itemsize, self._files
        spans = [
            (files.get(shard) or self._open(shard)).read(size, place)
            for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
        ]
        for slot in np.flatnonzero(starts + length > self._ends[shards]).tolist():
            spans[slot] = self._across(int(shards[slot]), int(starts[slot]), length)
        tokens = b"".join(spans)
        if len(tokens) != len(starts) * size:
            raise DataError(f"a file of the corpus was cut short while it was read; {_ANEW.format(self.folder)}")
        return np.frombuffer(tokens, self.dtype).reshape(len(starts), length).astype(np.int64)

    def _across(self, number: int, start: int, length: int) -> bytes:
        """A span that goes on in later shards."""
        pieces, item = [], self.dtype.itemsize
        while length:
            shard = self.shards[number]
            taken = min(length, shard.start + shard.tokens - start)
            file = self._files.get(number) or self._open(number)
            pieces.append(file.read(taken * item, shard.offset + (start - shard.start) * item))
            start, length, number = start + taken, length - taken, number + 1
        return b"".join(pieces)

    def _open(self, number: int) -> _File:
        """The file of a shard, opened and checked; it stays open until OPEN_FILES others have been opened."""
        shard, anew = self.shards[number], _ANEW.format(self.folder)
        own = shard.modified is None
        needed = shard.offset + shard.tokens * self.dtype.itemsize
        try:
            file = _File(os.open(shard.path, os.O_RDONLY))
        except FileNotFoundError as error:
            raise DataError(f"{shard.path} is missing or has the wrong size; {anew}") from error
        status = os.fstat(file.descriptor)
        if status.st_size < needed or (own and status.st_size != needed):
            raise DataError(f"{shard.path} is missing or has the wrong size; {anew}")
        if not own and status.st_mtime_ns != shard.modified:
            raise DataError(f"{shard.path} was changed since the corpus was made of it; {anew}")
        if len(self._files) >= OPEN_FILES:
            self._files.pop(next(iter(self._files)))
        self._files[number] = file
        return file


class _File:
    """An open file, which is closed when nothing refers to it any more: not while another thread reads it."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read(self, size: int, place: int) -> bytes:
        return os.pread(self.descriptor, size, place)


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
