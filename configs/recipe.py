"""A recipe: read from YAML, overridden from the command line, checked, and resolved once into dataclasses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from configs.checks import check
from configs.errors import RecipeError
from configs.insert import ITEM_SETS, Design, ItemSet
from configs.layout import fingerprint
from configs.presets import preset
from configs.schema import Model, Recipe, Train
from configs.stages import Stage

TIME = re.compile(r"\d+(:\d+)+")
# settings of `train` that no stage inherits
OF_PRETRAINING = ["steps", "warmup", "warmup_tokens", "checkpoints", "models", "probes"]


@dataclass(frozen=True)
class Layer:
    """Settings that are laid over those of a recipe's file."""

    said: str  # as it was written
    settings: DictConfig


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve a recipe file and `key=value` overrides; RecipeError says in one sentence what is wrong."""
    path = Path(path)
    recipe = resolve_named(read_settings(path), [parse_override(override) for override in overrides], path.stem)
    check(recipe)
    return recipe


def resolve_named(written: DictConfig, layers: Sequence[Layer], default_name: str) -> Recipe:
    """The recipe of a file and its overrides, not checked yet, under the name of its run.

    Overrides of result settings add a short fingerprint to the name, unless `name=` is among them; what is measured, and which
    models are trained or scored, may change within a run.
    """
    plain = resolve(written, [], default_name)
    recipe = resolve(written, layers, default_name) if layers else plain
    made_of = _made_of(recipe)
    if made_of != _made_of(plain) and recipe.name == plain.name and not any("name" in layer.settings for layer in layers):
        recipe.name += f"-{fingerprint(made_of)[:6]}"
    return recipe


def _made_of(recipe: Recipe) -> dict[str, Any]:
    """The settings that tell one run from another."""
    settings = result_settings(recipe)
    del settings["eval"], settings["models"], settings["train"]["models"]
    return {key: value for key, value in settings.items() if value or key not in ("facts", "stages")}  # none were known once


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


def read_settings(path: Path) -> DictConfig:
    """The settings that a recipe's file holds, as they are written; RecipeError where it can't be read."""
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
    return OmegaConf.create(_as_written(OmegaConf.to_container(config), yaml.load(path.read_text(), yaml.BaseLoader)))


def _as_written(value: Any, text: Any) -> Any:
    """Settings with their times as they are written (`text` has every value as text): YAML takes 24:00:00 for 86400, to base 60."""
    if isinstance(value, dict) and isinstance(text, dict):
        return {key: _as_written(each, text.get(str(key))) for key, each in value.items()}
    if isinstance(value, list) and isinstance(text, list):
        return [_as_written(each, own) for each, own in zip(value, text, strict=True)]
    return text if isinstance(value, int) and isinstance(text, str) and TIME.fullmatch(text) else value


def parse_override(override: str) -> Layer:
    """What `key=value` on the command line sets."""
    if "=" not in override or override.startswith("="):
        raise RecipeError(f"{override!r} is not an override; write key=value, as train.steps=100")
    key, _, value = override.partition("=")
    try:
        return Layer(override, OmegaConf.from_dotlist([f"{key}={value!r}" if TIME.fullmatch(value) else override]))
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {override!r} is not YAML: {' '.join(str(error).split())}") from error


def resolve(written: DictConfig, layers: Sequence[Layer], default_name: str) -> Recipe:
    """The recipe of a file's settings with each layer laid over those before; types are checked, and presets looked up."""
    given: Any = _without_model(written) if any(_names_model(layer) for layer in layers) else written
    for layer in layers:
        try:
            given = OmegaConf.merge(given, layer.settings)
        except TypeError as error:
            raise RecipeError(
                f"{layer.said!r} gives a list where settings belong; write {layer.said.split('=')[0]}.<setting>=value"
            ) from error
    try:
        _check_sections(OmegaConf.to_container(given), Recipe)
        tokenizer = OmegaConf.select(given, "corpus.tokenizer")
        if isinstance(tokenizer, str):
            given.corpus.tokenizer = {"path": tokenizer}
        name = OmegaConf.select(given, "model.preset")
        shape = {"model": preset(str(name))} if isinstance(name, str | int | float) else {}  # a list is refused below
        merged = OmegaConf.merge(_defaults(Recipe), {"name": default_name}, shape, given)
        recipe = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise RecipeError(_wrong_value(error, given, Recipe)) from error
    assert isinstance(recipe, Recipe)
    recipe.insert = {name: _item_set(f"insert.{name}", settings, given) for name, settings in recipe.insert.items()}
    recipe.facts = {name: _item_set(f"facts.{name}", settings, given) for name, settings in recipe.facts.items()}
    recipe.stages = {name: _stage(f"stages.{name}", settings, given) for name, settings in recipe.stages.items()}
    return recipe


def _names_model(layer: Layer) -> bool:
    """Whether settings say which model it is, so that what the file says of another does not count."""
    model = OmegaConf.to_container(layer.settings).get("model")  # type: ignore[union-attr]
    return isinstance(model, dict) and any(model.get(key) is not None for key in ("preset", "start"))


def _without_model(written: DictConfig) -> Any:
    """The settings of a file but for those that say which model it is, for an override that names another."""
    given = OmegaConf.to_container(written)
    if isinstance(given, dict) and isinstance(given.get("model"), dict):
        replaced = {f.name for f in fields(Model)} - {"dropout"}
        given["model"] = {key: value for key, value in given["model"].items() if key not in replaced}
    return OmegaConf.create(given)


