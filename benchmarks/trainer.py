"""One step of Imprint's trainer and of other ways to train the same shape, in turns: tokens a second, and what the trainer adds.

python benchmarks/trainer.py                                  # every shape and precision that this processor multiplies: minutes
python benchmarks/trainer.py --shape 10m --precision bf16 --rounds 40 --threads 1

Imprint's step is the trainer's own: rows with an overlay, digests, ledger, engine, metrics. The bare loops train the same Hugging
Face model from rows that were read before, and end with the same loss. nanoGPT's way is written anew here; Hugging Face's Trainer
is the real one where accelerate is installed (`make test` puts it into .venv/harness), on rows as run_clm.py makes them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.append(str(Path(__file__).parents[1] / ".venv" / "harness"))

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import is_accelerate_available

from configs.layout import ModelLayout, write_json
from configs.presets import preset
from configs.schema import Model, Train
from inject.corpus import Corpus
from inject.stream import Overlay, Stream, row_digests
from train.engine import connected, parameter_groups
from train.execution import Execution, cores, multiplies_bf16, shared_out
from train.ledger import Ledger
from train.loop import Training, Trajectory, new_model
from train.model import parameters
from train.objective import Objective
from train.stop import Stop
from train.world import World

TOKENS, INSERTED, RATE, COMMIT_EVERY = 2**22, 32, 1e-3, 150
WARM_UP = 3  # rounds that do not count
BARE, OWN_LOSS, SINGLE, ZERO, READING = (
    "bare loop, torch's cross-entropy", "bare loop, Imprint's objective", "Imprint, single", "Imprint, ZeRO-1",
    "rows, digests and ledger alone",
)  # fmt: skip
GPT2, NANO, TRAINER = "Imprint, single, GPT-2's blocks", "nanoGPT's way", "Hugging Face Trainer"
COMPILED = "Imprint, single, compiled"
COMPARED = [  # the time of one way over another's, and what it should be
    (SINGLE, OWN_LOSS, "at most 1.03"),
    (SINGLE, BARE, "at most 1.03"),
    (ZERO, OWN_LOSS, "at most 1.08"),
    (ZERO, BARE, "at most 1.08"),
    (READING, SINGLE, "less than 0.01"),
    (NANO, GPT2, "at least 1.0"),
    (NANO, SINGLE, ""),
    (TRAINER, SINGLE, "at least 1.2"),
    (TRAINER, COMPILED, "at least 1.2"),
    (COMPILED, SINGLE, ""),
]


@dataclass(frozen=True)
class Shape:
    """What is trained on how many tokens a step."""

    model: Model
    vocabulary: int
    rows: int
    sequence_length: int


SHAPES = {
    "quickstart": Shape(Model(), 1024, 8, 128),
    "10m": Shape(Model(**preset("neox-10m")), 4096, 8, 256),
}


# ------------------------------------------------------------------------------------------------ what is read


def make_stream(shape: Shape, folder: Path) -> Stream:
    """Random tokens, with an inserted text of 32 tokens in half of the rows."""
    draw = np.random.default_rng(0)
    draw.integers(1, shape.vocabulary, TOKENS, dtype=np.uint16).tofile(folder / "tokens-00000.bin")
    shards = [{"tokens": TOKENS, "documents": 1}]
    write_json(folder / "meta.json", {"vocabulary": shape.vocabulary, "end_of_text": 0, "dtype": "uint16", "shards": shards})
    row = np.arange(0, TOKENS // (shape.sequence_length + 1), 2)
    offset = draw.integers(0, shape.sequence_length + 1 - INSERTED, len(row)).astype(np.int32)
    pool, texts = draw.integers(1, shape.vocabulary, 100 * INSERTED), np.arange(100)
    overlay = Overlay(
        *(row, offset, draw.integers(0, 100, len(row)).astype(np.int32), np.zeros(len(row), bool)),
        *(texts * INSERTED, np.full(100, INSERTED), pool),
    )
    return Stream(Corpus(folder), 1, shape.sequence_length, overlay)


# ------------------------------------------------------------------------------------------------ ways to train


def imprint(
    shape: Shape, model: Model, how: str, stream: Stream, execution: Execution, folder: Path, steps: int, stack: Any
) -> Training:
    """A training that has not begun; `stack` closes what it opens."""
    settings = Train(
        strategy=how.removesuffix("-compiled"), compile=how.endswith("-compiled"), steps=steps, global_batch=shape.rows,
        sequence_length=shape.sequence_length, schedule="constant", learning_rate=RATE, warmup=0, held_out_rows=0,
        precision=execution.precision, threads=execution.threads,
    )  # fmt: skip
    name = f"{model.architecture}-{how}"
    unused: Any = None  # a tokenizer is only written into checkpoints
    trajectory = Trajectory(name, model, settings, stream, unused, 1, [], "", "", "")
    layout = ModelLayout(folder / name)
    layout.root.mkdir()
    settings = shared_out(settings, World())
    fabric = stack.enter_context(connected(settings, World()))
    with contextlib.redirect_stdout(io.StringIO()):
        training = Training(trajectory, settings, layout, fabric, execution, World(), None, Stop())
    stack.enter_context(training.metrics)
    return training


class Mean(nn.Module):
    """The mean cross-entropy of a Hugging Face model's logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def bare(loss: nn.Module, groups: list[dict], precision: str, read: Callable[[], tuple[Tensor, ...]]) -> Callable[[int], float]:
    """A training loop with nothing but what trains: loss, gradient, clipping, fused AdamW. Rows come from `read`."""
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    loss.train()

    def step(_: int) -> float:
        tokens, mask, numbers = read()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            mean = loss(tokens, mask, numbers) / mask.numel()
        mean.backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return mean.item()

    return step


