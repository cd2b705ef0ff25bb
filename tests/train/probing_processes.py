"""Run by test_probes.py: logits in two processes under each strategy, between steps of training, told as JSON by the leading one.

python probing_processes.py OUT
"""

import json
import sys
from pathlib import Path

import torch

from configs.schema import Model
from tests.train.two_processes import LENGTH, engines, settings, train
from train.engine import Engine
from train.model import build_model
from train.objective import evaluation
from train.world import World, start


def logits(engine: Engine, tokens: torch.Tensor) -> torch.Tensor:
    with evaluation(engine.wrapped):
        return engine.logits(tokens).clone()


def run(world: World, out: Path) -> None:
    told: dict[str, float] = {}
    for strategy in ("ddp", "zero_1", "zero_2", "zero_3"):
        for engine in engines(settings(strategy, 2), world):
            train(engine, 0, 4)
            plain = engine.fabric.broadcast(engine.weights())
        for engine in engines(settings(strategy, 2), world):
            probed = []
            for step in range(4):
                train(engine, step, step + 1)
                tokens = torch.arange(3 * (9 + step)).reshape(3, -1) + world.rank  # texts differ between processes and steps
                probed.append((tokens, logits(engine, tokens)))
            weights = engine.fabric.broadcast(engine.weights())
        told[f"{strategy}, weights"] = max(float((weights[name] - plain[name]).abs().max()) for name in plain)
        model = build_model(Model(layers=2, width=64, heads=4, dropout=0.1), 320, LENGTH, end_of_text=0, seed=1).eval()
        model.load_state_dict(weights, strict=False)
        tokens, found = probed[-1]
        with torch.no_grad():
            told[strategy] = float((model(input_ids=tokens).logits - found).abs().max())
    if world.leads:
        out.write_text(json.dumps(told))


if __name__ == "__main__":
    place = World.here()
    if place.size == 1:
        with start(2, sys.argv) as place:
            run(place, Path(sys.argv[1]))
    else:
        run(place, Path(sys.argv[1]))
