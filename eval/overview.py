"""The overview of a sweep: its points and their findings side by side, as a page that opens anywhere, and a table beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from configs.tables import write_csv
from eval.charts import COLOURS, HAS_INTERVAL, HUES, interval_tooltip, legend, percent_axis, var
from eval.effects import ALL, counts
from eval.methods import across_seeds
from eval.metrics import is_attack, is_share
from eval.paired_seeds import POOLED
from eval.report import UNITS, Panel, environment, javascript, plain, render, versions, write_text
from inject.design import HELD_OUT
from inject.models import natural

DONE, OUTDATED, MISSING = "done", "out of date", "missing"
ROW_PIXELS, SERIES_PIXELS = 12, 15  # of a chart's height for each point, and for each series of it
TOLD = ["name", "metric", "kind", "arm"]  # what tells one finding of a run from another
MEASURED = ["step", "value", "low", "high", "n", "verdict"]  # and what it says


@dataclass(frozen=True)
class Point:
    """One run of a sweep, and what it showed."""

    name: str
    settings: dict[str, Any]  # those that the sweep gave it, by dotted key
    state: str  # of its report
    why: str = ""  # it is not done
    findings: list[dict[str, Any]] = field(default_factory=list)  # as in its findings.json


@dataclass(frozen=True)
class Finding:
    """A finding of any points: the same sentence about the same kind of items and the same arm."""

    name: str
    metric: str
    kind: str
    arm: str
    found: list[dict[str, Any] | None]  # of every point in order; None where it has no such finding


@dataclass(frozen=True)
class Family:
    """Findings that say the same of different kinds of items, or by different attacks."""

    title: str
    findings: list[Finding]
    labels: list[str]  # what tells each from the others


@dataclass(frozen=True)
class AcrossRow:
    """A membership attack over the models of several points, on one kind of texts."""

    attack: str
    kind: str
    cell: str  # what tells its models from those of other rows, as JSON
    models: int
    found: list[dict[str, Any] | None]  # of every point in order, and of all that take part


def write_overview(
    folder: Path,
    name: str,
    points: Sequence[Point],
    others: Sequence[str] = (),
    shadow: pd.DataFrame | None = None,
    measured: pd.DataFrame | None = None,
) -> Path:
    """Write the overview of the sweep `name` into a folder beside the runs of its points; returns its page.

    `others` are points that lie there, too, but are not of the sweep as it is now; `shadow` is the table of attacks over their
    models, if there are, and `measured` what was measured at the last checkpoint of each.
    """
    across = attacks_across(shadow, points) if shadow is not None else []
    methods = across_seeds([(settings_of_cell(point), point.findings) for point in points])
    groups = families(points)
    drawn = [_panel(family, number, points) for number, family in enumerate(groups, 1)]
    page = environment().get_template("overview.html")
    text = page.render(
        name=name,
        points=points,
        others=others,
        swept=list(dict.fromkeys(key for point in points for key in point.settings)),
        told=told,
        states={DONE: "good", MISSING: "bad"},
        families=list(zip(groups, drawn, strict=True)),
        charts={panel.name: panel.specification for panel in drawn},
        seeds=seeds_of_cells(points),
        across=across,
        methods=methods,
        extractable=extractable(measured) if measured is not None else None,
        measured=measured is not None,
        cells=len({row.cell for row in across} | {row.cell for row in methods}),
        versions=versions(),
        colours=COLOURS,
        javascript=javascript(),
    )
    write_csv(folder / "findings.csv", table(points))
    if measured is not None:
        write_csv(folder / "measures.csv", measured)
    if methods:
        columns = [{**vars(row), **vars(row.interval), "found": told(row.found)} for row in methods]
        write_csv(folder / "methods.csv", pd.DataFrame(columns).drop(columns="interval"))
    else:
        (folder / "methods.csv").unlink(missing_ok=True)
    if across:
        write_csv(folder / "shadow.csv", shadow)
    else:
        (folder / "shadow.csv").unlink(missing_ok=True)  # of points that were paired once
    for panel in drawn:
        write_text(folder / f"{panel.name}.svg", plain(panel.svg))
    write_text(folder / "index.html", text)
    return folder / "index.html"


# ------------------------------------------------------------------------------------------------ tables


def collect(points: Sequence[Point]) -> list[Finding]:
    """Every finding of any point once, in the order of the reports."""
    rows = [{(row["name"], row["metric"], row["kind"], row["arm"]): row for row in point.findings} for point in points]
    return [Finding(*key, found=[own.get(key) for own in rows]) for key in dict.fromkeys(key for own in rows for key in own)]


def families(points: Sequence[Point]) -> list[Family]:
    """Findings by what they say: attacks differ in their metric, which begins the sentence, all others in kind."""
    groups: dict[str, list[Finding]] = {}
    for finding in collect(points):
        groups.setdefault(finding.name.removeprefix(f"{finding.metric} "), []).append(finding)
    return [Family(title if len(own) > 1 else own[0].name, own, _labels(own)) for title, own in groups.items()]


def _labels(findings: Sequence[Finding]) -> list[str]:
    """What tells each finding of a family from the others; its kind where it is alone."""
    told = [(finding.metric, finding.kind, finding.arm) for finding in findings]
    varying = [len(set(column)) > 1 for column in zip(*told, strict=True)]
    return [" · ".join(part for part, varies in zip(row, varying, strict=True) if varies) or row[1] for row in told]


def table(points: Sequence[Point]) -> pd.DataFrame:
    """A row a point and finding; a point without findings has one row, too, that says in `state` why."""
    rows = []
    for point in points:
        own = {"point": point.name, **{key: told(value) for key, value in point.settings.items()}, "state": point.state}
        for finding in point.findings or [{}]:
            rows.append({**own, **{key: finding.get(key) for key in [*TOLD, *MEASURED]}})
    return pd.DataFrame(rows).rename(columns={"name": "finding"})


@dataclass(frozen=True)
class Extractable:
    """The table of Carlini et al. (2023, arXiv:2202.07646): what is extracted by copies, prefix length and point of the sweep, as
    models of several sizes are.
    """

    arms: list[str]
    rows: list[tuple[str, str, list[tuple[float, float, float] | None]]]  # prefix + suffix, point, rate with interval of each arm


def extractable(measured: pd.DataFrame) -> Extractable | None:
    """Of the first of a point's models that saw the insertions; None where it was not measured."""
    own = measured[measured["metric"].str.startswith("extractable/") & (measured["contrast"] == "rate")]
    own = own[(own["kind"] == ALL) & (own["item_set"] == ALL) & (own["model"] != "standard")]
    own = own.drop_duplicates(["metric", "point", "arm"])
    if own.empty:
        return None
    arms = sorted(own["arm"].unique(), key=lambda arm: (arm != HELD_OUT, not counts(arm), natural(arm)))
    cells = {(r.metric, r.point, r.arm): (r.value, r.low, r.high) for r in own.itertuples()}
    pairs = sorted({(metric, point) for metric, point, _ in cells}, key=lambda pair: natural("/".join(pair)))
    rows = [(metric.partition("/")[2], point, [cells.get((metric, point, arm)) for arm in arms]) for metric, point in pairs]
    return Extractable(arms, rows)


