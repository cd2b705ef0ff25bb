"""Evaluate a trajectory: score every checkpoint once, derive the scores and effects tables, continue the best-known prompts."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from configs.errors import DataError
from configs.layout import CheckpointInfo, ModelLayout, atomic_folder, fingerprint, read_json, write_json
from configs.progress import progress
from configs.schema import Eval
from configs.tables import (
    ANSWER_SCORES,
    CHOICE_SCORES,
    CONTINUATIONS,
    EFFECTS,
    EXPOSURE,
    SCORES,
    TOKEN_SCORES,
    read_table,
    write_table,
)
from eval.effects import effects
from eval.extraction import exposure, extracted, target_log_prob
from eval.scores import ScoredItems, answer_scores, choice_scores, exposures, text_scores
from eval.scoring import continue_greedily, score_space, score_tokens
from inject.items.texts import split_probe
from inject.tokenizer import encode

FORMAT = 2
LARGEST_SPACE = 10**5  # candidates of a canary that are all scored
CONTINUED = 8  # items of each kind whose continuation is shown
SMALL = 5_000_000  # parameters of a model that gains little from a second processor thread, and on a busy machine loses much


Copies = Mapping[tuple[str, str], int | None]  # how often each (item, variant) was seen; None where nobody knows


@dataclass(frozen=True)
class Checkpoint:
    """What is scored: a Hugging Face folder, whose it is, and a fingerprint of its weights."""

    folder: Path
    model: str
    step: int
    weights: str

    @staticmethod
    def of(layout: ModelLayout, step: int) -> Checkpoint:
        """A checkpoint of a model of ours; DataError where it is not what was written."""
        folder = layout.checkpoint(step)
        info = CheckpointInfo.read(folder)
        if damaged := info.damaged(folder):
            raise DataError(f"{folder / damaged} is damaged; it cannot be scored")
        return Checkpoint(folder, layout.root.name, step, info.files["model.safetensors"])


class Evaluation:
    """The items of a run, ready to be scored at the checkpoints of its models."""

    def __init__(
        self,
        settings: Eval,
        items: pa.Table,
        texts: pa.Table,
        assignment: pa.Table,
        tokenizer: PreTrainedTokenizerFast,
    ):
        self.settings, self.tokenizer = settings, tokenizer
        self.items, self.assignment = items.to_pandas(), assignment.to_pandas()
        self.texts = texts.select(["item_id", "variant", "tokens"]).to_pylist()
        self._texts_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for text in self.texts:
            self._texts_of[text["item_id"]].append(text)
        self.scored = ScoredItems.from_tables(items, texts)
        self.context = [tokenizer.eos_token_id] if settings.context == "eot" else []

    # -------------------------------------------------------------------------------------------- one pass a checkpoint

    def score(self, checkpoint: Checkpoint, scores: Path, last: bool) -> None:
        """Write the token scores of one checkpoint, unless they are there already for the same weights and texts."""
        folder = scores / f"step-{checkpoint.step:08d}"
        identity = fingerprint([FORMAT, checkpoint.weights, self.texts, self._asked(), self._passes(last)])
        if (folder / "meta.json").exists():
            if read_json(folder / "meta.json")["fingerprint"] == identity:
                return
            shutil.rmtree(folder)
        model = load_model(checkpoint.folder)
        label = {"model": checkpoint.model, "step": checkpoint.step}
        with atomic_folder(folder) as temporary:
            write_table(temporary / "tokens.parquet", self._token_rows(model, label), TOKEN_SCORES)
            write_table(temporary / "choices.parquet", self._choice_rows(model, label), CHOICE_SCORES)
            write_table(temporary / "answers.parquet", self._answer_rows(model, label), ANSWER_SCORES)
            if last:
                write_table(temporary / "exposure.parquet", self._exposure_rows(model, label), EXPOSURE)
            meta = {"fingerprint": identity, "context": self.settings.context, "dtype": str(model.dtype), **label}
            write_json(temporary / "meta.json", meta)

    def _asked(self) -> list[Any]:
        """The probes that are scored besides the texts."""
        return [self.scored.choices, self.scored.generative]

    def _passes(self, last: bool) -> list[Any]:
        """What is scored at a checkpoint, by the settings."""
        return [self.settings.context, self.settings.testset, self.settings.extraction, last and self.settings.exposure]

    def _token_rows(self, model: PreTrainedModel, label: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for i, scores in score_tokens(model, [text["tokens"] for text in self.texts], self.context, self.settings.batch_tokens):
            rows.append({**label, **self.texts[i], "context": self.settings.context, **vars(scores)})
        return rows

    def _choice_rows(self, model: PreTrainedModel, label: dict[str, Any]) -> list[dict[str, Any]]:
        cells = []
        for item, probe in self.scored.choices if self.settings.testset else []:
            prompt, candidates = split_probe(self.tokenizer, probe["prompt"], probe["candidates"])
            for candidate, tokens in zip(probe["candidates"], candidates, strict=True):
                cells.append((item, probe["probe_id"], candidate, len(prompt), [*prompt, *tokens]))
        rows = []
        for i, scores in score_tokens(model, [cell[-1] for cell in cells], self.context, self.settings.batch_tokens):
            item, probe_id, candidate, start, _ = cells[i]
            row = {"item_id": item, "probe_id": probe_id, "candidate": candidate, "characters": len(candidate)}
            rows.append({**label, **row, "log_prob": float(scores.log_prob[start:].astype(np.float64).sum())})
        return rows

    def _answer_rows(self, model: PreTrainedModel, label: dict[str, Any]) -> list[dict[str, Any]]:
        """Of every generative probe, how probable its target is after the prompt, and whether greedy decoding emits it."""
        cells = []
        for item, probe in self.scored.generative if self.settings.extraction else []:
            prompt, [target] = split_probe(self.tokenizer, probe["prompt"], [probe["target"]])
            cells.append((item, probe["probe_id"], slice(len(prompt), len(prompt) + len(target)), [*prompt, *target]))
        rows = []
        for i, scores in score_tokens(model, [cell[-1] for cell in cells], self.context, self.settings.batch_tokens):
            item, probe_id, target, tokens = cells[i]
            _, mean = target_log_prob(scores.log_prob, target)
            row = {"item_id": item, "probe_id": probe_id, "log_prob": mean, "emitted": extracted(scores.argmax, tokens, target)}
            rows.append({**label, **row})
        return rows

    def _exposure_rows(self, model: PreTrainedModel, label: dict[str, Any]) -> list[dict[str, Any]]:
        """Exact exposure of every canary whose secret is a few digits: all of its space is scored."""
        rows, skipped = [], []
        canaries = self.items[self.items["kind"] == "canary"] if self.settings.exposure else self.items[:0]
        digits = [ids[0] for ids in encode(self.tokenizer, list("0123456789"))]
        for item in canaries.itertuples():
            found = next(self._verbatim(item.item_id), None)
            if found is None or found[0]["field"] != "digits" or not re.fullmatch("[0-9]+", found[0]["target"]):
                continue
            probe, tokens, secret = found
            if 10 ** len(probe["target"]) > LARGEST_SPACE:
                skipped.append(f"{item.item_id}: more than {LARGEST_SPACE:,} candidates")
                continue
            if tokens[secret] != [digits[int(d)] for d in probe["target"]]:
                skipped.append(f"{item.item_id}: its secret is not one token a digit under this tokenizer")
                continue
            space = score_space(model, [*self.context, *tokens[: secret.start]], digits, len(probe["target"]))
            row = {"item_id": item.item_id, "probe_id": probe["probe_id"], "metric": "exposure"}
            rows.append({**label, **row, "value": exposure(space, int(probe["target"]))})
        if skipped:
            print(f"  no exposure of {len(skipped)} canaries, as {skipped[0]}", flush=True)
        return rows

    # -------------------------------------------------------------------------------------------- pure functions of the passes

    def summarize(self, layout: ModelLayout, seen_at: Callable[[int], Copies], seed: int) -> None:
        """Derive scores.parquet and effects.parquet from the scored checkpoints and what had been seen at the step of each."""
        rows: list[dict[str, Any]] = []
        for folder in sorted(layout.scores.glob("step-????????")):
            step = int(folder.name[5:])
            found = list(text_scores(read_table(folder / "tokens.parquet").to_pylist(), self.scored, self.settings))
            found += choice_scores(read_table(folder / "choices.parquet").to_pylist(), self.scored)
            found += answer_scores(read_table(folder / "answers.parquet").to_pylist())
            if (folder / "exposure.parquet").exists():
                found += read_table(folder / "exposure.parquet").to_pylist()
            seen = seen_at(step)
            for row in found:
                of_item = {text["variant"]: seen[row["item_id"], text["variant"]] for text in self._texts_of[row["item_id"]]}
                known = [copies for copies in of_item.values() if copies is not None]
                total = sum(known) if known else None
                rows.append({**row, "exposures": total, "text_exposures": of_item.get(row.get("variant"), total)})
        scores = pd.DataFrame(rows).drop(columns="variant")
        scores = scores.astype({"exposures": float, "text_exposures": float})  # NaN where nobody knows: a null of the table
        write_table(layout.scores / "scores.parquet", pa.Table.from_pandas(scores, preserve_index=False), SCORES)
        table = effects(scores, self.items, self.assignment, self.settings.secret_bits, self.settings.resamples, seed)
        write_table(layout.scores / "effects.parquet", table, EFFECTS)

    def continuations(self, layout: ModelLayout, checkpoint: Checkpoint) -> None:
        """The model's greedy continuation of the prompts it knows best, a few items of each kind, at one checkpoint."""
        scores = read_table(layout.scores / "scores.parquet").to_pandas()
        own = scores[(scores["step"] == checkpoint.step) & (scores["metric"] == "log_prob")].merge(
            self.assignment[["item_id", "arm"]], on="item_id"
        )
        own = own.merge(self.items[["item_id", "kind"]], on="item_id").sort_values("value", ascending=False)
        places = {(item, place[0]["probe_id"]): place for item in self.items["item_id"] for place in self._verbatim(item)}
        known = [places[key][0]["bits"] > 0 or kind == "testset" for key, kind in zip(_pairs(own), own["kind"], strict=True)]
        own = own[known].groupby("item_id", sort=False).head(1).groupby("kind", sort=False).head(CONTINUED)
        model = load_model(checkpoint.folder)
        rows = []
        for row in own.itertuples():
            probe, tokens, target = places[row.item_id, row.probe_id]
            emitted = continue_greedily(model, [*self.context, *tokens[: target.start]], target.stop - target.start)
            rows.append(
                {
                    "item_id": row.item_id,
                    "probe_id": row.probe_id,
                    "kind": row.kind,
                    "arm": row.arm,
                    "exposures": None if np.isnan(row.exposures) else int(row.exposures),
                    "prompt": probe["prompt"],
                    "target": probe["target"],
                    "continuation": str(self.tokenizer.decode(emitted)).lstrip(),
                    "extracted": emitted == tokens[target],
                    "log_prob": row.value,
                }
            )
        write_table(layout.root / "continuations.parquet", rows, CONTINUATIONS)

    def _verbatim(self, item: str) -> Iterator[tuple[dict[str, Any], list[int], slice]]:
        """The verbatim probes of an item, each with the tokens of its text and the place of its target among them."""
        for text in self._texts_of[item]:
            for probe, target in self.scored.targets[item, text["variant"]]:
                yield probe, text["tokens"], target


