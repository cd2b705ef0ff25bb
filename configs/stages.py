"""Settings of continual training: sets of facts, and the stages that learn them one after another.

A stage is a model of its own, which starts from the last weights of another one. Its `train` is the recipe's, with what the stage
says itself laid over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.setting import section, setting

CORPUS = "corpus"  # among a stage's data: rows of the corpus that pretraining doesn't read
START = "start"  # what a stage comes after where that is the model that the recipe describes, before any training
QUESTION, ANSWER = "{question}", "{answer}"  # places of a format
PLAIN = QUESTION + ANSWER


@dataclass
class Mix:
    """Rows of something else that are mixed with those of a stage's data."""

    source: str = setting(
        "text",
        "text (a passage of the corpus, cut in two: the second half is the answer), words (a random sequence of the corpus's "
        "words, likewise), or replay (facts that a stage before has learned)",
    )
    of: list[str] = setting([], "replay: the sets of facts; those of the stage before if none is named")
    ratio: float | None = setting(None, "rows for each row of the stage's data, shuffled among them", "rows")
    per_batch: int | None = setting(None, "rows of every batch, in place of ratio", "rows")
    pool: int | None = setting(
        None, "take the rows of only so many samples, again in each epoch; fresh ones every time if not given", "samples"
    )
    words: int = setting(50, "text and words: length of each half", "words")


@dataclass
class Until:
    """When a stage ends before its `train.steps`: at the first that comes true."""

    loss: float | None = setting(
        None, "the loss of a step, nats a label of all its rows (what is mixed keeps it high), was below ..."
    )
    times: int = setting(10, "... so often", "steps")
    exact_match: float | None = setting(None, "this part of the stage's facts is emitted by greedy decoding", "fraction")
    every: int = setting(20, "steps from one look at exact_match to the next", "steps")


@dataclass
class Penalty:
    """A term of the loss that holds a stage near the weights that it starts from."""

    kind: str = setting(
        "none",
        "none, ewc (elastic weight consolidation: weights that the facts learned before depend on are held), or kl (the answers' "
        "distributions are held near those of the model that the stage starts from)",
    )
    weight: float = setting(1.0, "by which the term is multiplied")
    examples: int = setting(200, "ewc: facts learned before, of which the Fisher information is taken", "facts")


@dataclass
class Lora:
    """Low-rank matrices that are trained beside the blocks' linear layers, whose own weights stay: parameter expansion."""

    rank: int = setting(0, "of the matrices; 0 trains all weights")
    alpha: float = setting(16.0, "their product is multiplied by alpha / rank")


@dataclass
class Stage:
    """One stage of continual training."""

    after: str | None = setting(
        None,
        "the model that it starts from: a stage before it, a model of train.models, or start (the model before any training); the "
        "stage before it if not given, and of the first the first of train.models, or start",
    )
    data: list[str] = setting(
        [],
        "what it learns: sets of `facts`, item sets of `insert` (each item's first text) or corpus (rows pretraining left)",
    )
    known: str = setting("drop", "facts that the model knew before all stages: drop (they are not learned, but asked) or keep")
    mix: list[Mix] = setting([], "what its data are mixed with")
    format: str = setting(PLAIN, "how a fact is written; what comes of {answer} on is learned")
    until: Until = section(Until, "when it ends before its steps are over")
    penalty: Penalty = section(Penalty, "what holds it near the weights that it starts from")
    lora: Lora = section(Lora, "trains low-rank matrices only")
    train: Any = setting({}, "settings of `train` in which this stage differs; resolved into a Train")
