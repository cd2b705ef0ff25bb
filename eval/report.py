"""The report of a run: one page that opens anywhere, without a network, and its tables and figures as files beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd
import pyarrow as pa
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors import safe_open

from configs.layout import ModelLayout, RunLayout, atomic_file, read_json, write_json
from configs.schema import Recipe
from configs.tables import ASSIGNMENT, CONTINUATIONS, EFFECTS, ITEMS, SCORES, read_table, write_csv
from eval import figures
from eval.charts import COLOURS, Chart, var
from eval.effects import counts
from eval.figures import Measured
from eval.measures import by_field, discoverable_shares, field_table, measures, utility
from eval.methods import FAMILY as METHODS
from eval.metrics import is_share

if TYPE_CHECKING:
    from eval.continual_report import ContinualSection

SHOWN_OF_A_KIND = 5  # best-memorized items on the page; memorized.csv has all
PROMPT_CHARACTERS = 140  # of the end of a prompt on the page
PACKAGES = ["imprint-testbed", "torch", "transformers", "tokenizers", "lightning", "numpy", "pandas", "altair"]
# When and how what is never inserted is inserted; the columns are the factors of an arm beside its copies.
NEVER = {"window_start": 0.0, "window_end": 1.0, "spacing": "", "placement": "", "mode": "", "variants": ""}
UNKNOWN = -1  # copies of items that were perhaps inserted
UNITS = {"log_prob": "nats", "exposure": "bits"}
FIGURES: dict[str, Callable[[Measured], Chart | None]] = {  # of one model; report.html says how to read each
    "extraction": figures.extraction,
    "emitted": figures.emitted,
    "discoverable": figures.discoverable,
    "gain": figures.gain,
    "dose": figures.dose,
    "exposure": figures.exposure,
    "roc": figures.roc,
    "auc": figures.auc,
    "forgetting": figures.forgetting,
    "retention": figures.retention,
    "probes": figures.probes,
    "accuracy": figures.accuracy,
}
# figures that tell when copies came, which of released models nobody knows
OF_EXPOSURES = ["dose", "forgetting", "retention", "probes"]
TEXT = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titleColor": var("muted")}
LINES = {"domainColor": var("grid"), "tickColor": var("grid"), "gridColor": var("grid"), "tickSize": 4, "labelPadding": 5}
# Above the axis the title can be read without turning one's head, and takes no width on a phone.
ABOVE = {
    "titleAngle": 0,
    "titleAlign": "left",
    "titleBaseline": "bottom",
    "titleX": 0,
    "titleY": -9,
    "domain": False,
    "ticks": False,
}
STYLE = {  # of Vega-Lite
    "background": var("paper"),
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "axis": {**TEXT, **LINES, "labelColor": var("muted")},
    "axisY": ABOVE,
    "legend": {
        **TEXT,
        "labelColor": var("ink"),
        "offset": 30,
        "columnPadding": 14,
        "symbolOpacity": 1,
        "layout": {"top": {"margin": 28}},
    },
    "line": {"strokeWidth": 2},
    "text": {"fontSize": 11},
    "view": {"stroke": None},
}
SVG_WIDTH = 680
VEGALITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]  # vl_convert names versions without the patch


@dataclass(frozen=True)
class Scored:
    """Where what was measured of a model lies: the folders of its scores, and the run whose items it was scored on."""

    layouts: list[ModelLayout]
    run: RunLayout


def write_report(
    run: RunLayout,
    recipe: Recipe,
    findings: list[dict[str, Any]],
    released: Mapping[str, Scored] | None = None,
    described: Sequence[Mapping[str, Any]] = (),
    branches: Sequence[str] = (),
    stages: ContinualSection | None = None,
) -> Path:
    """Gather a run's tables, draw and render them; returns `report/index.html`. What a run has not measured is left out.

    `released`: the models by name, where they were not trained in the run; `described`: what is known of each of their revisions.
    `branches`: those among the trained models, each in a sentence. `stages`: what is told of the stages of the run, if it has any.
    """
    items, assignment = table(run.items, ITEMS), table(run.assignment, ASSIGNMENT)
    apart = stages.names if stages else []  # they have steps of their own, and are asked other things
    trained = [name for name in run.models() if name not in apart]
    scored = {name: Scored([run.model(name)], run) for name in trained} if released is None else released
    balance = pd.DataFrame(columns=["item_set", "arm", "tokens_smd"])
    if len(items) and run.balance.exists():  # where nothing is inserted, it has not even a header
        balance = pd.read_csv(run.balance)
    measured = {name: read_measured(of_model, recipe) for name, of_model in scored.items()}
    metrics = pd.concat([pd.DataFrame()] + [read_metrics(run.model(name)).assign(model=name) for name in measured])
    effects = (
        read_table(run.root / "effects.parquet").to_pandas()
        if (run.root / "effects.parquet").exists()
        else pd.concat([EFFECTS.empty_table().to_pandas()] + [tables.effects for tables in measured.values()])
    )
    people = {name: by_field(of.scores, of.items, of.assignment) for name, of in measured.items()}
    memorized = {
        name: rank_memorized(
            joined([each.root / "continuations.parquet" for each in scored[name].layouts], CONTINUATIONS), of.items
        )
        for name, of in measured.items()
    }
    wanted = FIGURES if released is None else {name: figure for name, figure in FIGURES.items() if name not in OF_EXPOSURES}
    drawn = draw(metrics, {name: of for name, of in measured.items() if len(of.items)}, wanted)
    panels = [panel for panels in drawn.values() for panel in panels] + (stages.panels if stages else [])
    template = environment().get_template("report.html")
    page = template.render(
        recipe=recipe,
        released=list(described),
        branches=list(branches),
        summary=summary(run, recipe, metrics, measured),
        findings=findings,
        listed=[finding for finding in findings if not (stages and finding["key"].startswith(f"{METHODS}/"))],
        stages=stages,
        item_sets=list(dict.fromkeys(items.item_set)),
        design=design_table(items, assignment, balance),
        drawn=drawn,
        unmeasured=[name for name in wanted if name not in drawn],
        charts={panel.name: panel.specification for panel in panels},
        memorized={name: shown(rows) for name, rows in memorized.items() if len(rows)},
        metrics=set(effects.metric),
        tables=measures(effects, [row["arm"] for row in design_table(items, assignment, balance)], list(measured)),
        utilities=[utility(of_model.layouts[-1]) for of_model in scored.values()],
        people={name: field_table(rows) for name, rows in people.items() if len(rows)},
        configuration=run.config.read_text() if run.config.exists() else "",
        versions=versions(),
        colours=COLOURS,
        javascript=javascript(),
    )

    write_json(run.report / "findings.json", findings)
    write_csv(run.report / "effects.csv", effects)
    write_csv(run.report / "balance.csv", balance)
    shares = [discoverable_shares(of.scores, of.assignment, of.certainty).assign(model=name) for name, of in measured.items()]
    write_csv(run.report / "discoverable.csv", pd.concat([pd.DataFrame(), *shares]))
    write_csv(run.report / "pii.csv", pd.concat([pd.DataFrame()] + [rows.assign(model=name) for name, rows in people.items()]))
    ranked = pd.concat([pd.DataFrame()] + [rows.assign(model=name) for name, rows in memorized.items()])
    write_csv(run.report / "memorized.csv", ranked)
    for panel in panels:
        write_text(run.report / f"{panel.name}.svg", plain(panel.svg))
    write_text(run.report / "index.html", page)
    return run.report / "index.html"


# ------------------------------------------------------------------------------------------------ reading


def table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """A table of the run, or an empty one of its schema where the run has none."""
    return (read_table(path) if path.exists() else schema.empty_table()).to_pandas()


def joined(paths: Sequence[Path], schema: pa.Schema) -> pd.DataFrame:
    """Several such tables as one."""
    return pd.concat([table(path, schema) for path in paths], ignore_index=True)


def read_measured(model: Scored, recipe: Recipe) -> Measured:
    assignment = table(model.run.assignment, ASSIGNMENT)
    return Measured(
        items=table(model.run.items, ITEMS),
        arms=arm_table(assignment),
        assignment=assignment,
        scores=joined([layout.scores / "scores.parquet" for layout in model.layouts], SCORES),
        effects=joined([layout.scores / "effects.parquet" for layout in model.layouts], EFFECTS),
        steps=recipe.train.steps,
        certainty=recipe.eval.certainty,
    )


def read_metrics(model: ModelLayout) -> pd.DataFrame:
    lines = model.metrics.read_text().splitlines() if model.metrics.exists() else []
    parsed = (json.loads(line) for line in lines)
    return pd.DataFrame([line for line in parsed if line.get("loss") is not None])  # held-out losses have lines of their own


def parameters(run: RunLayout, model: str) -> int | None:
    """Parameters of the last checkpoint, each counted once where weights are tied; None if there is no checkpoint."""
    steps = run.model(model).checkpoints()
    count = 0
    for path in run.model(model).checkpoint(steps[-1]).glob("model*.safetensors") if steps else []:
        with safe_open(path, framework="numpy") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count or None


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is used without being installed
            continue
    return found


# ------------------------------------------------------------------------------------------------ tables


def arm_table(assignment: pd.DataFrame) -> pd.DataFrame:
    """A row an arm, by copies, then those that differ in more than copies (see `Measured.arms`). Where item sets mean different
    arms by one name, copies are their items' mean, and the window spans all of theirs.
    """
    how = {"copies": "mean", "window_start": "min", "window_end": "max"}
    arms = assignment.groupby("arm", sort=False).agg(how).reset_index()
    if (arms.copies % 1 == 0).all():
        arms = arms.astype({"copies": int})
    return _by_copies(arms)


def design_table(items: pd.DataFrame, assignment: pd.DataFrame, balance: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """A row for each arm and its factors, so that item sets which mean different arms by one name have different rows. `sets` has
    the groups of each item set in exactly this arm, None where it has none, and their standardized mean difference of length.
    """
    members = assignment.merge(items[["item_id", "item_set"]], on="item_id")
    members.loc[members.copies == 0, list(NEVER)] = list(NEVER.values())
    members = members.assign(copies=members.copies.fillna(UNKNOWN).astype(int))
    told = ["arm", "copies", *NEVER]
    groups = members.groupby([*told, "item_set"])["group"].nunique().to_dict()
    smd = dict(zip(zip(balance.arm, balance.item_set, strict=True), balance.tokens_smd, strict=True))

    def sets(row: dict[Hashable, Any]) -> list[dict[str, Any]]:
        own = {name: groups.get((*(row[column] for column in told), name)) for name in dict.fromkeys(items.item_set)}
        return [{"groups": count, "smd": smd.get((row["arm"], name)) if count else None} for name, count in own.items()]

    return [row | {"sets": sets(row)} for row in _by_copies(members[told].drop_duplicates()).to_dict("records")]


def _by_copies(arms: pd.DataFrame) -> pd.DataFrame:
    """Arms in the order in which they are shown; `named` are those that differ from the held-out one in more than copies."""
    named = [not counts(arm) and copies != 0 for arm, copies in zip(arms.arm, arms.copies, strict=True)]
    return arms.assign(named=named).sort_values(["named", "copies", "arm"], kind="stable", ignore_index=True)


def rank_memorized(continuations: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Targets of items that were inserted, or may have been, the best memorized first: the extracted ones, then by log-probability;
    `bits` is their entropy.
    """
    pairs = zip(items.item_id, items.probes, strict=True)
    probes = [(item, probe["probe_id"], probe["bits"]) for item, probes in pairs for probe in probes]
    bits = pd.DataFrame(probes, columns=["item_id", "probe_id", "bits"])
    inserted = continuations[continuations.exposures != 0].merge(bits, on=["item_id", "probe_id"], how="left")
    return inserted.sort_values(["extracted", "log_prob"], ascending=False, kind="stable", ignore_index=True)


