"""Submit the jobs of an experiment, or of all points of a sweep, to SLURM: those that are not done, as chained job arrays.

What was submitted is recorded at once, so that a submission that ends halfway can be told from one that never was.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import ImprintError, RecipeError
from configs.layout import fingerprint
from configs.recipe import differences, load_recipe, result_settings
from configs.schema import Recipe
from configs.stage_checks import trainings
from slurm.arrays import Arrays, Call, State, Wait
from slurm.fingerprints import Fingerprints
from slurm.jobs import Experiment
from slurm.scripts import ranges, render, request
from slurm.submission import OVERVIEW, TRAINING, Array, Submission, Task
from slurm.turn import nothing_left

NAMED = 5  # jobs that a sentence names, of those of which it says the same


@dataclass
class Work:
    """What is to be submitted. Nothing of it is written yet."""

    experiments: list[Experiment]  # of the points, in order
    arrays: Arrays
    submission: Submission
    here: Path  # where the scripts run
    unseen: str = ""  # why it can't be seen what is done already, in a dry run

    @cached_property
    def calls(self) -> list[Call]:
        return self.arrays.calls()

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Points of which nothing is submitted, each with the job that runs outside SLURM, for which no task can wait."""
        points = [experiment.recipe.point for experiment in self.experiments]
        return {points[index]: job for index, job in self.arrays.left_out().items()}

    def tasks(self, array: str) -> list[Task]:
        return [Task("", [OVERVIEW])] if array == OVERVIEW else self.arrays.tasks[array]

    def script(self, array: str) -> str:
        folders = {experiment.recipe.point: experiment.run.root for experiment in self.experiments}
        recipe = self.experiments[0].recipe
        return render(recipe, array, self.tasks(array), folders, self.submission, self.here)

    def scripts(self) -> dict[Path, str]:
        return {self.submission.script(array): self.script(array) for array in dict.fromkeys(call.array for call in self.calls)}

    def options(self, call: Call, jobs: Sequence[int | str]) -> list[str]:
        """The options of sbatch that are not in the script, with the jobs that the calls before have become."""
        options = []
        if call.indices != [index for index, task in enumerate(self.tasks(call.array)) if task.jobs]:
            options.append(f"--array={ranges(call.indices, self.experiments[0].recipe.slurm.parallel)}")
        if call.waits:
            options.append("--dependency=" + ",".join(_dependency(wait, jobs) for wait in call.waits))
        if any(wait.kind != "afterany" for wait in call.waits):  # else what can never start would wait for ever
            options.append("--kill-on-invalid-dep=yes")
        return options

    def nothing_to_do(self, missing: bool) -> str | None:
        """Why there is nothing to submit, or None. ImprintError where jobs are under way, and not only the rest was asked for."""
        active, name = self.arrays.active(), self.experiments[0].recipe.name
        if active and not missing:
            others = f", and {len(active) - 1} more" if len(active) > 1 else ""
            raise ImprintError(
                f"{name} is under way already: {self._under_way(active[0])}{others}; `{again(self.submission)} --missing` submits "
                "only what is missing or failed"
            )
        if self.left_out and not self.calls:
            raise ImprintError(self.why_left_out())
        if active and not self.calls:
            return f"Nothing of {name} is missing: {len(active)} jobs are queued or running. Nothing was submitted."
        return None if self.calls else f"Everything of {name} is done. Nothing was submitted."

    def why_left_out(self) -> str:
        """What points are left out for, and what to do."""
        named = [f"{job} of {point}" if point else job for point, job in list(self.left_out.items())[:NAMED]]
        more = f" and {len(self.left_out) - NAMED} more" if len(self.left_out) > NAMED else ""
        return (
            f"{', '.join(named)}{more} {'is' if len(self.left_out) == 1 else 'are'} running outside SLURM, which no task can wait "
            "for; submit again with --missing when that has ended"
        )

    def _under_way(self, key: tuple[str, str]) -> str:
        (point, job), (state, task) = key, self.arrays.states[key]
        return (f"{job} of {point}" if point else job) + f" is {state} " + (f"as {task}" if task else "outside SLURM")