def attacks_across(shadow: pd.DataFrame, points: Sequence[Point]) -> list[AcrossRow]:
    """The rows of `eval.paired_seeds.shadow_table` with the points beside each other."""
    rows = []
    for (cell, kind, attack), own in shadow.groupby(["cell", "kind", "attack"], sort=False):
        by_point = {row["point"]: row for row in own.to_dict("records")}
        found = [by_point.get(name) for name in [*(point.name for point in points), POOLED]]
        rows.append(AcrossRow(attack, kind, cell, int(own["models"].iloc[0]), found))
    return rows


def told(value: Any) -> Any:
    """The value of a setting, as a table shows it: as it is, or what is nested as JSON.

    >>> told(0.004), told(True), told([0, 4])
    (0.004, 'true', '[0, 4]')
    """
    return value if isinstance(value, str | float) or type(value) is int else json.dumps(value, ensure_ascii=False)


def settings_of_cell(point: Point) -> str:
    """The settings of a point but for its seeds, as JSON: points that differ in these alone are of one cell."""
    return json.dumps({key: value for key, value in point.settings.items() if key.split(".")[0] not in ("seed", "seeds")})


def seeds_of_cells(points: Sequence[Point]) -> tuple[int, int]:
    """The fewest and the most points with findings that differ in their seeds alone."""
    counted = Counter(settings_of_cell(point) for point in points if point.findings).values()
    return (min(counted), max(counted)) if counted else (0, 0)


