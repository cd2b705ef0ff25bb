"""The report of a run: one page that opens anywhere, without a network, and its tables and figures as files beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from os.path import commonprefix
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors import safe_open

from configs.layout import ASSIGNMENT, EFFECTS, ITEMS, SCORES, RunLayout, atomic_file, read_json, read_table, write_json
from configs.schema import Recipe
from eval import figures
from eval.figures import Measured
from inject.design import arms as arms_of

SHOWN_OF_A_KIND = 5  # best-memorized items on the page; memorized.csv has all
PROMPT_CHARACTERS = 140  # of the end of a prompt on the page
PACKAGES = ["imprint-testbed", "torch", "transformers", "tokenizers", "lightning", "numpy", "pandas", "altair"]
PERCENTAGES = ["extracted", "correct"]
UNITS = {"log_prob": "nats", "exposure": "bits"}
CONTINUATIONS = pa.schema(
    [(name, pa.string()) for name in ("item_id", "probe_id", "kind", "arm", "prompt", "target", "continuation")]
    + [("exposures", pa.int32()), ("extracted", pa.bool_()), ("log_prob", pa.float64())]
)


@dataclass(frozen=True)
class Figure:
    """A figure of one model: its name (also of its file), its heading, how to read it, and how to draw it."""

    name: str
    title: str
    caption: str
    draw: Callable[[Measured], alt.LayerChart | None]


FIGURES = [
    Figure(
        "extraction",
        "Extraction against copies",
        "The share of targets that greedy decoding completes word for word at the last checkpoint, by how often their text was "
        "inserted. At zero copies stands what a model says without having seen the text; a diamond is an arm with a window or "
        "placement of its own.",
        figures.extraction,
    ),
    Figure(
        "gain",
        "Log-probability gain during training",
        "How much more probable the model finds the targets of an arm than those of held-out twins. A point grows with the copies "
        "seen so far: an arm should leave zero with its first copies, not before.",
        figures.gain,
    ),
    Figure(
        "exposure",
        "Exposure of canaries",
        "Each dot is a canary, each bar the mean of its arm. At the dashed line the secret is the most probable of all that it "
        "could have been; secrets never seen lie about 1.4 bits on average.",
        figures.exposure,
    ),
    Figure(
        "roc",
        "Membership inference at the last checkpoint",
        "The share of inserted texts that an attack finds (up) for a share of false alarms among held-out texts (right), with the "
        "most and the fewest copies. The dotted diagonal is guessing.",
        figures.roc,
    ),
    Figure(
        "auc",
        "Membership inference during training",
        "The probability that an inserted text scores above a held-out one. Before its first copies an arm is a placebo and belongs "
        "at 0.5.",
        figures.auc,
    ),
    Figure(
        "forgetting",
        "Forgetting after the window",
        "Arms of equally many copies: one saw them all within the shaded window, the other over the whole run. What the first loses "
        "after its window is forgotten.",
        figures.forgetting,
    ),
    Figure(
        "accuracy",
        "Multiple-choice accuracy",
        "The share of questions whose right answer is the most probable candidate. What inserted questions are ahead of held-out "
        "ones is contamination, not skill.",
        figures.accuracy,
    ),
]
LOSS = "The training loss of each logged step. Inserted texts are a part of what is trained on, so this is not a held-out loss."


def write_report(run: RunLayout, recipe: Recipe, findings: list[dict[str, Any]]) -> Path:
    """Gather a run's tables, draw and render them; returns `report/index.html`. What a run has not measured is left out."""
    items, assignment = table(run.items, ITEMS), table(run.assignment, ASSIGNMENT)
    balance = pd.read_csv(run.balance) if run.balance.exists() else pd.DataFrame(columns=["stratum", "arm", "smd"])
    arms = arm_table(recipe)
    models = run.models()
    measured = {
        name: Measured(
            items=items,
            arms=arms,
            assignment=assignment,
            scores=table(run.model(name).scores / "scores.parquet", SCORES),
            effects=table(run.model(name).scores / "effects.parquet", EFFECTS),
            steps=recipe.train.steps,
        )
        for name in models
    }
    metrics = pd.concat([pd.DataFrame()] + [read_metrics(run, name) for name in models], ignore_index=True)
    effects = pd.concat([EFFECTS.empty_table().to_pandas()] + [tables.effects for tables in measured.values()], ignore_index=True)
    continuations = {name: table(run.model(name).root / "continuations.parquet", CONTINUATIONS) for name in models}
    memorized = {name: rank_memorized(rows, items) for name, rows in continuations.items()}
    sections = draw(metrics, measured)

    panels = [panel for section in sections for panel in section["panels"]]
    page = environment().get_template("report.html").render(
        recipe=recipe,
        summary=summary(run, recipe, metrics, measured),
        findings=findings,
        design=design_table(arms, items, assignment, balance),
        strata=list(dict.fromkeys(items.stratum)),
        sections=sections,
        unmeasured=[figure.title.lower() for figure in FIGURES if figure.name not in {section["name"] for section in sections}],
        memorized={name: shown(rows) for name, rows in memorized.items() if len(rows)},
        metrics=set(effects.metric),
        configuration=run.config.read_text() if run.config.exists() else "",
        versions=versions(),
        colours=figures.COLOURS,
        charts={panel["name"]: panel["spec"] for panel in panels},
        javascript=figures.javascript(),
    )  # fmt: skip

    write_json(run.report / "findings.json", findings)
    write_csv(run.report / "effects.csv", effects)
    write_csv(run.report / "balance.csv", balance)
    write_csv(run.report / "memorized.csv", pd.concat([pd.DataFrame()] + [rows.assign(model=name) for name, rows in memorized.items()]))
    for panel in panels:
        write_text(run.report / f"{panel['name']}.svg", figures.standalone(panel["svg"]))
    write_text(run.report / "index.html", page)
    return run.report / "index.html"


