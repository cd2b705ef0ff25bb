"""How a model is computed where it is trained: precision and processor threads, settled once and kept when it is resumed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from configs.batch import share_out
from configs.errors import DataError, RecipeError
from configs.layout import fingerprint, read_json, write_json
from configs.schema import Train
from train.world import World


@dataclass(frozen=True)
class Execution:
    """Precision and threads of every process."""

    precision: str  # fp32 | bf16 | fp16
    threads: int


def shared_out(settings: Train, world: World) -> Train:
    """The settings with what is left to the program filled in: strategy, rows of a forward pass, and passes of a step.

    RecipeError where they don't fit the number of processes.
    """
    strategy = settings.strategy
    if strategy == "single" and world.size > 1:
        raise RecipeError(f"train.strategy is single, but there are {world.size} processes; possible: ddp, zero_1, zero_2, zero_3")
    if strategy == "auto":
        strategy = "single" if world.size == 1 and not settings.offload else "zero_1"
    micro_batch, passes = share_out(settings.global_batch, world.size, settings.micro_batch, settings.accumulation)
    return replace(settings, strategy=strategy, micro_batch=micro_batch, accumulation=passes)


def settle(
    settings: Train, world: World, cache: Path, record: Path, shape: object, try_step: Callable[[Execution], None]
) -> Execution:
    """The execution recorded for a model, or one chosen now and recorded; only the leading process calls this.

    Precision `auto` is bf16 where the hardware multiplies it; it is recorded for good. Threads `0` are recorded for each number of
    processes. One process measures them with `try_step` once a machine and `shape`, and remembers them in `cache`, so that runs of
    one machine agree to the last bit; several share the machine's cores.
    """
    known = _recorded(record) if record.exists() else {"threads": {}}
    precision = known.get("precision", settings.precision)
    if precision == "auto":
        precision = "bf16" if multiplies_bf16() else "fp32"
    threads = known["threads"].get(str(world.size)) or settings.threads
    if not threads and world.size > 1:
        threads = max(1, cores() // world.local_size)
    if not threads:
        threads = _fastest_threads(cache, [precision, shape], lambda n: try_step(Execution(precision, n)))
    written = {"precision": precision, "threads": {**known["threads"], str(world.size): threads}}
    if written != known:
        write_json(record, written)
    return Execution(precision, threads)


def _recorded(record: Path) -> dict[str, Any]:
    try:
        known = read_json(record)
        if known["precision"] in ("fp32", "bf16", "fp16") and all(int(threads) > 0 for threads in known["threads"].values()):
            return dict(known)
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        pass
    raise DataError(f"{record} is damaged or of another version; remove it, and precision and threads are settled anew")


def multiplies_bf16() -> bool:
    """Whether the hardware multiplies bf16 itself; elsewhere it is slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fastest_threads(cache: Path, shape: object, try_step: Callable[[int], None]) -> int:
    if cores() == 1 or torch.cuda.is_available():
        return cores()
    machine = fingerprint([platform.node(), platform.processor(), cores(), torch.__version__, shape])[:16]
    remembered = cache / f"threads-{machine}.json"
    if remembered.exists():
        return int(read_json(remembered)["threads"])
    seconds = {n: min(_seconds(try_step, n) for _ in range(3)) for n in sorted({1, cores() // 2 or 1, cores()})}
    threads = min(seconds, key=lambda n: seconds[n])
    write_json(remembered, {"threads": threads, "seconds": seconds})
    return threads


def _seconds(try_step: Callable[[int], None], threads: int) -> float:
    start = time.perf_counter()
    try_step(threads)
    return time.perf_counter() - start
