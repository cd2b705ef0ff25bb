"""The jobs of an experiment: corpus -> plan -> train -> eval -> report. What each depends on, and whether it is done.

The one place that puts the parts together. A job's fingerprint covers its own result settings, its inputs' fingerprints and a
format version; a job whose record carries the same fingerprint and whose outputs are there is not done again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from configs.errors import DataError, ImprintError, RecipeError
from configs.layout import (
    ASSIGNMENT,
    ITEMS,
    PLAN,
    TEXTS,
    CheckpointInfo,
    Lock,
    RunLayout,
    atomic_file,
    fingerprint,
    read_json,
    read_table,
    write_csv,
    write_json,
    write_table,
)
from configs.recipe import differences, load_recipe, result_settings, save_recipe
from configs.schema import Recipe

PLAN_FORMAT, TRAIN_FORMAT, EVAL_FORMAT, REPORT_FORMAT = 1, 1, 1, 1


@dataclass(frozen=True)
class Job:
    """One job: what it depends on (`fingerprint`), what it makes (`outputs`), and how."""

    name: str
    fingerprint: str
    outputs: list[Path]
    work: Callable[[], None]
    record: Path

    def missing(self) -> str | None:
        """Why the job has to be done, or None where it is done."""
        if not self.record.exists():
            return "not done yet"
        if read_json(self.record)["fingerprint"] != self.fingerprint:
            return "its settings or inputs have changed"
        absent = [path.name for path in self.outputs if not path.exists()]
        return f"{absent[0]} is missing" if absent else None


class Experiment:
    """A recipe's jobs on one machine."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.run = RunLayout(Path(recipe.runs) / recipe.name)
        self.cache = Path(recipe.cache)

    # -------------------------------------------------------------------------------------------- fingerprints

    @cached_property
    def corpus_fingerprint(self) -> str:
        from inject.corpus import corpus_fingerprint

        return corpus_fingerprint(self.recipe.corpus, self.recipe.seed)

    @cached_property
    def plan_fingerprint(self) -> str:
        recipe, train = self.recipe, self.recipe.train
        seeds = [recipe.seed_for(purpose) for purpose in ("items", "assignment", "placement")]
        shape = [train.steps, train.global_batch, train.sequence_length, recipe.corpus.epochs]
        settings = [result_settings(recipe.insert), result_settings(recipe.design)]
        return fingerprint(["plan", PLAN_FORMAT, self.corpus_fingerprint, settings, seeds, shape])

    def train_fingerprint(self, model: str) -> str:
        recipe = self.recipe
        settings = result_settings(recipe.train)
        settings.pop("models")
        seeds = [recipe.seed_for("order"), recipe.seed_for("init")]
        plan = self.plan_fingerprint if model != "standard" else None
        return fingerprint(
            ["train", TRAIN_FORMAT, model, result_settings(recipe.model), settings, seeds, self.corpus_fingerprint, plan]
        )

    def eval_fingerprint(self, model: str) -> str:
        settings = result_settings(self.recipe.eval)
        return fingerprint(["eval", EVAL_FORMAT, settings, self.train_fingerprint(model), self.plan_fingerprint])

    # -------------------------------------------------------------------------------------------- jobs

    def jobs(self) -> list[Job]:
        """All jobs in an order in which they can be done."""
        run, models = self.run, self.recipe.train.models
        corpus = self.cache / self.corpus_fingerprint
        tables = [run.items, run.texts, run.assignment, run.plan, run.balance]
        jobs = [
            Job("corpus", self.corpus_fingerprint, [corpus / "meta.json"], self.make_corpus, run.job("corpus")),
            Job("plan", self.plan_fingerprint, tables, self.make_plan, run.job("plan")),
        ]
        for model in models:
            last = run.model(model).checkpoint(self.recipe.train.steps) / "imprint.json"
            jobs.append(
                Job(f"train-{model}", self.train_fingerprint(model), [last], partial(self.train, model), run.job(f"train-{model}"))
            )
        for model in models:
            scores = run.model(model).scores
            outputs = [scores / "scores.parquet", scores / "effects.parquet"]
            jobs.append(
                Job(f"eval-{model}", self.eval_fingerprint(model), outputs, partial(self.evaluate, model), run.job(f"eval-{model}"))
            )
        reported = fingerprint(["report", REPORT_FORMAT, [self.eval_fingerprint(model) for model in models]])
        jobs.append(
            Job("report", reported, [run.report / "index.html", run.report / "findings.json"], self.report, run.job("report"))
        )
        return jobs

    def execute(self, stage: str | None = None) -> None:
        """Do what is missing, of all jobs or of one stage (corpus, plan, train, eval or report) and what it needs.

        Raises RecipeError where the run holds checkpoints made with other settings.
        """
        self.refuse_other_settings()
        fresh = not self.run.root.exists()
        try:
            self.run.root.mkdir(parents=True, exist_ok=True)
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImprintError(
                f"{error.filename} can't be written ({error.strerror}); choose other folders with runs= and cache="
            ) from error
        with Lock(self.run.root):  # whoever is refused the lock must not touch the folder
            try:
                with atomic_file(self.run.config) as temporary:
                    save_recipe(self.recipe, temporary)
                for job in self.upto(stage):
                    self._do(job)
            except ImprintError:
                if fresh and not self.run.models():  # refused before anything was trained: leave nothing
                    shutil.rmtree(self.run.root)
                raise

    def upto(self, stage: str | None) -> list[Job]:
        """The jobs of a stage and of those before it; all jobs without one."""
        jobs = self.jobs()
        if stage is None:
            return jobs
        last = max(i for i, job in enumerate(jobs) if job.name.split("-")[0] == stage)
        return jobs[: last + 1]

    def _do(self, job: Job) -> None:
        reason = job.missing()
        if reason is None:
            print(f"{job.name}: done before", flush=True)
            return
        print(f"{job.name}: {reason}", flush=True)
        start = time.monotonic()
        job.work()
        seconds = time.monotonic() - start
        write_json(
            job.record,
            {"fingerprint": job.fingerprint, "seconds": round(seconds, 1), "outputs": [str(path) for path in job.outputs]},
        )

    def refuse_other_settings(self) -> None:
        """Nothing trained is overwritten: a run whose checkpoints were made with other settings is another run."""
        for model in self.run.models():
            layout = self.run.model(model)
            steps = layout.checkpoints()
            if not steps or CheckpointInfo.read(layout.checkpoint(steps[-1])).config == self.train_fingerprint(model):
                continue
            named = ", ".join(self._changed_settings()) or "they are not told apart by its config.yaml"
            raise RecipeError(
                f"{self.run.root} holds checkpoints of {model} made with other settings ({named}); nothing trained is overwritten: "
                f"give this run a name of its own, as name={self.recipe.name}-2"
            )

    def _changed_settings(self) -> list[str]:
        """Keys of the settings that training depends on whose values differ from those the run was made with."""
        try:
            made_with = result_settings(load_recipe(self.run.config))
        except RecipeError:
            return []
        keys = differences(made_with, result_settings(self.recipe))
        return [key for key in keys if key.split(".")[0] != "eval"]

    # -------------------------------------------------------------------------------------------- work

    def make_corpus(self) -> None:
        from inject.corpus import build_corpus

        folder = self.cache / self.corpus_fingerprint
        if (folder / "meta.json").exists():
            print(f"  found in {folder.parent}", flush=True)
        else:
            build_corpus(self.recipe.corpus, self.recipe.seed, folder, self.corpus_fingerprint)

    @cached_property
    def corpus(self) -> Any:
        from inject.corpus import Corpus

        return Corpus(self.cache / self.corpus_fingerprint)

    def make_plan(self) -> None:
        from inject.design import assign, balance
        from inject.items.make import make_items
        from inject.items.texts import tokenize_texts
        from inject.plan import make_plan
        from inject.stream import check_length
        from train.model import check_model

        recipe, train, run = self.recipe, self.recipe.train, self.run
        check_length(self.corpus, train.sequence_length, train.steps, train.global_batch, recipe.corpus.epochs)
        check_model(recipe.model, self.corpus.vocabulary, train.sequence_length)
        items = make_items(recipe.insert, recipe.seed_for("items"))
        texts = tokenize_texts(items, self.corpus.tokenizer, train.sequence_length)
        assignment = assign(items, recipe.design, recipe.seed_for("assignment"))
        lengths: dict[str, list[tuple[str, int]]] = {item.item_id: [] for item in items}
        for text in texts:
            lengths[text["item_id"]].append((text["variant"], len(text["tokens"])))
        strata = [item.stratum for item in items]
        plan = make_plan(
            assignment, strata, lengths, train.steps, train.global_batch, train.sequence_length, recipe.seed_for("placement")
        )
        balanced = balance(items, assignment, {item: fmean(n for _, n in variants) for item, variants in lengths.items()})

        corpus_link = run.corpus
        corpus_link.unlink(missing_ok=True)
        corpus_link.symlink_to((self.cache / self.corpus_fingerprint).resolve())
        write_table(run.items, [{**asdict(item), "fields": json.dumps(item.fields, ensure_ascii=False)} for item in items], ITEMS)
        write_table(run.texts, texts, TEXTS)
        write_table(run.assignment, assignment, ASSIGNMENT)
        write_table(run.plan, plan, PLAN)
        write_csv(run.balance, balanced)
        tokens = sum(plan["length"].to_pylist())
        share = tokens / (train.steps * train.global_batch * (train.sequence_length + 1))
        print(f"  {len(items):,} items, {plan.num_rows:,} occurrences, {tokens:,} tokens: {share:.1%} of training", flush=True)

    def stream(self, model: str) -> Any:
        """The training stream of a model: with the plan's overlay, or for `standard` without."""
        from inject.stream import Overlay, Stream

        overlay = None
        if model != "standard":
            overlay = Overlay.from_tables(read_table(self.run.plan), read_table(self.run.texts), self.corpus.end_of_text)
        return Stream(self.corpus, self.recipe.seed_for("order"), self.recipe.train.sequence_length, overlay)

    def train(self, model: str) -> None:
        from inject.stream import check_length
        from train.loop import Trajectory, train

        settings = self.recipe.train
        check_length(self.corpus, settings.sequence_length, settings.steps, settings.global_batch, self.recipe.corpus.epochs)
        trajectory = Trajectory(
            model,
            self.recipe.model,
            settings,
            self.stream(model),
            self.corpus.tokenizer,
            self.recipe.seed_for("init"),
            corpus=self.corpus_fingerprint,
            plan=self.plan_fingerprint if model != "standard" else "",
            config=self.train_fingerprint(model),
        )
        train(trajectory, self.run.model(model), self.cache)

    def evaluate(self, model: str) -> None:
        from eval.evaluation import Evaluation, evaluate

        run = self.run
        items, texts, assignment, plan = (read_table(path) for path in (run.items, run.texts, run.assignment, run.plan))
        evaluation = Evaluation(self.recipe.eval, items, texts, assignment, plan, self.corpus.tokenizer)
        evaluate(evaluation, run.model(model), self.recipe.train.global_batch, self.recipe.seed_for("assignment"))

    def report(self) -> None:
        import pandas as pd

        from eval.findings import findings
        from eval.report import write_report

        models = self.recipe.train.models
        model = "perturbed" if "perturbed" in models else models[0]
        effects = [read_table(self.run.model(model).scores / "effects.parquet").to_pandas() for model in self.recipe.train.models]
        write_report(self.run, self.recipe, findings(pd.concat(effects), self.recipe, model))

    def findings(self) -> list[dict[str, Any]]:
        path = self.run.report / "findings.json"
        if not path.exists():
            raise DataError(f"{path} does not exist; imprint run makes it")
        return read_json(path)
