"""Where a step is computed: devices, precision and the optimizer, behind `backward(loss, last)` and `step()`.

The loop knows no device. A strategy for several of them (DDP, DeepSpeed) is another class with these two methods.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric

from configs.layout import fingerprint, read_json, write_json
from configs.schema import Train


@dataclass(frozen=True)
class Execution:
    """How a model is computed, settled when its training first starts and kept when it is resumed."""

    precision: str  # fp32 | bf16
    threads: int


class Engine:
    """A model and its AdamW (Loshchilov and Hutter, 2019) on one device, through Lightning Fabric."""

    def __init__(self, model: torch.nn.Module, settings: Train, execution: Execution):
        torch.set_num_threads(execution.threads)
        self.clip = settings.clip
        self.fabric = Fabric(devices=1, precision="bf16-mixed" if execution.precision == "bf16" else "32-true")
        self.bare = model
        optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=0.0, betas=(settings.betas[0], settings.betas[1]), fused=True
        )
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        self.model.train()

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`, a part of the step's loss; `last` marks the part that completes it."""
        self.fabric.backward(loss)

    def step(self, learning_rate: float) -> tuple[bool, float]:
        """Apply the gradient: (whether it was applied, its norm before clipping). One that is not finite is not applied."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.bare.parameters(), self.clip or float("inf")))
        applied = norm == norm and norm != float("inf")
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return applied, norm

    def moments(self) -> dict[str, torch.Tensor]:
        """AdamW's running averages by parameter name, prefixed exp_avg. and exp_avg_sq., and its count of steps."""
        state = self.optimizer.state
        return {
            f"{key}.{name}": state[parameter][key].detach().cpu().contiguous()
            for name, parameter in self.bare.named_parameters()
            if parameter in state
            for key in ("exp_avg", "exp_avg_sq", "step")
        }

    def load(self, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        """Put back what `bare.state_dict()` and `moments()` gave."""
        self.bare.load_state_dict(weights, strict=False)
        for name, parameter in self.bare.named_parameters():
            if f"step.{name}" in moments:
                self.optimizer.state[parameter] = {
                    "step": moments[f"step.{name}"].to(parameter.device, copy=True),  # where fused AdamW wants it
                    "exp_avg": moments[f"exp_avg.{name}"].to(parameter.device, copy=True),
                    "exp_avg_sq": moments[f"exp_avg_sq.{name}"].to(parameter.device, copy=True),
                }


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, norms and embeddings do not."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


# ------------------------------------------------------------------------------------------------ precision and threads


def settle(settings: Train, cache: Path, record: Path, shape: object, try_step: Callable[[Execution], None]) -> Execution:
    """The execution recorded for a model, or one chosen now and recorded.

    Precision `auto` is bf16 where the hardware multiplies it. Threads `0` are measured with `try_step` once a machine and
    `shape`, and remembered in `cache`, so that runs of one machine agree to the last bit.
    """
    if record.exists():
        return Execution(**read_json(record))
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if multiplies_bf16() else "fp32"
    threads = settings.threads or _fastest_threads(cache, [precision, shape], lambda n: try_step(Execution(precision, n)))
    execution = Execution(precision, threads)
    write_json(record, {"precision": precision, "threads": threads})
    return execution


def multiplies_bf16() -> bool:
    """Whether the hardware multiplies bf16 itself; elsewhere it is slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _fastest_threads(cache: Path, shape: object, try_step: Callable[[int], None]) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1 or torch.cuda.is_available():
        return cores
    machine = fingerprint([platform.node(), platform.processor(), cores, torch.__version__, shape])[:16]
    remembered = cache / f"threads-{machine}.json"
    if remembered.exists():
        return int(read_json(remembered)["threads"])
    seconds = {n: min(_seconds(try_step, n) for _ in range(3)) for n in sorted({1, cores // 2 or 1, cores})}
    threads = min(seconds, key=lambda n: seconds[n])
    write_json(remembered, {"threads": threads, "seconds": seconds})
    return threads


def _seconds(try_step: Callable[[int], None], threads: int) -> float:
    start = time.perf_counter()
    try_step(threads)
    return time.perf_counter() - start
