"""The design: the arms of each item set, how often, when and where their items are inserted; one arm of no copies is held out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from configs.errors import RecipeError
from configs.insert import Arm, Design, ItemSet
from configs.insert import Phase as PhaseSettings
from inject.places import read_places

HELD_OUT = "held-out"
SPACINGS = ["uniform", "even", "expanding", "massed", "bursts:N"]
PLACEMENTS = ["anywhere", "start", "boundary", "offset:N", "stratified:N"]
MODES = ["overwrite", "splice"]
VARIANTS = ["rotate", "verbatim", "one"]
FACTORS = ["window", "steps", "spacing", "placement", "mode", "variants"]


@dataclass(frozen=True)
class Shape:
    """The rows of a training: `steps` of `global_batch` rows, each of `sequence_length` + 1 tokens."""

    steps: int
    global_batch: int
    sequence_length: int

    @property
    def rows(self) -> int:
        return self.steps * self.global_batch

    @property
    def row_tokens(self) -> int:
        return self.sequence_length + 1


@dataclass(frozen=True)
class Phase:
    """A rate in steps [first, last). Exactly one of copies, every and share is given."""

    first: int
    last: int
    spacing: str
    copies: int | None
    every: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Cell:
    """An arm: what happens to the items assigned to it."""

    name: str
    size: int
    phases: tuple[Phase, ...]
    placement: str
    mode: str
    variants: str
    places: tuple[tuple[int, int], ...] = ()


def arm_name(copies: int) -> str:
    """What an arm of `design.copies` is called."""
    return f"{copies}x" if copies else HELD_OUT


# ------------------------------------------------------------------------------------------------ arms


def cells(insert: Mapping[str, ItemSet], steps: int) -> dict[str, list[Cell]]:
    """The arms of every item set. RecipeError names the setting that is impossible, or a count that the arms do not add up to."""
    found = {name: arms(items.design, steps, f"insert.{name}: design") for name, items in insert.items()}
    for name, items in insert.items():
        groups = sum(cell.size for cell in found[name])
        if items.count is not None and items.count != groups:
            raise RecipeError(
                f"insert.{name}.count is {items.count}, but the arms of its design add up to {groups} groups; make them equal"
            )
    return found


def arms(design: Design, steps: int, where: str = "design") -> list[Cell]:
    """Every arm of a design that has groups: those of `copies`, crossed with the levels of `cross`, then the further ones."""
    if len(design.copies) != len(design.sizes):
        raise RecipeError(
            f"{where}.copies has {len(design.copies)} arms but {where}.sizes has {len(design.sizes)}; give one size for each arm"
        )
    if len(set(design.copies)) != len(design.copies):
        raise RecipeError(f"{where}.copies is {design.copies}; arms of equal copies belong under {where}.arms, each with a name")
    unknown = [factor for factor in design.cross if factor not in FACTORS or not design.cross[factor]]
    if unknown:
        raise RecipeError(
            f"{where}.cross names {unknown[0]!r} without levels or unknown; possible: {', '.join(FACTORS)}, each with a list"
        )
    found = []
    for copies, size in zip(design.copies, design.sizes, strict=True):
        levels = list(product(*design.cross.values())) if copies else [()]
        for combination in levels:
            factors = dict(zip(design.cross, combination, strict=bool(copies)))
            name = " ".join([arm_name(copies), *(_level(level) for level in factors.values())])
            found.append(_cell(name, Arm(copies=copies, size=size, **factors), design, steps, f"{where}.copies, {copies}"))
    for name, arm in design.arms.items():
        if re.fullmatch(r"held-out|\d+x.*", name):
            raise RecipeError(f"{where}.arms.{name} has the name of an arm of {where}.copies; call it something else")
        found.append(_cell(name, arm, design, steps, f"{where}.arms.{name}"))
        if not found[-1].places and all(phase.copies == 0 for phase in found[-1].phases):
            raise RecipeError(f"{where}.arms.{name} has no copies; the held-out arm is that of 0 in {where}.copies")
    names = [cell.name for cell in found]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{where}.cross gives two arms called {repeated!r}; the levels of a factor must differ")
    return [cell for cell in found if cell.size]


def _level(level: Any) -> str:
    bounds = level if isinstance(level, list) else [level]
    return "-".join(f"{bound:g}" if isinstance(bound, float) else str(bound) for bound in bounds)


def _cell(name: str, arm: Arm, design: Design, steps: int, where: str) -> Cell:
    if arm.size is None or arm.size < 0:
        what = "it has no size" if arm.size is None else f"size is {arm.size}"
        raise RecipeError(f"{where}: {what}; say how many groups of each item set it gets, 0 or more")
    mode = _one_of(arm.mode or design.mode, MODES, f"{where}: mode")
    placement = _one_of(arm.placement or design.placement, PLACEMENTS, f"{where}: placement")
    if mode == "splice" and placement != "boundary":
        if placement != "anywhere" or arm.placement:
            raise RecipeError(f"{where}: placement is {placement}, but splice inserts after a document; set placement: boundary")
        placement = "boundary"
    variants = _one_of(arm.variants or design.variants, VARIANTS, f"{where}: variants")
    if arm.places is not None:
        return _explicit(name, arm, arm.size, (placement, mode, variants), where)
    phases = tuple(
        _phase(phase, arm, design, steps, f"{where}, phase {number}" if arm.phases else where)
        for number, phase in enumerate(arm.phases or [arm], 1)
    )
    if arm.phases and any(setting is not None for setting in (arm.copies, arm.every, arm.share)):
        raise RecipeError(f"{where}: a rate of the arm and phases are given; say the rates in the phases alone")
    ordered = sorted(phases, key=lambda phase: phase.first)
    for before, after in pairwise(ordered):
        if after.first < before.last:
            raise RecipeError(
                f"{where}: phases of steps {before.first}-{before.last} and {after.first}-{after.last} overlap; part their windows"
            )
    return Cell(name, arm.size, tuple(ordered), placement, mode, variants)


def _phase(phase: PhaseSettings, arm: Arm, design: Design, steps: int, where: str) -> Phase:
    rates = {key: getattr(phase, key) for key in ("copies", "every", "share") if getattr(phase, key) is not None}
    if len(rates) != 1:
        raise RecipeError(f"{where}: {' and '.join(rates) or 'no rate'} given; give one of copies, every and share")
    key, rate = next(iter(rates.items()))
    if (key == "copies" and rate < 0) or (key == "every" and rate < 1) or (key == "share" and not 0 < rate <= 1):
        possible = {"copies": "0 or more", "every": "1 row or more", "share": "a fraction above 0 and up to 1"}[key]
        raise RecipeError(f"{where}: {key} is {rate}; it must be {possible}")
    spacing = _one_of(phase.spacing or arm.spacing or design.spacing, SPACINGS, f"{where}: spacing")
    first, last = _window(phase, arm, design, steps, where)
    return Phase(first, last, spacing, **{"copies": None, **rates})


def _window(phase: PhaseSettings, arm: Arm, design: Design, steps: int, where: str) -> tuple[int, int]:
    """Steps [first, last): of the nearest of phase, arm and design that says anything of it."""
    for settings in (phase, arm):
        if settings.window is not None and settings.steps is not None:
            raise RecipeError(f"{where}: window and steps are both given; one of them says when")
    given = next((s for s in (phase, arm, design) if s.steps is not None or (s.window is not None and s is not design)), design)
    if given.steps is not None:
        bounds = given.steps
        if not _pair(bounds, int) or not 0 <= bounds[0] < bounds[1] <= steps:
            raise RecipeError(f"{where}: steps is {bounds}; it must be two steps, 0 <= first < last <= train.steps = {steps}")
        return bounds[0], bounds[1]
    window: Any = given.window
    if not _pair(window, int | float) or not 0 <= window[0] < window[1] <= 1:
        raise RecipeError(f"{where}: window is {window}; it must be two fractions, 0 <= start < end <= 1")
    first, last = round(window[0] * steps), round(window[1] * steps)
    if first == last:
        raise RecipeError(f"{where}: window {window} of train.steps = {steps} holds no step; widen it")
    return first, last


def _pair(given: Any, kind: Any) -> bool:
    return isinstance(given, list) and len(given) == 2 and all(isinstance(bound, kind) for bound in given)


def _explicit(name: str, arm: Arm, size: int, how: tuple[str, str, str], where: str) -> Cell:
    """An arm whose copies have places of their own; its items have equally many."""
    rates = [key for key in ("copies", "every", "share", "window", "steps", "spacing") if getattr(arm, key) is not None]
    if rates or arm.phases or arm.placement:
        raise RecipeError(f"{where}: {(rates or ['phases or placement'])[0]} and places are given; places say it all")
    if how[1] == "splice":
        raise RecipeError(f"{where}: mode is splice, which finds its own boundary; places are overwritten")
    places = read_places(arm.places, f"{where}.places")
    if size and (not places or len(places) % size):
        raise RecipeError(f"{where}.places has {len(places)} places for {size} groups; give a multiple of that")
    return Cell(name, size, (), "explicit", how[1], how[2], tuple(places))


def _one_of(value: str, possible: Sequence[str], where: str) -> str:
    """A choice, where `name:N` stands for any whole number N."""
    patterns = [option.replace(":N", r":\d+") for option in possible]
    if not isinstance(value, str) or not any(re.fullmatch(pattern, value) for pattern in patterns):
        raise RecipeError(f"{where} is {value!r}; possible: {', '.join(possible)}")
    name, _, number = value.partition(":")
    if number and int(number) == 0 and name != "offset":
        raise RecipeError(f"{where} is {value!r}; the number must be 1 or more")
    return value
