"""The streams of stages: which samples a stage's mixture has, made of facts.parquet, the corpus and the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.errors import RecipeError
from configs.layout import fingerprint
from configs.stage_checks import learned_before, lineage, replayed
from configs.stages import CORPUS, Mix, Stage
from configs.tables import read_table
from inject.mixture import DATA, REPLAY, Mixture, Part, lay
from inject.questions import PLAIN, Example, Fact, Format

if TYPE_CHECKING:
    from inject.items.item import Item
    from inject.stream import Stream
    from slurm.jobs import Experiment


class Mixing:
    """What the stages of an experiment read. It needs the run's corpus, and rows of facts.parquet."""

    def __init__(self, experiment: Experiment, facts: list[dict[str, Any]] | None = None):
        """`facts`: rows of facts.parquet, which are read there if not given."""
        self.recipe, self.run, self.corpus = experiment.recipe, experiment.run, experiment.corpus
        self.base: Stream = experiment.base_stream()
        self._given = facts

    def stream(self, name: str) -> Mixture:
        """The rows of a stage. RecipeError where its data or what it is mixed with don't fit its rows, or there are none."""
        from inject.labels import label_mask

        stage, recipe = self.recipe.stages[name], self.recipe
        data = self._data(name)
        parts = [data, *(self._mixed(name, number, data.per_epoch) for number in range(len(stage.mix)))]
        labels = label_mask(stage.train.loss, recipe.seed_for("init"))
        batch, length = stage.train.global_batch, stage.train.sequence_length
        return Mixture(self.corpus, parts, batch, length, self._seed(name, "epochs"), labels)

    def check(self, name: str, items: Sequence[Item]) -> None:
        """The refusals of `stream` and `refuse_known`, where `items` are inserted, which need not be planned yet."""
        from inject.items.texts import tokenize_texts

        stage = self.recipe.stages[name]
        own = [item for item in items if item.item_set in stage.data]
        texts = tokenize_texts(own, self.corpus.tokenizer, self.recipe.train.sequence_length)
        samples, named = self._samples(name, texts)
        self._refuse_long(name, samples, named)
        rows = len(samples) + (len(self._unread(name)) if CORPUS in stage.data else 0)
        self._refuse_empty(name, rows)
        for number in range(len(stage.mix)):
            self._mixed(name, number, rows)
        self.refuse_known(name)

    def refuse_known(self, name: str) -> None:
        """RecipeError where what a stage asks for takes facts that are learned, and the model before all stages knows them all."""
        stage, root = self.recipe.stages[name], lineage(self.recipe, name)[0]
        if stage.until.exact_match is not None and not self.learned(name):
            raise RecipeError(f"stages.{name}.until.exact_match is set, but {root} knows all its facts; leave it out")
        if stage.penalty.kind == "ewc" and not self.learned_before(name):
            raise RecipeError(
                f"stages.{name}.penalty.kind is ewc, but {root} knows all facts that the stages before {name} have; set their "
                "known=keep"
            )

    def _seed(self, name: str, purpose: Any) -> int:
        """Stages with the same place in their lineage and the same data, which are methods to be compared, draw alike."""
        place = len(lineage(self.recipe, name))
        return int(fingerprint([self.recipe.seed_for("order"), "stage", place, self.recipe.stages[name].data, purpose])[:15], 16)

    # -------------------------------------------------------------------------------------------- facts

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """The rows of facts.parquet."""
        return read_table(self.run.facts).to_pylist() if self._given is None else self._given

    def learned(self, name: str) -> list[Fact]:
        """The facts that a stage learns: those of its sets, without what was known before if it drops that."""
        stage = self.recipe.stages[name]
        return self._facts(stage.data, stage.known)

    def learned_before(self, name: str) -> list[tuple[Fact, str]]:
        """The facts that the stages before one have learned, and the formats in which they did."""
        sets = learned_before(self.recipe, name)
        return [(fact, self.format_of(name, fact)) for one in sets for fact in self._taught(name, one)]

    def format_of(self, model: str, fact: Fact) -> str:
        """How a fact is asked of a model: in the format in which its lineage learns it, plainly if in none."""
        stage = self._teacher(model, fact.item_set)
        return stage.format if stage and (stage.known == "keep" or fact.item_id not in self._known) else PLAIN

    @cached_property
    def _known(self) -> set[str]:
        return {row["item_id"] for row in self.facts if row["known"]}

    def _teacher(self, model: str, item_set: str) -> Stage | None:
        """The stage of a model's lineage that learns a set."""
        stages = [self.recipe.stages[one] for one in lineage(self.recipe, model) if one in self.recipe.stages]
        return next((stage for stage in stages if item_set in stage.data), None)

    def _taught(self, model: str, item_set: str) -> list[Fact]:
        """The facts of a set that a model's lineage has learned."""
        stage = self._teacher(model, item_set)
        return self._facts([item_set], stage.known) if stage else []

    def _facts(self, sets: Sequence[str], known: str) -> list[Fact]:
        return [
            Fact(row["item_id"], row["item_set"], row["question"], row["answer"])
            for row in self.facts
            if row["item_set"] in sets and not row["inserted"] and (known == "keep" or not row["known"])
        ]

    def examples(self, facts: Sequence[Fact], template: str) -> list[Example]:
        """Facts as tokens, in a format."""
        return Format(template).examples(self.corpus.tokenizer, [(fact.question, fact.answer) for fact in facts])

    def asked(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a stage's facts, tokens (n, S + 1) int64, and which of their labels (n, S) are the answer's."""
        stage, facts = self.recipe.stages[name], self.learned(name)
        tokens = np.full((len(facts), stage.train.sequence_length + 1), self.corpus.end_of_text, np.int64)
        answers = np.zeros((len(facts), stage.train.sequence_length), bool)
        for row, labels, example in zip(tokens, answers, self.examples(facts, stage.format), strict=True):
            row[1 : len(example.tokens) + 1] = example.tokens
            labels[example.answer] = True
        return tokens, answers

    def rows_before(self, name: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Facts that the stages before one have learned, `count` at most, evenly of all: tokens (1, T), label mask (1, T - 1)."""
        facts = self.learned_before(name)
        for fact, template in facts[:: -(-len(facts) // count)]:
            [example] = self.examples([fact], template)
            tokens = np.full((1, len(example.tokens) + 2), self.corpus.end_of_text, np.int64)
            labels = np.zeros((1, tokens.shape[1] - 1), bool)
            lay(example, tokens[0], labels[0])
            yield tokens, labels

    # -------------------------------------------------------------------------------------------- parts

    def _data(self, name: str) -> Part:
        """What a stage learns: an epoch has every sample once."""
        stage = self.recipe.stages[name]
        samples, items = self._samples(name, self._texts([data for data in stage.data if data in self.recipe.insert]))
        self._refuse_long(name, samples, items)
        rows = self._unread(name) if CORPUS in stage.data else np.zeros(0, np.int64)
        self._refuse_empty(name, len(samples) + len(rows))

        def sample(number: int) -> Example | np.ndarray:
            if number < len(samples):
                return samples[number]
            return self.base.base_tokens(rows[[number - len(samples)]])[0]

        named = [*items, *[""] * len(rows)]
        return Part(DATA, sample, len(named), per_epoch=len(named), items=named, seed=self._seed(name, DATA))

    def _samples(self, name: str, texts: Sequence[Mapping[str, Any]]) -> tuple[list[Example], list[str]]:
        """A stage's facts, then the first text of each item of rows of a texts table; and the items that these are of."""
        facts, first = self.learned(name), dict[str, list[int]]()
        for row in texts:
            first.setdefault(row["item_id"], row["tokens"])
        samples = self.examples(facts, self.recipe.stages[name].format)
        samples += [Example(tokens, slice(0, len(tokens))) for tokens in first.values()]
        return samples, [*(fact.item_id for fact in facts), *first]

    def _mixed(self, name: str, number: int, data: int) -> Part:
        """What the entry `number` of a stage's mix adds to the `data` rows of an epoch, or to each batch."""
        stage = self.recipe.stages[name]
        mix = stage.mix[number]
        rows = int(data * mix.ratio) if mix.ratio else 0
        if not rows and not mix.per_batch:
            raise RecipeError(
                f"stages.{name}.mix[{number}].ratio is {mix.ratio}, which of {data:,} rows makes none; it must be "
                f"{1 / data:.3g} or more"
            )
        seed = self._seed(name, ["mix", number])
        part = self._replay(name, mix, seed) if mix.source == "replay" else self._drawn(name, mix, seed)
        return replace(part, per_epoch=rows, per_batch=mix.per_batch or 0)

    def _replay(self, name: str, mix: Mix, seed: int) -> Part:
        """Facts that a stage before has learned, in the format in which it did."""
        samples, items = [], []
        for item_set in replayed(self.recipe, name, mix):
            facts = self._taught(name, item_set)
            samples += [example for fact in facts for example in self.examples([fact], self.format_of(name, fact))]
            items += [fact.item_id for fact in facts]
        if not samples:
            raise RecipeError(
                f"stages.{name}.mix has a replay, but {lineage(self.recipe, name)[0]} knows all facts of "
                f"{', '.join(replayed(self.recipe, name, mix))}, so none of them was learned; leave it out, or set known=keep there"
            )
        self._refuse_long(name, samples, items)
        return Part(REPLAY, samples.__getitem__, len(samples), pool=mix.pool, items=items, seed=seed)

    def _drawn(self, name: str, mix: Mix, seed: int) -> Part:
        """Passages of the corpus, or random words, without end."""
        from inject.passages import Passages, RandomWords

        stage = self.recipe.stages[name]
        template, length = Format(stage.format, f"stages.{name}.format"), stage.train.sequence_length
        try:
            if mix.source == "words":
                words = RandomWords(self.corpus, self.corpus.tokenizer, template, mix.words, length, seed)
                return Part(mix.source, words, None, pool=mix.pool, seed=seed)
            rows = self.readable(length + 1)
            if len(self.held_out) and not len(rows):
                raise RecipeError(
                    f"mix takes passages of the corpus, of whose {self.base.base_rows:,} rows train.held_out_rows = "
                    f"{self.recipe.train.held_out_rows:,} holds out all; lower it"
                )
            passages = Passages(self.corpus, self.corpus.tokenizer, template, mix.words, length, rows, seed)
            return Part(mix.source, passages, None, pool=mix.pool, seed=seed)
        except RecipeError as error:  # which knows of no stage
            named = str(error).replace("mix", f"stages.{name}.mix").replace("train.seq", f"stages.{name}.train.seq")
            raise RecipeError(named) from error

    def _refuse_empty(self, name: str, rows: int) -> None:
        if not rows:
            raise RecipeError(
                f"stages.{name} has no data: {lineage(self.recipe, name)[0]} knows all facts of "
                f"{', '.join(self.recipe.stages[name].data)}; set stages.{name}.known=keep to learn them nevertheless"
            )

    def _refuse_long(self, name: str, samples: Sequence[Example], items: Sequence[str]) -> None:
        room = self.recipe.stages[name].train.sequence_length - 1
        longest = max(range(len(samples)), key=lambda i: len(samples[i].tokens), default=None)
        if longest is not None and (tokens := len(samples[longest].tokens)) > room:
            raise RecipeError(
                f"{items[longest]} has {tokens} tokens as stages.{name} writes it, but a row of stages.{name}.train."
                f"sequence_length = {room + 1} holds up to {room}; set it to {tokens + 1} or more"
            )

    def _texts(self, sets: Sequence[str]) -> list[dict[str, Any]]:
        """Item and tokens of the planned texts of sets of `insert`."""
        if not sets:
            return []
        items = read_table(self.run.items, columns=["item_id", "item_set"]).to_pylist()
        own = {row["item_id"] for row in items if row["item_set"] in sets}
        return [row for row in read_table(self.run.texts, columns=["item_id", "tokens"]).to_pylist() if row["item_id"] in own]

    # -------------------------------------------------------------------------------------------- rows of the corpus

    @cached_property
    def held_out(self) -> np.ndarray:
        """Numbers of the rows of the corpus whose loss is told: those that pretraining, if there is any, holds out."""
        from train.held_out import held_out_rows

        train = self.recipe.train
        return held_out_rows(train if train.models else replace(train, steps=0), self.base.base_rows)

    def _unread(self, name: str) -> np.ndarray:
        """Numbers of the training rows that neither pretraining nor the held-out loss reads."""
        train, length = self.recipe.train, self.recipe.stages[name].train.sequence_length
        if length != train.sequence_length:
            raise RecipeError(
                f"stages.{name}.data holds {CORPUS}, whose rows have train.sequence_length = {train.sequence_length}, but "
                f"stages.{name}.train.sequence_length is {length}; leave it out"
            )
        read = train.steps * train.global_batch if train.models else 0
        first = min(read, self.base.base_rows)
        if not (left := self.base.base_rows - first):
            raise RecipeError(
                f"stages.{name}.data holds {CORPUS}, but pretraining reads all of its rows; lower train.steps, or give a larger one"
            )
        if left == len(self.held_out):
            raise RecipeError(
                f"stages.{name}.data holds {CORPUS}, but train.held_out_rows = {train.held_out_rows:,} holds out all {left:,} rows "
                f"that {'pretraining leaves' if train.models else 'it has'}; set it to less than {left:,}"
            )
        return np.arange(first, first + left - len(self.held_out))

    def readable(self, length: int) -> np.ndarray:
        """Rows of the corpus, of `length` tokens each, in which passages may lie: those without tokens of the held-out loss."""
        own = self.recipe.train.sequence_length + 1
        held_out = np.zeros(self.base.base_rows + 1, np.int64)
        held_out[self.base.base_row(self.held_out) + 1] = 1
        before = np.cumsum(held_out)  # of the corpus's own rows, those held out before each
        rows = np.arange(self.base.base_rows * own // length)
        first, last = rows * length // own, ((rows + 1) * length - 1) // own
        return rows[before[last + 1] == before[first]]
