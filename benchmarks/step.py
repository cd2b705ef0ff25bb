"""One training step of the quickstart, this way and that, in turns: what the choices in train/ are worth on this machine.

python benchmarks/step.py                    # waiting threads sleep, as under `imprint`
OMP_WAIT_POLICY=ACTIVE python benchmarks/step.py
python benchmarks/step.py --busy             # while another process uses a core
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn.functional import cross_entropy

from configs.schema import Model
from train.model import build_model
from train.objective import next_token_loss

ROUNDS = 40


def torch_loss(model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def main() -> None:
    model = build_model(Model(), vocabulary=1024, sequence_length=128, end_of_text=0, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    tokens, mask = torch.randint(0, 1024, (8, 129)), torch.ones(8, 128, dtype=torch.bool)
    ways = {
        "ours, 1 thread": (next_token_loss, 1),
        "ours, 2 threads": (next_token_loss, 2),
        "torch's cross-entropy, 2 threads": (torch_loss, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (loss, threads) in ways.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            (loss(model, tokens, mask) / mask.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["ours, 2 threads"][3:]
    for name, taken in seconds.items():
        ratios = sorted(a / b for a, b in zip(taken[3:], base, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        median = statistics.median(taken[3:]) * 1e3
        print(f"{name:34s} {median:6.1f} ms   ratio {statistics.median(ratios):.2f} (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if "--busy" in sys.argv else None
    try:
        main()
    finally:
        if other:
            other.kill()
