"""Evaluate a trajectory: score every checkpoint once, derive the scores and effects tables, continue the best-known prompts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import PreTrainedModel

from configs.errors import DataError
from configs.layout import CheckpointInfo, ModelLayout, atomic_folder, fingerprint, read_json, write_json
from configs.progress import progress
from configs.schema import Eval
from configs.tables import CONTINUATIONS, EFFECTS, EXPOSURE_STEPS, ITEM_GAINS, SCORES, read_table, write_table
from eval.effects import blind_effects, effects
from eval.forward import load_model
from eval.passes import Passes
from eval.probe_gains import probe_effects
from eval.retention import curves, exposure_steps, forgetting_effects, item_gains
from eval.schemes import scheme_name
from eval.scores import answer_scores, choice_scores, decoded_scores, exposures, peak_scores, sample_scores, text_scores
from eval.sets import set_effects
from inject.tokenizer import decode

FORMAT = 3
CONTINUED = 8  # items of each kind whose continuation is shown


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


def score_once(
    folder: Path,
    checkpoint: Checkpoint,
    identity: str,
    settings: Eval,
    tables: Callable[[PreTrainedModel], Iterable[tuple[str, Iterable[dict[str, Any]], pa.Schema]]],
    described: Mapping[str, Any],
) -> None:
    """Write the tables (name, rows, schema) that a checkpoint's model gives to a folder, unless those of this identity are there.

    Rows get the model and the step; meta.json, the last, what is `described`.
    """
    if (folder / "meta.json").exists():
        if read_json(folder / "meta.json")["fingerprint"] == identity:
            return
        shutil.rmtree(folder)
    model = load_model(checkpoint.folder, settings.precision, settings.trust_remote_code, settings.pickles)
    label = {"model": checkpoint.model, "step": checkpoint.step}
    with atomic_folder(folder) as temporary:
        for name, rows, schema in tables(model):
            write_table(temporary / f"{name}.parquet", [{**label, **row} for row in rows], schema)
        write_json(temporary / "meta.json", {"fingerprint": identity, "dtype": str(model.dtype), **described, **label})


@dataclass
class Evaluation:
    """The passes over a run's items, and what follows from them."""

    passes: Passes
    frequencies: np.ndarray | None = None  # unigram probabilities (V,) of the corpus, for DC-PDD

    def score(self, checkpoint: Checkpoint, scores: Path, last: bool, advance: Callable[[], None] = lambda: None) -> None:
        """Write the tables of one checkpoint, unless they are there already for the same weights and texts; `advance` is called
        once for each text that is scored.
        """
        passes, settings = self.passes, self.passes.settings
        identity = fingerprint([FORMAT, checkpoint.weights, passes.identity(last)])
        described = {"context": settings.context, "schemes": [scheme_name(scheme) for scheme in settings.schemes]}
        folder = scores / f"step-{checkpoint.step:08d}"
        score_once(folder, checkpoint, identity, settings, lambda model: passes.tables(model, last, advance), described)

    # -------------------------------------------------------------------------------------------- pure functions of the passes

    def summarize(self, layout: ModelLayout, seen_at: Callable[[int], Copies], seed: int) -> None:
        """Derive scores.parquet and effects.parquet from the scored checkpoints and what had been seen at the step of each."""
        passes, settings = self.passes, self.passes.settings
        rows: list[dict[str, Any]] = []
        for folder in sorted(layout.scores.glob("step-????????")):
            tables = {path.stem: read_table(path).to_pylist() for path in folder.glob("*.parquet")}
            found = list(text_scores(tables["tokens"], tables["conditions"], passes.scored, settings, self.frequencies))
            found += choice_scores(tables["choices"], passes.scored)
            found += answer_scores(tables["answers"], passes.scored)
            found += decoded_scores(tables.get("decoded", []), passes.scored)
            found += sample_scores(tables.get("samples", []), passes.texts, settings.ngram)
            found += peak_scores(tables.get("draws", []))
            found += tables.get("exposure", [])
            seen = seen_at(int(folder.name[5:]))
            for row in found:
                of_item = {text["variant"]: seen[row["item_id"], text["variant"]] for text in passes.texts_of[row["item_id"]]}
                known = [copies for copies in of_item.values() if copies is not None]
                total = sum(known) if known else None
                rows.append({**row, "exposures": total, "text_exposures": of_item.get(row.get("variant"), total)})
        scores = pd.DataFrame(rows).drop(columns="variant")
        scores = scores.astype({"exposures": float, "text_exposures": float})  # NaN where nobody knows: a null of the table
        write_table(layout.scores / "scores.parquet", pa.Table.from_pandas(scores, preserve_index=False), SCORES)
        table = effects(scores, passes.items, passes.assignment, settings.secret_bits, settings.resamples, seed)
        blind = blind_effects(passes.texts, passes.items, passes.assignment, seed) if settings.membership else []
        drawn = [decode(passes.tokenizer, row["tokens"]) for row in tables.get("samples", [])]  # at the last checkpoint
        orders = tables.get("orders", [])
        of_sets = set_effects(scores, passes.items, passes.assignment, passes.texts, table, seed, drawn, orders)
        label = {"model": scores["model"].iloc[0], "step": scores["step"].max()}
        table = pd.concat([table, pd.DataFrame([*({**label, **row} for row in blind), *of_sets])], ignore_index=True)
        write_table(layout.scores / "effects.parquet", table, EFFECTS)

    def follow(self, layout: ModelLayout, exposures: pd.DataFrame, seed: int) -> None:
        """Derive what is forgotten from the scores and the steps of exposures, and add it to the effects."""
        passes = self.passes
        scores, effects = (read_table(layout.scores / f"{name}.parquet").to_pandas() for name in ("scores", "effects"))
        tables = scores, passes.items, passes.assignment, exposures
        label = {"model": layout.root.name}
        write_table(layout.scores / "exposures.parquet", exposures.assign(**label), EXPOSURE_STEPS)
        write_table(layout.scores / "gains.parquet", item_gains(curves(*tables), exposures).assign(**label), ITEM_GAINS)
        found = forgetting_effects(*tables, passes.settings.resamples, seed)
        if segments := layout.probe_segments():
            probes = pd.concat([read_table(path).to_pandas() for path in segments], ignore_index=True)
            rows = probe_effects(probes, *tables[1:], passes.settings.resamples, seed)
            found += [{**label, "step": scores["step"].max(), **row} for row in rows]
        write_table(layout.scores / "effects.parquet", pd.concat([effects, pd.DataFrame(found)], ignore_index=True), EFFECTS)

    def continuations(self, layout: ModelLayout, checkpoint: Checkpoint) -> None:
        """The model's greedy continuation of the prompts it knows best, a few items of each kind, at one checkpoint."""
        passes, settings = self.passes, self.passes.settings
        scores = read_table(layout.scores / "scores.parquet").to_pandas()
        own = scores[(scores["step"] == checkpoint.step) & (scores["metric"] == "log_prob")].merge(
            passes.assignment[["item_id", "arm"]], on="item_id"
        )
        own = own.merge(passes.items[["item_id", "kind"]], on="item_id").sort_values("value", ascending=False)
        bits = {
            (item, probe["probe_id"]): probe["bits"]
            for item, probes in zip(passes.items["item_id"], passes.items["probes"], strict=True)
            for probe in probes
        }
        pairs = zip(own["item_id"], own["probe_id"], own["kind"], strict=True)
        known = [bits[item, probe] > 0 or kind == "testset" for item, probe, kind in pairs]
        own = own[np.asarray(known, bool)].groupby("item_id", sort=False).head(1).groupby("kind", sort=False).head(CONTINUED)
        model = load_model(checkpoint.folder, settings.precision, settings.trust_remote_code, settings.pickles)
        chosen = list(zip(own["item_id"], own["probe_id"], strict=True))
        rows = [
            {
                "item_id": row.item_id,
                "probe_id": row.probe_id,
                "kind": row.kind,
                "arm": row.arm,
                "exposures": None if np.isnan(row.exposures) else int(row.exposures),
                "prompt": asked.probe["prompt"],
                "target": asked.probe["target"],
                "continuation": str(passes.tokenizer.decode(emitted)).lstrip(),
                "extracted": emitted == asked.tokens[asked.target],
                "log_prob": row.value,
            }
            for row, (asked, emitted) in zip(own.itertuples(), passes.continued(model, chosen), strict=True)
        ]
        write_table(layout.root / "continuations.parquet", rows, CONTINUATIONS)


