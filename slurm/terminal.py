"""What the command line shows: findings, scores, points of a sweep, what a plan asks for, what was submitted, where it stands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from configs.layout import RunLayout
from configs.tables import read_table
from slurm.jobs import Experiment
from slurm.overview import overview, read_points, side_by_side
from slurm.pipeline import preview
from slurm.score import summary
from slurm.status import JobStatus
from slurm.status_table import last_words, show


def show_findings(experiments: Sequence[Experiment]) -> None:
    """The findings of a run, or those of a sweep side by side."""
    if len(experiments) > 1:
        show_overview(experiments)
        return
    experiment = experiments[0]
    table = Table(title=f"Findings of {experiment.recipe.name}", title_justify="left")
    for name, justify in (
        ("finding", "left"),
        ("kind", "left"),
        ("value", "right"),
        ("95% interval", "right"),
        ("verdict", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in experiment.findings():
        value, low, high = (f"{row[key]:.2f}" if row[key] is not None else "-" for key in ("value", "low", "high"))
        interval = "-" if low == high == "-" else f"{low} to {high}"
        table.add_row(row["name"], row["kind"], value, interval, row["verdict"])
    console = console_of_output()
    console.print(table)
    console.print(f"The report: {experiment.run.report / 'index.html'}", soft_wrap=True)


def show_scores(experiments: Sequence[Experiment]) -> None:
    """What a released model's scores say most, and where the rest is."""
    [experiment] = experiments
    rows = list(summary(read_table(experiment.run.root / "effects.parquet").to_pandas()))
    table = Table(title=f"Scores of {experiment.recipe.name}", title_justify="left")
    for name in ("model", "metric", "arm", ""):
        table.add_column(name)
    for name in ("value", "95% interval", "groups"):
        table.add_column(name, justify="right")
    for row in rows:
        value, low, high = (f"{round(row[key], 2) + 0.0:.2f}" for key in ("value", "low", "high"))
        table.add_row(row["model"], row["metric"], row["arm"], row["contrast"], value, f"{low} to {high}", str(row["n"]))
    notes = {
        note: ", ".join(row["metric"] for row in rows if row["note"] == note) for note in (row["note"] for row in rows) if note
    }
    console = console_of_output()
    console.print(table)
    for note, metrics in notes.items():
        console.print(f"{metrics}: {note}", soft_wrap=True, highlight=False)
    console.print(f"All of them: {experiment.run.root / 'scores.parquet'} and effects.parquet", soft_wrap=True, highlight=False)
    console.print(f"The report: {experiment.run.report / 'index.html'}", soft_wrap=True)


def show_overview(experiments: Sequence[Experiment]) -> None:
    page, points = overview(experiments), read_points(experiments)
    console = console_of_output()
    table = Table(title=f"Points of {experiments[0].recipe.name}", title_justify="left")
    for name in ("#", "point", "state"):
        table.add_column(name)
    for number, point in enumerate(points, 1):
        table.add_row(str(number), point.name, ", ".join(filter(None, [point.state, point.why])))
    console.print(table)
    for columns, rows in side_by_side(points):
        table = Table(title="Findings by point, with their verdicts (?: not decidable)", title_justify="left")
        for name in ("finding", "kind"):
            table.add_column(name)
        for number in columns:
            table.add_column(str(number), justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"The overview: {page}", soft_wrap=True)


def show_preview(experiment: Experiment, whole: bool) -> None:
    """What is to be inserted, by item set and arm if the whole of it is asked for, and whether it fits."""
    recipe = experiment.recipe
    if recipe.train.models or recipe.models:
        _show_insertions(experiment, whole)
    if recipe.stages and whole:
        _show_stages(experiment)


def _show_stages(experiment: Experiment) -> None:
    from inject.corpus import corpus_tokenizer

    recipe = experiment.recipe
    table = Table(title=f"Stages of {recipe.name}", title_justify="left")
    for name in ("stage", "after", "data"):
        table.add_column(name)
    for name in ("rows", "mixed rows", "rows beside in a batch", "steps", "epochs"):
        table.add_column(name, justify="right")
    tokenizer = corpus_tokenizer(recipe.corpus, recipe.seed, experiment.cache / experiment.fingerprints.corpus)
    for row in experiment.staging.outline(tokenizer):
        counts = (f"{row[name]:,}" if row[name] else "-" for name in ("rows", "mixed", "beside", "steps"))
        epochs = "-" if row["epochs"] is None else f"{row['epochs']:.1f}"
        table.add_row(row["stage"], row["after"], row["data"], *counts, epochs)
    console_of_output().print(table)
    print("Facts that the model knows before are dropped, unless `known` is keep; how many, only that model tells.")


def _show_insertions(experiment: Experiment, whole: bool) -> None:
    experiment.upto("plan")  # it refuses a recipe that plans nothing
    drawn, check = preview(experiment)
    table = Table(title=f"What {experiment.recipe.name} asks for", title_justify="left")
    for name in ("item set", "arm", "steps"):
        table.add_column(name)
    for name in ("groups", "items", "occurrences", "tokens", "share of these steps"):
        table.add_column(name, justify="right")
    rows = drawn.demand()
    for row in rows:
        counts = (f"{row[name]:,}" for name in ("groups", "items", "occurrences", "tokens"))
        table.add_row(row["item_set"], row["arm"], f"{row['first_step']}-{row['last_step']}", *counts, f"{row['share']:.2%}")
    if whole:
        console_of_output().print(table)
    tokens = sum(row["tokens"] for row in rows)
    share = tokens / (drawn.shape.rows * drawn.shape.row_tokens)
    print(f"{sum(row['occurrences'] for row in rows):,} occurrences, {tokens:,} tokens: {share:.1%} of training")
    print(check())


def show_submission(rows: Sequence[tuple[str, str, str, str]]) -> None:
    table = Table(title="Submitted", title_justify="left")
    for name in ("array", "job", "tasks", "waits for"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    console_of_output().print(table)


def show_status(found: Sequence[JobStatus], experiments: Sequence[Experiment], arguments: Sequence[str]) -> None:
    run, recipe = experiments[0].run, experiments[0].recipe
    sweep = recipe.point and len(experiments) > 1
    console = console_of_output()
    show(found, f"{recipe.name}, {len(experiments)} points" if sweep else recipe.name, console)
    report = RunLayout(recipe.home).overview if sweep else run.report / "index.html"
    console.print("\n".join(last_words(found, arguments, report)), soft_wrap=True, highlight=False)


def console_of_output() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=150)
