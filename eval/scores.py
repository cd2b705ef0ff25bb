"""From token scores to scores: one number an item, probe, metric and checkpoint, with the item's exposures so far."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.schema import Eval
from eval.approximate import bleu, edit_similarity, rouge_l
from eval.contamination import contaminated, peakedness
from eval.extraction import extractable, extracted, extraction_strength, longest_span, target_log_prob, trials_for
from eval.membership import ATTACKS, ScoredText, attack_scores, loss
from eval.metrics import SECRET_LOSS
from eval.pii import choose, exact_match, leaked_bits, log_posterior, prefix_match, token_f1
from eval.schemes import scheme_name
from eval.untargeted import count_ngrams
from inject.items.item import CHOICE, GENERATIVE

PERTURBED = "perturbed-"  # how the contexts of twins that were never inserted begin
APPROXIMATE: dict[str, Callable[[Any, Any], float]] = {"edit_similarity": edit_similarity, "rouge_l": rouge_l, "bleu": bleu}
ANSWERS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "prefix_match": prefix_match,
    "token_f1": token_f1,
}

Row = Mapping[str, Any]
Target = tuple[dict[str, Any], slice]  # a probe, and its target's tokens within the text


@dataclass(frozen=True)
class Asked:
    """A probe with its tokens: `tokens[target]` after the prompt before them."""

    item_id: str
    probe: dict[str, Any]
    tokens: list[int]
    target: slice


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


def text_scores(
    tokens: Iterable[Row], conditions: Iterable[Row], scored: ScoredItems, settings: Eval, frequencies: np.ndarray | None
) -> Iterator[dict[str, Any]]:
    """What the token scores of whole texts tell: extraction of the targets that lie in them, and membership.

    An attack is left out for a text on which what it needs was not measured, as a shot of ReCaLL's prefix.
    """
    measured: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in conditions:
        measured[row["item_id"], row["variant"]][row["condition"]] = row["value"]
    for row in tokens:
        key = (row["item_id"], row["variant"])
        if settings.extraction:
            yield from _extraction(row, scored.targets[key], settings)
        if settings.membership:
            yield from _membership(row, scored, settings, measured[key], frequencies)


def _extraction(row: Row, targets: Sequence[Target], settings: Eval) -> Iterator[dict[str, Any]]:
    log_probs, argmax, tokens = np.asarray(row["log_prob"]), row["argmax"], row["tokens"]
    for probe, target in targets:
        total, mean = target_log_prob(log_probs, target)
        yield _score(row, probe["probe_id"], "log_prob", mean)
        yield _score(row, probe["probe_id"], "extracted", float(extracted(argmax, tokens, target)))
        yield _score(row, probe["probe_id"], "strength", extraction_strength(argmax, tokens, target))
        yield from _leaked(row, probe, total)
        for scheme, drawn in zip(settings.schemes, row["schemes"], strict=True):
            log_p = float(np.asarray(drawn, dtype=float)[target].sum())
            found = trials_for(log_p, settings.certainty) <= settings.trials
            yield _score(row, probe["probe_id"], f"draw_log_prob/{scheme_name(scheme)}", log_p)
            yield _score(row, probe["probe_id"], f"discoverable/{scheme_name(scheme)}", float(found))
    yield _score(row, row["variant"], "longest_span", float(longest_span(argmax, tokens)))
    for prefix, whole in extractable(argmax, tokens, settings.prefixes, settings.suffix).items():
        if whole is not None:
            yield _score(row, row["variant"], f"extractable/{prefix}+{settings.suffix}", float(whole))


def _membership(
    row: Row, scored: ScoredItems, settings: Eval, measured: Mapping[str, float], frequencies: np.ndarray | None
) -> Iterator[dict[str, Any]]:
    key = (row["item_id"], row["variant"])
    given = ~np.isnan(np.asarray(row["log_prob"]))  # without a context the first token has no score
    own = {name: np.asarray(row[name])[given] for name in ("tokens", "mean", "deviation")}
    log_probs = np.asarray(row["log_prob"])[given]
    text = ScoredText(
        scored.texts[key],
        log_probs,
        settings.min_k,
        conditions=measured,
        gradient_norm=measured.get("gradient"),
        frequencies=frequencies,
        **own,
    )
    there = {None, *measured} | ({"frequencies"} if frequencies is not None else set())
    for name, value in attack_scores(text, [name for name in settings.membership if ATTACKS[name].needs in there]).items():
        yield _score(row, row["variant"], name, value)
    spans = [np.arange(len(given))[target] for probe, target in scored.targets[key] if probe["bits"] >= settings.secret_bits]
    if spans:
        secret = np.asarray(row["log_prob"])[np.unique(np.concatenate(spans))]
        yield _score(row, row["variant"], SECRET_LOSS, loss(secret))


def choice_scores(rows: Iterable[Row], scored: ScoredItems) -> Iterator[dict[str, Any]]:
    """Whether the most probable candidate of each choice probe is the right one (the first, among equals), as a whole and by
    character, and the bits that the choice betrays.
    """
    candidates: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        candidates[row["item_id"], row["probe_id"]].append(row)
    for item, probe in scored.choices:
        if own := candidates.get((item, probe["probe_id"])):
            log_probs, lengths = [row["log_prob"] for row in own], [len(row["candidate"].strip()) for row in own]
            true = [row["candidate"] for row in own].index(probe["target"])
            whole, by_character = choose(log_probs, lengths)
            perturbed = "_perturbed" if probe["probe_id"].startswith(PERTURBED) else ""
            yield _score(own[0], probe["probe_id"], f"correct{perturbed}", float(whole == true))
            yield _score(own[0], probe["probe_id"], f"correct_normalized{perturbed}", float(by_character == true))
            if not perturbed:
                bits = leaked_bits(min(0.0, log_posterior(log_probs, true)), probe["prior"] or 1 / len(own))
                yield _score(own[0], probe["probe_id"], "choice_bits", bits)


def answer_scores(rows: Iterable[Row], scored: ScoredItems) -> Iterator[dict[str, Any]]:
    """Whether a generative probe was answered, and the mean log-probability of its target's tokens, nats."""
    probes = {(item, probe["probe_id"]): probe for item, probe in scored.generative}
    for row in rows:
        perturbed = "_perturbed" if row["probe_id"].startswith(PERTURBED) else ""
        yield _score(row, row["probe_id"], f"answered{perturbed}", float(row["emitted"]))
        yield _score(row, row["probe_id"], f"answer_log_prob{perturbed}", row["log_prob"])
        if not perturbed:
            yield from _leaked(row, probes[row["item_id"], row["probe_id"]], row["total"])


