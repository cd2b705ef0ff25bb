"""The points of a sweep: every combination of the values that `sweep` lists by setting, each a run of its own.

sweep:
  seed: [1, 2]
  zip: {model.layers: [2, 4], model.width: [64, 128]}    # hand in hand: 2 with 64, 4 with 128; crossed with the rest
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.checks import check
from configs.errors import RecipeError
from configs.layout import fingerprint
from configs.recipe import Layer, parse_override, read_settings, resolve, resolve_named
from configs.schema import Recipe

SHARED = ["name", "runs", "cache", "point", "swept", "sweep", "slurm"]  # what all points of a sweep have in common
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # in shells and file names
LONGEST_VALUE = 40  # characters of a value in a name; a longer one is told by its fingerprint
LONGEST_NAME = 200  # characters; file systems have 255 for a name, and scripts and logs add to it
ZIP = "zip"

Values = dict[str, Any]  # by dotted key of the setting
Axis = list[Values]  # what one swept setting, or those that go hand in hand, can be


def load_points(path: str | Path, overrides: Sequence[str] = ()) -> list[Recipe]:
    """One recipe a point of the sweep, in order, the last setting of the sweep fastest; a recipe without a sweep gives itself.

    A point's values are laid over the file and the overrides as an override would be, but leave the run's name alone; so a sweep
    may grow, and the points that are done stay where they are. RecipeError says in one sentence what is wrong.
    """
    path = Path(path)
    written, layers = read_settings(path), [parse_override(override) for override in overrides]
    if any("point" in layer.settings or "swept" in layer.settings for layer in layers):
        raise RecipeError(
            "point and swept are set by the program; to do some points of a sweep, give their values, as sweep.seed=[1]"
        )
    swept = _swept(written, layers)
    layers = [layer for layer in layers if layer.settings]  # the others said nothing but what is swept
    _refuse_twice(swept, layers)
    base = resolve_named(written, layers, path.stem)
    if not swept:
        check(base)
        return [base]
    if base.point:
        raise RecipeError(f"{path} is of {base.point}, one point of a sweep; sweep the recipe that it is a point of")
    axes = _axes(swept)
    points = [{key: value for values in choice for key, value in values.items()} for choice in product(*axes)]
    return _recipes(points, written, layers, base.name)


def _recipes(points: Sequence[Values], written: DictConfig, layers: Sequence[Layer], run: str) -> list[Recipe]:
    labels = _labels(list(points[0]))
    recipes: dict[str, Recipe] = {}
    known: dict[str, str] = {}
    for values in points:
        name = _name(values, labels)
        if name in recipes:
            raise RecipeError(f"two points of the sweep are {name}; one is enough")
        own = [Layer(f"{key}={value}", OmegaConf.create(_nested(key, value))) for key, value in values.items()]
        said = Layer("", OmegaConf.create({"point": name, "swept": values}))
        try:
            recipe = resolve(written, [*layers, *own, said], run)
            recipe.name = run
            check(recipe)
        except RecipeError as error:
            raise RecipeError(f"point {name} of the sweep: {error}") from error
        same = fingerprint(asdict(recipe) | {"point": "", "swept": {}})
        if same in known:
            raise RecipeError(f"the points {known[same]} and {name} of the sweep are the same run; one is enough")
        recipes[name], known[same] = recipe, name
    return list(recipes.values())


# ------------------------------------------------------------------------------------------------ what is swept


def _swept(written: DictConfig, layers: Sequence[Layer]) -> Values:
    """Take the sweep out of the settings of a file and its overrides: lists of values by dotted key, as `seed` or `zip.seed`.

    Later lists replace those before; an override with null takes a setting out of the sweep.
    """
    swept: Values = {}
    for settings in [written, *(layer.settings for layer in layers)]:
        given = OmegaConf.to_container(settings).get("sweep", {})  # type: ignore[union-attr]
        settings.pop("sweep", None)
        if given is None:
            swept.clear()
        elif not isinstance(given, dict):
            raise RecipeError(f"sweep is {given!r}; it holds lists of values by setting, as seed: [1, 2]")
        else:
            pairs = list(_flat(given))
            for key, values in pairs:
                if sum(key == other for other, _ in pairs) > 1:
                    raise RecipeError(f"sweep.{key} is there twice, with dots and nested; once is enough")
                if values is None:
                    swept = {other: kept for other, kept in swept.items() if not _overlap(key, other)}
                else:
                    swept[key] = values
    for key, values in swept.items():
        _check_values(key, values)
    return swept


def _check_values(key: str, values: Any) -> None:
    setting = _setting(key)
    if setting.split(".")[0] in SHARED:
        raise RecipeError(f"sweep.{key}: the points of a sweep share name, runs, cache and slurm; any other setting can be swept")
    if key == ZIP:
        raise RecipeError(f"sweep.zip is {values!r}; it holds lists of values by setting, as {{model.layers: [2, 4]}}")
    if not isinstance(values, list):
        raise RecipeError(f"sweep.{key} is {values!r}; it must be a list of values, as [1, 2]")
    if not values:
        raise RecipeError(f"sweep.{key} is an empty list; give it values, or leave it out")
    told = [_told(value) for value in values]
    if key == setting and len(set(told)) < len(told):  # values that go hand in hand with others may come again
        twice = next(value for value in values if told.count(_told(value)) > 1)
        raise RecipeError(f"sweep.{key} holds {twice!r} more than once; once is enough")


def _axes(swept: Values) -> list[Axis]:
    """The axes that are crossed, in the order in which they are written; all of `zip` are one, where its first setting stands."""
    zipped = {_setting(key): values for key, values in swept.items() if key != _setting(key)}
    lengths = {setting: len(values) for setting, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} of {setting}" for setting, count in lengths.items())
        raise RecipeError(f"sweep.zip holds {told}; settings that go hand in hand need equally many values")
    axes: dict[str, Axis] = {}
    for key, values in swept.items():
        if key == _setting(key):
            axes[key] = [{key: value} for value in values]
        else:
            axes[ZIP] = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)]
    return list(axes.values())


def _refuse_twice(swept: Values, layers: Sequence[Layer]) -> None:
    """Refuse a setting that is swept twice, or that an override gives and the sweep sets, too."""
    leaves = {key: {leaf for value in values for leaf, _ in _flat(_nested(_setting(key), value))} for key, values in swept.items()}
    for one, other in combinations(leaves, 2):
        if both := _common(leaves[one], leaves[other]):
            raise RecipeError(f"sweep.{one} and sweep.{other} both set {both}; leave one of them out")
    for layer in layers:
        given = {leaf for leaf, _ in _flat(OmegaConf.to_container(layer.settings))}
        for key, own in leaves.items():
            if both := _common(given, own):
                raise RecipeError(
                    f"{layer.said!r} gives {both}, which the sweep sets; give sweep.{key} instead, or null to sweep it no more"
                )


def _common(some: set[str], others: set[str]) -> str | None:
    """A setting that is among both, or within one of the others."""
    return next((max(one, other, key=len) for one in sorted(some) for other in sorted(others) if _overlap(one, other)), None)


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies within the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _setting(key: str) -> str:
    """The setting that a key of the sweep stands for."""
    return key.removeprefix(f"{ZIP}.")


def _flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested settings by dotted key."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(key: str, value: Any) -> Values:
    """
    >>> _nested("train.steps", 5)
    {'train': {'steps': 5}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


# ------------------------------------------------------------------------------------------------ names


def _name(values: Values, labels: Mapping[str, str]) -> str:
    """What a point is called: its values, so that it is called the same when the sweep grows."""
    name = "_".join(f"{labels[key]}-{_told(value)}" for key, value in values.items())
    return name if len(name) <= LONGEST_NAME else fingerprint(values)[:12]


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or as many more as tell it from the others.

    >>> _labels(["seed", "train.steps", "train.checkpoints.steps"])
    {'seed': 'seed', 'train.steps': 'train.steps', 'train.checkpoints.steps': 'checkpoints.steps'}
    """

    def endings(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[first:]) for first in range(len(parts) - 1, -1, -1)]

    def label(key: str) -> str:
        others = {ending for other in keys if other != key for ending in endings(other)}
        told = next((ending for ending in endings(key) if ending not in others), key)
        return told if SAFE.fullmatch(told) else fingerprint(told)[:6]

    return {key: label(key) for key in keys}


def _told(value: Any) -> str:
    """A value as a part of a name that shells and file systems take as it is.

    >>> _told(4e-3), _told(1.0), _told(True), _told([0, 4]), _told("ddp"), _told("a b"), _told({"layers": 2})
    ('0.004', '1', 'true', '0+4', 'ddp', '5e229e', '868b28')
    """
    parts = [_scalar(each) for each in value] if isinstance(value, list) and value else [_scalar(value)]
    told = "+".join(part or "" for part in parts)
    return told if all(parts) and len(told) <= LONGEST_VALUE else fingerprint(value)[:6]


def _scalar(value: Any) -> str | None:
    """A number, truth value or plain word; None for what is no such thing."""
    if isinstance(value, str):
        # a text that reads as a number is another value than that number
        return value if SAFE.fullmatch(value) and isinstance(OmegaConf.from_dotlist([f"x={value}"]).x, str) else None
    if value is None or isinstance(value, bool | int):
        return "null" if value is None else str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else None
