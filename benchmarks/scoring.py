"""What scoring costs: each question to a model asked Imprint's way and the usual way, in turns, on the same texts.

python benchmarks/scoring.py                                # minutes, one thread
python benchmarks/scoring.py --only exposure throughput     # some of the comparisons
python benchmarks/scoring.py --quick                        # tiny sizes: do they run, do their numbers agree

Two ways that give different numbers are not compared: before they are timed, their answers are, and must agree. Weights are random
(their speed is that of trained ones). Processor time is the main figure, as it suffers least from what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as under `imprint`

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, PreTrainedModel

from configs.presets import preset
from configs.schema import Model
from eval.decoding import continue_prompts
from eval.extraction import runs
from eval.forward import batches
from eval.membership import loss, lowercase_ratio, min_k, min_k_plus_plus, zlib_ratio
from eval.scoring import TokenScores, score_continuations, score_tokens, score_trie
from train.model import build_model
from train.rows import padded

BATCH_TOKENS = 2048  # of both ways
ROUNDS, SECONDS = 9, 15  # of a comparison: so many, or fewer where they would take longer, but three at least
TOLERANCE = 1e-4  # relative, or in nats
SHARPER = 10  # times a new model's head, so that one token is clearly more probable than another

Rows = Sequence[Sequence[int]]
Way = Callable[[], np.ndarray]  # to the answers


@dataclass(frozen=True)
class Sizes:
    """How much of everything: as in a real study, or little."""

    document_tokens: int = 256
    texts: int = 256  # and documents, at most
    text_tokens: int = 127  # with end-of-text before it, 16 fill a batch
    questions: int = 8
    context_tokens: int = 80
    candidates: int = 10
    candidate_tokens: int = 6
    digits: int = 4
    prefix_tokens: int = 8


QUICK = Sizes(32, 4, 15, 2, 12, 3, 2, 2, 3)


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same answers, and how many times as fast ours is to be."""

    name: str
    goal: float
    ours: Way
    theirs: Way
    told: Way | None = None  # the answers of what `theirs` computes, where it is not asked for any

    def check(self) -> None:
        np.testing.assert_allclose(self.ours(), (self.told or self.theirs)(), rtol=TOLERANCE, atol=TOLERANCE, err_msg=self.name)


@dataclass(frozen=True)
class Measured:
    """Seconds of every round, processor and wall, of ours and of theirs."""

    ours: list[tuple[float, float]]
    theirs: list[tuple[float, float]]

    def seconds(self, clock: int) -> tuple[float, float]:
        return tuple(statistics.median(each[clock] for each in way) for way in (self.ours, self.theirs))  # type: ignore[return-value]

    def ratio(self, clock: int) -> tuple[float, float, float]:
        """The median of the rounds' ratios, and their quartiles."""
        ratios = [theirs[clock] / ours[clock] for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


def timed(way: Way) -> tuple[float, float]:
    """Processor and wall seconds of a way."""
    processor, wall = time.process_time(), time.perf_counter()
    way()
    return time.process_time() - processor, time.perf_counter() - wall


def measure(comparison: Comparison, rounds: int, seconds: float) -> Measured:
    """Time both ways in turns, each first in every other round."""
    comparison.check()
    measured, start = Measured([], []), time.perf_counter()
    while len(measured.ours) < rounds and (len(measured.ours) < 3 or time.perf_counter() - start < seconds):
        ways = [(comparison.ours, measured.ours), (comparison.theirs, measured.theirs)]
        for way, times in ways[:: -1 if len(measured.ours) % 2 else 1]:
            times.append(timed(way))
    return measured


# ------------------------------------------------------------------------------------------------ what is asked, and of what


class Subject:
    """A model of random weights, and texts for it, all drawn from one seed."""

    def __init__(self, shape: Model, vocabulary: int, sizes: Sizes) -> None:
        self.model: PreTrainedModel = build_model(shape, vocabulary, 1024, end_of_text=0, seed=1).eval()
        self.model.get_output_embeddings().weight.data *= SHARPER
        self.model.generation_config.eos_token_id = None  # generation ends where it is told to
        self.draw, self.vocabulary, self.sizes = np.random.default_rng(0), vocabulary, sizes

    def texts(self, count: int, tokens: int) -> list[list[int]]:
        return self.draw.integers(1, self.vocabulary, (count, tokens)).tolist()  # type: ignore[no-any-return]


def forwards(model: PreTrainedModel, rows: Rows) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """The bare forward pass over rows, in the batches that scoring makes: which rows, what each place predicts, all logits."""
    for batch in batches([len(row) for row in rows], BATCH_TOKENS):
        ids = padded([rows[i] for i in batch])
        yield batch, ids[:, 1:], model(input_ids=ids[:, :-1], use_cache=False).logits


def log_probs(model: PreTrainedModel, rows: Rows) -> list[np.ndarray]:
    """log p of each row's tokens but the first, from a log-softmax of all logits."""
    found = [np.empty(0)] * len(rows)
    for batch, targets, logits in forwards(model, rows):
        chosen = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].numpy()
        for i, own in zip(batch, chosen, strict=True):
            found[i] = own[: len(rows[i]) - 1]
    return found


