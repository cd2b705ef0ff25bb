"""Token ids that exist already, used as a corpus where they lie: neither tokenized nor copied.

Megatron-LM and GPT-NeoX keep them as PREFIX.bin, the token ids of all documents end to end, and PREFIX.idx, which says their
type and where each document lies. OLMo keeps them as .npy files of numbers alone, mostly without the header of numpy's format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import DataError, RecipeError
from configs.layout import fingerprint
from configs.schema import Corpus

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_HEADER = struct.Struct("<9sQBQQ")  # magic, version, code of the type, sequences, entries of the table of documents
MEGATRON_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float32", 7: "float64", 8: "uint16"}
NUMPY_MAGIC = b"\x93NUMPY"

SAMPLED_BLOCKS, BLOCK_BYTES = 512, 4096  # of all arrays together: what stands for their content in a fingerprint
CHECKED_TOKENS = 2**24  # an end-of-text must be among so many tokens at the beginning
SEARCHED_TOKENS = 2**14  # read at once in search of the end of a document


@dataclass(frozen=True)
class TokenArray:
    """Token ids in one file, from a byte offset on."""

    path: Path
    offset: int
    tokens: int
    dtype: np.dtype
    documents: int | None = None  # as an index counts them

    def open(self) -> np.ndarray:
        """The tokens as a read-only memory map (tokens,)."""
        return np.asarray(np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,)))


def token_arrays(settings: Corpus) -> list[TokenArray]:
    """The arrays of a megatron or npy source, in the order of their paths, empty ones left out; only headers are read.

    Raises DataError for what is missing, damaged or of another format, RecipeError where a setting is missing or wrong.
    """
    if settings.limit is not None:
        raise RecipeError(
            f"corpus.limit is {settings.limit}, but corpus.source is {settings.source}, which is read as a whole; leave it out"
        )
    path = Path(str(settings.path))
    if settings.source == "megatron":
        arrays = [_megatron(prefix) for prefix in _prefixes(path)]
    else:
        arrays = [_npy(file, settings.dtype) for file in _npy_files(path)]
    arrays = [array for array in arrays if array.tokens]
    if not arrays:
        raise DataError(f"the corpus is empty: {path} holds no token")
    if len(types := {array.dtype: array.path for array in arrays}) > 1:
        named = ", ".join(f"{file} of {dtype}" for dtype, file in types.items())
        raise DataError(f"the token arrays of a corpus must be of one type, but there are {named}")
    return arrays


def arrays_fingerprint(arrays: list[TokenArray]) -> str:
    """sha256 (hex) of the arrays' names and sizes and of evenly spaced blocks of their tokens, the first and last among them.

    Reading all of 10^12 tokens would take hours. That a file was changed in place between those blocks is told by its time of
    change, which is kept where the arrays are described: it is no part of the fingerprint, so copies are the same corpus.
    """
    ends = list(accumulate(array.tokens * array.dtype.itemsize for array in arrays))
    begins = np.linspace(0, max(0, ends[-1] - BLOCK_BYTES), SAMPLED_BLOCKS).astype(np.int64)
    holders = np.searchsorted(ends, begins, side="right")
    digest = sha256()
    for number in np.unique(holders).tolist():
        array, before = arrays[number], ends[number - 1] if number else 0
        with array.path.open("rb") as file:
            for begin in begins[holders == number].tolist():
                file.seek(array.offset + begin - before)
                digest.update(file.read(BLOCK_BYTES))
    return fingerprint([digest.hexdigest(), [(array.path.name, array.dtype.name, array.tokens) for array in arrays]])


def describe_arrays(arrays: list[TokenArray], vocabulary: int, end_of_text: int, shard_tokens: int) -> dict[str, Any]:
    """The part of a corpus's meta.json that says what it holds: shards of whole documents, about `shard_tokens` each.

    Raises DataError where the tokens can't be of this vocabulary, or documents are not ended by the end-of-text token.
    """
    _check_tokens(arrays, vocabulary, end_of_text)
    shards = [shard for array in arrays for shard in _shards(array, end_of_text, shard_tokens)]
    counts = [array.documents for array in arrays if array.documents is not None]
    return {
        "documents": sum(counts) if len(counts) == len(arrays) else None,
        "tokens": sum(array.tokens for array in arrays),
        "characters": None,
        "dtype": arrays[0].dtype.name,
        "shards": shards,
    }


def _shards(array: TokenArray, end_of_text: int, shard_tokens: int) -> Iterator[dict[str, Any]]:
    tokens, modified, begin = array.open(), array.path.stat().st_mtime_ns, 0
    while begin < array.tokens:
        end = _document_end(tokens, begin + shard_tokens, end_of_text)
        yield {
            "tokens": end - begin,
            "path": str(array.path.absolute()),
            "offset": array.offset + begin * array.dtype.itemsize,
            "modified": modified,
        }
        begin = end


def _document_end(tokens: np.ndarray, position: int, end_of_text: int) -> int:
    """The first end of a document at or after a position; the end of the array where there is none."""
    for begin in range(position - 1, len(tokens), SEARCHED_TOKENS):
        found = np.flatnonzero(tokens[begin : begin + SEARCHED_TOKENS] == end_of_text)
        if len(found):
            return begin + int(found[0]) + 1
    return len(tokens)


def _check_tokens(arrays: list[TokenArray], vocabulary: int, end_of_text: int) -> None:
    blocks = max(1, SAMPLED_BLOCKS // len(arrays))
    for array in arrays:
        tokens = array.open()
        for begin in np.linspace(0, max(0, len(tokens) - BLOCK_BYTES), blocks).astype(np.int64).tolist():
            block = tokens[begin : begin + BLOCK_BYTES]
            for token in (int(block.min()), int(block.max())):
                if not 0 <= token < vocabulary:
                    raise DataError(
                        f"{array.path} holds token {token} near {begin:,}, but corpus.tokenizer has {vocabulary:,} tokens; "
                        f"give the tokenizer that made it{_and_type(array)}"
                    )
    checked = 0
    for array in arrays:
        part = array.open()[: CHECKED_TOKENS - checked]
        if (part == end_of_text).any():
            return
        checked += len(part)
        if checked >= CHECKED_TOKENS:
            break
    raise DataError(
        f"{arrays[0].path} has no end-of-text token ({end_of_text}) in its first {checked:,} tokens, so where its documents end "
        "can't be told; give the tokenizer that made it, or tokenize it with an end-of-text after each document (--append-eod)"
    )


def _and_type(array: TokenArray) -> str:
    return f", and check that corpus.dtype is {array.dtype.name}" if array.path.suffix == ".npy" else ""


# ------------------------------------------------------------------------------------------------ Megatron-LM, GPT-NeoX


def _prefixes(path: Path) -> list[Path]:
    """The paths, without suffix, of a .bin and .idx: of the folder, the file or the prefix given."""
    if path.is_dir():
        if not (found := sorted(index.with_suffix("") for index in path.rglob("*.idx"))):
            raise DataError(f"corpus.path is {path}, which holds no .idx file")
        return found
    return [path.with_suffix("") if path.suffix in (".bin", ".idx") else path]


def _megatron(prefix: Path) -> TokenArray:
    index, tokens = (prefix.with_name(prefix.name + suffix) for suffix in (".idx", ".bin"))
    for path in (index, tokens):
        if not path.is_file():
            raise DataError(f"{path} does not exist; a megatron source is a .bin and its .idx beside it")
    with index.open("rb") as file:
        header = file.read(MEGATRON_HEADER.size)
        if len(header) < MEGATRON_HEADER.size or not header.startswith(MEGATRON_MAGIC):
            raise DataError(f"{index} is no index of Megatron-LM or GPT-NeoX: it does not begin with MMIDIDX")
        _, version, code, sequences, documents = MEGATRON_HEADER.unpack(header)
        dtype = np.dtype(MEGATRON_TYPES.get(code, "float64"))
        if version != 1 or dtype.kind not in "iu":
            raise DataError(f"{index} is of version {version} and type {code}, not of version 1 and a type of whole numbers")
        listed = 4 * sequences + 8 * sequences + 8 * documents  # sizes, positions, first sequence of each document
        if index.stat().st_size < MEGATRON_HEADER.size + listed:
            raise DataError(f"{index} is cut short: its {sequences:,} sequences are not all listed")
        end = 0
        if sequences:
            file.seek(MEGATRON_HEADER.size + 4 * (sequences - 1))
            (size,) = struct.unpack("<i", file.read(4))
            file.seek(MEGATRON_HEADER.size + 4 * sequences + 8 * (sequences - 1))
            (position,) = struct.unpack("<q", file.read(8))
            end = position + size * dtype.itemsize
    if end != (actual := tokens.stat().st_size):
        raise DataError(
            f"{tokens} has {actual:,} bytes, but {index} tells of {end:,}: they do not belong together, or one is cut short"
        )
    return TokenArray(tokens, 0, end // dtype.itemsize, dtype, max(0, documents - 1))


# ------------------------------------------------------------------------------------------------ .npy


def _npy_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"corpus.path is {path}, which does not exist")
    if not (found := sorted(file for file in path.rglob("*.npy") if file.is_file())):
        raise DataError(f"corpus.path is {path}, which holds no .npy file")
    return found


def _npy(path: Path, given: str | None) -> TokenArray:
    if (header := _numpy_header(path)) is not None:
        dtype, tokens, offset = header
        if given is not None and _whole_numbers(given) != dtype:
            raise RecipeError(f"corpus.dtype is {given}, but the header of {path} says {dtype.name}; leave corpus.dtype out")
        return TokenArray(path, offset, tokens, dtype)
    if given is None:
        raise RecipeError(f"{path} has no header that says the type of its token ids; give it as corpus.dtype, as uint16 or uint32")
    dtype = _whole_numbers(given)
    size = os.stat(path).st_size
    if size % dtype.itemsize:
        raise DataError(f"{path} has {size:,} bytes, which is no whole number of {dtype.name}; check corpus.dtype")
    return TokenArray(path, 0, size // dtype.itemsize, dtype)


def _whole_numbers(name: str) -> np.dtype:
    possible = ["uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64"]
    if name not in possible:
        raise RecipeError(f"corpus.dtype is {name!r}; possible: {', '.join(possible)}")
    return np.dtype(name)


def _numpy_header(path: Path) -> tuple[np.dtype, int, int] | None:
    """Type, number of tokens and where they begin, as numpy's own header says; None where there is no header."""
    with path.open("rb") as file:
        if file.read(len(NUMPY_MAGIC)) != NUMPY_MAGIC:
            return None
        file.seek(0)
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except ValueError as error:
            raise DataError(f"{path} has a damaged numpy header: {error}") from error
        offset = file.tell()
    if len(shape) != 1 or dtype.kind not in "iu" or not dtype.isnative:
        raise DataError(f"{path} holds an array of shape {shape} and type {dtype}, not one row of whole numbers of this machine")
    if os.stat(path).st_size < offset + shape[0] * dtype.itemsize:
        raise DataError(f"{path} is cut short: its header tells of {shape[0]:,} tokens")
    return dtype, shape[0], offset