def shown(ranked: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """The first items of each kind, one target each, with the place where the continuation leaves the truth."""
    best = ranked.drop_duplicates("item_id").groupby("kind").head(SHOWN_OF_A_KIND).sort_values("kind", kind="stable")
    parts = [divergence(target, continuation) for target, continuation in zip(best.target, best.continuation, strict=True)]
    return best.join(pd.DataFrame(parts, index=best.index)).to_dict("records")


def divergence(target: str, continuation: str) -> dict[str, str]:
    """What target and continuation share from their beginning, what is left of each, and what follows a whole target.

    >>> divergence("4821", "4830.")
    {'same': '48', 'truth': '21', 'said': '30.', 'after': ''}
    """
    same = commonprefix([target, continuation])  # noqa: RUF071 - characters are meant
    rest = continuation[len(same) :]
    whole = same == target
    return {"same": same, "truth": target[len(same) :], "said": "" if whole else rest, "after": rest if whole else ""}


def summary(run: RunLayout, recipe: Recipe, metrics: pd.DataFrame, measured: dict[str, Measured]) -> dict[str, Any]:
    """The numbers of the first paragraph."""
    meta = run.corpus / "meta.json"
    plan = read_table(run.plan) if run.plan.exists() else None
    planned = recipe.train.steps * recipe.train.global_batch * recipe.train.sequence_length
    tables = next(iter(measured.values()), None)
    certificates = [read_json(path) for name in measured if (path := run.model(name).certificate).exists()]
    return {
        "certified": bool(measured)
        and len(certificates) == len(measured)
        and all(found["verdict"] == "certified" for found in certificates),
        "corpus": read_json(meta) if meta.exists() else None,
        "tokens": int(metrics.tokens.max()) if len(metrics) else planned,
        "parameters": next(filter(None, (parameters(run, name) for name in measured)), None),
        "models": list(measured),
        "items": tables.items.groupby("item_set", sort=False).size().to_dict() if tables else {},
        "occurrences": plan.num_rows if plan is not None else None,
        "inserted": int(plan["length"].to_numpy().sum()) / planned if plan is not None else None,
        "checkpoints": max((tables.effects.step.nunique() for tables in measured.values()), default=0),
    }


# ------------------------------------------------------------------------------------------------ rendering


@dataclass(frozen=True)
class Panel:
    """A figure of one model (of all, if the name is empty) as a Vega-Lite specification and as SVG in the page's colours."""

    name: str  # of its file
    model: str
    specification: dict[str, Any]
    svg: str


def draw(
    metrics: pd.DataFrame, measured: dict[str, Measured], wanted: Mapping[str, Callable[[Measured], Chart | None]]
) -> dict[str, list[Panel]]:
    """The panels of each figure, in order: one for every model that has something to show."""
    loss = figures.loss(metrics)
    drawn = {"loss": [render("loss", "", loss)]} if loss is not None else {}
    for name, figure in wanted.items():
        charts = {model: figure(tables) for model, tables in measured.items()}
        panels = [render(f"{name}-{model}", model, chart) for model, chart in charts.items() if chart is not None]
        drawn |= {name: panels} if panels else {}
    return drawn


def render(name: str, model: str, chart: Chart, height: int = 300) -> Panel:
    """A chart that fills the width of its container; its height is in pixels, without what is written around it."""
    with alt.data_transformers.enable("default", max_rows=None):
        specification = chart.to_dict() | {"width": "container", "height": height, "description": name, "config": STYLE}
    svg = vl_convert.vegalite_to_svg(specification | {"width": SVG_WIDTH}, vl_version=VEGALITE)
    return Panel(name, model, specification, svg)


def plain(svg: str) -> str:
    """An SVG with the colours of light paper instead of names, for a file of its own."""
    return re.sub(r"var\(--([\w-]+)\)", lambda match: COLOURS[match[1]][0], svg)


@cache
def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script, to be put in a page once."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", VEGALITE)