# ------------------------------------------------------------------------------------------------ reading


def table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """A table of the run, or an empty one of its schema where the run has none."""
    return (read_table(path) if path.exists() else schema.empty_table()).to_pandas()


def read_metrics(run: RunLayout, model: str) -> pd.DataFrame:
    path = run.model(model).metrics
    lines = path.read_text().splitlines() if path.exists() else []
    return pd.DataFrame([json.loads(line) for line in lines]).assign(model=model)


def parameters(run: RunLayout, model: str) -> int | None:
    """Parameters of the last checkpoint, each counted once where weights are tied; None if there is no checkpoint."""
    steps = run.model(model).checkpoints()
    count = 0
    for path in run.model(model).checkpoint(steps[-1]).glob("*.safetensors") if steps else []:
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


def arm_table(recipe: Recipe) -> pd.DataFrame:
    """The arms of the design, by copies, then those with a name of their own (see `Measured.arms`)."""
    cells = sorted(arms_of(recipe.design), key=lambda cell: (cell.name in recipe.design.arms, cell.copies))
    return pd.DataFrame(
        {
            "arm": [cell.name for cell in cells],
            "copies": [cell.copies for cell in cells],
            "window_start": [cell.window[0] for cell in cells],
            "window_end": [cell.window[1] for cell in cells],
            "placement": [cell.placement for cell in cells],
            "named": [cell.name in recipe.design.arms for cell in cells],
        }
    )


def design_table(arms: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame, balance: pd.DataFrame) -> list[dict[str, Any]]:
    """A row an arm, with the groups of each item set in it and their standardized mean difference of length."""
    members = items[["item_id", "stratum"]].merge(assignment[["item_id", "group", "arm"]], on="item_id")
    groups = members.groupby(["arm", "stratum"]).group.nunique().to_dict()
    smd = {(row.arm, row.stratum): row.smd for row in balance.itertuples()}
    strata = dict.fromkeys(items.stratum)
    rows = arms.to_dict("records")
    return [
        {**row, "sets": [{"groups": groups.get((row["arm"], s), 0), "smd": smd.get((row["arm"], s))} for s in strata]} for row in rows
    ]