def score_checkpoints(evaluation: Evaluation, layout: ModelLayout, shard: tuple[int, int] = (0, 1)) -> None:
    """Score the checkpoints of a model that was trained here, or one of `shard`'s equal shares of them."""
    steps = layout.checkpoints()
    if not steps:
        raise DataError(f"{layout.root} holds no checkpoint to evaluate")
    number, of = shard
    own = steps[number::of]
    with progress(f"score {layout.root.name}", "checkpoints", len(own)) as meter:
        for step in own:
            evaluation.score(Checkpoint.of(layout, step), layout.scores, last=step == steps[-1])
            meter.advance(1)


def evaluate(evaluation: Evaluation, layout: ModelLayout, plan: pa.Table, global_batch: int, seed: int) -> None:
    """Score every checkpoint of a model that was trained here, then summarize."""
    score_checkpoints(evaluation, layout)
    columns = ["step", "learning_rate", "consumed"]
    ledger = pd.concat([read_table(path, columns=columns).to_pandas() for path in layout.ledgers()])
    consumed = dict(zip(ledger["step"].tolist(), ledger["consumed"].tolist(), strict=True))
    evaluation.summarize(layout, partial(exposures, plan, consumed, global_batch=global_batch), seed)
    evaluation.follow(layout, exposure_steps(plan, ledger, global_batch), seed)
    if evaluation.passes.settings.extraction:
        evaluation.continuations(layout, Checkpoint.of(layout, layout.checkpoints()[-1]))
