"""From token scores to scores: one number an item, probe, metric and checkpoint, with the item's exposures so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError
from configs.schema import Eval
from eval.extraction import extracted, target_log_prob
from eval.membership import ScoredText, attack_scores
from inject.items.texts import target_tokens
from inject.tokenizer import encode_with_offsets

Target = tuple[dict[str, Any], slice]  # a probe, and its target's tokens within the text


@dataclass(frozen=True)
class ScoredItems:
    """Items and texts as the metrics need them: each probe with the place of its target."""

    texts: dict[tuple[str, str], str]  # by item and variant
    targets: dict[tuple[str, str], list[Target]]  # of the verbatim probes that lie in a text
    choices: list[tuple[str, dict[str, Any]]]  # item and choice probe

    @staticmethod
    def from_tables(items: pa.Table, texts: pa.Table, tokenizer: PreTrainedTokenizerFast) -> ScoredItems:
        rendered = {
            (row["item_id"], row["variant"]): row["text"] for row in texts.select(["item_id", "variant", "text"]).to_pylist()
        }
        targets: dict[tuple[str, str], list[Target]] = {key: [] for key in rendered}
        choices = []
        offsets = {key: encode_with_offsets(tokenizer, text)[1] for key, text in rendered.items()}
        for item in items.select(["item_id", "probes"]).to_pylist():
            for probe in item["probes"]:
                if probe["kind"] == "choice":
                    choices.append((item["item_id"], probe))
                else:
                    key, start = (item["item_id"], probe["context"]), len(probe["prompt"])
                    targets[key].append((probe, target_tokens(offsets[key], start, start + len(probe["target"]))))
        return ScoredItems(rendered, targets, choices)


def exposures(plan: pa.Table, ledger: Mapping[int, bool], step: int, global_batch: int) -> Counter[tuple[str, str]]:
    """How often each (item, variant) was exposed before `step`: its occurrences in consumed steps.

    `ledger`: whether each step was consumed. DataError where it does not tell of a step.
    """
    unknown = [s for s in range(step) if s not in ledger]
    if unknown:
        raise DataError(f"the ledger does not tell of step {unknown[0]} ({len(unknown)} steps are missing); exposures are unknown")
    columns = (plan["item_id"].to_pylist(), plan["variant"].to_pylist(), (plan["row"].to_numpy() // global_batch).tolist())
    return Counter((item, variant) for item, variant, at in zip(*columns, strict=True) if at < step and ledger[at])


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
        yield _score(row, row["probe_id"], "correct", float(row["candidate"] == targets[key]))


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
