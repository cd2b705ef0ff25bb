"""Do the items already occur: in the corpus, or in an item of another group (which may be a held-out twin)?

A corpus is scanned in parts of PART tokens, each with a file of its hits: a scan that was stopped goes on where it was, and the
processes of a machine, or the jobs of an array, share the parts. What is a hit is told in `inject.overlap`. What follows from hits
is the recipe's `decontaminate.policy`: fail, report, leave the documents out (a new corpus, of which every model of the run is
trained), or draw other items.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.layout import atomic_folder, fingerprint, write_json
from configs.progress import progress
from configs.tables import write_table
from inject.corpus import SHARD_TOKENS, Corpus
from inject.overlap import Search, Sought
from inject.tokenizer import decode

FORMAT = 1
PART = 2**26  # tokens of the corpus with a file of hits of their own
BLOCK = 2**21  # tokens read at once
SENT = 4  # times that the search, which may be large, is sent to each process; after each, its work shows in the progress
AROUND = 16  # tokens shown, and read, on both sides of a run
IN_CORPUS = "corpus"
_NEAR = 1024  # tokens in which a document's edge is looked for first; then in twice as many

HITS = pa.schema(
    [
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("group", pa.string()),
        ("where", pa.string()),  # corpus, or the item of another group in whose text it stands
        ("where_variant", pa.string()),  # of that item; empty in the corpus
        ("position", pa.int64()),  # of the longest run's first token, in the corpus or in the other text
        ("tokens", pa.int32()),  # of the longest run
        ("runs", pa.int32()),  # in the document, or in the other item's group
        ("document_start", pa.int64()),  # tokens [start, end) of the document, its end-of-text included; null in an item
        ("document_end", pa.int64()),
        ("text", pa.string()),  # the longest run with what stands around it
    ]
)
Hit = dict[str, Any]  # a row of HITS

# ------------------------------------------------------------------------------------------------ the corpus


def scan_fingerprint(corpus: str, sought: Iterable[Sought], ngram: int, groups: Collection[str] | None = None) -> str:
    """What the hits of a scan depend on, `corpus` being the corpus's fingerprint; of a scan for some `groups` only, if given."""
    described = [[text.item_id, text.variant, text.group, text.tokens.tolist(), text.content.tolist()] for text in sought]
    chosen = [] if groups is None else [sorted(groups)]
    return fingerprint(["decontaminate", FORMAT, corpus, ngram, described, *chosen])


