"""A source tokenized in parts. A part that is done is kept, so a run that was stopped goes on from there, and several processes
can make parts side by side; which parts there are, and what is in them, depends on neither.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from configs.layout import atomic_folder, read_json, write_json
from configs.progress import Meter, progress
from inject.source import Section, with_text
from inject.tokenizer import encode_batches, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD_TOKENS = 2**26
PART_DOCUMENTS = 2**16  # at most, blank ones included: of web pages, about a shard
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1024, 2**23  # what is encoded at once: whichever is reached first


@dataclass(frozen=True)
class Parts:
    """The folder in which the parts of a corpus are collected, beside that of the corpus: part k of each section of its source."""

    corpus: Path

    @property
    def folder(self) -> Path:
        return self.corpus.with_name(f"{self.corpus.name}.parts")

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    def part(self, section: int, part: int) -> Path:
        return self.folder / f"part-{section:05d}-{part:05d}"

    def is_done(self, section: int, part: int) -> bool:
        """Whether nothing is left to do for a part: it is there, or another process has put the whole corpus together."""
        return (self.part(section, part) / "part.json").exists() or (self.corpus / "meta.json").exists()

    def of(self, section: int) -> list[Path] | None:
        """The folders of all parts of a section, in order; None while one is missing."""
        folders: list[Path] = []
        for number in count():
            folders.append(self.part(section, number))
            if not (folders[-1] / "part.json").exists():
                return None
            if read_json(folders[-1] / "part.json")["last"]:
                break
        return folders

    def all(self, sections: int) -> list[Path]:
        """The folders of all parts of all sections, in order; FileNotFoundError where one is missing."""
        of = [self.of(section) for section in range(sections)]
        if None in of:
            raise FileNotFoundError(f"{self.folder} does not hold all parts of section {of.index(None)}")
        return [folder for folders in of for folder in folders or []]

    def done(self) -> int:
        """How many parts are there."""
        return sum(1 for _ in self.folder.glob("part-?????-?????/part.json"))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def make_parts(sections: list[Section], tokenizer: PreTrainedTokenizerFast, parts: Parts, shard: int = 0, shards: int = 1) -> None:
    """Make those parts that are not there and that belong to process `shard` of `shards`.

    Where there are sections enough a process has every so many of them, and reads no other. Else it has every so many parts of
    each section, and skips over the rest.
    """
    whole_sections = len(sections) >= shards
    if done := parts.done():
        print(f"  {done:,} parts of the corpus are tokenized already", flush=True)
    with progress("tokenize", "characters") as meter:
        for number, section in enumerate(sections):
            first = (shard - number) % shards  # the first part of the section that is this process's own
            if (whole_sections and first) or parts.of(number) is not None:
                continue
            _make_section(section, number, first, 1 if whole_sections else shards, tokenizer, parts, meter)


def _make_section(
    section: Section, number: int, first: int, step: int, tokenizer: PreTrainedTokenizerFast, parts: Parts, meter: Meter
) -> None:
    """Make the parts first, first + step, ... of a section that are not there."""

    @cache
    def is_missing(part: int) -> bool:
        return part % step == first and not parts.is_done(number, part)

    texts = section(lambda document: is_missing(document // PART_DOCUMENTS))
    for part in count():
        stretch = islice(texts, PART_DOCUMENTS)
        seen = _make_part(stretch, tokenizer, parts.part(number, part), meter) if is_missing(part) else sum(1 for _ in stretch)
        if seen < PART_DOCUMENTS:  # so the section has ended; a section of whole parts ends with an empty one
            return


def _make_part(texts: Iterator[str | None], tokenizer: PreTrainedTokenizerFast, folder: Path, meter: Meter) -> int:
    """Tokenize one part into `folder`; how many documents it was given, blank ones included."""
    seen = characters = 0

    def counted() -> Iterator[str | None]:
        nonlocal seen
        for text in texts:
            seen += 1
            yield text

    dtype = np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32)
    with atomic_folder(folder) as temporary, ShardWriter(temporary) as writer:
        for size, tokens, ends in encode_batches(tokenizer, batches(with_text(counted())), dtype):
            writer.add(tokens, ends)
            characters += size
            meter.advance(size)
        writer.flush()
        description = {"last": seen < PART_DOCUMENTS, "characters": characters, "dtype": dtype.name, "shards": writer.shards}
        write_json(temporary / "part.json", description)
    return seen


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Consecutive texts in lists of BATCH_DOCUMENTS, or fewer that reach BATCH_CHARACTERS."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class ShardWriter:
    """Writes documents to tokens-*.bin as they come, whole documents to a shard, and where they start in it to documents-*.npy."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards: list[dict[str, int]] = []
        self._file: BinaryIO | None = None
        self._starts: list[np.ndarray] = []
        self._held = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, tokens: np.ndarray, ends: np.ndarray) -> None:
        """Append documents: their `tokens` end to end, and where each `ends` in them, int64 (documents,)."""
        begin = 0
        while len(ends):
            taken = ends[: int(np.searchsorted(ends, begin + SHARD_TOKENS - self._held)) + 1]  # to the one that fills the shard
            self._append(tokens[begin : taken[-1]], np.concatenate([[begin], taken[:-1]]) - begin)
            ends, begin = ends[len(taken) :], int(taken[-1])
            if self._held >= SHARD_TOKENS:
                self.flush()

    def flush(self) -> None:
        """End the shard."""
        if self._file is None:
            return
        self._file.close()
        starts = np.concatenate(self._starts)
        np.save(documents_file(self.folder, len(self.shards)), starts)
        self.shards.append({"tokens": self._held, "documents": len(starts)})
        self._file, self._starts, self._held = None, [], 0

    def _append(self, tokens: np.ndarray, starts: np.ndarray) -> None:
        if self._file is None:
            self._file = tokens_file(self.folder, len(self.shards)).open("wb")
        self._file.write(np.ascontiguousarray(tokens).data)
        self._starts.append(starts + self._held)
        self._held += len(tokens)


def join_parts(parts: list[Path], folder: Path) -> dict[str, Any]:
    """Put the shards of all parts, in order, into `folder`; the part of meta.json that says what it holds."""
    shards: list[dict[str, int]] = []
    tokens = characters = 0
    dtype = None
    for part in parts:
        description = read_json(part / "part.json")
        characters, dtype = characters + description["characters"], description["dtype"]
        for number, shard in enumerate(description["shards"]):
            os.link(tokens_file(part, number), tokens_file(folder, len(shards)))
            np.save(documents_file(folder, len(shards)), np.load(documents_file(part, number)) + tokens)
            shards.append(shard)
            tokens += shard["tokens"]
    return {
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": tokens,
        "characters": characters,
        "dtype": dtype,
        "shards": shards,
    }


def tokens_file(folder: Path, shard: int) -> Path:
    return folder / f"tokens-{shard:05d}.bin"


def documents_file(folder: Path, shard: int) -> Path:
    return folder / f"documents-{shard:05d}.npy"