class Unseen(Fingerprints):
    """Fingerprints of the settings alone, where files or the hub can't be looked at: no job has been done under any of these."""

    @cached_property
    def corpus(self) -> str:
        seed = self.recipe.seed if self.recipe.corpus.source == "synthetic" else None
        return fingerprint(["unseen", result_settings(self.recipe.corpus), seed])

    @cached_property
    def items(self) -> str:
        return "unseen"

    @cached_property
    def tables(self) -> str:
        return "unseen"

    @cached_property
    def facts(self) -> str:
        return "unseen"

    @cached_property
    def start(self) -> list[Any]:
        return ["unseen"]


def _dependency(wait: Wait, jobs: Sequence[int | str]) -> str:
    """A dependency as SLURM writes it, with the jobs that calls have become."""
    if wait.call is None:
        return f"{wait.kind}:{wait.task}"
    return f"{wait.kind}:{jobs[wait.call]}" + ("" if wait.index is None else f"_{wait.index}")


# ------------------------------------------------------------------------------------------------ what there is to do


def find_work(experiments: list[Experiment], config: Path, arguments: list[str], dry_run: bool = False) -> Work:
    """What of a recipe, of which these are the points, is not done. Writes nothing.

    A dry run needs neither the corpus nor a network: where it can't see what is done, it takes nothing for done.
    """
    refuse_impossible(experiments)
    unseen = ""
    try:
        jobs = [experiment.jobs() for experiment in experiments]
        for experiment in experiments:
            experiment.refuse_other_settings()
    except (ImprintError, OSError) as error:
        if not dry_run or isinstance(error, RecipeError):
            raise
        unseen = str(error)
        for experiment in experiments:
            experiment.fingerprints = Unseen(experiment.recipe, experiment.branches)
        jobs = [experiment.jobs() for experiment in experiments]
    points = [experiment.recipe.point for experiment in experiments]
    states: dict[tuple[str, str], State] = {
        (point, job.name): ("missing", "") for point, own in zip(points, jobs, strict=True) for job in own
    }
    if len(points) > 1:
        states["", OVERVIEW] = ("missing", "")
    if not unseen:
        from slurm.status import statuses

        states |= {(status.point, status.job): (status.state, status.slurm) for status in statuses(experiments)}
    recipe = experiments[0].recipe
    made = [next((job for job in own if job.name == "corpus"), None) for own in jobs]
    corpora = [job.fingerprint if job else str(index) for index, job in enumerate(made)]
    arrays = Arrays(points, jobs, states, [corpora.index(corpus) for corpus in corpora])
    submission = Submission.new(recipe.home, str(config), arguments)
    return Work(experiments, arrays, submission, Path.cwd(), unseen)


def refuse_impossible(experiments: Sequence[Experiment]) -> None:
    """RecipeError for an impossible design, and for settings that the tasks of one array can't have."""
    from inject.design import cells

    first = experiments[0].recipe
    if re.search(r"\s", first.name):
        raise RecipeError(f"name is {first.name!r}; imprint submit takes none with spaces, give another as name=")
    for experiment in experiments:
        recipe = experiment.recipe
        if recipe.slurm != first.slurm or request(recipe, "train") != request(first, "train"):
            raise RecipeError(
                f"the points {first.point} and {recipe.point} ask SLURM for different things, but they are tasks of one array; "
                "leave slurm and train.devices out of the sweep"
            )
        if not recipe.models:
            try:
                cells(recipe.insert, recipe.train.steps)
            except RecipeError as error:
                raise RecipeError(f"point {recipe.point} of the sweep: {error}" if recipe.point else str(error)) from error


