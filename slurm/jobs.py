"""An experiment, and how its jobs are done: in order, each once what it needs is done, under a lock, and not again.

Which jobs there are, slurm/pipeline.py says of a recipe that trains, and slurm/released.py of one whose models exist. A job whose
record carries its fingerprint (slurm/fingerprints.py), and whose outputs are there, is done.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import DataError, ImprintError, LockError, RecipeError, Stopped
from configs.layout import CheckpointInfo, ModelLayout, RunLayout, atomic_file, file_fingerprint, read_json, write_json
from configs.lock import Lock
from configs.recipe import differences, load_recipe, result_settings, save_recipe
from configs.schema import Recipe
from configs.tables import read_table
from slurm.branches import Tables, read_branches, with_branches
from slurm.fingerprints import Fingerprints
from train.stop import Stop
from train.world import World

if TYPE_CHECKING:
    from inject.corpus import Corpus
    from inject.stream import Overlay, Stream
    from slurm.staging import Staging


@dataclass(frozen=True)
class Job:
    """One job: what it depends on (`fingerprint`), what it makes (`outputs`), and how."""

    name: str
    fingerprint: str
    outputs: list[Path]
    work: Callable[[], None]
    record: Path
    needs: list[str]  # the jobs that must be done before
    array: str  # the SLURM array that does it, for every point of a sweep; "": it is done where the arrays are submitted
    folder: Path  # of which it is the only writer
    found: Callable[[], list[Path]] = field(default=list, kw_only=True)  # what it makes besides, known once it is done

    def missing(self) -> str | None:
        """Why the job has to be done, or None where it is done."""
        if not self.record.exists():
            return "not done yet"
        if read_record(self.record)["fingerprint"] != self.fingerprint:
            return "its settings or inputs have changed"
        absent = self.absent()
        return f"{absent.name} is missing" if absent else None

    def made(self) -> list[Path]:
        """What it has made, once it is done."""
        return [*self.outputs, *self.found()]

    def absent(self) -> Path | None:
        """The first file of these that is missing."""
        return next((path for path in self.made() if not path.exists()), None)


def left_by_training(layout: ModelLayout) -> list[Path]:
    """What a training leaves that is known once it is done: its ledger and, of a stage, the checkpoint with which it ended."""
    last = [layout.checkpoint(layout.ended()) / "imprint.json"] if layout.finished.exists() else []
    return [*layout.ledgers(), *last]


def not_as_made(record: Path, folder: Path, names: Collection[str] = ()) -> Iterator[str]:
    """Which files that a job left in `folder` are not those that its record names; looks at all of them, or those of `names`."""
    for made, digest in read_record(record)["outputs"].items():
        parts = Path(made).parts  # of wherever the run lay then
        name = Path(*parts[-3:] if parts[-1] == "imprint.json" else parts[-1:])  # a checkpoint's marker, or a file of the folder
        if names and str(name) not in names:
            continue
        if not (folder / name).exists():
            yield f"{name}, which the job {record.stem} wrote, is missing"
        elif file_fingerprint(folder / name) != digest:
            yield f"{name} is not the file that the job {record.stem} wrote"


def changed_files(run: RunLayout, model: str) -> list[str]:
    """What of a training's files is not as it was written: of those that its job recorded, and of the last checkpoint's."""
    layout, record = run.model(model), run.job(f"train-{model}")
    last = layout.checkpoints()[-1]
    folder = layout.checkpoint(last)
    found = list(not_as_made(record, layout.root)) if record.exists() else []  # a training that goes on has none yet
    if not found and layout.finished.exists() and layout.ended() != last:
        found.append(f"it ended after {layout.ended():,} steps, but its last checkpoint is that of step {last:,}")
    if name := CheckpointInfo.read(folder).damaged(folder):
        found.append(f"{name} of {folder.name} is {'damaged' if (folder / name).exists() else 'missing'}")
    return found


def read_record(path: Path) -> dict[str, Any]:
    """The record of a finished job; DataError where it is damaged."""
    record = read_json(path)
    if not isinstance(record, dict) or not {"fingerprint", "outputs"} <= set(record):
        raise DataError(f"{path} is damaged; remove it, and its job is done again")
    return record


class Experiment:
    """A recipe's jobs on one machine."""

    def __init__(self, recipe: Recipe, root: Path | None = None, stop: Stop | None = None):
        self.recipe, self.run = recipe, RunLayout(root or recipe.folder)
        self.branches = read_branches(self.run)
        self.fingerprints = Fingerprints(recipe, self.branches)
        self.cache = Path(recipe.cache)
        self.stop = stop or Stop()

    @staticmethod
    def of(root: Path, stop: Stop | None = None) -> Experiment:
        """The experiment of a run that is there."""
        if not (root / "config.yaml").exists():
            if points := RunLayout(root).points():
                raise RecipeError(f"{root} is a sweep; give one of its points, as {root / points[0]}, of {', '.join(points)}")
            raise RecipeError(f"{root} is not a run: it has no config.yaml; imprint run makes one, as runs/quickstart")
        return Experiment(load_recipe(root / "config.yaml"), root, stop)

    @property
    def models(self) -> list[str]:
        """The models that are trained: the recipe's, and their branches."""
        return with_branches(self.recipe.train.models, self.branches)

    @cached_property
    def staging(self) -> Staging:
        """What the stages of the recipe are made of."""
        from slurm.staging import Staging

        return Staging(self)

    @cached_property
    def world(self) -> World:
        """The processes that were started, and this one's place among them."""
        return World.here()

    # -------------------------------------------------------------------------------------------- jobs

    def jobs(self) -> list[Job]:
        """All jobs in an order in which they can be done."""
        if self.recipe.models:
            from slurm.released import released_jobs

            return released_jobs(self)
        from slurm.pipeline import pipeline_jobs

        return pipeline_jobs(self)

    def execute(self, stage: str | None = None) -> bool:
        """Do what is missing, of all jobs or of one stage (`corpus`, `plan` ...: the first word of a job's name) and what it needs.

        Where srun or torchrun started several processes, the leading one does it, and the others train with it; True for that one.
        Raises RecipeError where the design is impossible, or the run holds checkpoints made with other settings.
        """
        from inject.design import cells
        from slurm.training import follow, refuse_impossible

        if not self.recipe.models:
            cells(self.recipe.insert, self.recipe.train.steps)
        self.refuse_other_settings()
        jobs = self.upto(stage)
        if any(job.name.startswith("train-") and job.missing() for job in jobs):
            refuse_impossible(self.recipe, self.world)
        if not self.world.leads:
            follow(self, stage)
            return False
        with self.folder():
            for job in jobs:
                self._do(job)
        return True

    def do(self, names: Sequence[str]) -> None:
        """Do jobs by their names, and no others: what SLURM's tasks call. DataError where what they need is not done."""
        from slurm.training import refuse_impossible

        jobs = {job.name: job for job in self.jobs()}
        for name in names:
            if name not in jobs:
                raise RecipeError(f"{self.run.root} has no job {name!r}; it has: {', '.join(jobs)}")
        self.refuse_other_settings()
        for name in names:
            for need in (jobs[need] for need in jobs[name].needs):
                if need.name == "corpus" and need.missing() and self.world.leads and need.outputs[0].exists():
                    self._do(need)  # another point of the sweep, or another run, has made it
                if reason := need.missing():
                    raise DataError(f"{name} needs the job {need.name}, of which {self.run.root} says: {reason}")
            trains = name.startswith("train-")
            if trains and jobs[name].missing():
                refuse_impossible(self.recipe, self.world)
            if self.world.leads:
                self._do(jobs[name])
            elif trains and jobs[name].missing():
                jobs[name].work()

    def prepare(self) -> None:
        """Do the jobs of no SLURM array, before the arrays are submitted: nodes often can't reach the hub."""
        self.refuse_other_settings()
        with self.folder():
            for job in self.jobs():
                if not job.array:
                    self._do(job)

    @contextmanager
    def folder(self) -> Iterator[None]:
        """The run's folder, with its configuration, within the block; removed again if made here and nothing is trained in it."""
        fresh = not self.run.root.exists()
        try:
            self.run.root.mkdir(parents=True, exist_ok=True)
            if not self.recipe.models:  # which need no corpus
                self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if fresh:
                shutil.rmtree(self.run.root, ignore_errors=True)
            raise ImprintError(
                f"{error.filename} can't be written ({error.strerror}); choose other folders with runs= and cache="
            ) from error
        try:
            with Lock(self.run.root, self.world.scheduled), atomic_file(self.run.config) as temporary:
                save_recipe(self.recipe, temporary)
            yield
        except (LockError, Stopped):  # whoever is refused the lock must not touch the folder, and what was stopped goes on in it
            raise
        except ImprintError:
            if fresh and not self.run.models() and not any(self.run.root.glob("*/scores/*")):  # refused before there is anything
                shutil.rmtree(self.run.root)
            raise

    def upto(self, stage: str | None) -> list[Job]:
        """The jobs of a stage and of those before it; all jobs without one."""
        jobs = self.jobs()
        if stage is None:
            return jobs
        if stage == "decontaminate" and self.recipe.decontaminate.policy == "none":
            raise RecipeError("decontaminate.policy is none; set it to fail, report, documents or redraw")
        stages = [job.name.split("-")[0] for job in jobs]
        if stage not in stages:
            own = ", ".join(dict.fromkeys(stages))
            raise RecipeError(f"{stage} is no job of {self.recipe.name}, which scores models that exist; its jobs are: {own}")
        return jobs[: len(stages) - stages[::-1].index(stage)]

    def _do(self, job: Job) -> None:
        own = job.name.startswith("train-")  # training holds a lock of its own
        with nullcontext() if own else Lock(job.folder, self.world.scheduled):
            self._do_alone(job)

    def _do_alone(self, job: Job) -> None:
        reason = job.missing()
        if reason is None:
            print(f"{job.name}: done before", flush=True)
            return
        print(f"{job.name}: {reason}", flush=True)
        job.record.unlink(missing_ok=True)  # which says what the files are that now change
        start = time.monotonic()
        job.work()
        seconds = time.monotonic() - start
        if absent := job.absent():
            raise DataError(f"the job {job.name} is over, but {absent} is missing; imprint run, or submit --missing, does it again")
        outputs = {str(path): file_fingerprint(path) for path in job.made()}
        write_json(job.record, {"fingerprint": job.fingerprint, "seconds": round(seconds, 1), "outputs": outputs})

    def refuse_other_settings(self) -> None:
        """Nothing trained is overwritten: a run whose checkpoints were made with other settings is another run."""
        for model in self.run.models():
            layout = self.run.model(model)
            steps = layout.checkpoints()
            if not steps or CheckpointInfo.read(layout.checkpoint(steps[-1])).config == self.fingerprints.train(model):
                continue
            named = ", ".join(self._changed_settings()) or "or by another version of Imprint"
            raise RecipeError(
                f"{self.run.root} holds checkpoints of {model} made with other settings ({named}); nothing trained is overwritten: "
                f"give this run a name of its own, as name={self.recipe.name}-2"
            )

    def _changed_settings(self) -> list[str]:
        """Keys of the settings that training depends on whose values differ from those the run was made with."""
        try:
            made_with = load_recipe(self.run.config)
        except RecipeError:
            return []
        keys = [key for key in differences(result_settings(made_with), result_settings(self.recipe)) if key.split(".")[0] != "eval"]
        if self.recipe.stages and self.recipe.train.held_out_rows != made_with.train.held_out_rows:
            keys.append("train.held_out_rows")  # execution for pretraining; a stage's passages leave these rows out
        return keys

    # -------------------------------------------------------------------------------------------- what the models are trained of

    @cached_property
    def base_corpus(self) -> Corpus:
        """The corpus as it was tokenized."""
        from inject.corpus import Corpus

        folder = self.cache / self.fingerprints.corpus
        if not (folder / "meta.json").exists():
            raise DataError(f"there is no corpus in {folder} yet; imprint corpus makes it")
        return Corpus(folder)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that the run is trained of."""
        from inject.corpus import Corpus

        return Corpus(self.run.corpus)

    def plan_of(self, model: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The occurrences in a model's stream: all, none (standard), or all but those of one item set (without-SET); of a branch,
        its parent's without some items, or with a placebo's spans.
        """
        from slurm.planning import read_plan

        if tables := self._branch(model):
            return tables.plan(self.plan_of(tables.branch.parent, columns))
        return self._of_model(read_plan(self.run.plan, columns), model)

    def texts_of(self, model: str) -> pa.Table:
        """The texts of all items, and of the spans that a model's stream holds besides."""
        tables = self._branch(model)
        return tables.texts(self.texts_of(tables.branch.parent)) if tables else read_table(self.run.texts)

    def assignment_of(self, model: str) -> pa.Table:
        """The items whose copies are in a model's stream, with their arms."""
        if tables := self._branch(model):
            return tables.assignment(self.assignment_of(tables.branch.parent))
        return self._of_model(read_table(self.run.assignment), model)

    def _branch(self, model: str) -> Tables | None:
        branch = self.branches.get(model)
        return Tables(branch, self.run.model(model).placebo) if branch else None

    def _of_model(self, table: pa.Table, model: str) -> pa.Table:
        if model == "standard":
            return table.slice(0, 0)
        if not model.startswith("without-"):
            return table
        items = read_table(self.run.items, columns=["item_id", "item_set"])
        left_out = items.filter(pc.equal(items["item_set"], model.removeprefix("without-")))["item_id"]
        return table.filter(pc.invert(pc.is_in(table["item_id"], left_out)))

    def base_stream(self) -> Stream:
        """The corpus in the order of training, with nothing inserted."""
        return self._stream()

    def stream(self, model: str) -> Stream:
        """The training stream of a model: the corpus with the model's plan laid over it."""
        from inject.stream import Overlay

        overlay = Overlay.from_tables(self.plan_of(model, Overlay.COLUMNS), self.texts_of(model), self.corpus.end_of_text)
        return self._stream(overlay)

    def _stream(self, overlay: Overlay | None = None) -> Stream:
        from inject.labels import label_mask
        from inject.stream import Stream

        recipe, train = self.recipe, self.recipe.train
        labels = label_mask(train.loss, recipe.seed_for("init"))
        return Stream(self.corpus, recipe.seed_for("order"), train.sequence_length, overlay, labels)

    def findings(self) -> list[dict[str, Any]]:
        path = self.run.report / "findings.json"
        if not path.exists():
            raise DataError(f"{path} does not exist; imprint run makes it")
        return read_json(path)
