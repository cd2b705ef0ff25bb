"""Where base documents come from: Python's own library, a synthetic language, files of one's own, or the hub."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError
from configs.layout import file_fingerprint, fingerprint, input_fingerprint
from configs.schema import Corpus
from inject.hub import hub_fingerprint, hub_sections
from inject.permutation import mix
from inject.token_arrays import arrays_fingerprint, token_arrays

TOKEN_ARRAYS = ("megatron", "npy")  # sources that are tokens already
PAGE = 1500  # characters; a document of the standard library is about a page
SUFFIXES = {"jsonl": (".jsonl", ".json", ".ndjson"), "text": (".txt", ".md", ".text"), "parquet": (".parquet",)}


SECTION_BYTES = 2**28  # files are read in sections of consecutive files that have at least so many bytes
SECTION_DOCUMENTS = 2**16  # of the synthetic language

Wanted = Callable[[int], bool]  # whether the document of this number, counted from 0, is wanted
Section = Callable[[Wanted], Iterator[str | None]]  # its documents in order; None, or a text not to use, for one that is not wanted


def documents(settings: Corpus, seed: int) -> Iterator[str]:
    """The documents of a source, in a fixed order: valid Unicode, none empty."""
    for section in sections(settings, seed):
        yield from with_text(section(lambda number: True))


def with_text(found: Iterable[str | None]) -> Iterator[str]:
    """Of texts as they were found, those with more than white space in them, made valid Unicode."""
    return (valid_unicode(text) for text in found if text and not text.isspace())


def sections(settings: Corpus, seed: int) -> list[Section]:
    """The documents of a source in stretches that can be read apart: one after another, they are the source.

    What is not wanted of a section costs little, so several processes can share one.
    """
    if settings.source == "stdlib":
        found: list[Section] = [lambda wanted: iter(_library_documents(tuple(_library_files())))]
    elif settings.source == "synthetic":
        begins = range(0, settings.documents, SECTION_DOCUMENTS)
        found = [partial(_synthetic_section, begin, min(begin + SECTION_DOCUMENTS, settings.documents), seed) for begin in begins]
    elif settings.source == "hub":
        found = hub_sections(settings)
    else:
        found = [partial(_read_files, group, settings) for group in _grouped(files(settings))]
    if settings.limit is None:
        return found
    return [partial(_first, found, settings.limit)]


def _first(found: list[Section], limit: int, wanted: Wanted) -> Iterator[str | None]:
    """The first documents of all sections, as one section."""
    return islice(_joined(found, wanted), limit)


def _joined(found: list[Section], wanted: Wanted) -> Iterator[str | None]:
    seen = 0
    for section in found:
        for text in section(partial(_shifted, wanted, seen)):
            yield text
            seen += 1


def _shifted(wanted: Wanted, by: int, number: int) -> bool:
    return wanted(by + number)


def source_fingerprint(settings: Corpus, seed: int) -> str:
    """What the documents depend on: the content of the files they are read from, or the seed they are made from."""
    if settings.source in TOKEN_ARRAYS:
        return fingerprint([settings.source, arrays_fingerprint(token_arrays(settings))])
    if settings.source == "synthetic":
        made_of: list[Any] = ["synthetic", settings.documents, seed]
    elif settings.source == "stdlib":
        made_of = ["stdlib", sys.version, _library_fingerprints()]
    elif settings.source == "hub":
        made_of = [hub_fingerprint(settings)]
    else:
        made_of = [settings.source, settings.column, [(path.name, input_fingerprint(path)) for path in files(settings)]]
    return fingerprint(made_of if settings.limit is None else [*made_of, settings.limit])


def valid_unicode(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# ------------------------------------------------------------------------------------------------ the standard library

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__", "lib2to3"}


def standard_library() -> Iterator[str]:
    """The reference topics, docstrings and sources (docstrings taken out) of this Python, in documents of up to a page."""
    yield from _library_documents(tuple(_library_files()))


@lru_cache(maxsize=1)  # they are read twice, to train a tokenizer and to be tokenized, and parsing them takes seconds
def _library_documents(paths: tuple[Path, ...]) -> list[str]:
    return list(_pages_of_library(paths))


def _pages_of_library(paths: tuple[Path, ...]) -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from pages(topics[name])
    for path in paths:
        source = path.read_text(encoding="utf-8", errors="replace")
        docstrings, code = split_docstrings(source)
        yield from pages("\n\n".join(docstrings))
        yield from pages(code)


@lru_cache(maxsize=1)  # of each point of a sweep; it does not change while this Python runs
def _library_fingerprints() -> list[str]:
    return [file_fingerprint(path) for path in _library_files()]


def _library_files() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))


def split_docstrings(source: str) -> tuple[list[str], str]:
    """The docstrings of a module, dedented, and its source without the lines they stand on."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return [], source
    docstrings, lines = [], re.split(r"\r\n|\r|\n", source)  # what the parser counts; splitlines() also splits at form feeds
    for node in _definitions(tree):
        if (text := ast.get_docstring(node)) and (expression := node.body[0]).end_lineno:
            docstrings.append(text)
            for number in range(expression.lineno - 1, expression.end_lineno):
                lines[number] = ""
    return docstrings, "\n".join(lines)