def _leaked(row: Row, probe: Row, total: float) -> Iterator[dict[str, Any]]:
    """The bits by which a target of known entropy is more probable than its best guess."""
    if probe["bits"] and probe["prior"]:
        yield _score(row, probe["probe_id"], "leaked_bits", leaked_bits(min(0.0, total), probe["prior"]))


def decoded_scores(rows: Iterable[Row], scored: ScoredItems) -> Iterator[dict[str, Any]]:
    """How near greedy decoding comes to each target: by tokens, and of what was asked in words by words."""
    probes = {(item, probe["probe_id"]): probe for item, probe in scored.generative}
    probes |= {(item, probe["probe_id"]): probe for (item, _), own in scored.targets.items() for probe, _ in own}
    for row in rows:
        probe, answer = probes[row["item_id"], row["probe_id"]], row["answer"].strip()
        if probe["probe_id"].startswith(PERTURBED):
            continue
        for name, near in APPROXIMATE.items():
            yield _score(row, row["probe_id"], name, near(row["decoded"], row["target"]))
        if re.search(r"[^\W_]", probe["target"]):
            for name, matches in ANSWERS.items():
                yield _score(row, row["probe_id"], name, float(matches(answer, probe["target"].strip())))


def peak_scores(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """How near the answers drawn to a question are to the greedy one, and whether CDD calls it contaminated."""
    for row in rows:
        peak = peakedness(row["drawn"], row["greedy"])
        yield _score(row, row["probe_id"], "peakedness", peak)
        yield _score(row, row["probe_id"], "peaked", float(contaminated(peak)))


def sample_scores(rows: Sequence[Row], texts: Sequence[Row], ngram: int) -> Iterator[dict[str, Any]]:
    """Of each text that has n-grams which no other item has, the share of these that freely drawn texts hold, and whether one."""
    if not rows:
        return
    samples, items = [row["tokens"] for row in rows], [text["item_id"] for text in texts]
    emissions = count_ngrams(samples, [text["tokens"] for text in texts], ngram, items)
    for text, emitted in zip(texts, emissions.texts, strict=True):
        if not emitted.ngrams:
            continue
        label = {"model": rows[0]["model"], "step": rows[0]["step"], "item_id": text["item_id"], "variant": text["variant"]}
        yield _score(label, text["variant"], "emitted_ngrams", emitted.emitted / emitted.ngrams)
        yield _score(label, text["variant"], "emitted_untargeted", float(emitted.emitted > 0))


def _score(row: Row, probe_id: str, metric: str, value: float) -> dict[str, Any]:
    return {
        "model": row["model"],
        "step": row["step"],
        "item_id": row["item_id"],
        "variant": row.get("variant"),
        "probe_id": probe_id,
        "metric": metric,
        "value": value,
    }