# ------------------------------------------------------------------------------------------------ figures


def _panel(family: Family, number: int, points: Sequence[Point]) -> Panel:
    height = len(points) * (ROW_PIXELS + SERIES_PIXELS * len(family.findings))
    return render(f"finding-{number}", "", chart(family, points), height)


def chart(family: Family, points: Sequence[Point]) -> alt.LayerChart:
    """Value and interval of each finding of a family by point; a dot is filled where the verdict is yes, and a point without the
    finding says so.
    """
    rows, gaps = _rows(family, points)
    metric = family.findings[0].metric
    share = is_share(metric)
    form = ".0%" if share else ".2f"
    names = [point.name for point in points]
    numbered = f"(1 + indexof({json.dumps(names)}, datum.value)) + '  ' + datum.value"  # as in the page's tables
    limit = alt.ExprRef("width < 420 ? 110 : 260")
    labels = alt.Axis(
        domain=False, ticks=False, grid=False, labelExpr=numbered, labelLimit=limit, labelPadding=12, labelColor=var("ink")
    )
    y = alt.Y("point:N", title=None, sort=names, scale=alt.Scale(domain=names, paddingInner=0.25, paddingOuter=0.1), axis=labels)
    title = "share" if share else "AUC" if is_attack(metric) else UNITS.get(metric, "")
    axis = percent_axis() if share else alt.Axis(format="~f", tickCount=6)
    most = {"domainMax": 1} if is_attack(metric) else {"padding": 8}
    least = min(0.0, rows[["value", "low"]].astype(float).min().min())  # of a difference of shares
    scale = alt.Scale(domain=[least if isfinite(least) else 0, 1]) if share else alt.Scale(zero=False, **most)
    x = alt.X("value:Q", title=title[:1].upper() + title[1:], axis=axis, scale=scale)
    several = len(family.labels) > 1
    above = legend(None, symbolType="circle", offset=10)
    hues = alt.Scale(domain=family.labels, range=[var(f"hue-{number % HUES}") for number in range(len(family.labels))])
    colour = alt.Color("series:N", scale=hues, legend=above if several else None)
    offset = alt.YOffset("series:N", sort=family.labels, scale=alt.Scale(domain=family.labels, paddingOuter=0.3))
    base = alt.Chart(rows).encode(x, y, colour, offset)
    rules = base.transform_filter(HAS_INTERVAL).mark_rule(strokeWidth=1.5).encode(alt.X("low:Q"), alt.X2("high:Q"))
    filled = alt.when(alt.datum.verdict == "yes").then(alt.Fill("series:N", scale=hues, legend=None))
    tooltip = ["point:N", "series:N", alt.Tooltip("value:Q", format=form), *interval_tooltip(form), "verdict:N"]
    dots = base.mark_point(size=55, opacity=1, strokeWidth=1.5).encode(
        fill=filled.otherwise(alt.value(var("paper"))), tooltip=tooltip
    )
    words = alt.Chart(gaps).mark_text(align="left", dx=6, color=var("muted")).encode(y, text="why:N", x=alt.value(0))
    return alt.layer(rules, dots, words)


def _rows(family: Family, points: Sequence[Point]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a chart shows of a family, and of the points that have no such finding, why."""
    columns = ["point", "series", "value", "low", "high", "n", "verdict"]
    rows, gaps = [], []
    for number, point in enumerate(points):
        found = [(label, finding.found[number]) for finding, label in zip(family.findings, family.labels, strict=True)]
        own = [
            {"point": point.name, "series": label, **{key: row[key] for key in columns[2:]}}
            for label, row in found
            if row is not None
        ]
        rows += own
        if not own:
            gaps.append({"point": point.name, "why": "not measured" if point.findings else "no findings yet"})
    return pd.DataFrame(rows, columns=columns), pd.DataFrame(gaps, columns=["point", "why"])
