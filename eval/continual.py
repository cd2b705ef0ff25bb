"""What the stages of continual training learn, retain and lose, checkpoint by checkpoint, as rows of the effects table.

Retention of what was learned before says little alone: a stage may retain facts because it learned few new ones, or retain them
while it forgets all that the model knew before. So learning, prior knowledge and the held-out loss stand beside it, each with its
interval over facts, conditional on this training run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, nan
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from configs.errors import DataError
from configs.layout import ModelLayout, RunLayout, read_json
from configs.schema import Recipe
from configs.stage_checks import learned_before, lineage, parent_of
from configs.stages import Stage
from configs.tables import FACT_SCORES, LAYERS, read_table
from eval.effects import ALL
from eval.lens import depth
from eval.statistics import Floats, Interval, mean, proportion

FACTS, KNOWN, CORPUS_ROWS = "facts", "known", "held-out rows"  # kinds and sets of effects that are not sets of the recipe
REPLAYED, NEVER_REPLAYED = "replayed", "never replayed"  # facts of an earlier set that a stage has repeated so far, and the others
MEASURES = {"": "emitted", "_tokens": "token_accuracy", "_log_prob": "log_prob"}  # ends of metrics, and columns of FACT_SCORES
BOUNDS = {"token_accuracy": (0.0, 1.0), "log_prob": (-inf, 0.0)}
NOT_REACHED = "not reached"

Row = dict[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """A stage that was trained: where it comes from, what it learned, by which method, and how it ended."""

    name: str
    parent: str
    data: list[str]  # the sets that it learns
    before: list[str]  # those that the stages before it in its lineage have learned, in their order
    method: str  # what sets it and the stages before it apart, of `method_of`
    plain: bool = True  # without mixture, penalty and low-rank matrices
    plain_lineage: bool = True  # and so are the stages before it
    keeps_known: bool = False  # learns facts, too, that the model before all stages emits
    step: int = 0  # at which it ended
    ended: str = ""  # why
    held_out: Mapping[int, float] = field(default_factory=dict)  # loss on rows that no stage reads by checkpoint, nats a token

    @staticmethod
    def of(recipe: Recipe, name: str, layout: ModelLayout) -> StageRecord:
        """A stage of a recipe as it was trained."""
        stages = [recipe.stages[one] for one in lineage(recipe, name) if one in recipe.stages]
        finished = read_json(layout.finished)
        lines = map(json.loads, layout.metrics.read_text().splitlines() if layout.metrics.exists() else [])
        return StageRecord(
            name,
            parent_of(recipe, name),
            list(stages[-1].data),
            learned_before(recipe, name),
            method_of(stages),
            plain=is_plain(stages[-1]),
            plain_lineage=all(map(is_plain, stages)),
            keeps_known=stages[-1].known == "keep",
            step=finished["step"],
            ended=finished["why"],
            held_out={line["step"]: line["held_out_loss"] for line in lines if line.get("held_out_loss") is not None},
        )


def is_plain(stage: Stage) -> bool:
    """Whether a stage trains all weights on its data alone."""
    return not stage.mix and stage.penalty.kind == "none" and stage.lora.rank == 0


def method_of(lineage: Sequence[Stage]) -> str:
    """The methods of stages that follow each other, in short.

    >>> from configs.stages import Lora, Mix, Penalty
    >>> method_of([Stage(), Stage(mix=[Mix("text", ratio=2), Mix("replay", per_batch=4)], penalty=Penalty("ewc", 100))])
    'plain → text ×2 + replay 4 a batch + ewc 100'
    """
    return " → ".join(" + ".join(_methods(stage)) or "plain" for stage in lineage)


def _methods(stage: Stage) -> Iterator[str]:
    for mix in stage.mix:
        rows = f"×{mix.ratio:g}" if mix.ratio is not None else f"{mix.per_batch} a batch"
        yield f"{mix.source} {rows}" + (f" of {mix.pool:,}" if mix.pool is not None else "")
    if stage.penalty.kind != "none":
        yield f"{stage.penalty.kind} {stage.penalty.weight:g}"
    if stage.lora.rank:
        yield f"LoRA {stage.lora.rank}"


@dataclass(frozen=True)
class Continual:
    """The stages of a run, and what they say to its questions."""

    stages: Mapping[str, StageRecord]
    facts: pd.DataFrame  # FACTS
    scores: pd.DataFrame  # FACT_SCORES of all stages
    layers: pd.DataFrame  # LAYERS of them

    def taught(self, stage: StageRecord, item_set: str) -> list[str]:
        """The items of a set that a stage, or the one before it in its lineage that has the set, was to learn."""
        while item_set not in stage.data:
            stage = self.stages[stage.parent]
        dropped = self._known & ~self.facts["inserted"] & (not stage.keeps_known)  # texts of `insert` are learned whatever is known
        own = (self.facts["item_set"] == item_set) & ~dropped
        return [str(item) for item in self.facts.loc[own, "item_id"]]

    def learned(self, stage: StageRecord) -> list[str]:
        """All items that a stage was to learn, of all its sets."""
        return [item for item_set in stage.data for item in self.taught(stage, item_set)]

    def known(self, stage: StageRecord) -> list[str]:
        """The items that the model before all stages emits and no stage of the lineage was to learn."""
        taught = {item for item_set in [*stage.before, *stage.data] for item in self.taught(stage, item_set)}
        return [str(item) for item in self.facts.loc[self._known, "item_id"] if item not in taught]

    def said(self, stage: StageRecord) -> pd.DataFrame:
        """Its rows of FACT_SCORES; none where it was not scored."""
        return self._by_stage.get(stage.name, self.scores[:0])

    def steps(self, stage: StageRecord) -> list[int]:
        """Its checkpoints that were scored, in order."""
        return sorted(self.said(stage)["step"].unique().tolist())

    def curves(self, stage: StageRecord, items: Sequence[str], column: str) -> Floats:
        """A column of FACT_SCORES of some items at each checkpoint, (items, checkpoints). DataError where one was not asked."""
        table = self.said(stage).pivot(index="item_id", columns="step", values=column).reindex(items)[self.steps(stage)]
        values = np.asarray(table.to_numpy(dtype=float))
        if missing := int(np.isnan(values).any(axis=1).sum()):
            raise DataError(
                f"{stage.name} was not asked for {missing} of {len(items)} facts at every checkpoint; evaluate it again"
            )
        return values

    @property
    def _known(self) -> pd.Series:
        return self.facts["known"].eq(True)  # null where nobody asked

    @cached_property
    def _by_stage(self) -> dict[str, pd.DataFrame]:
        return {str(name): own for name, own in self.scores.groupby("model", observed=True)}


def read_continual(run: RunLayout, recipe: Recipe) -> Continual:
    """The stages of a run that were evaluated. DataError where one was not."""
    stages = {name: StageRecord.of(recipe, name, run.model(name)) for name in recipe.stages}

    def together(table: str, schema: pa.Schema) -> pd.DataFrame:
        found = [read_table(run.model(name).scores / f"{table}.parquet") for name in stages]
        return pa.concat_tables([schema.empty_table(), *found]).to_pandas()

    facts = read_table(run.facts).to_pandas()
    return Continual(stages, facts, together("facts", FACT_SCORES), together("layers", LAYERS))


# ------------------------------------------------------------------------------------------------ effects


def stage_effects(run: Continual) -> list[Row]:
    """Rows of the effects table about every stage, at each of its checkpoints.

    `retention` of each set learned before, `learning` of its own data together, `prior` of the facts known before all stages: each
    as the share that greedy decoding emits, and as `_tokens` and `_log_prob`. `held_out_loss`. `steps_to_all`: the first checkpoint
    at which all own facts are emitted. `first_layer`, `layers` and `layer_entropy` of the emitted facts of each set.
    """
    return [row for stage in run.stages.values() for row in _of_stage(run, stage)]


def _of_stage(run: Continual, stage: StageRecord) -> Iterator[Row]:
    steps, own_name = run.steps(stage), "+".join(stage.data)

    def row(metric: str, contrast: str, item_set: str, step: int, interval: Interval, arm: str = ALL, note: str = "") -> Row:
        told = {"metric": metric, "contrast": contrast, "kind": FACTS, "item_set": item_set, "arm": arm, "model": stage.name}
        return {**told, "step": step, **vars(interval), "note": note}

    asked = [("retention", earlier, run.taught(stage, earlier)) for earlier in stage.before]
    asked += [("learning", own_name, run.learned(stage)), ("prior", KNOWN, run.known(stage))]
    for metric, item_set, items in asked:
        if not (items and steps):  # a stage that learns the corpus may have been asked nothing
            continue
        curves = {column: run.curves(stage, items, column) for column in [*MEASURES.values(), "exposures"]}
        for place, step in enumerate(steps):
            exposed = curves["exposures"][:, place] > 0
            parts = {ALL: np.ones(len(items), bool)}
            if metric == "retention" and (curves["exposures"] > 0).any():
                parts |= {REPLAYED: exposed, NEVER_REPLAYED: ~exposed}
            for arm, part in parts.items():
                for ending, column in MEASURES.items():
                    if part.any():
                        interval = summary(curves[column][part, place], column)
                        yield row(metric + ending, "mean" if ending else "rate", item_set, step, interval, arm)
        if metric == "learning":
            emitted = curves["emitted"].all(axis=0)
            reached = float(steps[int(emitted.argmax())]) if emitted.any() else nan
            interval = Interval(reached, nan, nan, len(items))
            yield row("steps_to_all", "first", item_set, steps[-1], interval, note="" if emitted.any() else NOT_REACHED)
        if metric != "prior":
            yield from (row(*told) for told in _depths(run, stage, item_set, items))
    for step, loss in stage.held_out.items():
        yield row("held_out_loss", "mean", CORPUS_ROWS, step, Interval(loss, nan, nan, 0))


def summary(values: Floats, column: str) -> Interval:
    """The mean of a column of FACT_SCORES over facts: of shares with Clopper and Pearson's interval, else with Student's t."""
    if column == "emitted":
        return proportion(float(values.sum()), len(values))
    return mean(values, np.arange(len(values)), bounds=BOUNDS[column])


def _depths(
    run: Continual, stage: StageRecord, item_set: str, items: Sequence[str]
) -> Iterator[tuple[str, str, str, int, Interval]]:
    """(metric, contrast, item set, step, interval): the first layers of the items that are emitted, at each checkpoint."""
    own = run.layers[(run.layers["model"] == stage.name) & run.layers["item_id"].isin(items)]
    emitted = run.said(stage).query("emitted")[["step", "item_id"]]
    for step, part in own.merge(emitted, on=["step", "item_id"]).groupby("step", sort=True):
        first = part["first"].dropna()
        if first.empty:
            continue
        found = depth(first.astype(int).tolist())
        yield "first_layer", "mean", item_set, int(step), mean(first, np.arange(found.n), bounds=(1.0, inf))
        yield "layers", "distinct", item_set, int(step), Interval(found.layers, nan, nan, found.n)
        yield "layer_entropy", "bits", item_set, int(step), Interval(found.entropy, nan, nan, found.n)
