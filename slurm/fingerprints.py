"""What each job of an experiment depends on, as a fingerprint: its result settings, its inputs' fingerprints and a format version.

Execution settings (devices, threads, folders) are in none of them. A format is raised where a job's output changes for the same
settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import RecipeError
from configs.layout import contents, fingerprint
from configs.recipe import result_settings
from configs.schema import Recipe, Train
from configs.stage_checks import lineage, longest_row, parent_of, replayed
from configs.stages import START
from slurm.branches import Branch

FACTS_FORMAT, STAGE_FORMAT = 1, 1
DECONTAMINATE_FORMAT, PLAN_FORMAT, TRAIN_FORMAT, AUDIT_FORMAT, EVAL_FORMAT, REPORT_FORMAT = 2, 2, 3, 4, 5, 5


class Fingerprints:
    """The fingerprints of a recipe's jobs, and of those of the run's branches."""

    def __init__(self, recipe: Recipe, branches: Mapping[str, Branch]):
        self.recipe, self.branches = recipe, branches

    @cached_property
    def corpus(self) -> str:
        from inject.corpus import corpus_fingerprint

        return corpus_fingerprint(self.recipe.corpus, self.recipe.seed)

    @cached_property
    def items(self) -> str:
        """What the items and their arms depend on, with the content of the files and the commits of the hub they are made of."""
        from inject.items.commits import commits

        settings = result_settings(self.recipe.insert)
        for item_set in settings.values():
            del item_set["design"]["reference"]  # of which only the balance table is made
        sources = contents(settings) | commits(self.recipe.insert)
        return fingerprint([settings, sources, self.recipe.seed_for("items"), self.recipe.train.sequence_length])

    @cached_property
    def decontaminate(self) -> str:
        settings = result_settings(self.recipe.decontaminate)
        return fingerprint(["decontaminate", DECONTAMINATE_FORMAT, self.corpus, self.items, settings])

    @cached_property
    def plan(self) -> str:
        """What the plan depends on. Decontamination that only looks (`fail`, `report`) changes nothing."""
        recipe, train = self.recipe, self.recipe.train
        changes = recipe.decontaminate.policy in ("documents", "redraw")
        inputs = [self.corpus, self.items, self.decontaminate if changes else None]
        seeds = [recipe.seed_for(purpose) for purpose in ("assignment", "placement", "order")]
        shape = [train.steps, train.global_batch, train.sequence_length, recipe.corpus.epochs]
        return fingerprint(["plan", PLAN_FORMAT, inputs, seeds, shape])

    @cached_property
    def tables(self) -> str:
        """What the tables beside the plan depend on, too: the loss of items under a reference model."""
        from inject.hub import pinned_model

        named = [item_set.design.reference for item_set in self.recipe.insert.values()]
        references = [{"reference": name and pinned_model(name)} for name in named]
        return fingerprint(["tables", self.plan, references, contents(references), self.recipe.decontaminate.policy])

    @cached_property
    def start(self) -> list[Any]:
        """The model that training starts from, if any, and the content of its folder."""
        from inject.hub import pinned_model

        start = self.recipe.model.start and pinned_model(self.recipe.model.start)
        if start and Path(start).exists() and not Path(start, "config.json").is_file():  # before all of a wrong folder is read
            raise RecipeError(f"model.start is {start}, which is no folder of a Hugging Face model: it has no config.json")
        return [start, contents({"start": start})]

    @cached_property
    def facts(self) -> str:
        """What the facts of stages depend on, and which of them the model before the stages knows."""
        from inject.items.commits import commits

        recipe = self.recipe
        root = lineage(recipe, next(iter(recipe.stages)))[0]
        settings = result_settings(recipe.facts)
        for item_set in settings.values():
            item_set.pop("design")  # no copies are placed
        sources = contents(settings) | commits(recipe.facts)
        cleaned = self.decontaminate if recipe.decontaminate.policy in ("documents", "redraw") else None
        inputs = [self.items, self._before(root), cleaned]
        return fingerprint(["facts", FACTS_FORMAT, settings, sources, recipe.seed_for("items"), inputs])

    def _positions(self, own: Train) -> list[int]:
        """How many positions new weights are drawn with, where it is more than the rows of a training of settings `own` need."""
        longest = longest_row(self.recipe)
        return [longest] if self.recipe.model.start is None and longest > own.sequence_length else []

    def _before(self, model: str) -> Any:
        """What the weights depend on that a stage starts from."""
        if model != START:
            return self.train(model)
        shape = [result_settings(self.recipe.model), self.recipe.seed_for("init")]
        return ["start", self.corpus, shape, self.start]

    def _stage(self, name: str) -> str:
        """What a stage's training depends on."""
        recipe = self.recipe
        settings = result_settings(recipe.stages[name])
        settings["train"].pop("models")
        settings.pop("after")  # the model that it names, or that is meant where it names none, is among the inputs
        settings["mix"] = [asdict(replace(mix, of=replayed(recipe, name, mix))) for mix in settings["mix"]]
        pretraining = recipe.train
        read = [pretraining.steps, pretraining.global_batch, pretraining.sequence_length] if pretraining.models else []
        held_out = [pretraining.held_out_rows, pretraining.sequence_length]  # which passages and rows leave out
        parent = parent_of(recipe, name)
        drawn = self._positions(recipe.stages[name].train) if parent == START else []
        inputs = [self.corpus, self.facts, self._before(parent), read, held_out, *drawn]
        seeds = [recipe.seed_for("order"), recipe.seed_for("init")]
        return fingerprint(["stage", STAGE_FORMAT, name, settings, inputs, seeds])

    def train(self, model: str) -> str:
        if model in self.recipe.stages:
            return self._stage(model)
        if branch := self.branches.get(model):
            return branch.fingerprint(self.train(branch.parent))
        recipe = self.recipe
        settings = result_settings(recipe.train)
        settings.pop("models")
        if recipe.train.loss.kind == "full":  # which reads none of its other settings, and was all there was once
            settings.pop("loss")
        seeds = [recipe.seed_for("order"), recipe.seed_for("init")]
        plan = self.plan if model != "standard" or recipe.train.checkpoints.exposures else None
        cleaned = self.decontaminate if recipe.decontaminate.policy == "documents" else None
        inputs = [self.corpus, cleaned, plan, self.start, *self._positions(recipe.train)]
        return fingerprint(["train", TRAIN_FORMAT, model, result_settings(recipe.model), settings, seeds, inputs])

    def eval(self, model: str) -> str:
        if model in self.recipe.stages:
            return fingerprint(["eval", STAGE_FORMAT, self.train(model), self.facts, self.recipe.eval.precision])
        settings = result_settings(self.recipe.eval)
        settings.pop("primary")  # of which the report alone depends
        reference = self.recipe.eval.reference
        compared = contents({"reference": reference}) if reference else self.train("standard")
        inputs = [self.train(model), self.plan, compared if "reference" in self.recipe.eval.membership else None]
        return fingerprint(["eval", EVAL_FORMAT, settings, *inputs])

    def audit(self, model: str) -> str:
        plan = self.facts if model in self.recipe.stages else self.plan
        return fingerprint(["audit", AUDIT_FORMAT, self.train(model), plan])

    def report(self, models: Sequence[str]) -> str:
        recipe = self.recipe
        compared = [recipe.eval.resamples, recipe.seed_for("assignment")] if recipe.stages else []  # of methods
        return fingerprint(["report", REPORT_FORMAT, [self.eval(model) for model in models], recipe.eval.primary, *compared])
