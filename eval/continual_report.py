"""The part of a report that is about stages: what each learned, retained and lost as a table, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from eval.charts import HAS_INTERVAL, HUES, Chart, interval_tooltip, percent_axis, step_axis, step_tooltip, var
from eval.continual import KNOWN, NEVER_REPLAYED, REPLAYED, StageRecord
from eval.effects import ALL
from eval.methods import FAMILY, KEYS, LEAST_RETAINED, MOST_RETAINED, comparisons
from eval.report import Panel, render

DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]]  # of more methods than there are hues
WHERE_COMPARED = "where methods are compared"

Cell = Mapping[str, Any]  # value, low, high, n, note


@dataclass(frozen=True)
class StageRow:
    """A stage as the page shows it: cells are rows of the effects table at its end, None where something was not measured."""

    stage: StageRecord
    learning: Cell | None
    all_by: Cell | None  # the first checkpoint at which all own facts are emitted
    retention: list[tuple[str, Cell | None, Cell | None, Cell | None]]  # of each earlier set: all, replayed, never replayed
    prior: Cell | None
    held_out_loss: float | None
    held_out_start: float | None  # the same where the stage began
    layers: list[tuple[str, Cell, Cell | None]]  # of each set: mean first layer of the facts that are emitted, entropy in bits


@dataclass(frozen=True)
class StageFigure:
    """Two panels about the stages that learn the same after the same."""

    data: str
    item_set: str  # learned before
    by_step: Panel
    by_learning: Panel | None
    baseline: str | None  # the plain stage, where there is one


@dataclass(frozen=True)
class ComparedTable:
    """The findings about stages against their baseline, of one earlier set."""

    baseline: str
    data: str
    item_set: str  # learned before
    rows: list[tuple[str, list[Mapping[str, Any] | None]]]  # a stage, and its findings by KEYS


@dataclass(frozen=True)
class ContinualSection:
    """What the report says of the stages of a run."""

    rows: list[StageRow]
    comparisons: list[ComparedTable]
    figures: list[StageFigure]

    @property
    def names(self) -> list[str]:
        return [row.stage.name for row in self.rows]

    @property
    def panels(self) -> list[Panel]:
        return [panel for figure in self.figures for panel in (figure.by_step, figure.by_learning) if panel is not None]


def continual_section(
    stages: Mapping[str, StageRecord], effects: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]]
) -> ContinualSection:
    """The section about stages, from the rows of `eval.continual.stage_effects` and the findings of the run."""
    table = pd.DataFrame(list(effects))
    scored = [stage for stage in stages.values() if len(table) and (table["model"] == stage.name).any()]
    rows = [stage_row(stage, table) for stage in scored]
    return ContinualSection(rows, compared_tables(scored, findings), stage_figures(scored, table))


# ------------------------------------------------------------------------------------------------ table


def stage_row(stage: StageRecord, effects: pd.DataFrame) -> StageRow:
    """The row of a stage at its last scored checkpoint."""
    own = effects[effects["model"] == stage.name]
    asked = own[own["metric"] != "held_out_loss"]
    last = asked[asked["step"] == asked["step"].max()]

    def cell(metric: str, item_set: str | None = None, arm: str = ALL) -> Cell | None:
        found = last[(last["metric"] == metric) & (last["arm"] == arm)]
        found = found if item_set is None else found[found["item_set"] == item_set]
        return {str(key): value for key, value in found.iloc[0].items()} if len(found) else None

    earlier = list(dict.fromkeys(last.loc[last["metric"] == "retention", "item_set"]))
    retention = [(name, *(cell("retention", name, arm) for arm in (ALL, REPLAYED, NEVER_REPLAYED))) for name in earlier]
    deep = dict.fromkeys(last.loc[last["metric"] == "first_layer", "item_set"])
    layers = [(name, found, cell("layer_entropy", name)) for name in deep if (found := cell("first_layer", name)) is not None]
    losses = sorted(stage.held_out.items())
    ends = (losses[0][1], losses[-1][1]) if losses else (None, None)
    return StageRow(stage, cell("learning"), cell("steps_to_all"), retention, cell("prior", KNOWN), ends[1], ends[0], layers)


def compared_tables(stages: Sequence[StageRecord], findings: Sequence[Mapping[str, Any]]) -> list[ComparedTable]:
    """The findings of `eval.methods.method_claims` by what is compared."""
    by_key = {str(finding["key"]): finding for finding in findings}
    tables = []
    for compared in comparisons(stages):
        for item_set in compared.baseline.before:
            keys = [(stage.name, [f"{FAMILY}/{stage.name}/{key}/{item_set}" for key in KEYS]) for stage in compared.methods]
            rows = [(name, [by_key.get(key) for key in own]) for name, own in keys if any(key in by_key for key in own)]
            if rows:
                tables.append(ComparedTable(compared.baseline.name, "+".join(compared.baseline.data), item_set, rows))
    return tables


# ------------------------------------------------------------------------------------------------ figures


def stage_figures(stages: Sequence[StageRecord], effects: pd.DataFrame) -> list[StageFigure]:
    """A figure for every set learned before by stages that learn the same."""
    found = []
    compared = comparisons(stages)
    baselines = {stage.name: each.baseline for each in compared for stage in (each.baseline, *each.methods)}
    tasks: dict[tuple[str, tuple[str, ...]], list[StageRecord]] = {}
    for stage in stages:
        tasks.setdefault(("+".join(sorted(stage.data)), tuple(sorted(stage.before))), []).append(stage)
    for (data, before), own in tasks.items():
        for item_set in before:
            rows = retained_rows(own, item_set, effects)
            if rows.empty:
                continue
            baseline = baselines.get(own[0].name)
            name = f"{data}-after-{'-'.join(before)}-{item_set}" if len(before) > 1 else f"{data}-after-{item_set}"
            scale = _scales([stage.name for stage in own], baseline.name if baseline else None)
            by_step = render(f"retained-{name}", "", retained_by_step(rows, *scale))
            learned = rows[rows["learned"].notna()]
            by_learning = render(f"traded-{name}", "", retained_by_learning(learned, *scale)) if len(learned) else None
            found.append(StageFigure(data, item_set, by_step, by_learning, baseline.name if baseline else None))
    return found


def retained_rows(stages: Sequence[StageRecord], item_set: str, effects: pd.DataFrame) -> pd.DataFrame:
    """A row for each stage and checkpoint: `stage, method, step, value, low, high, n, tokens, learned, emitted`.

    Retention of a set by exact match and by token, learning in nats and by exact match; NaN where a stage has no facts of its own.
    """
    own = effects[effects["model"].isin([stage.name for stage in stages]) & (effects["arm"] == ALL)]
    key = ["model", "step"]
    rows = own[(own["metric"] == "retention") & (own["item_set"] == item_set)][[*key, "value", "low", "high", "n"]]
    beside = {"tokens": "retention_tokens", "learned": "learning_log_prob", "emitted": "learning"}
    for name, metric in beside.items():
        found = own[(own["metric"] == metric) & ((own["item_set"] == item_set) | (name != "tokens"))]
        rows = rows.merge(found[[*key, "value"]].rename(columns={"value": name}), on=key, how="left")
    methods = {stage.name: stage.method for stage in stages}
    return rows.assign(method=rows["model"].map(methods)).rename(columns={"model": "stage"}).sort_values(["stage", "step"])


def _scales(names: Sequence[str], baseline: str | None) -> tuple[alt.Scale, alt.Scale]:
    """A colour and a dash for every stage; the plain one is drawn in ink."""
    ordered = sorted(names, key=lambda name: name != baseline)
    others = [name for name in ordered if name != baseline]
    colours = [var("ink")] * (len(ordered) - len(others)) + [var(f"hue-{i % HUES}") for i in range(len(others))]
    dashes = [DASHES[0]] * (len(ordered) - len(others)) + [DASHES[i // HUES % len(DASHES)] for i in range(len(others))]
    return alt.Scale(domain=ordered, range=colours), alt.Scale(domain=ordered, range=dashes)


def retained_by_step(rows: pd.DataFrame, colours: alt.Scale, dashes: alt.Scale) -> Chart:
    """Retention of an earlier set against the steps of the later stage, a line a stage; a click on one in the legend shows its
    intervals.
    """
    return _lines(rows, step_axis(), colours, dashes)


def retained_by_learning(rows: pd.DataFrame, colours: alt.Scale, dashes: alt.Scale) -> Chart:
    """The same against the mean log-probability of the new answers, along each stage's training."""
    axis = alt.Axis(format="~f", grid=False, tickCount=6)
    x = alt.X(
        "learned:Q",
        title="Learned: log-probability of the new answers, nats per token",
        axis=axis,
        scale=alt.Scale(zero=False, nice=False, padding=12),
    )
    return _lines(rows, x, colours, dashes)