class Block(nn.Module):
    """Attention, then the feed-forward layer, each on a norm of what it adds to; no biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed_forward = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            each.view(n, length, self.heads, -1).transpose(1, 2) for each in self.qkv(self.before_attention(x)).split(width, 2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.before_feed_forward(x))))


class PlainGPT(nn.Module):
    """GPT-2's shape as nanoGPT trains it: learned positions, the head tied to the embedding, the loss of all logits at once."""

    def __init__(self, shape: Shape):
        super().__init__()
        width = shape.model.width
        self.embedding, self.positions = nn.Embedding(shape.vocabulary, width), nn.Embedding(shape.sequence_length, width)
        self.blocks = nn.ModuleList(Block(width, shape.model.heads) for _ in range(shape.model.layers))
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, shape.vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(inputs) + self.positions(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), labels.flatten())


def nanogpt(shape: Shape, tokens: Path, precision: str) -> Callable[[int], float]:
    """Rows from random places of the memory-mapped tokens; the next ones are read between forward and backward."""
    model = PlainGPT(shape)
    matrices, vectors = ([p for p in model.parameters() if (p.ndim == 2) is two] for two in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)

    def read() -> tuple[Tensor, Tensor]:
        data, length = np.memmap(tokens, np.uint16, mode="r"), shape.sequence_length
        starts = torch.randint(len(data) - length, (shape.rows,)).tolist()
        inputs, labels = (
            torch.stack([torch.from_numpy(data[i + by : i + by + length].astype(np.int64)) for i in starts]) for by in (0, 1)
        )
        return inputs, labels

    batch = read()

    def step(_: int) -> float:
        nonlocal batch
        for group in optimizer.param_groups:
            group["lr"] = RATE
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(*batch)
        batch = read()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