def evaluate(evaluation: Evaluation, layout: ModelLayout, plan: pa.Table, global_batch: int, seed: int) -> None:
    """Score every checkpoint of a model that was trained here, then summarize."""
    steps = layout.checkpoints()
    if not steps:
        raise DataError(f"{layout.root} holds no checkpoint to evaluate")
    with progress(f"score {layout.root.name}", "checkpoints", len(steps)) as meter:
        for step in steps:
            checkpoint = Checkpoint.of(layout, step)
            evaluation.score(checkpoint, layout.scores, last=step == steps[-1])
            meter.advance(1)
    tables = [read_table(path) for path in layout.ledgers()]
    ledger = {s: c for table in tables for s, c in zip(table["step"].to_pylist(), table["consumed"].to_pylist(), strict=True)}
    evaluation.summarize(layout, partial(exposures, plan, ledger, global_batch=global_batch), seed)
    if evaluation.settings.extraction:
        evaluation.continuations(layout, checkpoint)


def load_model(folder: Path) -> PreTrainedModel:
    """A checkpoint, ready to be scored: in fp32, whatever its weights are stored in, so that scores are the same everywhere."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    if model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    return model.eval()


def _pairs(frame: pd.DataFrame) -> Sequence[tuple[str, str]]:
    return list(zip(frame["item_id"], frame["probe_id"], strict=True))