def _definitions(node: Any) -> Iterator[Any]:
    """The module, classes and functions of a syntax tree; expressions, which hold none that matter, are not entered."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for block in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, block, ()):
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                yield from _definitions(child)


def pages(text: str) -> Iterator[str]:
    """Split a text into documents of about a page each: at a blank line, or at any line of an unbroken stretch of two pages."""
    page: list[str] = []
    size = 0
    for line in text.splitlines():
        if page and ((size > PAGE and not line.strip()) or size > 2 * PAGE):
            yield "\n".join(page).strip("\n")
            page, size = [], 0
        if line.strip() or (page and page[-1]):  # runs of blank lines become one
            page.append(line.rstrip())
            size += len(line) + 1
    if page:
        yield "\n".join(page).strip("\n")


# ------------------------------------------------------------------------------------------------ a synthetic language

WORDS, FOLLOWERS, SENTENCE_END, DOCUMENT_WORDS = 4096, 64, 2**-3, 200
_ONSETS = "b br c ch d dr f fl g gr h j k l m n p pl pr r s sh sl st t th tr v w z".split()
_NUCLEI = "a e i o u ai ea ee oa ou".split()
_CODAS = ["", "", "l", "m", "n", "nd", "r", "s", "st", "t"]


def synthetic(count: int, seed: int, begin: int = 0) -> Iterator[str]:
    """Documents [begin, count) of English-like text of a first-order Markov chain over made-up words, identical on every machine.

    Each word is followed by one of 64 words with probabilities proportional to 1/rank, and ends its sentence with
    probability 1/8; so the entropy rate is exactly `synthetic_entropy()` bits a word.
    """
    words = _lexicon()
    threshold = (_follower_probabilities().cumsum() * 2**32).astype(np.uint64)
    bits = mix(np.arange(WORDS, dtype=np.uint64) ^ mix(np.asarray([seed], np.uint64)))
    start, stride = bits >> np.uint64(32), bits | np.uint64(1)  # odd: the followers of a word are all different
    followers = (start[:, None] + stride[:, None] * np.arange(FOLLOWERS, dtype=np.uint64)) % np.uint64(WORDS)
    for document in range(begin, count):
        state = np.uint64(document) * np.uint64(DOCUMENT_WORDS) + np.arange(DOCUMENT_WORDS, dtype=np.uint64)
        noise = mix(state ^ mix(np.asarray([seed + 1], np.uint64)))
        ranks = np.searchsorted(threshold[:-1], noise >> np.uint64(32), side="right")
        ends = (noise & np.uint64(2**32 - 1)) < np.uint64(int(SENTENCE_END * 2**32))
        yield _sentences(words, followers, ranks.tolist(), ends.tolist(), first=int(noise[0] % np.uint64(WORDS)))


def _synthetic_section(begin: int, end: int, seed: int, wanted: Wanted) -> Iterator[str | None]:
    return iter(synthetic(end, seed, begin))


def synthetic_entropy() -> float:
    """Entropy rate of the synthetic language, bits a word: of the follower, plus of whether the sentence ends."""
    p = _follower_probabilities()
    end = np.asarray([SENTENCE_END, 1 - SENTENCE_END])
    return float(-(p * np.log2(p)).sum() - (end * np.log2(end)).sum())


def _follower_probabilities() -> np.ndarray:
    weights = 1.0 / np.arange(1, FOLLOWERS + 1)
    return weights / weights.sum()


def _lexicon() -> list[str]:
    words: dict[str, None] = {}
    number = 0
    while len(words) < WORDS:
        bits, syllables = int(mix(np.asarray([number], np.uint64))[0]), []
        for _ in range(1 + bits % 3):
            for part in (_ONSETS, _NUCLEI, _CODAS):
                bits, choice = divmod(bits, len(part))
                syllables.append(part[choice])
        words.setdefault("".join(syllables))
        number += 1
    return list(words)


def _sentences(words: list[str], followers: np.ndarray, ranks: list[int], ends: list[bool], first: int) -> str:
    text, word, starts = [], first, True
    for rank, end in zip(ranks, ends, strict=True):
        text.append((words[word].capitalize() if starts else words[word]) + ("." if end else ""))
        word, starts = int(followers[word, rank]), end
    return " ".join(text)


# ------------------------------------------------------------------------------------------------ files


def files(settings: Corpus) -> list[Path]:
    """The files of a source: the one given, or those of its format in the folder given, in order of their names."""
    path = Path(str(settings.path))
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"corpus.path is {path}, which does not exist")
    suffixes = SUFFIXES.get(settings.source) or tuple(s for format in SUFFIXES.values() for s in format)
    found = sorted(p for p in path.rglob("*") if p.is_file() and _bare_suffix(p) in suffixes)
    if not found:
        raise DataError(f"corpus.path is {path}, which holds no {settings.source} file ({', '.join(suffixes)}; also .gz, .zst)")
    return found


def _bare_suffix(path: Path) -> str:
    """The suffix that tells the format; parquet compresses by itself, so a compressed parquet file is none."""
    inner = Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix
    return path.suffix if inner == ".parquet" else inner


def _format(path: Path, settings: Corpus) -> str:
    if settings.source != "files":
        return settings.source
    for name, suffixes in SUFFIXES.items():
        if _bare_suffix(path) in suffixes:
            return name
    raise DataError(
        f"{path} has none of the suffixes {', '.join(s for f in SUFFIXES.values() for s in f)}; name its format as corpus.source"
    )


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(pa.input_stream(path, compression="zstd"))  # which tells when a file is cut short
    return path.open("rb")


def _grouped(paths: list[Path]) -> Iterator[list[Path]]:
    """Consecutive files in groups of at least SECTION_BYTES, but for the last."""
    group: list[Path] = []
    size = 0
    for path in paths:
        group.append(path)
        size += path.stat().st_size
        if size >= SECTION_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read_files(paths: list[Path], settings: Corpus, wanted: Wanted) -> Iterator[str | None]:
    readers: list[Section] = [partial(READERS[_format(path, settings)], path, settings.column) for path in paths]
    return _joined(readers, wanted)


def _read_jsonl(path: Path, column: str, wanted: Wanted) -> Iterator[str | None]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file, path)):
            if not wanted(number) or not line.strip():
                yield None
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"line {number + 1} of {path} is not JSON: {error}") from error
            if not isinstance(row, dict) or column not in row:
                keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise DataError(f"line {number + 1} of {path} has no {column!r} (it has: {keys}); name the column as corpus.column")
            yield _text(row[column], f"line {number + 1} of {path}", column)


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read to its end: {error}") from error


def _read_text(path: Path, column: str, wanted: Wanted) -> Iterator[str | None]:
    """A text file is one document; bytes that are not UTF-8 become U+FFFD."""
    if not wanted(0):
        yield None
        return
    with _open(path) as file:
        yield b"".join(_lines(file, path)).decode("utf-8-sig", "replace")


def _read_parquet(path: Path, column: str, wanted: Wanted) -> Iterator[str | None]:
    try:
        table = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error
    if column not in table.schema_arrow.names:
        raise DataError(
            f"{path} has no column {column!r} (it has: {', '.join(table.schema_arrow.names)}); name it as corpus.column"
        )
    first = 0
    try:
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if any(wanted(number) for number in range(first, first + rows)):
                for batch in table.iter_batches(row_groups=[group], columns=[column]):
                    for value in batch.column(0).to_pylist():
                        yield _text(value, str(path), column)
            else:
                yield from repeat(None, rows)
            first += rows
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read to its end: {' '.join(str(error).split())}") from error


def _text(value: Any, where: str, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{column!r} of {where} is {type(value).__name__}, not text")
    return value


READERS: dict[str, Callable[[Path, str, Wanted], Iterator[str | None]]] = {
    "jsonl": _read_jsonl,
    "text": _read_text,
    "parquet": _read_parquet,
}
