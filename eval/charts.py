"""The parts that figures are put together of: colours, scales, axes, intervals, and the line over training.

Colours are names of CSS variables (`var(--ink)`), so that a chart within a page follows its light or dark theme.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import altair as alt
import numpy as np
import pandas as pd

from eval.metrics import ATTACK, METRICS
from eval.statistics import roc_curve

Chart: TypeAlias = alt.LayerChart | alt.FacetChart

COLOURS = {  # name: (on light paper, on dark paper)
    "paper": ("#ffffff", "#17191c"),
    "ink": ("#1d2024", "#e7e5e1"),
    "muted": ("#5d6570", "#a3abb6"),
    "grid": ("#e6e8eb", "#31353b"),
    "held-out": ("#8b929c", "#8b929c"),
    # More copies, more contrast with the paper.
    "copies-0": ("#58bfae", "#5a55a8"),
    "copies-1": ("#3da5b5", "#4f6cbc"),
    "copies-2": ("#378abb", "#4785c4"),
    "copies-3": ("#3d6fb9", "#469dc5"),
    "copies-4": ("#4855ad", "#51b5bd"),
    "copies-5": ("#513b9a", "#6bcbab"),
    "copies-6": ("#542682", "#94dd99"),
    "copies-7": ("#4f1263", "#c3eb8b"),
    "copies-8": ("#3f0b41", "#f1f48c"),
    # Okabe & Ito's palette for colour-blind readers, darker or lighter where the paper asks for it.
    "hue-0": ("#0072b2", "#5cb5ea"),
    "hue-1": ("#d55e00", "#ff914d"),
    "hue-2": ("#00866a", "#3ccfa3"),
    "hue-3": ("#b2479a", "#e78cd2"),
    "hue-4": ("#a57c00", "#e8c14a"),
}
RAMP, HUES = 9, 5  # colours of either kind
KINDS = ["canary", "pii", "factoid", "key_value", "testset", "random_tokens", "trap", "passage", "table"]
ATTACKS = [name for name, metric in METRICS.items() if metric.scale == ATTACK and name != "bag_of_words"]
HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"  # an infinite end, of too few groups, is none in JSON
MOST_BANDS = 3  # bands of more arms hide one another
MOST_POINTS = 500  # of one curve; more cannot be told apart on a screen


def over_training(
    rows: pd.DataFrame, scale: alt.Scale, title: str, form: str, rule: tuple[float, str] | None, choice: str | None = None
) -> Chart:
    """A line an arm over steps; points grow with the copies seen so far, bars are the intervals of the last checkpoint.

    `rule` is the value that means nothing was learned, and its name. A click in the legend singles out an arm and shows its
    intervals as a band; where the column `choice` takes several values, a menu chooses among them.
    """
    options = [name for name in ["all", *KINDS, *ATTACKS] if choice and (rows[choice] == name).any()]
    last = rows.step.max()
    aside = 0.009 * last * (1 + rows.arm.map(list(scale.domain).index))  # so that intervals do not hide one another
    columns = ["arm", "step", "exposures", "value", "low", "high", "n", *([choice] if choice else [])]
    y = alt.Y("value:Q", title=title, axis=alt.Axis(format="~f", tickCount=6), scale=alt.Scale(zero=False))
    if form.endswith("%"):
        y = alt.Y("value:Q", title=title, axis=percent_axis(), scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color("arm:N", scale=scale, legend=legend(None))
    base = alt.Chart(rows[columns].assign(end=last + aside)).encode(step_axis(), y, colour)
    if len(options) > 1:
        base = base.transform_filter(f"datum.{choice} == chosen")

    clicked = alt.selection_point(fields=["arm"], bind="legend")
    faded = alt.when(clicked).then(alt.value(1)).otherwise(alt.value(0.12))
    banded = alt.when(clicked, empty=rows.arm.nunique() <= MOST_BANDS).then(alt.value(0.1)).otherwise(alt.value(0))
    size = alt.Size("exposures:Q", scale=alt.Scale(type="symlog", domainMin=0, range=[14, 110]), legend=None)
    tooltip = ["arm:N", step_tooltip(), alt.Tooltip("exposures:Q", title="copies seen", format=".3~g")]
    tooltip += [alt.Tooltip("value:Q", title=title, format=form), *interval_tooltip(form)]
    chart = alt.layer(
        base.transform_filter(HAS_INTERVAL).mark_area().encode(alt.Y("low:Q"), alt.Y2("high:Q"), opacity=banded),
        base.mark_line().encode(opacity=faded).add_params(clicked),
        interval_rules(base.transform_filter(f"datum.step == {last}")).encode(alt.X("end:Q")),
        base.mark_circle().encode(size=size, opacity=faded, tooltip=tooltip),
        *([reference(*rule)] if rule else []),
    )
    if len(options) < 2:
        return chart
    return chart.add_params(alt.param("chosen", bind=alt.binding_select(options=options, name=f"{choice} "), value=options[0]))


def among_held_out(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of texts as percentiles among the held-out texts of their own stratum and variant, so that kinds of text do not mix.

    Pooled, these percentiles make the covariate-adjusted ROC curve (Janes & Pepe 2009, Biometrika 96:371).
    """
    scores = scores[(scores.copies == 0) | (scores.text_exposures > 0)]  # a text not seen yet is no member
    groups = scores.groupby(["stratum", "probe_id", "group", "arm", "copies"], as_index=False).agg({"value": "mean"})

    def percentile(rows: pd.DataFrame) -> pd.Series:
        held_out = np.sort(rows.value[rows.copies == 0])
        below, above = (np.searchsorted(held_out, rows.value, side) for side in ("left", "right"))
        return pd.Series((below + above) / 2 / max(1, len(held_out)), index=rows.index)

    parts = [percentile(rows) for _, rows in groups.groupby(["stratum", "probe_id"])]
    return groups.assign(value=pd.concat(parts)) if parts else groups


