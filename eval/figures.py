"""The figures of a report: tables in, one Altair chart out, or None where the run measured nothing of the kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from eval.charts import (
    ATTACKS,
    HAS_INTERVAL,
    HUES,
    KINDS,
    MOST_BANDS,
    Chart,
    among_held_out,
    arm_scale,
    copies_axis,
    interval_rules,
    interval_tooltip,
    legend,
    over_training,
    percent_axis,
    reference,
    roc_points,
    step_axis,
    step_tooltip,
    thin,
    var,
)
from eval.effects import ALL
from eval.measures import LATER, discoverable_shares
from eval.probe_gains import FIRST, LAST

ROC_ATTACKS = {
    "loss": [1, 0],
    "zlib": [6, 3],
    "min_k": [2, 2],
    "min_k_plus_plus": [8, 2, 2, 2],
}  # whose curves are drawn, by dashes


@dataclass(frozen=True)
class Measured:
    """What figures are drawn from: the tables of one model, and those of its run."""

    items: pd.DataFrame
    arms: pd.DataFrame  # a row an arm: arm, copies (NaN: unknown), window_start, window_end, named (not for its copies alone)
    assignment: pd.DataFrame
    scores: pd.DataFrame
    effects: pd.DataFrame
    steps: int  # of the whole training
    certainty: float = 0.5  # eval.certainty

    @property
    def curve(self) -> pd.DataFrame:
        """The arms that differ in copies alone, by copies."""
        return self.arms[~self.arms.named]

    @property
    def treated(self) -> pd.DataFrame:
        return self.arms[self.arms.copies > 0]

    def effect(self, metric: str | Sequence[str], contrast: str, last: bool = False) -> pd.DataFrame:
        """Effects of one contrast, not by item set, with the copies that each arm has seen by then; of the last checkpoint, if
        asked.
        """
        metrics = [metric] if isinstance(metric, str) else list(metric)
        pooled = self.effects[self.effects.item_set == ALL].drop(columns="item_set")
        rows = pooled[pooled.metric.isin(metrics) & (pooled.contrast == contrast)]
        if last:
            rows = rows[rows.step == rows.step.max()]
        return rows.merge(self.arms, on="arm").merge(self.exposures(), on=["arm", "step"], how="left")

    def exposures(self) -> pd.DataFrame:
        """Mean copies consumed so far: `arm, step, exposures`."""
        scores = self.scores.merge(self.assignment[["item_id", "arm"]], on="item_id")
        return scores.groupby(["arm", "step"], as_index=False).agg({"exposures": "mean"})

    def last_scores(self, metric: str) -> pd.DataFrame:
        """Scores of a metric at its last checkpoint, with each item's stratum, group, arm and copies."""
        rows = self.scores[self.scores.metric == metric]
        items = self.items[["item_id", "stratum"]].merge(self.assignment[["item_id", "group", "arm", "copies"]], on="item_id")
        return rows[rows.step == rows.step.max()].merge(items, on="item_id").merge(self.arms[["arm", "named"]], on="arm")

    def probes(self, kind: str) -> list[dict[str, Any]]:
        """The probes of all items of a kind."""
        return [probe for probes in self.items[self.items.kind == kind].probes for probe in probes]


# ------------------------------------------------------------------------------------------------ figures


def loss(metrics: pd.DataFrame) -> Chart | None:
    """Training loss of every model (`model, step, loss, learning_rate`), in nats per token."""
    if metrics.empty:
        return None
    data = pd.concat(thin(rows.sort_values("step")) for _, rows in metrics.groupby("model"))
    models = sorted(data.model.unique())
    scale = alt.Scale(domain=models, range=[var(f"hue-{i % HUES}") for i in range(len(models))])
    colour = alt.Color("model:N", scale=scale, legend=legend(None) if len(models) > 1 else None)
    base = alt.Chart(data).encode(step_axis(), alt.Y("loss:Q", title="Loss, nats per token", scale=alt.Scale(zero=False)), colour)
    tooltip = ["model:N", step_tooltip(), alt.Tooltip("loss:Q", format=".3f"), alt.Tooltip("learning_rate:Q", format=".2e")]
    return alt.layer(base.mark_line(strokeWidth=1.5), base.mark_circle(size=80, opacity=0).encode(tooltip=tooltip))