def rank_memorized(continuations: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Targets of inserted items, the best memorized first: the extracted ones, then by log-probability; `bits` is their entropy."""
    probes = [(item.item_id, probe["probe_id"], probe["bits"]) for item in items.itertuples() for probe in item.probes]
    bits = pd.DataFrame(probes, columns=["item_id", "probe_id", "bits"])
    inserted = continuations[continuations.exposures > 0].merge(bits, on=["item_id", "probe_id"], how="left")
    return inserted.sort_values(["extracted", "log_prob"], ascending=False, kind="stable", ignore_index=True)


def shown(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """The first items of each kind, one target each, with the place where the continuation leaves the truth."""
    best = ranked.drop_duplicates("item_id").groupby("kind", sort=True).head(SHOWN_OF_A_KIND).sort_values("kind", kind="stable")
    return [{**row, **divergence(row["target"], row["continuation"])} for row in best.to_dict("records")]


def divergence(target: str, continuation: str) -> dict[str, str]:
    """What target and continuation share from their beginning, what is left of each, and what follows a whole target.

    >>> divergence("4821", "4830.")
    {'same': '48', 'truth': '21', 'said': '30.', 'after': ''}
    """
    same = commonprefix([target, continuation])
    rest = continuation[len(same) :]
    whole = same == target
    return {"same": same, "truth": target[len(same) :], "said": "" if whole else rest, "after": rest if whole else ""}


def summary(run: RunLayout, recipe: Recipe, metrics: pd.DataFrame, measured: dict[str, Measured]) -> dict[str, Any]:
    """The numbers of the first paragraph."""
    meta = run.corpus / "meta.json"
    plan = read_table(run.plan) if run.plan.exists() else None
    planned = recipe.train.steps * recipe.train.global_batch * recipe.train.sequence_length
    tables = next(iter(measured.values()), None)
    return {
        "corpus": read_json(meta) if meta.exists() else None,
        "tokens": int(metrics.tokens.max()) if len(metrics) else planned,
        "parameters": next(filter(None, (parameters(run, name) for name in measured)), None),
        "models": list(measured),
        "items": tables.items.groupby("stratum", sort=False).size().to_dict() if tables else {},
        "occurrences": plan.num_rows if plan is not None else None,
        "inserted": int(plan["length"].to_numpy().sum()) / planned if plan is not None else None,
        "checkpoints": max((tables.effects.step.nunique() for tables in measured.values()), default=0),
    }


# ------------------------------------------------------------------------------------------------ rendering


def draw(metrics: pd.DataFrame, measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """The sections of figures, in order: each with a panel for every model that has something to show."""
    drawn = [("loss", "Training loss", LOSS, {"": figures.loss(metrics)})]
    drawn += [(f.name, f.title, f.caption, {name: f.draw(tables) for name, tables in measured.items()}) for f in FIGURES]
    sections = []
    for name, title, caption, charts in drawn:
        panels = [draw_panel(name, model, chart, caption) for model, chart in charts.items() if chart is not None]
        if panels:
            sections.append({"name": name, "title": title, "caption": caption, "panels": panels})
    return sections


def draw_panel(figure: str, model: str, chart: alt.LayerChart, caption: str) -> dict[str, Any]:
    spec = figures.specification(chart, caption)
    name = f"{figure}-{model}" if model else figure
    return {"name": name, "model": model, "spec": spec, "svg": figures.svg(spec)}


def environment() -> Environment:
    """Templates of this folder; whatever a run says is escaped, and a name that the template misspells is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"number": number, "quantity": quantity, "estimate": estimate, "tail": tail, "percent": percent}
    return made


def number(value: float | None, form: str = ".2f") -> str:
    """A number with a true minus sign; a dash where there is none.

    >>> number(-0.5), number(float("nan")), number(float("inf"))
    ('−0.50', '–', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
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
    form = ".0%" if finding["metric"] in PERCENTAGES else ".1f" if finding["metric"] == "exposure" else ".2f"
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


def write_csv(path: Path, rows: pd.DataFrame) -> None:
    with atomic_file(path) as temporary:
        rows.to_csv(temporary, index=False)
