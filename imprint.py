"""The front door: one command-line program, a subcommand for each job of an experiment.

imprint run configs/quickstart.yaml
imprint run configs/quickstart.yaml train.steps=200 name=short
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import ImprintError

if TYPE_CHECKING:
    from slurm.jobs import Experiment

# Processor threads wait asleep: spinning gains nothing on a quiet machine and costs much on a busy one (benchmarks/README.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrain small language models on a stream with texts inserted on purpose, and measure what they memorize.",
    epilog="Every setting of a recipe, its unit and meaning: configs/schema.py",
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="a recipe, as configs/quickstart.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings to override, as train.steps=200", show_default=False)
]


def _experiment(config: Path, overrides: list[str] | None) -> Experiment:
    from configs.recipe import load_recipe
    from slurm.jobs import Experiment

    return Experiment(load_recipe(config, overrides or []))


@app.command(
    epilog="Examples: imprint run configs/quickstart.yaml; "
    "imprint run configs/quickstart.yaml corpus.source=jsonl corpus.path=my.jsonl"
)
def run(config: Config, overrides: Overrides = None) -> None:
    """Every job, resumed where it stopped; prints the findings and where the report is."""
    experiment = _experiment(config, overrides)
    experiment.execute()
    _show_findings(experiment)


@app.command(epilog="Example: imprint corpus configs/quickstart.yaml corpus.source=text corpus.path=books/")
def corpus(config: Config, overrides: Overrides = None) -> None:
    """Tokenize the base documents."""
    _experiment(config, overrides).execute("corpus")


@app.command(epilog="Example: imprint plan configs/quickstart.yaml seeds.assignment=7")
def plan(config: Config, overrides: Overrides = None) -> None:
    """Make items, assign them to arms at random and place every copy."""
    _experiment(config, overrides).execute("plan")


@app.command(epilog="Example: imprint train configs/quickstart.yaml train.models=[perturbed,standard]")
def train(config: Config, overrides: Overrides = None) -> None:
    """Pretrain the models, from the newest state of each."""
    _experiment(config, overrides).execute("train")


@app.command("eval", epilog="Example: imprint eval configs/quickstart.yaml eval.membership=[loss]")
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Score every checkpoint and estimate effects."""
    _experiment(config, overrides).execute("eval")


@app.command(epilog="Example: imprint report configs/quickstart.yaml")
def report(config: Config, overrides: Overrides = None) -> None:
    """Write the report page; prints the findings and where it is."""
    experiment = _experiment(config, overrides)
    experiment.execute("report")
    _show_findings(experiment)


def _show_findings(experiment: Experiment) -> None:
    from rich.console import Console
    from rich.table import Table

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
        table.add_row(row["name"], row["kind"], value, f"{low} to {high}", row["verdict"])
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.print(table)
    console.print(f"The report: {experiment.run.report / 'index.html'}", soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 2 for what the user can mend, told in one sentence."""
    try:
        app(args=arguments, prog_name="imprint")
    except ImprintError as error:
        print(f"imprint: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a file that may not be read
        print(f"imprint: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("imprint: stopped; run again to go on", file=sys.stderr)
        return 130
    except SystemExit as end:  # of the command line itself: --help, or arguments that don't fit
        return end.code if isinstance(end.code, int) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