class Turns(TrainerCallback):
    """Gives the others their turns between two steps of Hugging Face's Trainer, which can't be driven from outside."""

    def __init__(self, others: Callable[[], None], times: list[tuple[float, float]]):
        self.others, self.times, self.since = others, times, (0.0, 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.since = clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = clock()
        self.times.append((now[0] - self.since[0], now[1] - self.since[1]))
        self.others()
        self.since = clock()


def hugging_face(shape: Shape, model: nn.Module, stream: Stream, precision: str, steps: int, folder: Path) -> Trainer:
    """The real Trainer, set up as run_clm.py does: rows of equal length with attention mask and labels, the default collator."""
    rows = stream.base_tokens(np.arange(steps * shape.rows))[:, :-1]
    columns = {"input_ids": rows, "attention_mask": np.ones_like(rows), "labels": rows}
    settings = TrainingArguments(
        output_dir=str(folder / "trainer"), use_cpu=True, bf16=precision == "bf16", max_steps=steps, learning_rate=RATE,
        per_device_train_batch_size=shape.rows, lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=steps,
    )  # fmt: skip
    return Trainer(model, settings, train_dataset=Dataset.from_dict(columns))


# ------------------------------------------------------------------------------------------------ taking turns


def clock() -> tuple[float, float]:
    """Seconds now: those that passed, and those of the processor, in all threads."""
    return time.perf_counter(), time.process_time()


def compare(shape: Shape, precision: str, threads: int, rounds: int) -> None:
    torch.set_num_threads(threads)
    set_seed(0)
    steps, execution = rounds + WARM_UP, Execution(precision, threads)
    times: dict[str, list[tuple[float, float]]] = {}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stream = make_stream(shape, folder)
        gpt2 = replace(shape.model, architecture="gpt2", options={"activation_function": "gelu"})
        ready: list[tuple[Tensor, ...]] = []  # the rows of the step that comes next, read before any clock starts

        # Before ZeRO-1 connects its one process, which the Trainer would take for a part of a distributed training.
        trainer = None
        if is_accelerate_available():
            plain = Trajectory("", shape.model, Train(sequence_length=shape.sequence_length), stream, Any, 1, [], "", "", "")
            trainer = hugging_face(shape, new_model(plain), stream, precision, steps, folder)
        one, zero, compiled, other = (
            imprint(shape, model, how, stream, execution, folder, steps, stack)
            for model, how in ((shape.model, "single"), (shape.model, "zero_1"), (shape.model, "single-compiled"), (gpt2, "single"))
        )
        models = [new_model(one.trajectory) for _ in range(2)]
        ledger = Ledger(ModelLayout(folder / "ledger"), 0)
        ledger.layout.root.mkdir()

        def taken(training: Training) -> Callable[[int], float]:
            def step(number: int) -> float:
                training.step(number)
                return float("nan")

            return step

        def reading(step: int) -> float:
            rows = stream.rows(step * shape.rows + np.arange(shape.rows))
            ledger.add(step, RATE, True, row_digests(rows.tokens, rows.label_mask))
            return float("nan")

        ways: dict[str, Callable[[int], float]] = {
            BARE: bare(Mean(models[0]), parameter_groups(models[0], 0.1), precision, lambda: ready[-1]),
            OWN_LOSS: bare(Objective(models[1], 0), parameter_groups(models[1], 0.1), precision, lambda: ready[-1]),
            SINGLE: taken(one),
            ZERO: taken(zero),
            COMPILED: taken(compiled),
            READING: reading,
            GPT2: taken(other),
            NANO: nanogpt(shape, folder / "tokens-00000.bin", precision),
        }
        times |= {way: [] for way in [*ways, *([TRAINER] if trainer else [])]}
        order = random.Random(0)

        def turn() -> None:
            number = len(times[SINGLE])
            numbers = number * shape.rows + np.arange(shape.rows)
            rows = stream.rows(numbers)
            ready[:] = [tuple(torch.from_numpy(part) for part in (rows.tokens, rows.label_mask, numbers))]
            for way in order.sample(list(ways), len(ways)):
                start = clock()
                losses[way] = ways[way](number)
                end = clock()
                times[way].append((end[0] - start[0], end[1] - start[1]))

        if trainer:
            trainer.add_callback(Turns(turn, times[TRAINER]))
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.train()
        else:
            print("Hugging Face's Trainer is left out: accelerate is not installed")
            for _ in range(steps):
                turn()
        show(shape, times, parameters(models[0]))
        share = committing(folder, stream, shape) / COMMIT_EVERY / statistics.median(t for t, _ in times[SINGLE][WARM_UP:])
        print(f"  committing {COMMIT_EVERY} steps to the ledger takes {share:.2%} of their time")
        ours = [json.loads(each.layout.metrics.read_text().splitlines()[-1])["loss"] for each in (one, zero)]
        last = [losses[BARE], losses[OWN_LOSS], *ours]
        print("  the last losses of bare loops, single and ZeRO-1: " + ", ".join(f"{loss:.5f}" for loss in last))
        assert max(last) - min(last) < (1e-4 if precision == "fp32" else 1e-2), "these did not train the same"


def committing(folder: Path, stream: Stream, shape: Shape) -> float:
    """Seconds to write as many steps of the ledger as lie between two resume states."""
    layout = ModelLayout(folder / "committed")
    layout.root.mkdir()
    ledger = Ledger(layout, 0)
    for step in range(COMMIT_EVERY):
        rows = stream.rows(step * shape.rows + np.arange(shape.rows))
        ledger.add(step, RATE, True, row_digests(rows.tokens, rows.label_mask))
    start, _ = clock()
    ledger.commit()
    return clock()[0] - start


def show(shape: Shape, times: dict[str, list[tuple[float, float]]], size: int) -> None:
    """Medians of each way, and of the paired ratios with their quartiles."""
    tokens = shape.rows * shape.sequence_length
    kept = {way: taken[WARM_UP:] for way, taken in times.items()}
    print(f": {size / 1e6:.2f} million parameters, vocabulary {shape.vocabulary:,}, {shape.rows} rows of {shape.sequence_length}")
    for way, taken in kept.items():
        wall, processor = (statistics.median(part) for part in zip(*taken, strict=True))
        rate = "" if way == READING else f"{tokens / wall:9,.0f} tokens/s"
        print(f"  {way:34s} {wall * 1e3:8.2f} ms {processor * 1e3:8.2f} ms of the processor  {rate}")
    for way, other, goal in COMPARED:
        if way in kept and other in kept:
            (low, middle, high), processor = (
                statistics.quantiles([a[i] / b[i] for a, b in zip(kept[way], kept[other], strict=True)], n=4) for i in (0, 1)
            )
            ratio = f"{middle:.3f} ({low:.3f} to {high:.3f}), processor {processor[1]:.3f}"
            print(f"  {way} / {other}: {ratio}" + (f"; {goal}" if goal else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="all if not given")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="fp32, and bf16 where the processor multiplies it")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=cores())
    given = parser.parse_args()
    precisions = [given.precision] if given.precision else ["fp32", *(["bf16"] if multiplies_bf16() else [])]
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.rounds} rounds")
    for name in [given.shape] if given.shape else SHAPES:
        for precision in precisions:
            print(f"\n{name}, {precision}", end="", flush=True)
            compare(SHAPES[name], precision, given.threads, given.rounds)


if __name__ == "__main__":
    main()