def extraction(measured: Measured) -> Chart | None:
    """Extraction rate at the last checkpoint against copies, a line a kind; named arms as diamonds off the line."""
    secrets = measured.effect("secret_extracted", "rate", last=True)
    secrets = secrets[secrets.kind == "all"].assign(kind="secrets")  # of any kind, with at least eval.secret_bits
    rows = pd.concat([measured.effect("extracted", "rate", last=True), secrets])
    rows = rows[rows.copies.notna()]
    kinds = [kind for kind in [*KINDS, "secrets"] if (rows.kind == kind).any()]
    rows = rows[rows.kind.isin(kinds)]
    if rows.empty:
        return None
    aside = 0.07 * (rows.kind.map(kinds.index) - (len(kinds) - 1) / 2)  # so that intervals do not hide one another
    rows = rows.assign(x=np.log2(1 + rows.copies) + aside + 0.45 * rows.named)
    colours = [var("ink" if kind == "secrets" else f"hue-{i % HUES}") for i, kind in enumerate(kinds)]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours), legend=legend(None))
    y = alt.Y("value:Q", title="Extracted", axis=percent_axis(), scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(rows).encode(copies_axis(measured.curve), y, colour)
    points = base.mark_point(filled=True, opacity=1, size=55).encode(
        shape=alt.Shape("named:N", scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]), legend=None),
        tooltip=["kind:N", "arm:N", alt.Tooltip("value:Q", title="extracted", format=".0%"), *interval_tooltip(".0%")],
    )
    return alt.layer(interval_rules(base), base.transform_filter("!datum.named").mark_line(), points)


def gain(measured: Measured) -> Chart | None:
    """Log-probability of targets less that of held-out twins, at every checkpoint."""
    rows = measured.effect("log_prob", "gain")
    treated = measured.treated
    rows = rows[rows.arm.isin(treated.arm)]
    if rows.empty:
        return None
    return over_training(rows, arm_scale(measured.arms, treated.arm), "Gain, nats per token", ".2f", (0, "held-out"), choice="kind")


def dose(measured: Measured) -> Chart | None:
    """Log-probability gain against the copies seen so far, a line an arm through its checkpoints."""
    rows = measured.effect("log_prob", "gain")
    rows = rows[rows.arm.isin(measured.treated.arm) & (rows.kind == "all")]
    if rows.empty:
        return None
    rows = rows.assign(x=np.log2(1 + rows.exposures)).sort_values("step")
    y = alt.Y("value:Q", title="Gain, nats per token", axis=alt.Axis(format="~f", tickCount=6), scale=alt.Scale(zero=False))
    colour = alt.Color("arm:N", scale=arm_scale(measured.arms, measured.treated.arm), legend=legend(None))
    x = copies_axis(measured.curve).title("Copies seen so far (log scale)")
    base = alt.Chart(rows).encode(x, y, colour, order="step:Q")
    tooltip = ["arm:N", step_tooltip(), alt.Tooltip("exposures:Q", title="copies so far", format=".3~g")]
    points = base.mark_circle(opacity=1, size=40).encode(tooltip=[*tooltip, alt.Tooltip("value:Q", title="gain", format=".2f")])
    return alt.layer(base.mark_line(strokeWidth=1.5), points, reference(0, "held-out"))


def emitted(measured: Measured) -> Chart | None:
    """Extraction rate of each arm at every checkpoint."""
    rows = measured.effect("extracted", "rate")
    if rows.empty:
        return None
    shown = measured.arms.arm
    return over_training(rows, arm_scale(measured.arms, shown), "Extracted", ".0%", None, choice="kind")


