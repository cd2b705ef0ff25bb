"""All that was measured at the last checkpoint, as tables by family: a metric a row, an arm a column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from configs.layout import ModelLayout, read_json
from eval.effects import ALL
from eval.extraction import discoverable_curve
from eval.metrics import ATTACK, FAMILIES, METRICS, SHARE, metric
from inject.models import natural

PLAIN = {"rate", "mean", "auc"}  # contrasts that are the metric itself
LATER, AT_THE_END = "after ", "at the end"  # contrasts of a curve since the last exposure; the last checkpoint's
SHOWN = {*PLAIN, "tpr at 1.0%", "chance-corrected", AT_THE_END}  # beside those of metrics of whole sets; effects.csv has all
KIND = {"pii": "pii", "contamination": "testset"}  # whose items a family is about, where there are such
DRAWN = "draw_log_prob/"
MOST_DRAWS = 10**6  # of the curve of (n, p)-discoverable extraction
FIELD_METRICS = ["extracted", "answered", "exact_match", "correct", "leaked_bits"]


@dataclass(frozen=True)
class Cell:
    value: float
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Measure:
    """A row: a metric, and its value in each arm, None where an arm has none; or one value, of all arms together."""

    name: str
    meaning: str
    form: str  # of its numbers
    cells: list[Cell | None]


@dataclass(frozen=True)
class Table:
    """The measures of one family."""

    family: str
    title: str
    kind: str  # of the items
    arms: list[str]
    rows: list[Measure]

    @property
    def notes(self) -> list[str]:
        """What is to be borne in mind about some numbers, each once, with the arms that it is about unless it is about all."""
        about: dict[str, dict[str, None]] = {}
        for row in self.rows:
            for arm, cell in zip(self.arms if len(row.cells) == len(self.arms) else [ALL], row.cells, strict=True):
                if cell and cell.note:
                    about.setdefault(cell.note, {})[arm] = None
        return [
            note if len(arms) == len(self.arms) or ALL in arms else f"{note} ({', '.join(arms)})" for note, arms in about.items()
        ]


def measures(effects: pd.DataFrame, arms: Sequence[str], models: Sequence[str]) -> list[tuple[str, Table]]:
    """(model, table) for each model and family of which something was measured; `arms` in the order of columns."""
    found = []
    for model in models:
        own = effects[(effects["model"] == model) & (effects["item_set"] == ALL)]
        own = own[own["step"] == own["step"].max()]
        for family, title in FAMILIES.items():
            of_family = own[own["metric"].map(lambda name, family=family: metric(name).family) == family]
            kind = KIND.get(family, ALL)
            kind = kind if (of_family["kind"] == kind).any() else ALL
            rows = list(_rows(of_family[of_family["kind"] == kind], arms))
            if rows:
                by_arm = [row.cells for row in rows if len(row.cells) == len(arms)]
                kept = [n for n in range(len(arms)) if any(cells[n] for cells in by_arm)]
                rows = [replace(row, cells=[row.cells[n] for n in kept] if len(row.cells) > 1 else row.cells) for row in rows]
                found.append((model, Table(family, title, kind, [arms[n] for n in kept], rows)))
    return found


def _rows(effects: pd.DataFrame, arms: Sequence[str]) -> Iterator[Measure]:
    order = list(METRICS)
    rank = {name: n for n, name in enumerate(order)}
    names = sorted(effects["metric"].unique(), key=lambda name: (rank.get(name.partition("/")[0], len(rank)), natural(name)))
    contrasts = effects["contrast"].where(~effects["contrast"].str.startswith(LATER), AT_THE_END)
    ordered = effects.assign(metric=pd.Categorical(effects["metric"], names), contrast=contrasts)
    for (name, contrast), own in ordered.groupby(["metric", "contrast"], sort=True, observed=True):
        kind = metric(str(name))
        if contrast not in SHOWN and kind.scale in (SHARE, ATTACK):
            continue
        if contrast.startswith("minus ") or contrast in ("gain", "slope"):
            continue
        by_arm = {row.arm: Cell(row.value, row.low, row.high, row.note or "") for row in own.itertuples()}
        cells = [by_arm.get(arm) for arm in arms]
        if not any(cells) and ALL in by_arm:  # of all arms together
            cells = [by_arm[ALL]]
        if any(cells):
            label = str(name) if contrast in PLAIN else f"{name}, {contrast}"
            share = kind.scale == SHARE or contrast.startswith("tpr")
            yield Measure(label, kind.meaning, ".0%" if share else kind.form, cells)


def by_field(scores: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame) -> pd.DataFrame:
    """Of personal fields, each metric's mean by what its prompt gives away, field and arm, at the last checkpoint:
    `context, field, metric, arm, value, n`; every group counts once.
    """
    people = items[items["kind"] == "pii"]
    probes = pd.DataFrame(
        [
            (item, probe["probe_id"], probe["context"], probe["field"])
            for item, own in zip(people["item_id"], people["probes"], strict=True)
            for probe in own
        ],
        columns=["item_id", "probe_id", "context", "field"],
    )
    last = scores[(scores["step"] == scores["step"].max()) & scores["metric"].isin(FIELD_METRICS)]
    joined = last.merge(probes, on=["item_id", "probe_id"]).merge(assignment[["item_id", "group", "arm"]], on="item_id")
    joined = joined[np.isfinite(joined["value"].astype(float))]
    cell = ["context", "field", "metric", "arm"]
    groups = joined.groupby([*cell, "group"], as_index=False)["value"].mean()
    return groups.groupby(cell, as_index=False).agg(value=("value", "mean"), n=("value", "size"))


def discoverable_shares(scores: pd.DataFrame, assignment: pd.DataFrame, certainty: float) -> pd.DataFrame:
    """(n, p)-discoverable extraction at the last checkpoint: `scheme, arm, n, value`, the share of an arm's targets that n draws
    emit at least once with a probability of `certainty`, for n up to MOST_DRAWS.
    """
    draws = np.unique(np.logspace(0, np.log10(MOST_DRAWS), 61).round())
    last = scores[(scores["step"] == scores["step"].max()) & scores["metric"].str.startswith(DRAWN)]
    joined = last.merge(assignment[["item_id", "arm"]], on="item_id")
    curves = []
    for (name, arm), own in joined.groupby(["metric", "arm"], sort=True):
        values = discoverable_curve(own["value"], draws, certainty)
        curves.append(pd.DataFrame({"scheme": str(name).removeprefix(DRAWN), "arm": arm, "n": draws, "value": values}))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["scheme", "arm", "n", "value"])


@dataclass(frozen=True)
class Utility:
    """What a model is worth besides: its loss on rows that training never reaches, nats a token, and tasks of the harness."""

    model: str
    held_out_loss: float | None
    tasks: dict[str, dict[str, float]]


def utility(layout: ModelLayout) -> Utility:
    """Of the last checkpoint, from metrics.jsonl and harness.json."""
    lines = layout.metrics.read_text().splitlines() if layout.metrics.exists() else []
    losses = [line["held_out_loss"] for line in map(json.loads, lines) if line.get("held_out_loss") is not None]
    path = layout.root / "harness.json"
    return Utility(layout.root.name, losses[-1] if losses else None, read_json(path) if path.exists() else {})


@dataclass(frozen=True)
class FieldTable:
    """Extraction rates of personal fields: a field a row, what the prompt gives away and the most-copied arm's rate beside the
    held-out one's in each column.
    """

    contexts: list[str]
    rows: list[tuple[str, list[list[tuple[str, float]]]]]  # field, and of each context (metric, value) of the arm shown
    arm: str


def field_table(fields: pd.DataFrame) -> FieldTable:
    """Of the arm in which most is known, each field after each prompt."""
    rates = fields[fields["metric"] != "leaked_bits"]
    arm = str(rates.groupby("arm")["value"].mean().idxmax())
    own = fields[fields["arm"] == arm]
    contexts = list(dict.fromkeys(own["context"]))
    rows = []
    for field in dict.fromkeys(own["field"]):
        of_field = own[own["field"] == field]
        cells = [[(row.metric, row.value) for row in of_field[of_field["context"] == context].itertuples()] for context in contexts]
        rows.append((str(field), cells))
    return FieldTable(contexts, rows, arm)