def environment() -> Environment:
    """Templates of this folder; whatever a run says is escaped, and a name that the template misspells is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, lstrip_blocks=True
    )
    made.filters |= {"number": number, "quantity": quantity, "estimate": estimate, "tail": tail, "percent": percent}
    return made


def number(value: float | None, form: str = ".2f") -> str:
    """A number with a true minus sign, which no zero has; a dash where there is none.

    >>> number(-0.5), number(-0.001), number(float("nan")), number(float("inf"))
    ('−0.50', '0.00', '–', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    form = f"+z{form[1:]}" if form.startswith("+") else f"z{form}"
    return format(value, form).replace("inf", "∞").replace("-", "−") if math.isfinite(value) else "∞" if value > 0 else "−∞"


def percent(value: float | None) -> str:
    """A share in percent, with one decimal where it is small.

    >>> percent(0.5), percent(0.004)
    ('50%', '0.4%')
    """
    return number(value, ".1%" if value and abs(value) < 0.095 else ".0%")


def quantity(value: float) -> str:
    """A count in three digits.

    >>> quantity(66), quantity(3_072_000), quantity(1_240)
    ('66', '3.07 million', '1,240')
    """
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}"


def estimate(finding: dict[str, Any]) -> dict[str, str]:
    """The value and the interval of a finding in the form that its metric is commonly given in."""
    form = ".0%" if is_share(finding["metric"]) else ".1f" if finding["metric"] == "exposure" else ".2f"
    low, high = finding.get("low"), finding.get("high")
    known = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    return {
        "value": number(finding["value"], form),
        "unit": UNITS.get(finding["metric"], ""),
        "interval": f"{number(low, form)} to {number(high, form)}" if known else "no interval",
    }


def tail(text: str) -> str:
    """The end of a prompt."""
    return text if len(text) <= PROMPT_CHARACTERS else f"… {text[-PROMPT_CHARACTERS:]}"


# ------------------------------------------------------------------------------------------------ writing


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