def parts(corpus: Corpus) -> int:
    """How many parts a corpus is scanned in."""
    return -(-corpus.tokens // PART)


def scan(corpus: Corpus, search: Search, folder: Path, identity: str, share: tuple[int, int] = (0, 1), processes: int = 1) -> None:
    """Write the hits of every part that has none of this identity yet; of `share` (i, n), every n-th part from the i-th on.

    So many `processes` take parts in turn; each holds BLOCK tokens at a time, and a copy of the search.
    """
    waiting = [number for number in range(share[0], parts(corpus), share[1]) if not _scanned(_part(folder, number), identity)]
    work = partial(scan_part, corpus, search, folder, identity)
    with ExitStack() as stack:
        meter = stack.enter_context(progress("decontaminate", "tokens", sum(_size(corpus, number) for number in waiting)))
        done: Iterable[int] = map(work, waiting)
        if (workers := min(processes, len(waiting))) > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn")))
            done = pool.map(work, waiting, chunksize=-(-len(waiting) // (workers * SENT)))
        for tokens in done:
            meter.advance(tokens)


def scan_part(corpus: Corpus, search: Search, folder: Path, identity: str, number: int) -> int:
    """Write the hits of one part; returns how many tokens it has."""
    start = number * PART
    end = start + _size(corpus, number)
    hits = [hit for block in range(start, end, BLOCK) for hit in _hits(corpus, search, block, min(block + BLOCK, end))]
    write_table(_part(folder, number), by_document(hits), HITS.with_metadata({"identity": identity}))
    return end - start


def gather(corpus: Corpus, folder: Path, identity: str) -> list[Hit]:
    """The hits of all parts, by document. DataError where some were not scanned yet."""
    paths = [_part(folder, number) for number in range(parts(corpus))]
    missing = [path.name for path in paths if not _scanned(path, identity)]
    if missing:
        raise DataError(f"{len(missing)} of {len(paths)} parts of the corpus have not been scanned yet ({missing[0]} ...)")
    return by_document([hit for path in paths for hit in pq.read_table(path).to_pylist()])


def _part(folder: Path, number: int) -> Path:
    return folder / f"hits-{number:05d}.parquet"


def _scanned(path: Path, identity: str) -> bool:
    if not path.exists():
        return False
    try:
        return (pq.read_schema(path).metadata or {}).get(b"identity") == identity.encode()
    except (pa.ArrowInvalid, OSError):
        return False


def _size(corpus: Corpus, number: int) -> int:
    return min(PART, corpus.tokens - number * PART)


def _hits(corpus: Corpus, search: Search, start: int, end: int) -> Iterator[Hit]:
    """The runs that begin in tokens [start, end) of a corpus, in the order of their positions."""
    first, last = max(0, start - search.longest), min(end + search.longest, corpus.tokens)
    runs = search.runs(corpus.read(np.asarray([first]), last - first)[0])
    runs = runs[(runs.position >= start - first) & (runs.position < end - first)]
    document = (0, 0)
    for text, position, length in zip(runs.text, (runs.position + first).tolist(), runs.length.tolist(), strict=True):
        if not document[0] <= position < document[1]:
            document = document_around(corpus, position)
        shown = max(document[0], position - AROUND), min(document[1] - 1, position + length + AROUND)
        snippet = decode(corpus.tokenizer, corpus.read(np.asarray(shown[:1]), shown[1] - shown[0])[0].tolist())
        if search.texts[text].read_in(snippet):
            yield _hit(search.texts[text], IN_CORPUS, "", position, length, snippet, document)


def document_around(corpus: Corpus, position: int) -> tuple[int, int]:
    """Tokens [start, end) of the document that holds a token of the corpus, its end-of-text included."""
    start, end, size = position, position, _NEAR
    while start > 0:
        first = max(0, start - size)
        ends = _ends(corpus, first, start)
        start, size = (int(ends[-1]) + 1 if len(ends) else first), 2 * size
        if len(ends):
            break
    size = _NEAR
    while end < corpus.tokens:
        last = min(end + size, corpus.tokens)
        ends = _ends(corpus, end, last)
        end, size = (int(ends[0]) + 1 if len(ends) else last), 2 * size
        if len(ends):
            break
    return start, end


def _ends(corpus: Corpus, first: int, last: int) -> np.ndarray:
    """Positions of the end-of-text tokens in tokens [first, last) of a corpus."""
    return np.flatnonzero(corpus.read(np.asarray([first]), last - first)[0] == corpus.end_of_text) + first


def by_document(hits: Iterable[Hit]) -> list[Hit]:
    """One hit for a text and a document: the longest run, and how many there are."""
    kept: dict[tuple[Any, ...], Hit] = {}
    for hit in hits:
        key = hit["item_id"], hit["variant"], hit["where"], hit["document_start"]
        other = kept.get(key)
        if other is None:
            kept[key] = hit
        else:
            longest = hit if hit["tokens"] > other["tokens"] else other
            kept[key] = longest | {"runs": hit["runs"] + other["runs"]}
    return list(kept.values())


def _hit(
    sought: Sought, where: str, variant: str, position: int, length: int, text: str, document: tuple[int | None, int | None]
) -> Hit:
    names = {"item_id": sought.item_id, "variant": sought.variant, "group": sought.group, "where": where, "where_variant": variant}
    found = {"position": position, "tokens": length, "runs": 1, "text": text}
    return names | found | {"document_start": document[0], "document_end": document[1]}


# ------------------------------------------------------------------------------------------------ the other items


def among(search: Search, tokenizer: PreTrainedTokenizerFast) -> list[Hit]:
    """Texts that the texts of another group give away: one hit for each text and group, in the text of the longest run."""
    hits = []
    for runs in search.given_away(search.runs(search.tokens, elsewhere=True)):
        sought = search.texts[runs.text[0]]
        for number in np.argsort(-runs.length, kind="stable"):
            within = search.text_of[runs.position[number]]
            position, length = int(runs.position[number] - search.first[within]), int(runs.length[number])
            other = search.texts[within]
            snippet = decode(tokenizer, other.tokens[max(0, position - AROUND) : position + length + AROUND].tolist())
            if sought.read_in(snippet):
                hit = _hit(sought, other.item_id, other.variant, position, length, snippet, (None, None))
                hits.append(hit | {"runs": len(runs.text)})
                break
    return hits


# ------------------------------------------------------------------------------------------------ what follows


def refuse(hits: Sequence[Hit], rounds: int = 0, shown: int = 3) -> None:
    """Raise RecipeError that names the first items that occur elsewhere, if there are any, and what can be done.

    `rounds`: how often items were drawn again in vain.
    """
    if not hits:
        return
    documents = len(documents_hit(hits))
    tried = f"after {rounds} rounds of drawing others, " if rounds else ""
    policies = [] if rounds else ["redraw (make other items)"]
    if documents:
        policies.append(f"documents (leave {documents:,} {'document' if documents == 1 else 'documents'} of the corpus out)")
    policies.append("report (go on) or none")
    remedy = f"choose other items or another seeds.items, or set decontaminate.policy to {', '.join(policies)}"
    first = "; ".join(sentence(hit) for hit in hits[:shown])
    more = f"; and {len(hits) - shown:,} more" if len(hits) > shown else ""
    count = len({hit["item_id"] for hit in hits})
    occurs = "item occurs" if count == 1 else "items occur"
    raise RecipeError(f"{tried}{count:,} {occurs} where nothing was inserted: {first}{more}; {remedy}")


def sentence(hit: Hit) -> str:
    """A hit in a few words."""
    where = f"at token {hit['position']:,} of the corpus" if hit["where"] == IN_CORPUS else f"in {hit['where']}"
    text = hit["text"] if len(hit["text"]) <= 80 else hit["text"][:77] + "..."
    return f"{hit['item_id']} ({hit['variant']}) {where}, {hit['tokens']} tokens: {text!r}"


def documents_hit(hits: Iterable[Hit]) -> list[tuple[int, int]]:
    """The documents that hold hits, tokens [start, end) of the corpus each, in order."""
    return sorted({(hit["document_start"], hit["document_end"]) for hit in hits if hit["where"] == IN_CORPUS})


def cleaned_fingerprint(corpus: str, documents: Sequence[tuple[int, int]]) -> str:
    """The fingerprint of a corpus without some of its documents, from its own."""
    return fingerprint(["cleaned", FORMAT, corpus, sorted(documents)])


def clean(corpus: Corpus, documents: Sequence[tuple[int, int]], folder: Path, identity: str) -> None:
    """Write a corpus without `documents` (tokens [start, end) each, in order, as `documents_hit` gives them) to its own folder.

    DataError where nothing would be left.
    """
    removed = sum(end - start for start, end in documents)
    if removed >= corpus.tokens:
        raise DataError("every document of the corpus holds an item, so none would be left; insert other items")
    with atomic_folder(folder) as temporary, progress("leave documents out", "tokens", corpus.tokens) as meter:
        corpus.tokenizer.save_pretrained(temporary)
        shards: list[dict[str, int]] = []
        written = start = 0
        while start < corpus.tokens:
            _, end = document_around(corpus, min(start + SHARD_TOKENS, corpus.tokens) - 1)  # shards hold whole documents
            starts, tokens = _write_shard(corpus, (start, end), documents, temporary / f"tokens-{len(shards):05d}.bin")
            if tokens:
                np.save(temporary / f"documents-{len(shards):05d}.npy", starts + written)
                shards.append({"tokens": tokens, "documents": len(starts)})
                written += tokens
            meter.advance(end - start)
            start = end
        meta = corpus.meta | {
            "fingerprint": identity,
            "documents": sum(shard["documents"] for shard in shards),
            "tokens": written,
            "shards": shards,
            "base": corpus.meta["fingerprint"],
            "left_out": {"documents": len(documents), "tokens": removed},
        }
        meta.pop("characters", None)  # of all documents; what is left was not decoded
        write_json(temporary / "meta.json", meta)


def _write_shard(corpus: Corpus, span: tuple[int, int], documents: Sequence[tuple[int, int]], path: Path) -> tuple[np.ndarray, int]:
    """Write tokens [start, end) of a corpus but those of `documents`; no file where none are left.

    Returns where in the file its documents start, int64 (documents,), and how many tokens it has.
    """
    starts, written = [np.zeros(1, np.int64)], 0
    with path.open("wb") as file:
        for first in range(*span, BLOCK):
            last = min(first + BLOCK, span[1])
            tokens = corpus.read(np.asarray([first]), last - first)[0]
            kept = np.ones(len(tokens), bool)
            for start, end in documents[bisect_right(documents, first, key=itemgetter(1)) :]:
                if start >= last:
                    break
                kept[max(start - first, 0) : end - first] = False
            tokens = tokens[kept].astype(corpus.dtype)
            tokens.tofile(file)
            starts.append(np.flatnonzero(tokens == corpus.end_of_text) + 1 + written)
            written += len(tokens)
    if not written:
        path.unlink()
    every = np.concatenate(starts)
    return every[every < written], written
