"""The front door: one command-line program, a subcommand for each job of an experiment.

imprint run configs/quickstart.yaml
imprint run configs/quickstart.yaml train.steps=200 name=short
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import ImprintError, Stopped

if TYPE_CHECKING:
    from slurm.jobs import Experiment

# Processor threads wait asleep: spinning gains nothing on a quiet machine and costs much on a busy one (benchmarks/README.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

INTERRUPTED = 130  # the exit status that typer makes of a KeyboardInterrupt

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
Shard = Annotated[str | None, typer.Option(metavar="I/N", help="do one of N equal shares, from 0 on", show_default=False)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, as runs/quickstart", show_default=False)]


def _experiments(config: Path, overrides: list[str] | None) -> list[Experiment]:
    """The points of a sweep, or the one experiment of a recipe without a sweep."""
    from configs.sweep import load_points
    from slurm.jobs import Experiment

    return [Experiment(recipe) for recipe in load_points(config, overrides or [])]


def _do(
    experiments: Sequence[Experiment],
    work: Callable[[Experiment], object],
    then: Callable[[Sequence[Experiment]], None] | None = None,
) -> None:
    from slurm.points import do_points

    do_points(experiments, work, then)


@app.command(
    epilog="Examples: imprint run configs/quickstart.yaml; "
    "imprint run configs/quickstart.yaml corpus.source=jsonl corpus.path=my.jsonl"
)
def run(config: Config, overrides: Overrides = None) -> None:
    """Every job, of every point of a sweep, resumed where it stopped; prints the findings and where the report is."""
    from slurm.terminal import show_findings

    _do(_experiments(config, overrides), lambda experiment: experiment.execute(), show_findings)


@app.command(
    epilog="Examples: imprint corpus configs/quickstart.yaml corpus.source=text corpus.path=books/; "
    "imprint corpus my.yaml --shard $SLURM_ARRAY_TASK_ID/16, and at the end once without --shard"
)
def corpus(config: Config, overrides: Overrides = None, shard: Shard = None) -> None:
    """Tokenize the base documents; with --shard, an n-th of them."""
    _do(_experiments(config, overrides), lambda experiment: _execute_or_share(experiment, "corpus", shard))


@app.command(
    epilog="Examples: imprint decontaminate configs/quickstart.yaml decontaminate.policy=report; "
    "imprint decontaminate my.yaml --shard $SLURM_ARRAY_TASK_ID/16, and at the end once without --shard"
)
def decontaminate(config: Config, overrides: Overrides = None, shard: Shard = None) -> None:
    """Look for the items in the corpus and in each other; with --shard, in an n-th of the corpus."""
    _do(_experiments(config, overrides), lambda experiment: _execute_or_share(experiment, "decontaminate", shard))


@app.command(
    epilog="Examples: imprint plan configs/quickstart.yaml seeds.assignment=7; "
    "imprint plan configs/quickstart.yaml train.steps=500 --dry-run"
)
def plan(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be inserted, by item set and arm, and write nothing")
    ] = False,
) -> None:
    """Make items, assign them to arms at random and place every copy."""
    experiments = _experiments(config, overrides)
    if dry_run:
        from slurm.terminal import show_preview

        _do(experiments, lambda experiment: show_preview(experiment, whole=experiment is experiments[0]))
    else:
        _do(experiments, lambda experiment: experiment.execute("plan"))


@app.command(
    epilog="Examples: imprint train configs/quickstart.yaml train.models=\\[perturbed,standard]; "
    "imprint train configs/quickstart.yaml train.devices=2 train.strategy=zero_2; "
    "srun --ntasks-per-node 8 --gpus-per-node 8 imprint train my.yaml"
)
def train(config: Config, overrides: Overrides = None) -> None:
    """Pretrain the models, from the newest state of each."""
    _do(_experiments(config, overrides), lambda experiment: experiment.execute("train"))


@app.command(
    "eval",
    epilog="Examples: imprint eval configs/quickstart.yaml eval.membership=\\[loss]; "
    "CUDA_VISIBLE_DEVICES=1 imprint eval my.yaml --shard 1/4, one for each GPU, and at the end once without --shard",
)
def evaluate(config: Config, overrides: Overrides = None, shard: Shard = None) -> None:
    """Score every checkpoint and estimate effects; with --shard, score an n-th of the checkpoints."""
    _do(_experiments(config, overrides), lambda experiment: _execute_or_share(experiment, "eval", shard))


@app.command(epilog="Example: imprint report configs/quickstart.yaml")
def report(config: Config, overrides: Overrides = None) -> None:
    """Write the report page; prints the findings and where it is."""
    from slurm.terminal import show_findings

    _do(_experiments(config, overrides), lambda experiment: experiment.execute("report"), show_findings)


@app.command(epilog="Example: srun --ntasks-per-node 2 imprint job runs/quickstart train-perturbed")
def job(
    run: Run, names: Annotated[list[str], typer.Argument(metavar="JOB...", help="their names, as plan", show_default=False)]
) -> None:
    """Jobs of a run by name, and no others: what the scripts of imprint submit call."""
    from train.stop import Stop, ignore

    trains = all(name.startswith("train-") for name in names)
    try:
        with Stop() if trains else nullcontext() as stop:
            from slurm.jobs import Experiment  # takes a second, in which a signal may come

            Experiment.of(run, stop).do(names)
    finally:
        if trains:
            ignore()


@app.command(
    epilog="Examples: imprint submit configs/quickstart.yaml slurm.partition=cpu --dry-run; "
    "imprint submit my.yaml slurm.nodes=4 slurm.gpus=8; imprint submit my.yaml --missing"
)
def submit(
    config: Config,
    overrides: Overrides = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="only what is missing or failed, beside what is queued or running")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the scripts and how they are submitted; write nothing")] = False,
) -> None:
    """Every job that is not done, as SLURM job arrays that wait for each other; of a sweep, for all points."""
    from slurm.submit import commands, find_work, last_words, rows
    from slurm.submit import submit as submit_work
    from slurm.turn import turn

    experiments = _experiments(config, overrides)
    alone: AbstractContextManager[list[Path]] = nullcontext([]) if dry_run else turn(experiments[0].recipe.home)
    with alone as made:
        work = find_work(experiments, config, overrides or [], dry_run)
        if said := work.nothing_to_do(missing):
            print(said)
        elif dry_run:
            print(commands(work))
        else:
            submit_work(work, made)
            from slurm.terminal import show_submission

            show_submission(rows(work))
            print(last_words(work))


@app.command(epilog="Example: imprint overview runs/quickstart/seed-1 runs/quickstart/seed-2")
def overview(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="the points of one sweep, in order", show_default=False)],
) -> None:
    """Compare the points of a sweep, done or not: writes a page beside them; what the scripts of imprint submit call at the end."""
    from slurm.jobs import Experiment
    from slurm.overview import overview as write_overview

    print(f"The overview: {write_overview([Experiment.of(run) for run in runs])}")


@app.command(epilog="Examples: imprint status configs/quickstart.yaml; imprint status runs/quickstart/config.yaml --json")
def status(
    config: Config,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="a list with all that is known of each job, for programs")] = False,
) -> None:
    """Where each job stands: done, running, queued, failed or missing; by its files, and by what SLURM says of it."""
    import json
    from dataclasses import asdict

    from slurm.status import statuses

    experiments = _experiments(config, overrides)
    found = statuses(experiments)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        from slurm.terminal import show_status

        show_status(found, experiments, [str(config), *(overrides or [])])


@app.command(
    epilog="Examples: imprint branch runs/quickstart --without people; "
    "imprint branch runs/quickstart --without people --placebo 1; "
    "imprint branch runs/quickstart --without ids.txt --from 0 --name forget; imprint branch runs/quickstart --without nothing"
)
def branch(
    run: Run,
    without: Annotated[
        list[str],
        typer.Option(
            metavar="ITEMS",
            help="an item set, arm, group or item, or a file of such names, one a line; can be given several times; or nothing",
            show_default=False,
        ),
    ],
    step: Annotated[
        int | None,
        typer.Option("--from", metavar="STEP", help="where to branch off; if not given, as late as the items' first copy allows"),
    ] = None,
    model: Annotated[str, typer.Option(help="the model of the run that it branches off from")] = "perturbed",
    name: Annotated[str | None, typer.Option(help="of the branch; made of the above if not given")] = None,
    placebo: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="remove nothing, but change as many base spans, to tell effects of the removal against"),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="only record it: imprint run or submit of the recipe then trains it")
    ] = False,
) -> None:
    """Train a model again without some items, from the last full state before their first copy: the exact counterfactual.

    The branch is a further model of the run: it is trained, certified and scored as its parent, and stands beside it in the report.
    Run again, it goes on where it stopped.
    """
    from slurm.branching import Request, branch_run
    from slurm.terminal import show_findings

    experiment = branch_run(run, Request(without, step, model, name, placebo))
    if not record:
        _do([experiment], lambda each: each.execute(), show_findings)


@app.command(epilog="Example: imprint audit runs/quickstart")
def audit(run: Run, model: Annotated[str | None, typer.Option(help="one model of the run; all if not given")] = None) -> None:
    """Certify what was consumed: every planned copy, intact, at its step, and nothing else; exit status 1 if not."""
    from slurm.audits import audit_run

    if not audit_run(run, model):
        raise typer.Exit(1)


@app.command(epilog="Example: imprint export runs/quickstart -o tasks/quickstart")
def export(
    run: Run,
    output: Annotated[Path, typer.Option("--output", "-o", help="a folder to make", show_default=False)],
) -> None:
    """The probes of a run as tasks of lm-evaluation-harness, which give the numbers that are measured here."""
    from slurm.evaluating import export_run

    export_run(run, output)


@app.command(epilog="Examples: imprint inspect runs/quickstart --step 200; imprint inspect runs/quickstart --step 200 --row 3")
def inspect(
    run: Run,
    step: Annotated[int, typer.Option(help="the step whose rows to show")],
    row: Annotated[int | None, typer.Option(help="one row of the step, from 0 on; all if not given")] = None,
    model: Annotated[str, typer.Option(help="the model of the run")] = "perturbed",
) -> None:
    """Show what the model saw at a step, insertions highlighted."""
    from slurm.audits import inspect_run

    inspect_run(run, model, step, row)


@app.command(
    epilog="Examples: imprint score EleutherAI/pythia-160m@step1000 my.jsonl -o scored/ 'eval.membership=\\[loss,min_k]'; "
    "imprint score ./some/hf/folder items.csv --member seen --text body; "
    "imprint score 'EleutherAI/pythia-70m@step*' my.parquet --prompt-tokens 32 eval.context=none eval.precision=bf16; "
    "imprint score allegrolab/hubble-1b-100b_toks-perturbed-hf runs/hubble; "
    "imprint score runs/quickstart/perturbed/checkpoints/step-00003600 runs/quickstart"
)
def score(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a folder, a glob of folders, a hub name, NAME@revision or NAME@glob")
    ],
    items: Annotated[
        str, typer.Argument(metavar="ITEMS", help="a JSONL, parquet, CSV, TSV or text file, a folder of them, or of a run")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="as eval.precision=bf16", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="where the scores go; runs/score-MODEL-ITEMS if not given"),
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="the text of a row; text if not given")] = None,
    member: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="whether it was trained on a row: true or false, 1 or 0, yes or no; member if there is one, none to do without",
        ),
    ] = None,
    copies: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="how often it was, in place of --member; copies if there is one, none to do without; of a run, a field of items",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="tokens of a text after which the rest is asked for; 50 if not given, but at most half of it; 0: none is",
        ),
    ] = None,
) -> None:
    """Score a model that exists on texts of your own, or on the items of a run: extraction, membership, a report; no recipe.

    Where a table has columns prompt and target, does the model continue the one with the other? (A blank parts them unless one has
    it; without a text column, the two as they stand are the text.) Further settings of a table are insert.items.*, as
    insert.items.limit=1000; what is measured is eval.*. Run again, it goes on where it stopped.
    """
    from slurm.jobs import Experiment
    from slurm.score import Columns, compose
    from slurm.terminal import show_scores

    recipe = compose(model, items, Columns(text, member, copies, prompt_tokens), output, overrides or [])
    _do([Experiment(recipe)], lambda experiment: experiment.execute(), show_scores)


def _execute_or_share(experiment: Experiment, stage: str, shard: str | None) -> None:
    """Execute a stage, or do one share of its work without recording it as done."""
    if shard is None:
        experiment.execute(stage)
    else:
        from slurm.pipeline import SHARED

        experiment.upto(stage)  # it refuses a stage that the recipe does not have
        SHARED[stage](experiment, _shard(shard))


def _shard(shard: str) -> tuple[int, int]:
    number, slash, of = shard.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ImprintError(f"--shard is {shard!r}; it must be i/n, as 0/16 for the first of 16")
    return int(number), int(of)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 2 for what the user can mend, told in one sentence, and 75 for a training that was asked to stop."""
    try:
        app(args=arguments, prog_name="imprint")
    except Stopped as stopped:
        from train.stop import STOPPED
        from train.world import World

        if World.here().leads:
            print(f"imprint: {stopped}", file=sys.stderr)
        return STOPPED
    except ImprintError as error:
        print(f"imprint: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a file that may not be read
        print(f"imprint: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:  # of the command line itself: --help, arguments that don't fit, or Ctrl-C
        if end.code == INTERRUPTED:
            print("imprint: stopped; run again to go on", file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