def refuse_trainings(work: Work, dry_run: bool = False) -> None:
    """RecipeError for a batch or a model that no training could do. A dry run does not look at a model of the hub."""
    trained = [call for call in work.calls if call.array.partition("-")[0] in TRAINING]
    found = {work.arrays.owners[call.array][index] for call in trained for index in call.indices}
    checked: list[Any] = []
    for recipe in (work.experiments[index].recipe for index in sorted(found)):
        if (settings := (recipe.model, recipe.train, recipe.stages)) not in checked:
            _refuse_training(recipe, dry_run)
            checked.append(settings)


def _refuse_training(recipe: Recipe, dry_run: bool) -> None:
    from train.execution import shared_out
    from train.loggers import check_loggers
    from train.starts import check_starts
    from train.world import World

    asked = request(recipe, "train")
    processes = asked.nodes * asked.tasks
    for train in trainings(recipe):
        if processes > 1 and train.devices not in (0, processes):
            raise RecipeError(
                f"train.devices is {train.devices}, but {asked.nodes} nodes with {asked.tasks} processes each make {processes}; "
                "leave train.devices out, or change slurm.nodes, slurm.gpus or slurm.tasks"
            )
        shared_out(train, World(size=max(processes, train.devices)))
        check_loggers(train.loggers)
    if not (dry_run and recipe.model.start and not Path(recipe.model.start).exists()):  # of the hub
        check_starts(recipe)


def again(submission: Submission) -> str:
    return shlex.join(["imprint", "submit", submission.recipe, *submission.arguments])


# ------------------------------------------------------------------------------------------------ a dry run


def commands(work: Work) -> str:
    """What would be submitted: every script, and commands of shell that submit them. RecipeError as of `submit`."""
    refuse_trainings(work, dry_run=True)
    lines = [f"# {again(work.submission)} would submit these scripts. Nothing was written or submitted."]
    if work.unseen:
        lines.append(f"# What is done already can't be seen from here, so all is listed: {work.unseen}")
    if work.left_out:
        lines.append(f"# Left out: {', '.join(work.left_out)}. {work.why_left_out()}")
    for path, text in work.scripts().items():
        lines += ["", f"# {'-' * 20} {path}", "", text.rstrip()]
    lines += ["", f"# {'-' * 20} how they are submitted, once the scripts and each run's config.yaml are written", ""]
    lines.append(f"mkdir -p {shlex.quote(str(work.submission.logs))}")
    variables: list[str] = []
    for call in work.calls:
        plain = re.sub(r"\W", "_", call.array)
        variables.append(plain if plain not in variables else f"{plain}_{len(variables)}")
        options = work.options(call, [f"${{{variable}}}" for variable in variables])
        words = ["sbatch", "--parsable", *(f'"{option}"' if "$" in option else option for option in options)]
        lines.append(f"{variables[-1]}=$({' '.join(words)} {shlex.quote(str(work.submission.script(call.array)))})")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ submitting


def submit(work: Work, made: Sequence[Path] = ()) -> None:
    """Write the scripts and submit them one by one, each recorded at once; work.submission then has SLURM's ids. `made` are folders
    that this call has made already.

    RecipeError, with nothing written, for what can be seen to be impossible. ImprintError where SLURM refuses a script, or it is
    interrupted; what was submitted before that is in the sentence and the record.
    """
    if shutil.which("sbatch") is None:
        raise ImprintError(
            "there is no sbatch on this machine; submit where SLURM's commands are, or see the scripts with --dry-run"
        )
    refuse_changes(work)
    refuse_trainings(work)
    submission = work.submission
    submission.arrays = [Array(call.array, None, work.tasks(call.array), call.indices) for call in work.calls]
    with nothing_left(work.submission, work.experiments, made):
        for experiment in work.experiments:
            _prepare(experiment, experiment.recipe.point in work.left_out)
        submission.logs.mkdir(parents=True)
        for path, text in work.scripts().items():
            path.write_text(text)
        submission.write()
        try:
            for array, call in zip(submission.arrays, work.calls, strict=True):
                with _uninterrupted():
                    jobs = [str(array.job) for array in submission.arrays]
                    array.job = _sbatch(submission.script(array.name), work.options(call, jobs))
                    submission.write()
        except (ImprintError, KeyboardInterrupt) as error:
            submitted = ", ".join(f"{array.name} ({array.job})" for array in submission.arrays if array.job is not None)
            if not submitted:
                raise
            why = str(error) or "interrupted"
            raise ImprintError(
                f"{why}; submitted before that: {submitted}; `{again(submission)} --missing` submits the rest"
            ) from error


