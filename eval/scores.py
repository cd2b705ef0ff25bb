"""From token scores to scores: one number an item, probe, metric and checkpoint, with the item's exposures so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.schema import Eval
from eval.extraction import extracted, target_log_prob
from eval.membership import ScoredText, attack_scores
from inject.items.item import CHOICE, GENERATIVE

PERTURBED = "perturbed-"  # how the contexts of twins that were never inserted begin

Target = tuple[dict[str, Any], slice]  # a probe, and its target's tokens within the text


@dataclass(frozen=True)
class ScoredItems:
    """Items and texts as the metrics need them: each probe with the place of its target."""

    texts: dict[tuple[str, str], str]  # by item and variant
    targets: dict[tuple[str, str], list[Target]]  # of the verbatim probes that lie in a text
    choices: list[tuple[str, dict[str, Any]]]  # item and choice probe
    generative: list[tuple[str, dict[str, Any]]]  # item and generative probe

    @staticmethod
    def from_tables(items: pa.Table, texts: pa.Table) -> ScoredItems:
        rows = texts.select(["item_id", "variant", "text", "targets"]).to_pylist()
        probes = {
            (item["item_id"], probe["probe_id"]): probe
            for item in items.select(["item_id", "probes"]).to_pylist()
            for probe in item["probes"]
        }
        targets = {
            (row["item_id"], row["variant"]): [
                (probes[row["item_id"], target["probe_id"]], slice(target["start"], target["end"])) for target in row["targets"]
            ]
            for row in rows
        }
        asked = [(item, probe) for (item, _), probe in probes.items()]
        return ScoredItems(
            {(row["item_id"], row["variant"]): row["text"] for row in rows},
            targets,
            choices=[(item, probe) for item, probe in asked if probe["kind"] == CHOICE],
            generative=[(item, probe) for item, probe in asked if probe["kind"] == GENERATIVE],
        )


def exposures(plan: pa.Table, ledger: Mapping[int, bool], step: int, global_batch: int) -> Counter[tuple[str, str]]:
    """How often each (item, variant) was exposed before `step`: its occurrences in consumed steps.

    `ledger`: whether each step was consumed. DataError where it does not tell of a step.
    """
    unknown = [s for s in range(step) if s not in ledger]
    if unknown:
        raise DataError(f"the ledger does not tell of step {unknown[0]} ({len(unknown)} steps are missing); exposures are unknown")
    at = plan["row"].to_numpy() // global_batch
    consumed = np.asarray([ledger[s] for s in range(step)], bool)
    seen = plan.filter(pa.array((at < step) & np.append(consumed, False)[np.minimum(at, step)]))
    return Counter(zip(seen["item_id"].to_pylist(), seen["variant"].to_pylist(), strict=True))


def text_scores(tokens: Iterable[Mapping[str, Any]], scored: ScoredItems, settings: Eval) -> Iterator[dict[str, Any]]:
    """Extraction and log-probability of verbatim probes, and membership scores of whole texts, from rows of token scores."""
    for row in tokens:
        key = (row["item_id"], row["variant"])
        log_probs = np.asarray(row["log_prob"])
        if settings.extraction:
            for probe, target in scored.targets[key]:
                _, mean = target_log_prob(log_probs, target)
                yield _score(row, probe["probe_id"], "log_prob", mean)
                yield _score(row, probe["probe_id"], "extracted", float(extracted(row["argmax"], row["tokens"], target)))
        text = ScoredText(scored.texts[key], log_probs[~np.isnan(log_probs)], settings.min_k)
        for name, value in attack_scores(text, settings.membership).items():
            yield _score(row, row["variant"], name, value)


def choice_scores(rows: Iterable[Mapping[str, Any]], scored: ScoredItems) -> Iterator[dict[str, Any]]:
    """Whether the most probable candidate of each choice probe is the right one (the first, among equals)."""
    targets = {(item, probe["probe_id"]): probe["target"] for item, probe in scored.choices}
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["item_id"], row["probe_id"])
        if key not in best or row["log_prob"] > best[key]["log_prob"]:
            best[key] = row
    for key, row in best.items():
        metric = "correct_perturbed" if key[1].startswith(PERTURBED) else "correct"
        yield _score(row, row["probe_id"], metric, float(row["candidate"] == targets[key]))


def answer_scores(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Whether a generative probe was answered, and the mean log-probability of its target's tokens, nats."""
    for row in rows:
        perturbed = "_perturbed" if row["probe_id"].startswith(PERTURBED) else ""
        yield _score(row, row["probe_id"], f"answered{perturbed}", float(row["emitted"]))
        yield _score(row, row["probe_id"], f"answer_log_prob{perturbed}", row["log_prob"])


def _score(row: Mapping[str, Any], probe_id: str, metric: str, value: float) -> dict[str, Any]:
    return {
        "model": row["model"],
        "step": row["step"],
        "item_id": row["item_id"],
        "variant": row.get("variant"),
        "probe_id": probe_id,
        "metric": metric,
        "value": value,
    }
