"""Run by test_strategies.py: what two processes compute under each strategy, told as JSON by the leading one.

python two_processes.py OUT
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from configs.schema import Model, Train
from train.engine import Engine, connected, engine_of
from train.execution import Execution
from train.loop import accumulate
from train.lora import expand
from train.model import build_model
from train.objective import Objective, Term
from train.penalty import DivergenceFromFrozen, ElasticWeightConsolidation
from train.world import World, start

ROWS, LENGTH, STEPS = 8, 32, 4
State = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def engines(settings: Train, world: World, state: State | None = None, **options: Any) -> Iterator[Engine]:
    """One engine of a small model with dropout, drawn or loaded; with `terms` in its loss, with matrices of rank `lora`."""
    model = build_model(Model(layers=2, width=64, heads=4, dropout=0.1), 320, LENGTH, end_of_text=0, seed=1)
    terms = new_terms(model) if options.pop("terms", False) else []
    if rank := options.pop("lora", 0):
        expand(model, rank, alpha=16.0, seed=2)
    if state:
        model.load_state_dict(state[0], strict=False)
    execution = Execution(options.pop("precision", "fp32"), 1)
    admits = options.pop("admits", lambda *values: all(map(math.isfinite, values)))
    with connected(settings, world) as fabric:
        objective = Objective(model, 0, seed=5, terms=terms)
        engine = engine_of(settings.strategy)(fabric, objective, settings, execution, world, admits)
        if state:
            engine.load_moments(state[1])
        yield engine


def new_terms(model: Any) -> Sequence[Term]:
    ones = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    return [ElasticWeightConsolidation(model, ones, weight=0.1), DivergenceFromFrozen(model, weight=1.0)]


def train(engine: Engine, first: int, last: int) -> list[list[float]]:
    """Loss, norm and whether it was applied of steps [first, last) on made rows, of which a third of the labels do not count."""
    told, share = [], ROWS // engine.world.size
    for step in range(first, last):
        drawn = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 320, (ROWS, LENGTH + 1), generator=drawn).numpy()
        mask = (torch.rand(ROWS, LENGTH, generator=drawn) < 2 / 3).numpy()
        own = slice(engine.world.rank * share, (engine.world.rank + 1) * share)
        numbers = torch.arange(step * ROWS, (step + 1) * ROWS).numpy()[own]
        accumulate(engine, tokens[own], mask[own], numbers, engine.total(int(mask[own].sum())), engine.settings)
        outcome = engine.step(1e-2)
        told.append([outcome.loss, outcome.grad_norm, outcome.applied])
    return told


def refuse_second() -> Callable[[float, float], bool]:
    answers = [True, False, True, True]
    return lambda *_: answers.pop(0)


def settings(strategy: str, size: int, **other: Any) -> Train:
    return Train(strategy=strategy, micro_batch=2, accumulation=ROWS // size // 2, **other)


def run(world: World, out: Path) -> None:
    told: dict[str, Any] = {}
    states: dict[str, State] = {}
    for strategy in ("ddp", "zero_1", "zero_2", "zero_3"):
        for engine in engines(settings(strategy, 2), world):
            told[strategy] = train(engine, 0, STEPS)
            states[strategy] = deepcopy(engine.fabric.broadcast((engine.weights(), engine.moments())))
            told[f"{strategy}, unbroken"] = train(engine, STEPS, 2 * STEPS)
        for engine in engines(settings(strategy, 2), world, states[strategy]):
            told[f"{strategy}, resumed"] = train(engine, STEPS, 2 * STEPS)
        for engine in engines(settings(strategy, 2), world, admits=refuse_second()):
            told[f"{strategy}, second refused"] = train(engine, 0, STEPS)
        for engine in engines(settings(strategy, 2), world, precision="bf16"):
            told[f"{strategy}, bf16"] = train(engine, 0, STEPS)
        for engine in engines(settings(strategy, 2), world, precision="fp16"):
            told[f"{strategy}, fp16"] = train(engine, 0, STEPS)
            engine.scale.value = 2.0**40  # overflows
            told[f"{strategy}, fp16 overflow"] = train(engine, 0, 1)
            told[f"{strategy}, fp16 scale"] = engine.scale.value
    for strategy in ("ddp", "zero_1", "zero_2"):
        for engine in engines(settings(strategy, 2), world, terms=True):
            told[f"{strategy}, with terms"] = train(engine, 0, STEPS)
        for engine in engines(settings(strategy, 2), world, lora=4):
            told[f"{strategy}, low rank"] = train(engine, 0, STEPS)
            low_rank = deepcopy(engine.fabric.broadcast((engine.weights(), engine.moments())))
            told[f"{strategy}, low rank, unbroken"] = train(engine, STEPS, 2 * STEPS)
        for engine in engines(settings(strategy, 2), world, low_rank, lora=4):
            told[f"{strategy}, low rank, resumed"] = train(engine, STEPS, 2 * STEPS)
    for engine in engines(settings("zero_3", 2), world, states["zero_1"]):
        told["zero_1 to zero_3"] = train(engine, STEPS, 2 * STEPS)
    for engine in engines(settings("zero_2", 2), world, states["ddp"]):
        told["ddp to zero_2"] = train(engine, STEPS, 2 * STEPS)
    for engine in engines(settings("zero_1", 2, offload=True), world):
        told["zero_1, offloaded"] = train(engine, 0, STEPS)
    if not world.leads:
        return
    alone = World()
    for engine in engines(settings("single", 1), alone):
        told["single"] = train(engine, 0, 2 * STEPS)
    for engine in engines(settings("single", 1), alone, states["zero_3"]):
        told["zero_3 to single"] = train(engine, STEPS, 2 * STEPS)
    for engine in engines(settings("single", 1), alone, precision="bf16"):
        told["single, bf16"] = train(engine, 0, STEPS)
    for engine in engines(settings("single", 1), alone, terms=True):
        told["single, with terms"] = train(engine, 0, STEPS)
    for engine in engines(settings("single", 1), alone, lora=4):
        told["single, low rank"] = train(engine, 0, STEPS)
    for engine in engines(settings("single", 1), alone, admits=refuse_second()):
        told["single, second refused"] = train(engine, 0, STEPS)
    out.write_text(json.dumps(told))


if __name__ == "__main__":
    place = World.here()
    if place.size == 1:
        with start(2, sys.argv) as place:
            run(place, Path(sys.argv[1]))
    else:
        run(place, Path(sys.argv[1]))
