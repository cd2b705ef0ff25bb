"""A recipe: read from YAML, overridden from the command line, checked, and resolved once into dataclasses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from math import inf
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException, ValidationError

from configs.errors import RecipeError
from configs.layout import fingerprint
from configs.schema import ITEM_SETS, ItemSet, Recipe

CHOICES: dict[str, list[str]] = {
    "corpus.source": ["stdlib", "synthetic", "files", "jsonl", "text", "parquet"],
    "design.placement": ["anywhere", "start"],
    "train.schedule": ["wsd", "cosine", "constant"],
    "train.precision": ["auto", "fp32", "bf16"],
    "eval.context": ["eot", "none"],
}
SUBSETS: dict[str, list[str]] = {
    "train.models": ["perturbed", "standard"],
    "eval.membership": ["loss", "zlib", "min_k"],
}
POSITIVE = [
    *("corpus.documents", "corpus.epochs", "model.layers", "model.width", "model.heads", "train.steps", "train.global_batch"),
    *("train.sequence_length", "train.learning_rate", "train.checkpoints.every", "train.checkpoints.resume_every"),
    *("train.log_every", "eval.resamples", "eval.batch_tokens", "eval.min_k"),
]
NOT_NEGATIVE = ["train.clip", "train.weight_decay", "train.threads", "eval.secret_bits"]
FRACTIONS = ["train.final_learning_rate", "train.decay", "model.dropout", "eval.min_k"]
SMALLEST_VOCABULARY = 257  # every byte, and the end of text


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve a recipe file and `key=value` overrides; RecipeError says in one sentence what is wrong.

    Overrides of result settings add a short fingerprint to the run's name, unless `name=` is among them; what is measured,
    and which models are trained, may change within a run.
    """
    path = Path(path)
    written = _read(path)
    plain = _resolve(written, [], default_name=path.stem)
    recipe = _resolve(written, list(overrides), default_name=path.stem) if overrides else plain
    made_of = _made_of(recipe)
    if made_of != _made_of(plain) and recipe.name == plain.name and not any(o.startswith("name=") for o in overrides):
        recipe.name += f"-{fingerprint(made_of)[:6]}"
    check(recipe)
    return recipe


def _made_of(recipe: Recipe) -> dict[str, Any]:
    """The settings that tell one run from another."""
    settings = result_settings(recipe)
    del settings["eval"], settings["train"]["models"]
    return settings


def result_settings(thing: Any) -> Any:
    """The settings that change results, as nested dictionaries: everything not marked as *execution* in the schema."""
    if is_dataclass(thing):
        kept = [f for f in fields(thing) if not f.metadata["execution"]]
        return {f.name: result_settings(getattr(thing, f.name)) for f in kept}
    if isinstance(thing, dict):
        return {key: result_settings(value) for key, value in thing.items()}
    return thing


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose values differ between two nested dictionaries."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield prefix.rstrip(".")


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.write_text(yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True))


# ------------------------------------------------------------------------------------------------ reading


