"""Decontaminating an experiment: look for its items in the corpus and in each other, and do what the recipe says of those found."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.schema import Recipe
from configs.tables import write_table
from inject.corpus import Corpus
from inject.decontaminate import (
    HITS,
    IN_CORPUS,
    Hit,
    among,
    clean,
    cleaned_fingerprint,
    documents_hit,
    gather,
    refuse,
    scan,
    scan_fingerprint,
)
from inject.items.item import Item
from inject.items.make import lint
from inject.items.redraw import colliding, redraw
from inject.items.texts import texts_fingerprints, tokenize_texts
from inject.overlap import Search, seek
from slurm.planning import make_texts, material_of

REDRAWS = 8  # rounds in which groups that occur elsewhere are drawn again before that is given up


@dataclass(frozen=True)
class Decontaminated:
    """What came of looking for the items elsewhere."""

    hits: Path  # table of those that were found
    corpus: Path  # to train of
    redrawn: list[list[str]]  # groups drawn again, by round
    texts: dict[str, str]  # fingerprint of what was looked for, by item set

    def record(self) -> dict[str, Any]:
        """What decontaminated.json holds, for the plan to go on from."""
        return {"corpus": self.corpus.name, "redrawn": self.redrawn, "texts": self.texts}


def decontaminate(recipe: Recipe, corpus: Corpus, cache: Path, shard: tuple[int, int] | None = None) -> Decontaminated | None:
    """Look for the items in the corpus and in each other, and do what decontaminate.policy says; RecipeError where that is to fail.

    With `shard` (i, n) only an n-th of the corpus is scanned, for another call to go on from; then None is returned.
    """
    policy, redrawn, groups = recipe.decontaminate.policy, list[list[str]](), None
    items, texts = make_texts(recipe, corpus.tokenizer)
    while (found := _look(recipe, corpus, cache, (items, texts), groups, shard)) is not None:
        hits, table = found
        if policy != "redraw" or not hits or len(redrawn) >= REDRAWS:
            target = _corpus_to_train(policy, hits, len(redrawn), corpus, cache)
            return Decontaminated(table, target, redrawn, texts_fingerprints(items, texts))
        found_again = sorted({hit["group"] for hit in hits})
        print(f"  {len(found_again)} groups occur elsewhere and are drawn again", flush=True)
        before, items = items, _draw_again(recipe, corpus, items, redrawn, found_again)
        groups = changed_groups(before, items) | set(found_again)
        texts = tokenize_texts(items, corpus.tokenizer, recipe.train.sequence_length)
    return None


def refuse_other_texts(
    items: Sequence[Item], texts: Sequence[Mapping[str, Any]], looked_for: Mapping[str, str], record: Path
) -> None:
    """DataError where these are not the texts that decontamination looked for, by their fingerprints in its `record`."""
    now = texts_fingerprints(items, texts)
    others = [name for name in {**now, **looked_for} if now.get(name) != looked_for.get(name)]
    if others:
        raise DataError(
            f"the items of {', '.join(f'insert.{name}' for name in others)} are not those that were looked for in the corpus: made "
            "here they come out otherwise (what a model samples differs a little on other hardware, and libraries and files "
            f"change); remove {record} and run imprint decontaminate again on this machine, then plan here, too"
        )


def changed_groups(before: Sequence[Item], after: Sequence[Item]) -> set[str]:
    """The groups that have an item that was not there before."""
    known = {item.item_id: item for item in before}
    return {item.group for item in after if known.get(item.item_id) != item}


def _look(
    recipe: Recipe,
    corpus: Corpus,
    cache: Path,
    made: tuple[Sequence[Item], Sequence[dict[str, Any]]],
    groups: Collection[str] | None,
    shard: tuple[int, int] | None,
) -> tuple[list[Hit], Path] | None:
    """The hits of `made` items and their texts, and the table of them; None where only a shard of the corpus was scanned.

    With `groups`, the corpus is searched for these only, as the others are known not to occur in it; all are compared with each
    other.
    """
    settings, identity = recipe.decontaminate, corpus.meta["fingerprint"]
    sought = seek(*made, corpus.tokenizer, settings.ngram)
    every = Search(sought, settings.ngram)
    search = every if groups is None else Search(sought, settings.ngram, groups)
    identity = scan_fingerprint(identity, sought, settings.ngram, groups)
    folder = cache / f"scan-{identity}"
    scan(corpus, search, folder, identity, shard or (0, 1), settings.processes or _cores())
    if shard is not None:
        return None
    hits = gather(corpus, folder, identity) + among(every, corpus.tokenizer)
    table = folder / "hits.parquet"
    write_table(table, hits, HITS)
    print(f"  {len(hits):,} hits: {table}" if hits else "  no item occurs elsewhere", flush=True)
    return hits, table


def _draw_again(recipe: Recipe, corpus: Corpus, items: list[Item], redrawn: list[list[str]], groups: list[str]) -> list[Item]:
    """The items with some groups drawn again, and again while they repeat or contradict others; adds the rounds to `redrawn`."""
    material, seed, before = material_of(corpus.tokenizer), recipe.seed_for("items"), items
    while groups and len(redrawn) < REDRAWS:
        redrawn.append(groups)
        items = redraw(items, recipe.insert, seed, material, redrawn)
        groups = colliding(items, before)
    lint(items)
    return items


def _corpus_to_train(policy: str, hits: Sequence[Hit], rounds: int, corpus: Corpus, cache: Path) -> Path:
    """The folder of the corpus that the policy leaves; RecipeError where it leaves none."""
    if policy != "documents":
        if policy != "report":
            refuse(hits, rounds)
        return corpus.folder
    refuse([hit for hit in hits if hit["where"] != IN_CORPUS])
    documents = documents_hit(hits)
    if not documents:
        return corpus.folder
    name = cleaned_fingerprint(corpus.meta["fingerprint"], documents)
    print(f"  {len(documents):,} documents of the corpus are left out", flush=True)
    if not (cache / name / "meta.json").exists():
        clean(corpus, documents, cache / name, name)
    return cache / name


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