def discoverable(measured: Measured) -> Chart | None:
    """Share of targets that n draws emit at least once with probability p, against n, a line an arm, under the first scheme."""
    known = measured.assignment[measured.assignment.copies.notna()]
    shares = discoverable_shares(measured.scores, known, measured.certainty)
    if shares.empty:
        return None
    shares = shares[shares.scheme == shares.scheme.iloc[0]]
    shown = measured.arms.arm[measured.arms.arm.isin(shares.arm)]
    x = alt.X("n:Q", title="Draws n", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~s", grid=False, tickCount=6))
    y = alt.Y("value:Q", title="Discoverable", axis=percent_axis(), scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(shares).encode(x, y, alt.Color("arm:N", scale=arm_scale(measured.arms, shown), legend=legend(None)))
    tooltip = ["arm:N", alt.Tooltip("n:Q", format=",.0f"), alt.Tooltip("value:Q", title="discoverable", format=".0%")]
    hovered = base.mark_circle(size=60, opacity=0).encode(tooltip=tooltip)
    return alt.layer(base.mark_line(interpolate="step-after"), hovered)


def exposure(measured: Measured) -> Chart | None:
    """Exposure of each canary at the last checkpoint, arm means, and the most that the randomness space allows."""
    canaries, means = measured.last_scores("exposure"), measured.effect("exposure", "mean", last=True)
    canaries, means = canaries[canaries.copies.notna()], means[(means.kind == "canary") & means.copies.notna()]
    if canaries.empty:
        return None
    most = sorted({round(float(probe["bits"]), 2) for probe in measured.probes("canary") if probe["bits"]})
    canaries, means = (rows.assign(x=np.log2(1 + rows.copies) + 0.45 * rows.named) for rows in (canaries, means))
    scale = alt.Scale(domain=[0, max([*most, canaries.value.max()]) * 1.06], nice=False, clamp=True)  # intervals may reach beyond
    y = alt.Y("value:Q", title="Exposure, bits", scale=scale)
    colour = alt.Color("arm:N", scale=arm_scale(measured.arms, measured.arms.arm), legend=None)
    each = alt.Chart(canaries).mark_circle(size=34, opacity=0.35).encode(copies_axis(measured.curve), y, colour)
    mean = alt.Chart(means).encode(copies_axis(measured.curve), y, colour)
    dashes = mean.mark_tick(opacity=1, thickness=3, size=20, orient="horizontal").encode(
        tooltip=["arm:N", alt.Tooltip("value:Q", title="mean bits", format=".1f"), *interval_tooltip(".1f")]
    )
    labels = [reference(bits, f"{bits:.1f} bits: ranked first", "left") for bits in most]
    names = mean.transform_filter("datum.named").mark_text(align="left", dx=14).encode(text="arm:N")
    tooltip = ["item_id:N", "arm:N", alt.Tooltip("value:Q", title="bits", format=".1f")]
    return alt.layer(*labels, each.encode(tooltip=tooltip), interval_rules(mean), dashes, names)


def roc(measured: Measured) -> Chart | None:
    """ROC curves of each attack at the last checkpoint: members of the most- and of the least-copied arm against held-out texts.

    Axes are logarithmic (Carlini et al. 2022, arXiv:2112.03570) where there are enough held-out texts to look at low rates.
    """
    treated = measured.curve[measured.curve.copies > 0]
    arms = list(dict.fromkeys(treated.arm.iloc[[0, -1]])) if len(treated) else []
    scores = {metric: among_held_out(measured.last_scores(metric)) for metric in ROC_ATTACKS}
    curves = [
        roc_points(rows[rows.arm == arm].value, rows[rows.copies == 0].value).assign(metric=metric, arm=arm)
        for metric, rows in scores.items()
        for arm in arms
        if (rows.arm == arm).any() and (rows.copies == 0).any()
    ]
    if not curves:
        return None
    data = pd.concat(curves)
    least = float(data.fpr[data.fpr > 0].min())
    low = least if least <= 1e-3 else 0.0
    scale = alt.Scale(type="log" if low else "linear", domain=[low, 1])
    axis = alt.Axis(format="~%", tickCount=5)
    x = alt.X("fpr:Q", title="False positive rate", scale=scale, axis=axis)
    y = alt.Y("tpr:Q", title="True positive rate", scale=scale, axis=axis)
    guessing = alt.Chart(pd.DataFrame({"fpr": [low, 1], "tpr": [low, 1]})).encode(x, y)
    colour = alt.Color("arm:N", scale=arm_scale(measured.arms, arms), legend=legend("Members"))
    drawn = [(name, dash) for name, dash in ROC_ATTACKS.items() if (data.metric == name).any()]
    dashes = alt.Scale(domain=[name for name, _ in drawn], range=[dash for _, dash in drawn])
    dash = alt.StrokeDash("metric:N", scale=dashes, legend=legend("Score", symbolStrokeColor=var("ink")))
    tooltip = ["metric:N", "arm:N", alt.Tooltip("fpr:Q", format=".1%"), alt.Tooltip("tpr:Q", format=".1%")]
    data = data.assign(fpr=data.fpr.clip(lower=low), tpr=data.tpr.clip(lower=low))
    lines = alt.Chart(data).encode(x, y, colour, dash, order="order:Q")
    return alt.layer(
        guessing.mark_line(color=var("muted"), strokeDash=[2, 3], strokeWidth=1),
        lines.mark_line(interpolate="step-after").encode(tooltip=tooltip),
    )


def auc(measured: Measured) -> Chart | None:
    """AUC of membership inference at every checkpoint, an arm's texts seen so far against held-out texts."""
    rows, treated = measured.effect(ATTACKS, "auc"), measured.treated
    rows = rows[rows.arm.isin(treated.arm) & (rows.kind == "all")]
    if rows.empty:
        return None
    return over_training(rows, arm_scale(measured.arms, treated.arm), "AUC", ".2f", (0.5, "guessing"), choice="metric")


def forgetting(measured: Measured) -> Chart | None:
    """Gain of named arms with a window of their own, beside the arm of equal copies over the whole run; windows are shaded."""
    treated = measured.treated
    spans_run = (treated.window_start == 0) & (treated.window_end == 1)
    whole, narrow = treated[spans_run & ~treated.named], treated[~spans_run & treated.named]
    narrow = narrow[narrow.copies.isin(whole.copies)]
    names = [*whole[whole.copies.isin(narrow.copies)].arm, *narrow.arm]
    rows = measured.effect("log_prob", "gain")
    rows = rows[rows.arm.isin(names)]
    if narrow.empty or rows.empty:
        return None
    scale = arm_scale(measured.arms, names)
    lines = over_training(rows, scale, "Gain, nats per token", ".2f", (0, "held-out"), choice="kind")
    windows = narrow.assign(step=narrow.window_start * measured.steps, end=narrow.window_end * measured.steps)
    shade = alt.Chart(windows).mark_rect(opacity=0.1).encode(step_axis(), alt.X2("end:Q"), alt.Color("arm:N", scale=scale))
    return alt.layer(shade, lines)


def retention(measured: Measured) -> Chart | None:
    """The part of its gain that each arm has left, by steps since its maximum, with the line that is fitted in their logarithm."""
    rows = measured.effects
    rows = rows[(rows.metric == "retainability") & (rows.item_set == ALL)]
    if rows.empty:
        return None
    rows = rows.assign(since=rows.contrast.str.removeprefix(LATER).str.removesuffix(" steps").astype(float))
    fits = rows.groupby(["kind", "arm"]).filter(lambda own: len(own) > 2).groupby(["kind", "arm"], as_index=False)
    lines = pd.concat([own.assign(value=_log_line(own.since, own.value)) for _, own in fits] or [rows[:0]])
    kinds = [kind for kind in [ALL, *KINDS] if (rows.kind == kind).any()]
    shown = measured.arms.arm[measured.arms.arm.isin(rows.arm)]
    x = alt.X(
        "since:Q",
        title="Steps since the maximum (log scale)",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(grid=False),
    )
    scale = alt.Scale(domain=[min(0.0, rows.value.min()), max(1.05, rows.value.max())], clamp=True)  # intervals may reach beyond
    y = alt.Y("value:Q", title="Part of the gain left", scale=scale, axis=alt.Axis(format="~f", tickCount=6))
    colour = alt.Color("arm:N", scale=arm_scale(measured.arms, shown), legend=legend(None))
    clicked = alt.selection_point(fields=["arm"], bind="legend")
    faded = alt.when(clicked).then(alt.value(1)).otherwise(alt.value(0.12))
    banded = alt.when(clicked, empty=len(shown) <= MOST_BANDS).then(alt.value(0.12)).otherwise(alt.value(0))
    columns = ["kind", "arm", "since", "value", "low", "high", "n"]
    base, fitted = (alt.Chart(table[columns]).encode(x, y, colour) for table in (rows, lines))
    if len(kinds) > 1:
        base, fitted = (each.transform_filter("datum.kind == chosen") for each in (base, fitted))
    tooltip = ["arm:N", alt.Tooltip("since:Q", title="steps", format=",.0f"), alt.Tooltip("value:Q", title="left", format=".2f")]
    chart = alt.layer(
        base.transform_filter(HAS_INTERVAL).mark_area().encode(alt.Y("low:Q"), alt.Y2("high:Q"), opacity=banded),
        fitted.mark_line(strokeWidth=1.5).encode(opacity=faded).add_params(clicked),
        base.mark_circle(size=45).encode(opacity=faded, tooltip=[*tooltip, *interval_tooltip(".2f")]),
        reference(0.5, "half"),
    )
    if len(kinds) < 2:
        return chart
    return chart.add_params(alt.param("chosen", bind=alt.binding_select(options=kinds, name="kind "), value=kinds[0]))


def probes(measured: Measured) -> Chart | None:
    """The gain of each arm just before an exposure and so many steps after, as probes in training found it."""
    rows = measured.effects
    told = rows.metric.str.extract(rf"^({FIRST}|{LAST})/(\d+)$")
    rows = rows.assign(exposure=told[0].str.replace("_", " "), after=told[1])
    rows = rows[rows.after.notna() & (rows.contrast == "mean") & (rows.item_set == ALL) & (rows.kind == ALL)]
    if rows.empty:
        return None
    rows = rows.astype({"after": int})
    later = sorted(set(rows.after) - {0})
    before = later[0] / 4 if later else 1.0  # where a logarithm of steps has no place
    rows = rows.assign(x=rows.after.where(rows.after > 0, before))
    shown = measured.arms.arm[measured.arms.arm.isin(rows.arm)]
    labels = alt.Axis(
        values=[before, *later],
        labelExpr=f"datum.value < {later[0] if later else 2} ? 'before' : format(datum.value, ',')",
        grid=False,
    )
    x = alt.X("x:Q", title="Steps after the exposure (log scale)", axis=labels, scale=alt.Scale(type="log", nice=False, padding=16))
    y = alt.Y("value:Q", title="Gain, nats per token", axis=alt.Axis(format="~f", tickCount=6), scale=alt.Scale(zero=False))
    colour = alt.Color("arm:N", scale=arm_scale(measured.arms, shown), legend=legend(None))
    clicked = alt.selection_point(fields=["arm"], bind="legend")
    faded = alt.when(clicked).then(alt.value(1)).otherwise(alt.value(0.12))
    banded = alt.when(clicked, empty=len(shown) <= MOST_BANDS).then(alt.value(0.12)).otherwise(alt.value(0))
    base = alt.Chart(rows[["exposure", "arm", "after", "x", "value", "low", "high", "n"]]).encode(x, y, colour)
    base = base.transform_filter("datum.exposure == chosen")
    tooltip = ["arm:N", alt.Tooltip("after:Q", title="steps", format=",.0f"), alt.Tooltip("value:Q", title="gain", format=".2f")]
    chart = alt.layer(
        base.transform_filter(HAS_INTERVAL).mark_area().encode(alt.Y("low:Q"), alt.Y2("high:Q"), opacity=banded),
        base.mark_line().encode(opacity=faded).add_params(clicked),
        base.mark_circle(size=45).encode(opacity=faded, tooltip=[*tooltip, *interval_tooltip(".2f")]),
        reference(0, "held-out"),
    )
    options = [each.replace("_", " ") for each in (LAST, FIRST)]
    return chart.add_params(alt.param("chosen", bind=alt.binding_select(options=options, name="which "), value=options[0]))


def _log_line(since: pd.Series, value: pd.Series) -> np.ndarray:
    """The least-squares line of values in ln t, where they were measured."""
    return np.polyval(np.polyfit(np.log(since), value, 1), np.log(since))


def accuracy(measured: Measured) -> Chart | None:
    """Multiple-choice accuracy at every checkpoint; chance is one in the number of candidates."""
    rows = measured.effect("correct", "rate")
    rows = rows[rows.kind == "testset"]
    if rows.empty:
        return None
    chances = [1 / len(probe["candidates"]) for probe in measured.probes("testset") if probe["kind"] == "choice"]
    rule = (float(np.mean(chances)), "chance") if chances else None
    return over_training(rows, arm_scale(measured.arms, measured.arms.arm), "Correct", ".0%", rule)