def _read(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe at {path}; configs/quickstart.yaml is one to start from") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder; give a recipe, as configs/quickstart.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig):
        raise RecipeError(f"{path} must hold settings as `key: value`, but holds a list")
    return config


def _resolve(written: DictConfig, overrides: list[str], default_name: str) -> Recipe:
    given: Any = written
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise RecipeError(f"{override!r} is not an override; write key=value, as train.steps=100")
        try:
            given = OmegaConf.merge(given, OmegaConf.from_dotlist([override]))
        except yaml.YAMLError as error:
            raise RecipeError(f"the value of {override!r} is not YAML: {' '.join(str(error).split())}") from error
        except TypeError as error:
            raise RecipeError(
                f"{override!r} gives a list where settings belong; write {override.split('=')[0]}.<setting>=value"
            ) from error
    try:
        _check_sections(OmegaConf.to_container(given), Recipe)
        tokenizer = OmegaConf.select(given, "corpus.tokenizer")
        if isinstance(tokenizer, str):
            given.corpus.tokenizer = {"path": tokenizer}
        merged = OmegaConf.merge(OmegaConf.structured(Recipe), {"name": default_name}, given)
        recipe = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise RecipeError(_unknown_key(error)) from error
    except OmegaConfBaseException as error:
        raise RecipeError(_wrong_value(error, given, Recipe)) from error
    assert isinstance(recipe, Recipe)
    recipe.insert = {name: _item_set(name, given) for name, given in recipe.insert.items()}
    return recipe


def _unknown_key(error: ConfigKeyError) -> str:
    known = [f.name for f in fields(error.object_type)] if is_dataclass(error.object_type) else []
    return _no_such_setting(str(error.full_key or error.key), known)


def _no_such_setting(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.split(".")[-1], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"possible here: {', '.join(known)}"
    return f"{key} is not a setting; {hint}"


def _check_sections(given: Any, kind: Any, prefix: str = "") -> None:
    """Refuse a value where a group of settings belongs; corpus.tokenizer may be a path or hub name."""
    if not isinstance(given, Mapping):
        known = ", ".join(f.name for f in fields(kind))
        raise RecipeError(f"{prefix[:-1]} is {given!r}; it holds settings as `key: value`: {known}")
    hints = get_type_hints(kind)
    for key, value in given.items():
        if is_dataclass(hints.get(key)) and not (prefix + str(key) == "corpus.tokenizer" and isinstance(value, str)):
            _check_sections(value, hints[key], f"{prefix}{key}.")
        elif key in ("insert", "arms") and not isinstance(value, Mapping):
            raise RecipeError(f"{prefix}{key} is {value!r}; it holds entries as `name: {{...}}`")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _wrong_value(error: OmegaConfBaseException, given: Any, kind: Any, prefix: str = "") -> str:
    """What is wrong with the value of a setting of `kind`: what it is, and what it can be."""
    key = error.full_key or ""
    if not key or not isinstance(error, ValidationError) or isinstance(error, InterpolationResolutionError):
        return f"{prefix}{key or 'the recipe'}: {str(error).splitlines()[0]}"
    for part in re.findall(r"[^.\[\]]+", key):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else get_args(kind)[-1]
        kind = next((option for option in get_args(kind) if option is not NoneType), kind) if NoneType in get_args(kind) else kind
    wanted = _WORDS.get(kind) or (
        f"a list, each of it {_WORDS[get_args(kind)[0]]}" if get_args(kind) else "settings as `key: value`"
    )
    return f"{prefix}{key} is {OmegaConf.select(given, key)!r}; it must be {wanted}"


def _item_set(name: str, given: Any) -> ItemSet:
    """One entry of `insert`, checked against the dataclass of its kind."""
    kinds = ", ".join(ITEM_SETS)
    if not isinstance(given, dict) or "kind" not in given:
        raise RecipeError(f"insert.{name} needs a kind; possible: {kinds}")
    if given["kind"] not in list(ITEM_SETS):
        raise RecipeError(f"insert.{name}.kind is {given['kind']!r}; possible: {kinds}")
    kind = ITEM_SETS[given["kind"]]
    for key in given:
        if key not in [f.name for f in fields(kind)]:
            raise RecipeError(_no_such_setting(f"insert.{name}.{key}", [f.name for f in fields(kind)]))
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), given))
    except OmegaConfBaseException as error:
        raise RecipeError(_wrong_value(error, OmegaConf.create(given), kind, f"insert.{name}.")) from error
    return settings  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ checking


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
    for key, seed in asdict(recipe.seeds).items():
        if seed is not None and not 0 <= seed < 2**63:
            raise RecipeError(f"seeds.{key} is {seed}; it must be a whole number from 0 to 2^63 - 1")
    _check_training(recipe)
    _check_corpus(recipe)
    _check_design(recipe)


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _check_training(recipe: Recipe) -> None:
    train, model = recipe.train, recipe.model
    if not train.models:
        raise RecipeError("train.models is empty; possible: perturbed, standard")
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
            raise RecipeError(f"corpus.source is {corpus.source}, which needs corpus.path: a file or a folder")
        if not Path(corpus.path).exists():
            raise RecipeError(f"corpus.path is {corpus.path}, which does not exist")
    elif corpus.path is not None:
        raise RecipeError(
            f"corpus.path is {corpus.path}, but corpus.source is {corpus.source}, which reads no file; set corpus.source=files"
        )
    if corpus.tokenizer.path is None and corpus.tokenizer.vocabulary < SMALLEST_VOCABULARY:
        raise RecipeError(
            f"corpus.tokenizer.vocabulary is {corpus.tokenizer.vocabulary}; a byte-level vocabulary holds at least "
            f"{SMALLEST_VOCABULARY} tokens"
        )


def _check_design(recipe: Recipe) -> None:
    if not recipe.insert:
        raise RecipeError(f"insert is empty; name at least one item set, each with a kind: {', '.join(ITEM_SETS)}")
    design = recipe.design
    if len(design.copies) != len(design.sizes):
        raise RecipeError(
            f"design.copies has {len(design.copies)} arms but design.sizes has {len(design.sizes)}; give one size for each arm"
        )
    if len(set(design.copies)) != len(design.copies):
        raise RecipeError(f"design.copies is {design.copies}; arms of equal copies belong under design.arms, each with a name")
    for name in design.arms:
        if re.fullmatch(r"held-out|\d+x", name):
            raise RecipeError(f"design.arms.{name} has the name of an arm of design.copies; call it something else")
    arms = [
        (f"design.copies, {copies}", copies, size, design.window) for copies, size in zip(design.copies, design.sizes, strict=True)
    ]
    arms += [(f"design.arms.{name}", arm.copies, arm.size, arm.window) for name, arm in design.arms.items()]
    for where, copies, size, window in arms:
        if copies < 0 or size < 0:
            raise RecipeError(f"{where}: copies are {copies} and size is {size}; neither can be negative")
        if len(window) != 2 or not 0 <= window[0] < window[1] <= 1:
            raise RecipeError(f"{where}: window is {window}; it must be two fractions, 0 <= start < end <= 1")
    for name, arm in design.arms.items():
        if arm.placement not in CHOICES["design.placement"]:
            raise RecipeError(
                f"design.arms.{name}.placement is {arm.placement!r}; possible: {', '.join(CHOICES['design.placement'])}"
            )
    groups = sum(size for _, _, size, _ in arms)
    for name, items in recipe.insert.items():
        if items.count != groups:
            raise RecipeError(
                f"insert.{name}.count is {items.count}, but the arms of design add up to {groups} groups; make them equal"
            )
