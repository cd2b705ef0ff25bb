"""What can be seen to be impossible from a recipe's settings alone, each told in a sentence; inject/design.py checks the design."""

from __future__ import annotations

import re
from dataclasses import asdict
from math import inf
from typing import Any

from configs.errors import RecipeError
from configs.insert import ITEM_SETS
from configs.schema import Recipe

CHOICES: dict[str, list[str]] = {
    "corpus.source": ["stdlib", "synthetic", "files", "jsonl", "text", "parquet", "hub", "megatron", "npy"],
    "decontaminate.policy": ["fail", "report", "documents", "redraw", "none"],
    "train.schedule": ["wsd", "cosine", "constant"],
    "train.precision": ["auto", "fp32", "bf16"],
    "eval.context": ["eot", "none"],
}
SUBSETS: dict[str, list[str]] = {
    "eval.membership": ["loss", "zlib", "min_k"],
}
POSITIVE = [
    *("corpus.documents", "corpus.epochs", "model.layers", "model.width", "model.heads", "train.steps", "train.global_batch"),
    *("train.sequence_length", "train.learning_rate", "train.checkpoints.every", "train.checkpoints.resume_every"),
    *("train.log_every", "decontaminate.ngram", "eval.resamples", "eval.batch_tokens", "eval.min_k"),
]
NOT_NEGATIVE = ["train.clip", "train.weight_decay", "train.threads", "decontaminate.processes", "eval.secret_bits"]
FRACTIONS = ["train.final_learning_rate", "train.decay", "model.dropout", "eval.min_k"]
SMALLEST_VOCABULARY = 257  # every byte, and the end of text


def check(recipe: Recipe) -> None:
    """Refuse what can be seen to be impossible from the recipe alone."""
    if "/" in recipe.name or recipe.name.startswith(".") or not recipe.name:
        raise RecipeError(f"name is {recipe.name!r}; it names a folder, so it can't be empty, hold a slash or begin with a dot")
    for key in POSITIVE:
        if not 0 < _value(recipe, key) < inf:
            raise RecipeError(f"{key} is {_value(recipe, key)}; it must be more than 0")
    for key in NOT_NEGATIVE:
        if not 0 <= _value(recipe, key) < inf:
            raise RecipeError(f"{key} is {_value(recipe, key)}; it must be 0 or more")
    for key in FRACTIONS:
        if not 0 <= _value(recipe, key) <= 1:
            raise RecipeError(f"{key} is {_value(recipe, key)}; it must lie between 0 and 1")
    for key, possible in CHOICES.items():
        if _value(recipe, key) not in possible:
            raise RecipeError(f"{key} is {_value(recipe, key)!r}; possible: {', '.join(possible)}")
    for key, possible in SUBSETS.items():
        for value in _value(recipe, key):
            if value not in possible:
                raise RecipeError(f"{key} holds {value!r}; possible: {', '.join(possible)}")
            if _value(recipe, key).count(value) > 1:
                raise RecipeError(f"{key} holds {value!r} more than once; once is enough")
    seeds = {"seed": recipe.seed, **{f"seeds.{purpose}": seed for purpose, seed in asdict(recipe.seeds).items()}}
    for key, seed in seeds.items():
        if seed is not None and not 0 <= seed < 2**63:
            raise RecipeError(f"{key} is {seed}; it must be a whole number from 0 to 2^63 - 1")
    _check_models(recipe)
    _check_training(recipe)
    _check_corpus(recipe)
    if not recipe.insert:
        raise RecipeError(f"insert is empty; name at least one item set, each with a kind: {', '.join(ITEM_SETS)}")
    for name in recipe.insert:
        if not re.fullmatch(r"[\w.-]+", name):
            raise RecipeError(f"insert.{name}: the name of an item set is made of letters, digits, dots, dashes and underscores")


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _check_models(recipe: Recipe) -> None:
    models, possible = recipe.train.models, ["perturbed", "standard", *(f"without-{name}" for name in recipe.insert)]
    if not models:
        raise RecipeError(f"train.models is empty; possible: {', '.join(possible)}")
    for model in models:
        if model not in possible:
            raise RecipeError(f"train.models holds {model!r}; possible: {', '.join(possible)}")
        if models.count(model) > 1:
            raise RecipeError(f"train.models holds {model!r} more than once; once is enough")


def _check_training(recipe: Recipe) -> None:
    train, model = recipe.train, recipe.model
    if train.micro_batch is not None and (train.micro_batch < 1 or train.global_batch % train.micro_batch):
        divisors = [str(n) for n in range(1, train.global_batch + 1) if train.global_batch % n == 0]
        raise RecipeError(
            f"train.micro_batch is {train.micro_batch}, which does not divide train.global_batch = {train.global_batch}; "
            f"possible: {', '.join(divisors)}"
        )
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise RecipeError(f"train.betas is {train.betas}; it must be two numbers, 0 or more and less than 1")
    if model.feed_forward is not None and model.feed_forward < 1:
        raise RecipeError(f"model.feed_forward is {model.feed_forward}; it must be more than 0, or left out for 4 x model.width")
    if model.width % model.heads:
        raise RecipeError(f"model.width is {model.width}, which model.heads = {model.heads} does not divide")
    if not 0 <= train.warmup <= train.steps:
        raise RecipeError(f"train.warmup is {train.warmup}; it must lie between 0 and train.steps = {train.steps}")


def _check_corpus(recipe: Recipe) -> None:
    corpus = recipe.corpus
    if corpus.source not in ("stdlib", "synthetic"):
        if corpus.path is None:
            what = "the name of a data set" if corpus.source == "hub" else "a file or a folder"
            raise RecipeError(f"corpus.source is {corpus.source}, which needs corpus.path: {what}")
    elif corpus.path is not None:
        raise RecipeError(
            f"corpus.path is {corpus.path}, but corpus.source is {corpus.source}, which reads no file; set corpus.source=files"
        )
    if corpus.limit is not None and corpus.limit < 1:
        raise RecipeError(f"corpus.limit is {corpus.limit}; it must be 1 or more")
    if corpus.tokenizer.path is None and corpus.tokenizer.vocabulary < SMALLEST_VOCABULARY:
        raise RecipeError(
            f"corpus.tokenizer.vocabulary is {corpus.tokenizer.vocabulary}; a byte-level vocabulary holds at least "
            f"{SMALLEST_VOCABULARY} tokens"
        )