def _no_such_setting(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.split(".")[-1], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"possible here: {', '.join(known)}"
    return f"{key} is not a setting; {hint}"


def _check_sections(given: Any, kind: Any, prefix: str = "") -> None:
    """Refuse a setting that `kind` does not have, and a value, list or group of settings where another of these belongs."""
    known = [f.name for f in fields(kind)]
    if not isinstance(given, Mapping):
        raise RecipeError(f"{prefix[:-1]} is {given!r}; it holds settings as `key: value`: {', '.join(known)}")
    hints = get_type_hints(kind)
    for key, value in given.items():
        if key not in known:
            raise RecipeError(_no_such_setting(f"{prefix}{key}", known))
        _check_shape(value, hints[key], f"{prefix}{key}")


def _check_shape(value: Any, kind: Any, key: str) -> None:
    """The same for the value of one setting; corpus.tokenizer may be a path or hub name. OmegaConf checks what is no container."""
    if isinstance(value, str) and value.startswith("${"):  # what it refers to is checked where it stands
        return
    if NoneType in get_args(kind):
        if value is None:
            return
        kind = get_args(kind)[0]
    if is_dataclass(kind) and not (key == "corpus.tokenizer" and isinstance(value, str)):
        _check_sections(value, kind, f"{key}.")
    elif get_origin(kind) is list:
        if isinstance(value, Mapping):
            raise RecipeError(f"{key} is {value!r}; it must be {_collection(kind)}")
        for number, each in enumerate(value if isinstance(value, list) else []):
            _check_shape(each, get_args(kind)[0], f"{key}[{number}]")
    elif get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{key} is {value!r}; it holds entries as `name: {{...}}`")
        for name, each in value.items():
            _check_shape(each, get_args(kind)[1], f"{key}.{name}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _wrong_value(error: OmegaConfBaseException, given: Any, kind: Any, prefix: str = "") -> str:
    """What is wrong with the value of a setting of `kind`: what it is, and what it can be."""
    key = error.full_key or ""
    located = isinstance(error, ValidationError) and OmegaConf.select(given, key, default=key) != key  # within a list it is not
    if not key or not located or isinstance(error, InterpolationResolutionError):
        return f"{prefix}{key or 'the recipe'}: {str(error).splitlines()[0]}"
    for part in re.findall(r"[^.\[\]]+", key):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else get_args(kind)[-1]
        kind = next((option for option in get_args(kind) if option is not NoneType), kind) if NoneType in get_args(kind) else kind
    wanted = _WORDS.get(kind) or _collection(kind)
    return f"{prefix}{key} is {OmegaConf.select(given, key)!r}; it must be {wanted}"


def _collection(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list, each of it {_WORDS.get(get_args(kind)[0], 'a value')}"
    return "settings as `key: value`"


def _item_set(key: str, settings: Any, given: Any) -> ItemSet:
    """One entry of `insert` or `facts`, checked against the dataclass of its kind; its design is the recipe's with its own laid
    over it.
    """
    kinds = ", ".join(ITEM_SETS)
    if not isinstance(settings, dict) or "kind" not in settings:
        raise RecipeError(f"{key} needs a kind; possible: {kinds}")
    if settings["kind"] not in list(ITEM_SETS):
        raise RecipeError(f"{key}.kind is {settings['kind']!r}; possible: {kinds}")
    kind = ITEM_SETS[settings["kind"]]
    own = settings.get("design") or {}
    _check_sections(settings, kind, f"{key}.")
    _check_sections(own, Design, f"{key}.design.")
    item_set = _structured(kind, [{**settings, "design": None}], f"{key}.")
    item_set.design = _structured(Design, [OmegaConf.select(given, "design") or {}, own], f"{key}.design.")
    return item_set


def _stage(key: str, settings: Any, given: Any) -> Stage:
    """One entry of `stages`; its training is the recipe's with its own laid over it, but for settings that are steps."""
    _check_sections(settings, Stage, f"{key}.")
    own = settings.get("train") or {}
    _check_sections(own, Train, f"{key}.train.")
    shared = OmegaConf.to_container(OmegaConf.create(OmegaConf.select(given, "train") or {}))
    inherited = {name: value for name, value in shared.items() if name not in OF_PRETRAINING}  # type: ignore[union-attr]
    stage: Stage = _structured(Stage, [{**settings, "train": None}], f"{key}.")
    stage.train = _structured(Train, [{"warmup": 0}, inherited, own], f"{key}.train.")
    return stage


@lru_cache  # most of the time that a point of a sweep takes; a merge copies it
def _defaults(kind: type) -> Any:
    """The settings of a dataclass before any is given."""
    return OmegaConf.structured(kind)


def _structured(kind: type, layers: list[Any], prefix: str) -> Any:
    """A dataclass from settings, each laid over those before; RecipeError for a wrong value."""
    given = OmegaConf.merge(*(OmegaConf.create(layer) for layer in layers))
    try:
        return OmegaConf.to_object(OmegaConf.merge(_defaults(kind), given))
    except OmegaConfBaseException as error:
        raise RecipeError(_wrong_value(error, given, kind, prefix)) from error
