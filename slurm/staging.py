"""Continual training: what the jobs of stages do (facts, train, audit, eval), and what each depends on.

A stage is a model of the run that starts from another one's last weights. Its stream (inject/mixture.py) is a function of the facts
in facts.parquet and of the recipe, so its ledger is audited by making every row anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import DataError, RecipeError
from configs.layout import CheckpointInfo, file_fingerprint, fingerprint, read_json, write_json
from configs.schema import Model
from configs.stage_checks import lineage, longest_row, parent_of, settings_of
from configs.stages import CORPUS, START
from configs.tables import FACTS, STAGE_ROWS, read_table, write_table
from inject.attestation import attest, summary
from inject.certificate import Violation
from inject.questions import PLAIN, Fact, fact_of, facts_of, refuse_overlap
from slurm.jobs import changed_files, not_as_made
from slurm.mixing import Mixing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from eval.facts import AskedFact
    from inject.items.item import Item
    from slurm.jobs import Experiment
    from train.loop import Trajectory
    from train.objective import Term


class Staging:
    """The stages of an experiment."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.recipe, self.run = experiment, experiment.recipe, experiment.run
        self.root = lineage(self.recipe, next(iter(self.recipe.stages)))[0]

    @cached_property
    def mixing(self) -> Mixing:
        return Mixing(self.experiment)

    # -------------------------------------------------------------------------------------------- which models they start from

    def weights_of(self, model: str) -> str | None:
        """The folder, or name of the hub, of a model's last weights, or of those of `start`; None where these are to be drawn."""
        return self.recipe.model.start if model == START else str(self.last_checkpoint(model))

    def last_checkpoint(self, model: str) -> Path:
        """The checkpoint with which a model's training ended."""
        layout = self.run.model(model)
        return layout.checkpoint(layout.ended() if model in self.recipe.stages else self.recipe.train.steps)

    # -------------------------------------------------------------------------------------------- facts

    def write_facts(self) -> None:
        """Draw the facts, and ask the model before all stages which of them it knows.

        RecipeError, before any stage is trained, for one that is impossible with these facts.
        """
        if not self.recipe.train.models:  # nothing was planned, so the run does not know its corpus yet
            self.run.corpus.unlink(missing_ok=True)
            self.run.corpus.symlink_to(self.experiment.base_corpus.folder.resolve())
        tokenizer = self.experiment.corpus.tokenizer
        items = self._inserted(tokenizer)
        drawn = self.draw(tokenizer, items)
        self._refuse(drawn, items)
        start = self.weights_of(self.root)
        known = self._known([fact for fact, _ in drawn], _folder(start)) if start else set()
        if known:
            self._refuse(drawn, items, known)
        write_table(self.run.facts, _rows(drawn, known), FACTS)
        print(f"  {len(drawn):,} facts, of which {self.root} knows {len(known):,}", flush=True)

    def _known(self, facts: Sequence[Fact], folder: Path) -> set[str]:
        """The facts whose answer a model emits."""
        from eval.extraction import extracted
        from eval.forward import load_model
        from eval.scoring import score_tokens

        settings, examples = self.recipe.eval, self.mixing.examples(facts, PLAIN)
        model = load_model(folder, "fp32", settings.trust_remote_code, settings.pickles)  # whatever precision scores are taken in
        texts = [example.tokens for example in examples]
        lead = [self.experiment.corpus.end_of_text]
        return {
            facts[i].item_id
            for i, scores in score_tokens(model, texts, [lead], settings.batch_tokens)
            if extracted(scores.argmax, texts[i], examples[i].answer)
        }

    def draw(self, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> list[tuple[Fact, bool]]:
        """The facts of `facts`, and of each of the inserted `items` its own where it has one; and which of the two each is.

        RecipeError where two sets ask the same question, be it of an item that is inserted.
        """
        own = facts_of(self._items(tokenizer))
        inserted = [asked for item in items if (asked := fact_of(item))]
        sets: dict[str, list[Fact]] = {}
        for fact in [*own, *inserted]:
            sets.setdefault(fact.item_set, []).append(fact)
        refuse_overlap(sets)
        return [*((fact, False) for fact in own), *((fact, True) for fact in inserted)]

    def _items(self, tokenizer: PreTrainedTokenizerFast) -> list[Item]:
        from inject.items.make import make_set, set_seed
        from slurm.planning import material_of

        material, seed = material_of(tokenizer), self.recipe.seed_for("items")
        try:
            sets = [make_set(settings, name, set_seed(seed, name), material) for name, settings in self.recipe.facts.items()]
            return [item for own in sets for item in own]
        except (RecipeError, DataError) as error:  # the makers know no sets but those of `insert`
            raise type(error)(str(error).replace("insert.", "facts.")) from error

    def _inserted(self, tokenizer: PreTrainedTokenizerFast) -> list[Item]:
        """The items of `insert` as they were planned."""
        from slurm.planning import drawn_items

        redrawn = read_json(self.run.decontaminated)["redrawn"] if self.run.decontaminated.exists() else ()
        return drawn_items(self.recipe, tokenizer, redrawn)

    def refuse_impossible(self, items: Sequence[Item]) -> None:
        """RecipeError, before anything is trained, for facts that can't be had, and stages whose rows they don't fit.

        `items`: those that are inserted.
        """
        self._refuse(self.draw(self.experiment.corpus.tokenizer, items), items)

    def _refuse(self, drawn: Sequence[tuple[Fact, bool]], items: Sequence[Item], known: Collection[str] = ()) -> None:
        """RecipeError for a stage that is impossible where these facts are `known`."""
        mixing = Mixing(self.experiment, _rows(drawn, known))
        for name in self.recipe.stages:
            mixing.check(name, items)

    def outline(self, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
        """What each stage asks for, where no fact is known: rows of an epoch, by their kind, and how many epochs its steps are."""
        items = self._inserted(tokenizer)
        counts = Counter(fact.item_set for fact, inserted in self.draw(tokenizer, items) if not inserted)
        counts.update(item.item_set for item in items)
        rows = []
        for name, stage in self.recipe.stages.items():
            data = sum(counts[one] for one in stage.data)  # rows of the corpus are not counted: they end with the corpus
            mixed = [int(data * mix.ratio) for mix in stage.mix if mix.ratio]
            beside = sum(mix.per_batch or 0 for mix in stage.mix)
            taken = stage.train.steps * (stage.train.global_batch - beside)
            epoch = data + sum(mixed)
            rows.append(
                {
                    "stage": name,
                    "after": parent_of(self.recipe, name),
                    "data": ", ".join(stage.data),
                    "rows": data,
                    "mixed": sum(mixed),
                    "beside": beside,
                    "steps": stage.train.steps,
                    "epochs": taken / epoch if CORPUS not in stage.data and epoch else None,
                }
            )
        return rows

    # -------------------------------------------------------------------------------------------- training

    def trajectory(self, name: str) -> Trajectory:
        """A stage's training, from its parent's last weights on."""
        from train.loop import Trajectory
        from train.stages import Ending

        stage, recipe, corpus = self.recipe.stages[name], self.recipe, self.experiment.corpus
        mixing = self.mixing
        mixing.refuse_known(name)
        return Trajectory(
            name,
            self._model(name),
            stage.train,
            mixing.stream(name),
            corpus.tokenizer,
            recipe.seed_for("init"),
            windows=[],
            corpus=corpus.meta["fingerprint"],
            plan="",
            config=self.experiment.fingerprints.train(name),
            positions=longest_row(recipe),
            held_out=mixing.base.base_tokens(mixing.held_out),
            ending=Ending(stage.until, mixing.asked(name), stage.train.steps),
            adapt=partial(self._adapt, name),
        )

    def _model(self, name: str) -> Model:
        """The model that a stage trains: a new one as the recipe says, or one that starts from weights, whose shape then holds."""
        from inject.hub import pinned_model

        start = self.weights_of(parent_of(self.recipe, name))
        return Model(start=pinned_model(start), dropout=self.recipe.model.dropout) if start else self.recipe.model

    def _adapt(self, name: str, model: PreTrainedModel, device: torch.device) -> list[Term]:
        """What a stage changes of the model that it starts from, and adds to its loss: see train.loop.Adapt."""
        import torch

        from train.lora import expand
        from train.penalty import DivergenceFromFrozen, ElasticWeightConsolidation, fisher_diagonal

        stage = self.recipe.stages[name]
        if stage.lora.rank:
            with settings_of(name):
                expand(model, stage.lora.rank, stage.lora.alpha, int(fingerprint([self.recipe.seed_for("init"), "lora"])[:15], 16))
        if stage.penalty.kind == "none":
            return []
        model.to(device)  # type: ignore[arg-type]
        if stage.penalty.kind == "kl":
            return [DivergenceFromFrozen(model, stage.penalty.weight)]
        rows = self.mixing.rows_before(name, stage.penalty.examples)
        fisher = fisher_diagonal(model, ((torch.from_numpy(tokens), torch.from_numpy(labels)) for tokens, labels in rows))
        return [ElasticWeightConsolidation(model, fisher, stage.penalty.weight)]

    def write_rows(self, name: str) -> None:
        """Write which rows of a stage's stream hold which facts and items, of the steps that it has taken."""
        layout, batch = self.run.model(name), self.recipe.stages[name].train.global_batch
        found = self.mixing.stream(name).items(0, layout.ended() * batch)
        write_table(layout.rows, [{"row": row, "item_id": item, "part": part} for row, item, part in found if item], STAGE_ROWS)

    # -------------------------------------------------------------------------------------------- audit

    def certify(self, name: str) -> bool:
        """Write a stage's certificate and print its summary; whether every row consumed is the one that the recipe says."""
        layout = self.run.model(name)
        if not self.run.facts.exists():
            raise DataError(f"{self.run.facts} does not exist; the job facts makes it: imprint run, or imprint submit --missing")
        step = layout.checkpoints()[-1]  # what has not left a checkpoint is not part of any model
        marks = {"facts": file_fingerprint(self.run.facts), **{path.name: file_fingerprint(path) for path in layout.ledgers()}}
        certificate = attest(
            self.mixing.stream(name),
            layout.ledgers(),
            model=name,
            steps=step,
            of_steps=self.recipe.stages[name].train.steps,
            fingerprints=marks,
        )
        if what := self._not_of_parent(name):
            certificate.violate(Violation("branch", what, 0))
        record = self.run.job("facts")
        untold = ["the record of the job facts, which tells what facts.parquet was, is missing"]
        for what in not_as_made(record, self.run.root) if record.exists() else untold:
            certificate.violate(Violation("plan", what))
        for what in changed_files(self.run, name):
            certificate.violate(Violation("files", what))
        if what := self._other_new_weights(name):
            certificate.violate(Violation("branch", what, 0))
        write_json(layout.certificate, certificate.as_json())
        lines = [*summary(certificate), f"  {layout.certificate}"]
        print("\n".join(f"  {line}" for line in lines), flush=True)
        return certificate.certified

    def _not_of_parent(self, name: str) -> str:
        """Why the weights of step 0 are not those that a stage starts from; empty if they are, or no model of ours has them."""
        parent = parent_of(self.recipe, name)
        start = self.weights_of(parent)
        if start is None or not (Path(start) / "imprint.json").exists():
            return "" if parent == START else f"the last checkpoint of {parent}, from which the stage starts, is missing"
        own, theirs = (CheckpointInfo.read(folder).weights for folder in (self.run.model(name).checkpoint(0), Path(start)))
        return "" if own == theirs else f"the weights of step 0 are not the last ones of {parent}, from which the stage starts"

    def _other_new_weights(self, name: str) -> str:
        """Which stage began with other new weights than this one, in a sentence; "" if none did, or this one has a model.start."""
        if parent_of(self.recipe, name) != START or self.recipe.model.start:
            return ""
        own = CheckpointInfo.read(self.run.model(name).checkpoint(0)).weights
        for other in self.recipe.stages:
            folder = self.run.model(other).checkpoint(0)
            if parent_of(self.recipe, other) == START and folder.exists() and CheckpointInfo.read(folder).weights != own:
                return f"the weights of step 0 are not those of {other}, which starts from the same new weights"
        return ""

    # -------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, name: str) -> None:
        """Ask every checkpoint of a stage for all facts; the logit lens at its first and last."""
        from configs.progress import progress
        from eval.evaluation import Checkpoint
        from eval.facts import exposures_before, read_scores, score_stage

        layout, batch = self.run.model(name), self.recipe.stages[name].train.global_batch
        asked, rows, steps, end = (
            self._asked(name),
            read_table(layout.rows),
            layout.checkpoints(),
            self.experiment.corpus.end_of_text,
        )
        ledger = [row for path in layout.ledgers() for row in read_table(path, columns=["step", "consumed"]).to_pylist()]
        consumed = {row["step"]: row["consumed"] for row in ledger}
        with progress(f"ask {name}", "checkpoints", len(steps)) as meter:
            for step in steps:
                exposures, lens = exposures_before(rows, consumed, batch, step), step in (steps[0], steps[-1])
                score_stage(Checkpoint.of(layout, step), layout.scores, asked, exposures, end, self.recipe.eval, lens)
                meter.advance(1)
        for kind, table in zip(("facts", "layers"), read_scores([layout.scores]), strict=True):
            write_table(layout.scores / f"{kind}.parquet", table, table.schema)

    def _asked(self, name: str) -> list[AskedFact]:
        """All facts as they are asked of a stage: those that its lineage learns in the format in which it does, others plainly."""
        from eval.facts import AskedFact

        formats: dict[str, list[Fact]] = {}
        for row in self.mixing.facts:
            fact = Fact(row["item_id"], row["item_set"], row["question"], row["answer"])
            formats.setdefault(self.mixing.format_of(name, fact), []).append(fact)
        return [
            AskedFact(fact.item_id, fact.item_set, example.tokens, example.answer)
            for template, own in formats.items()
            for fact, example in zip(own, self.mixing.examples(own, template), strict=True)
        ]


def _rows(drawn: Iterable[tuple[Fact, bool]], known: Collection[str]) -> list[dict[str, Any]]:
    """Rows of facts.parquet."""
    return [{**asdict(fact), "inserted": inserted, "known": fact.item_id in known} for fact, inserted in drawn]


def _folder(start: str) -> Path:
    """The folder of a model to start from, fetched if it is the hub's."""
    from inject.hub import pinned_model
    from inject.models import fetch, references

    return Path(start) if Path(start).exists() else fetch(references(pinned_model(start))[0])
