"""Tokens a second and MFU of Imprint's trainer on one device: a row of a table for each size, strategy and micro-batch.

python benchmarks/gpu.py                                                        # 125M, 350M and 1B, compiled, bf16, rows of 2,048
python benchmarks/gpu.py --preset gpt2 --micro-batch 32 16 8 --strategy single zero_1
python benchmarks/gpu.py --preset hubble-1b --micro-batch 16 --activation-checkpointing --attention flash_attention_2
python benchmarks/gpu.py --preset neox-0.5m --sequence-length 64 --micro-batch 2 --steps 3 --no-compile --precision fp32    # try it

A step is the trainer's own: rows with digests, ledger, engine, metrics; its tokens are random. The first steps, which compile, do
not count. MFU is defined in train/flops.py; the peak that it is a part of stands in the row. Where memory is too small, the row
says so.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import math
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as under `imprint`

import numpy as np
import torch

from configs.layout import ModelLayout, write_json
from configs.presets import PRESETS, preset
from configs.schema import Model, Train
from inject.corpus import Corpus
from inject.stream import Stream
from train.engine import connected, device_of
from train.execution import Execution, cores, multiplies_bf16, shared_out
from train.flops import assumed_peak
from train.loop import Training, Trajectory
from train.stop import Stop
from train.world import World

PRESETS_125M_TO_1B = ["gpt2", "gpt2-medium", "hubble-1b"]  # 124, 355 and 1,180 million parameters at GPT-2's vocabulary
COLUMNS = [
    *("preset", "million parameters", "strategy", "micro-batch x accumulation", "tokens/s", "ms a step", "its quartiles"),
    *("MFU", "TFLOP/s", "peak assumed, TFLOP/s", "most memory, GiB"),
]


def make_stream(folder: Path, vocabulary: int, sequence_length: int, rows: int) -> Stream:
    tokens = rows * (sequence_length + 1)
    np.random.default_rng(0).integers(1, vocabulary, tokens, dtype=np.uint16).tofile(folder / "tokens-00000.bin")
    shards = [{"tokens": tokens, "documents": 1}]
    write_json(folder / "meta.json", {"vocabulary": vocabulary, "end_of_text": 0, "dtype": "uint16", "shards": shards})
    return Stream(Corpus(folder), 1, sequence_length)


def measure(name: str, strategy: str, micro_batch: int, given: argparse.Namespace) -> list[str]:
    """One row of the table."""
    settings = Train(
        strategy=strategy, steps=given.warm_up + given.steps, global_batch=micro_batch * given.accumulation,
        micro_batch=micro_batch, accumulation=given.accumulation, sequence_length=given.sequence_length, learning_rate=1e-4,
        held_out_rows=0, precision=given.precision, attention=given.attention, compile=given.compile,
        activation_checkpointing=given.activation_checkpointing, loss_chunk=given.loss_chunk, peak_tflops=given.peak_tflops,
    )  # fmt: skip
    settings, model = shared_out(settings, World()), Model(**preset(name))
    with tempfile.TemporaryDirectory() as folder, connected(settings, World()) as fabric:
        stream = make_stream(Path(folder), given.vocabulary, given.sequence_length, settings.steps * settings.global_batch)
        layout = ModelLayout(Path(folder) / "model")
        layout.root.mkdir()
        unused: Any = None  # a tokenizer is only written into checkpoints
        trajectory = Trajectory(name, model, settings, stream, unused, 1, [], "", "", "")
        execution = Execution(given.precision, given.threads)
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with contextlib.redirect_stdout(io.StringIO()):
            training = Training(trajectory, settings, layout, fabric, execution, World(), None, Stop())
        weights = training.engine.model.parameters()
        size = sum(math.prod(getattr(weight, "ds_shape", weight.shape)) for weight in weights)  # ZeRO-3 leaves empty ones
        flops, seconds = training.metrics.flops_per_token, []
        with training.metrics:
            for step in range(settings.steps):
                start = time.perf_counter()
                training.step(step)  # ends with a transfer from the device: nothing of the step but its update is still under way
                seconds.append(time.perf_counter() - start)
        counted = seconds[given.warm_up :]
        rate = settings.global_batch * given.sequence_length * len(counted) / sum(counted)
        peak = assumed_peak(fabric.device, given.precision, 1, given.peak_tflops).flops
        most = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if fabric.device.type == "cuda" else "-"
    low, middle, high = (1e3 * each for each in statistics.quantiles(counted, n=4))
    return [
        *(name, f"{size / 1e6:.1f}", strategy, f"{micro_batch} x {given.accumulation}", f"{rate:,.0f}"),
        *(f"{middle:.1f}", f"{low:.1f} to {high:.1f}", f"{rate * flops / peak:.1%}" if peak else "-"),
        *(f"{rate * flops / 1e12:.3g}", f"{peak / 1e12:,.6g}" if peak else "-", most),
    ]


def row(name: str, strategy: str, micro_batch: int, given: argparse.Namespace) -> list[str]:
    """A measured row, or one that says that there was too little memory."""
    try:
        return measure(name, strategy, micro_batch, given)
    except torch.OutOfMemoryError:
        what = [name, "-", strategy, f"{micro_batch} x {given.accumulation}", "out of memory"]
        return what + ["-"] * (len(COLUMNS) - len(what))
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", nargs="+", choices=PRESETS, default=PRESETS_125M_TO_1B, metavar="NAME", help="configs/presets.py"
    )
    parser.add_argument("--strategy", nargs="+", choices=["single", "zero_1", "zero_2", "zero_3"], default=["single"])
    parser.add_argument(
        "--micro-batch", nargs="+", type=int, default=[16, 8], help="rows of a forward pass; a row of the table each"
    )
    parser.add_argument("--accumulation", type=int, default=4, help="forward passes of a step")
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=50_304)
    parser.add_argument("--steps", type=int, default=20, help="steps that count")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--attention", default="auto", help="train.attention")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--loss-chunk", type=int, default=0, help="train.loss_chunk")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, where its name does not tell it")
    parser.add_argument("--threads", type=int, default=cores())
    given = parser.parse_args(arguments)
    device = device_of(World())
    if device.type == "cuda" and given.precision == "bf16" and not multiplies_bf16():
        parser.error("this GPU does not multiply bf16; give --precision fp16")
    described = torch.cuda.get_device_name(device) if device.type == "cuda" else f"processor, {given.threads} thread(s)"
    versions = [f"{package} {version(package)}" for package in ("torch", "transformers", "lightning", "deepspeed")]
    versions += [f"CUDA {torch.version.cuda}", f"Python {platform.python_version()}"]
    print(f"`python benchmarks/gpu.py {shlex.join(arguments)}`", end="\n\n")
    print(
        f"{described}; {', '.join(versions)}; {given.precision}, rows of {given.sequence_length:,}, vocabulary {given.vocabulary:,}"
    )
    print(assumed_peak(device, given.precision, 1, given.peak_tflops).told, end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    for name in given.preset:
        for strategy in given.strategy:
            for micro_batch in given.micro_batch:
                print(f"| {' | '.join(row(name, strategy, micro_batch, given))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