def refuse_changes(work: Work) -> None:
    """RecipeError where jobs of a run are under way with other settings than it would have now."""
    busy = {point for point, _ in work.arrays.active()}
    for experiment in work.experiments:
        recipe, config = experiment.recipe, experiment.run.config
        if recipe.point not in busy or not config.exists():
            continue
        if changed := list(differences(result_settings(load_recipe(config)), result_settings(recipe))):
            raise RecipeError(
                f"jobs of {experiment.run.root} are queued or running with other settings ({', '.join(changed)}); cancel them, or "
                f"give this run a name of its own, as name={recipe.name}-2"
            )


def _prepare(experiment: Experiment, left_out: bool) -> None:
    """Do what has to be done here, and write the run's configuration where it is another; a job may hold the run's lock.

    Of a run that is left out only a configuration is written, for the overview, where there is none.
    """
    config = experiment.run.config
    if not left_out and any(not job.array and job.missing() for job in experiment.jobs()):
        experiment.prepare()
    if not config.exists() or (not left_out and load_recipe(config) != experiment.recipe):
        with experiment.folder():
            pass


def _sbatch(script: Path, options: Sequence[str]) -> int:
    """SLURM's number of the job that a script becomes."""
    # within an allocation, its variables would reach the job and contradict what the job asks for
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    command = ["sbatch", "--parsable", *options, str(script)]
    # in a session of its own, where Ctrl-C does not reach it: whether it has submitted would not be known
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True, check=False)
    job = ended.stdout.strip().split(";")[0]  # the name of the cluster may follow
    if ended.returncode or not job.isdecimal():
        said = " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in ended.stderr.splitlines())
        raise ImprintError(f"sbatch did not take {script.name}: {said or ended.stdout.strip() or 'it said nothing'}")
    return int(job)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C within the block counts at its end."""
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------ what is told


def rows(work: Work) -> list[tuple[str, str, str, str]]:
    """A row for each array of a submission: its name, SLURM's id, how many tasks, and what they wait for."""
    arrays = work.submission.arrays
    found = []
    for array, call in zip(arrays, work.calls, strict=True):
        waits = [_awaited(wait, arrays) for wait in call.waits]
        found.append((array.name, str(array.job), f"{len(call.indices)} ({ranges(call.indices)})", ", ".join(waits) or "-"))
    return found


def _awaited(wait: Wait, arrays: Sequence[Array]) -> str:
    if wait.call is None:
        return wait.task + (" to end" if wait.kind == "afterany" else "")
    job = str(arrays[wait.call].job) if wait.index is None else f"{arrays[wait.call].job}_{wait.index}"
    return f"{arrays[wait.call].name} {job}" + {"aftercorr": ", task by task", "afterok": "", "afterany": " to end"}[wait.kind]


def last_words(work: Work) -> str:
    """What was left out, how to look after what was submitted, and how to cancel it."""
    look = again(work.submission).replace("imprint submit", "imprint status", 1)
    jobs = " ".join(str(array.job) for array in work.submission.arrays)
    left_out = f"Left out:         {', '.join(work.left_out)}. {work.why_left_out()}\n" if work.left_out else ""
    return f"{left_out}Scripts and logs: {work.submission.folder}\nSee how it goes:  {look}\nCancel it all:    scancel {jobs}"
