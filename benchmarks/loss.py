"""Peak memory and time of the cross-entropy of a linear head, by vocabulary: chunks of its logits against all of them at once.

python benchmarks/loss.py
python benchmarks/loss.py --width 2048 --tokens 16384 --device cuda --precision bf16

Counted is what forward and backward hold at once beyond their inputs, less the gradients they leave, which any way must hold: the
weight's, as large as the weight, and that of the hidden states. On a processor torch's profiler sees every allocation.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as under `imprint`

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from train.cross_entropy import LinearCrossEntropy, chunk_tokens

VOCABULARIES = (1024, 4096, 16_384, 50_304)
MIB = 2**20


def full(head: nn.Linear, hidden: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """All logits, and torch's cross-entropy of them in fp32, as Hugging Face's models compute theirs."""
    return F.cross_entropy(head(hidden).float(), labels, reduction="none").mul(mask).sum()


def once(way: str, head: nn.Linear, hidden: Tensor, labels: Tensor, mask: Tensor, precision: str, chunk: int) -> None:
    """One forward and backward pass that leave gradients where there were none."""
    head.weight.grad = hidden.grad = None
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=precision == "bf16"):
        if way == "full":
            loss = full(head, hidden, labels, mask)
        else:
            loss = LinearCrossEntropy(head, chunk, compiled=way == "compiled")(hidden, labels, mask)
    (loss / len(labels)).backward()


def peak_bytes(way: str, head: nn.Linear, hidden: Tensor, labels: Tensor, mask: Tensor, precision: str, chunk: int) -> int:
    """The most that a pass holds at once beyond what it was given."""
    head.weight.grad = hidden.grad = None
    if hidden.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(way, head, hidden, labels, mask, precision, chunk)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        once(way, head, hidden, labels, mask, precision, chunk)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def seconds(way: str, head: nn.Linear, hidden: Tensor, labels: Tensor, mask: Tensor, precision: str, chunk: int) -> float:
    start = time.perf_counter()
    once(way, head, hidden, labels, mask, precision, chunk)
    if hidden.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--chunk", type=int, default=0, help="train.loss_chunk")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; the fastest counts")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    given = parser.parse_args()
    described = [f"torch {torch.__version__}", given.device, f"{torch.get_num_threads()} thread(s)", given.precision]
    print(", ".join([*described, f"{given.tokens:,} tokens, width {given.width}"]), end="\n\n")
    ways = {"full": "all logits", "chunked": "chunks"} | ({"compiled": "compiled chunks"} if given.device != "cpu" else {})
    columns = ["vocabulary", "gradients, MiB", *(f"{way}: beyond them, MiB" for way in ways.values()), "tokens a chunk"]
    columns += [f"{way}, ms" for way in ways.values()]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for vocabulary in given.vocabularies:
        torch.manual_seed(0)
        head = nn.Linear(given.width, vocabulary, bias=False, device=given.device)
        hidden = torch.randn(given.tokens, given.width, device=given.device, requires_grad=True)
        labels = torch.randint(vocabulary, (given.tokens,), device=given.device)
        mask = torch.ones(given.tokens, dtype=torch.bool, device=given.device)
        gradients = 4 * given.width * (vocabulary + given.tokens)
        rest, fastest = {}, {}
        for way in ways:
            arguments = (way, head, hidden, labels, mask, given.precision, given.chunk)
            once(*arguments)
            rest[way] = (peak_bytes(*arguments) - gradients) / MIB
            fastest[way] = 1e3 * min(seconds(*arguments) for _ in range(given.rounds))
        chunk = chunk_tokens(given.tokens, vocabulary, given.chunk, given.device)
        told = [f"{vocabulary:,}", f"{gradients / MIB:.1f}", *(f"{held:.1f}" for held in rest.values()), f"{chunk:,}"]
        print(f"| {' | '.join([*told, *(f'{spent:.1f}' for spent in fastest.values())])} |", flush=True)


if __name__ == "__main__":
    main()