def roc_points(members: pd.Series, non_members: pd.Series) -> pd.DataFrame:
    """A ROC curve as a table `order, fpr, tpr` of at most MOST_POINTS points."""
    fpr, tpr = roc_curve(members, non_members)
    kept = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), MOST_POINTS)).astype(int))
    return pd.DataFrame({"order": range(len(kept)), "fpr": fpr[kept], "tpr": tpr[kept]})


def thin(rows: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_POINTS rows: means of the numbers over blocks of neighbours."""
    block = np.arange(len(rows)) // -(-len(rows) // MOST_POINTS)
    return rows.groupby(block).mean(numeric_only=True).assign(model=rows.model.iloc[0])


def interval_rules(base: alt.Chart) -> alt.Chart:
    rules = base.transform_filter(HAS_INTERVAL).mark_rule(strokeWidth=1.25, opacity=0.7)
    return rules.encode(alt.Y("low:Q"), alt.Y2("high:Q"))


def reference(value: float, name: str, end: Literal["left", "right"] = "right") -> Chart:
    """A dashed horizontal line with its name below one end, legible on whatever lies there."""
    base = alt.Chart(pd.DataFrame({"value": [value], "name": [name]})).encode(alt.Y("value:Q"))

    def label(colour: str, halo: float) -> alt.Chart:
        text = base.mark_text(align=end, baseline="top", dy=5, color=colour, stroke=colour, strokeWidth=halo)
        return text.encode(x=alt.value("width" if end == "right" else 0), text="name:N")

    return alt.layer(base.mark_rule(color=var("muted"), strokeDash=[4, 3]), label(var("paper"), 4), label(var("muted"), 0))


def step_axis() -> alt.X:
    labels = "datum.value < 100000 ? format(datum.value, ',') : format(datum.value, '~s')"
    axis = alt.Axis(labelExpr=labels, grid=False, tickCount=alt.ExprRef("width < 420 ? 4 : 8"))
    return alt.X("step:Q", title="Step", axis=axis, scale=alt.Scale(nice=False, zero=True))


def copies_axis(arms: pd.DataFrame) -> alt.X:
    """log2(1 + copies), the column `x`, labelled with copies."""
    values = sorted(float(np.log2(1 + copies)) for copies in arms.copies)
    labels = alt.Axis(values=values, labelExpr="format(pow(2, datum.value) - 1, ',.0f')", grid=False, labelOverlap="greedy")
    return alt.X("x:Q", title="Copies (log scale)", axis=labels, scale=alt.Scale(nice=False, padding=16, zero=False))


def percent_axis() -> alt.Axis:
    return alt.Axis(format=".0%", tickCount=5)


def step_tooltip() -> alt.Tooltip:
    return alt.Tooltip("step:Q", format=",.0f")


def interval_tooltip(form: str) -> list[alt.Tooltip]:
    ends = [alt.Tooltip(f"{end}:Q", title=f"95% {end}", format=form) for end in ("low", "high")]
    return [*ends, alt.Tooltip("n:Q", format=",")]


def legend(title: str | None, **options: Any) -> alt.Legend:
    """A legend above the chart, in as many columns as a phone or a desktop has room for."""
    columns = alt.ExprRef("width < 420 ? 4 : 9")
    return alt.Legend(title=title, orient="top", columns=columns, **options)


def arm_scale(arms: pd.DataFrame, shown: Iterable[str]) -> alt.Scale:
    """Held-out in grey, arms by copies along the ramp, named arms in hues; the same whichever arms are shown."""
    curve, named = arms[~arms.named & (arms.copies > 0)].arm, arms[arms.named].arm
    colours = {arm: var(f"copies-{round(i / max(1, len(curve) - 1) * (RAMP - 1))}") for i, arm in enumerate(curve)}
    colours |= {arm: var(f"hue-{(i + 1) % HUES}") for i, arm in enumerate(named)}
    domain = list(shown)
    return alt.Scale(domain=domain, range=[colours.get(arm, var("held-out")) for arm in domain])


def var(name: str) -> str:
    """A named colour, as CSS sees it."""
    return f"var(--{name})"