def _lines(rows: pd.DataFrame, x: alt.X, colours: alt.Scale, dashes: alt.Scale) -> Chart:
    """A line a stage through its checkpoints, over the band in which methods are compared."""
    clicked = alt.selection_point(fields=["stage"], bind="legend")
    faded = alt.when(clicked).then(alt.value(1)).otherwise(alt.value(0.12))
    banded = alt.when(clicked, empty=False).then(alt.value(0.7)).otherwise(alt.value(0))
    y = alt.Y("value:Q", title="Retained, exact match", axis=percent_axis(), scale=alt.Scale(domain=[0, 1]))
    # As many columns at every width: room for rows that appear only on a phone would not be made.
    lines = alt.Legend(title=None, orient="top", columns=4, symbolType="stroke", symbolSize=280, symbolStrokeWidth=2.5)
    colour = alt.Color("stage:N", scale=colours, sort=list(colours.domain), legend=lines)
    dash = alt.StrokeDash("stage:N", scale=dashes, sort=list(colours.domain), legend=lines)
    base = alt.Chart(rows).encode(x, y, colour)
    tooltip = [
        "stage:N",
        "method:N",
        step_tooltip(),
        alt.Tooltip("value:Q", title="retained", format=".1%"),
        *interval_tooltip(".1%"),
    ]
    tooltip += [alt.Tooltip("tokens:Q", title="token accuracy", format=".0%")]
    tooltip += [alt.Tooltip("emitted:Q", title="learned", format=".0%"), alt.Tooltip("learned:Q", title="nats", format=".2f")]
    limits = pd.DataFrame({"low": [LEAST_RETAINED], "high": [MOST_RETAINED], "name": [WHERE_COMPARED]})
    band = alt.Chart(limits).encode(y=alt.Y("low:Q"), y2="high:Q")
    return alt.layer(
        band.mark_rect(color=var("muted"), opacity=0.08),
        alt.Chart(limits)
        .mark_text(align="right", baseline="top", dy=4, dx=-4, color=var("muted"))
        .encode(y="high:Q", x=alt.value("width"), text="name:N"),
        base.transform_filter(HAS_INTERVAL).mark_rule(strokeWidth=1.25).encode(alt.Y("low:Q"), alt.Y2("high:Q"), opacity=banded),
        base.mark_line().encode(dash, order="step:Q", opacity=faded).add_params(clicked),
        base.mark_circle(size=42).encode(opacity=faded, tooltip=tooltip),
    )