def scored(model: PreTrainedModel, texts: Rows, context: Sequence[int]) -> list[TokenScores]:
    """Imprint's pass, in the order of the texts."""
    found = dict(score_tokens(model, texts, [context], BATCH_TOKENS))
    return [found[i] for i in range(len(texts))]


# ------------------------------------------------------------------------------------------------ the comparisons


def extraction(subject: Subject, documents: int, generated: int | None = None) -> Comparison:
    """Verbatim extraction with 25, 50, 75 and 100% of a document's first half as the prompt: how many of the tokens up to the
    document's end are emitted as they are in it? One teacher-forced pass; or a greedy generation, of all documents at once, from
    each of the four prompts, up to the document's end or, as Hubble's tasks, of `generated` tokens whatever the document.
    """
    model, whole, half = subject.model, subject.sizes.document_tokens, subject.sizes.document_tokens // 2
    prompts = [half // 4, half // 2, 3 * half // 4, half]
    beginnings = subject.texts(min(documents, subject.sizes.texts), prompts[0])
    followed = continue_prompts(model, beginnings, [whole - prompts[0]] * len(beginnings), BATCH_TOKENS)
    texts = np.array([[*beginning, *rest] for beginning, rest in zip(beginnings, followed, strict=True)])
    for text in texts[::2]:  # of every other one, one token is not the model's
        text[subject.draw.integers(prompts[0], whole)] = subject.draw.integers(1, subject.vocabulary)

    def ours() -> np.ndarray:
        return np.array(
            [runs(own.argmax, text)[prompts] for own, text in zip(scored(model, texts.tolist(), []), texts, strict=True)]
        )

    def theirs() -> np.ndarray:
        emitted = []
        for prompt in prompts:
            ids = torch.from_numpy(texts[:, :prompt])
            settings = GenerationConfig(max_new_tokens=generated or whole - prompt, do_sample=False, use_cache=True, pad_token_id=0)
            made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[:, prompt:whole].numpy()
            emitted.append(np.cumprod(made == texts[:, prompt:], axis=1).sum(axis=1))
        return np.array(emitted).T

    length = f", {generated} tokens each" if generated else ""
    return Comparison(f"extraction, 4 prompts; {documents} generated at once{length}", 20, ours, theirs)


KS, PLUS_PLUS_KS = (0.1, 0.2, 0.3), (0.2, 0.3)


def membership(subject: Subject, texts: int) -> Comparison:
    """Eight attacks (loss, zlib, Min-K% with three k, Min-K%++ with two, lowercase): two passes, or one an attack and one more."""
    model, sizes = subject.model, subject.sizes
    tokens, lowered = (subject.texts(min(texts, sizes.texts), sizes.text_tokens) for _ in range(2))
    written = [" ".join(map(str, each)) for each in tokens]
    rows, lowered_rows = [[0, *each] for each in tokens], [[0, *each] for each in lowered]

    def ours() -> np.ndarray:
        own, [lower] = scored(model, tokens, [0]), score_continuations(model, [[0]], [lowered], BATCH_TOKENS)
        return np.array(
            [
                [
                    loss(one.log_prob),
                    zlib_ratio(one.log_prob, text),
                    *(min_k(one.log_prob, k) for k in KS),
                    *(min_k_plus_plus(one.log_prob, one.mean, one.deviation, k) for k in PLUS_PLUS_KS),
                    lowercase_ratio(one.log_prob, loss(other)),
                ]
                for text, one, other in zip(written, own, lower, strict=True)
            ]
        ).T

    def plus_plus(k: float) -> list[float]:
        """As its authors' code: moments from a log-softmax and its exponential."""
        scores = [0.0] * len(rows)
        for batch, targets, logits in forwards(model, rows):
            log_p = logits.log_softmax(-1)
            p = log_p.exp()
            mean = (p * log_p).sum(-1)
            deviation = ((p * log_p.square()).sum(-1) - mean.square()).sqrt()
            chosen = log_p.gather(-1, targets[..., None])[..., 0]
            for slot, i in enumerate(batch):
                scores[i] = min_k_plus_plus(chosen[slot].numpy(), mean[slot].numpy(), deviation[slot].numpy(), k)
        return scores

    def theirs() -> np.ndarray:
        attacks = [
            [loss(own) for own in log_probs(model, rows)],
            [zlib_ratio(own, text) for own, text in zip(log_probs(model, rows), written, strict=True)],
            *([min_k(own, k) for own in log_probs(model, rows)] for k in KS),
            *(plus_plus(k) for k in PLUS_PLUS_KS),
            [
                lowercase_ratio(own, loss(lower))
                for own, lower in zip(log_probs(model, rows), log_probs(model, lowered_rows), strict=True)
            ],
        ]
        return np.array(attacks)

    return Comparison("eight membership attacks; a forward pass for each", 5, ours, theirs)


def choices(subject: Subject) -> Comparison:
    """log p of each question's candidates: a cache of the question, or every question and candidate as a whole text."""
    model, sizes = subject.model, subject.sizes
    questions = subject.texts(sizes.questions, sizes.context_tokens)
    candidates = [subject.texts(sizes.candidates, sizes.candidate_tokens) for _ in questions]
    rows = [[*question, *each] for question, own in zip(questions, candidates, strict=True) for each in own]

    def ours() -> np.ndarray:
        return np.array(score_continuations(model, questions, candidates, BATCH_TOKENS)).sum(-1).ravel()

    def theirs() -> np.ndarray:
        return np.array([own[-sizes.candidate_tokens :].sum() for own in log_probs(model, rows)])

    return Comparison(f"{sizes.candidates} candidates a question; whole texts", 4, ours, theirs)


def exposure(subject: Subject) -> Comparison:
    """log p of every number of some digits after a prefix: a trie, or every number after the prefix as a whole text."""
    model, digits = subject.model, subject.sizes.digits
    ((*prefix, _),) = subject.texts(1, subject.sizes.prefix_tokens + 1)
    space = [list(each) for each in product(range(10, 20), repeat=digits)]  # ten tokens stand for digits
    rows = [[*prefix, *each] for each in space]

    def ours() -> np.ndarray:
        return score_trie(model, prefix, space)

    def theirs() -> np.ndarray:
        return np.array([own[-digits:].sum() for own in log_probs(model, rows)])

    return Comparison(f"exact exposure among {len(space):,} numbers; whole texts", 50, ours, theirs)


def throughput(subject: Subject, texts: int) -> Comparison:
    """All scores of every token, beside a bare forward pass whose logits are made and thrown away."""
    model = subject.model
    tokens = subject.texts(min(texts, subject.sizes.texts), subject.sizes.text_tokens)
    rows = [[0, *each] for each in tokens]

    def ours() -> np.ndarray:
        return np.array([each.log_prob for each in scored(model, tokens, [0])])

    def theirs() -> np.ndarray:
        for _ in forwards(model, rows):
            pass
        return np.empty(0)

    return Comparison("all token scores; a bare forward pass", 0.9, ours, theirs, told=lambda: np.array(log_probs(model, rows)))


QUICKSTART, REFERENCE, QUICKEST = "quickstart", "4 x 128", "1 x 32"
SHAPES = {QUICKSTART: Model(), REFERENCE: Model(layers=4), QUICKEST: Model(layers=1, width=32, heads=2)} | {
    name: Model(**preset(name)) for name in ("pythia-14m", "pythia-70m", "pythia-160m")
}
COMPARED: dict[str, list[tuple[Callable[[Subject], Comparison], str, int]]] = {  # what, of which shape and vocabulary
    "extraction": [
        (lambda subject: extraction(subject, documents=4), REFERENCE, 4096),
        (lambda subject: extraction(subject, documents=16), REFERENCE, 4096),
        (lambda subject: extraction(subject, documents=4), REFERENCE, 50_304),
        (lambda subject: extraction(subject, documents=16), REFERENCE, 50_304),
        (lambda subject: extraction(subject, documents=16, generated=500), REFERENCE, 4096),
        (lambda subject: extraction(subject, documents=16, generated=500), REFERENCE, 50_304),
    ],
    "membership": [
        (lambda subject: membership(subject, texts=64), REFERENCE, 4096),
        (lambda subject: membership(subject, texts=16), REFERENCE, 50_304),
    ],
    "choices": [(choices, REFERENCE, 4096), (choices, REFERENCE, 50_304)],
    "exposure": [(exposure, REFERENCE, 4096)],
    "throughput": [
        (lambda subject: throughput(subject, texts=256), QUICKSTART, 1024),
        (lambda subject: throughput(subject, texts=128), REFERENCE, 4096),
        (lambda subject: throughput(subject, texts=32), "pythia-14m", 50_304),
        (lambda subject: throughput(subject, texts=16), "pythia-70m", 50_304),
        (lambda subject: throughput(subject, texts=8), "pythia-160m", 50_304),
    ],
}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMPARED, default=list(COMPARED))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which a comparison starts no fourth round")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    load = f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
    print(f"{platform.processor() or platform.machine()}, {given.threads} thread(s), {load}; {versions}; fp32")
    table = Table(box=MARKDOWN)
    columns = ["ours; the usual way", "model", "vocabulary", "ours, s", "theirs, s", "times as fast", "by wall time", "goal", "met"]
    for column in columns:
        table.add_column(column, no_wrap=True)
    with torch.inference_mode():
        for build, shape, vocabulary in (each for name in given.only for each in COMPARED[name]):
            if given.quick:
                shape, vocabulary = QUICKEST, 300
            comparison = build(Subject(SHAPES[shape], vocabulary, QUICK if given.quick else Sizes()))
            measured = measure(comparison, given.rounds, given.seconds)
            ours, theirs = measured.seconds(0)
            ratio, low, high = measured.ratio(0)
            cells = [comparison.name, shape, f"{vocabulary:,}", f"{ours:.3f}", f"{theirs:.3f}"]
            cells += [f"{ratio:.2f} ({low:.2f} to {high:.2f})", f"{measured.ratio(1)[0]:.2f}", f"{comparison.goal:g}"]
            table.add_row(*cells, "-" if given.quick else "yes" if ratio >= comparison.goal else "no")
            print(f"{comparison.name}, {shape}: same answers, {len(measured.ours)} rounds, {ratio:.2f} times as fast", flush=True)
    Console(width=200).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
