"""Every setting of a recipe: its type, default, unit and meaning, and whether it changes results.

A *result* setting enters names and fingerprints; an *execution* setting (devices, threads, logging, folders) never does,
so the same run may be continued on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.insert import Design
from configs.layout import fingerprint
from configs.setting import section, setting
from configs.slurm import Slurm


@dataclass
class Seeds:
    """One seed a source of randomness; those not given derive from `seed`."""

    items: int | None = setting(None, "what the items say")
    assignment: int | None = setting(None, "which groups go to which arm")
    placement: int | None = setting(None, "where each copy falls")
    order: int | None = setting(None, "the order of base rows")
    init: int | None = setting(None, "the model's initial weights, its dropout, and which labels the loss `random` leaves out")


@dataclass
class Tokenizer:
    """A byte-level BPE trained on the corpus, or one that exists."""

    path: str | None = setting(None, "a tokenizer.json, a folder that holds one, or a hub name; one is trained if not given")
    vocabulary: int = setting(1024, "size of a trained vocabulary, the end-of-text token included", "tokens")


@dataclass
class Corpus:
    """The base documents."""

    source: str = setting(
        "stdlib",
        "stdlib (Python's own library), synthetic, jsonl, text, parquet, files (each by its suffix), hub (a data set of the "
        "Hugging Face hub, streamed), or token ids that exist: megatron (.bin and .idx), npy (arrays, with or without a header)",
    )
    path: str | None = setting(
        None,
        "file or folder of a jsonl, text, parquet or files source (.gz and .zst too) or of token arrays; hub: the data set's name",
    )
    column: str = setting("text", "column of a jsonl, parquet or hub source that holds a document's text")
    documents: int = setting(20_000, "documents that the synthetic source makes", "documents")
    limit: int | None = setting(None, "read only so many of a source's first documents (lines, rows, text files)", "documents")
    config: str | None = setting(None, "hub: configuration of the data set, where it has several")
    split: str = setting("train", "hub: split of the data set")
    revision: str = setting("main", "hub: commit (40 hex digits), or a branch or tag, which stands for its newest commit")
    dtype: str | None = setting(None, "npy: type of the token ids in arrays without a header, as uint16 or uint32")
    epochs: int = setting(1, "times that training may go over the corpus", "epochs")
    tokenizer: Tokenizer = section(Tokenizer, "how text becomes tokens")


@dataclass
class Decontaminate:
    """Do the items, or long n-grams of them, occur in the corpus or in each other? Looked for before anything is placed."""

    policy: str = setting(
        "fail",
        "where they do: fail, report (go on), documents (leave the documents out: a new corpus), redraw (make other items), "
        "or none (do not look)",
    )
    ngram: int = setting(13, "tokens of an item's n-gram that count as a hit; a shorter item counts as a whole", "tokens")
    processes: int = setting(
        0, "processes that search the corpus, a part of it each; 0: one for each core", "processes", execution=True
    )


@dataclass
class Model:
    """The causal language model that is pretrained, or continued."""

    preset: str | None = setting(
        None, "sizes with a name, as pythia-160m or hubble-1b (configs/presets.py); what is given beside it counts", execution=True
    )
    start: str | None = setting(
        None, "continue from a checkpoint: its folder, or NAME@revision of the hub; its architecture and sizes hold"
    )
    architecture: str = setting("gpt_neox", "a Hugging Face model type with a causal language model, as gpt_neox, llama, gpt2")
    layers: int = setting(2, "transformer blocks", "blocks")
    width: int = setting(128, "hidden size", "units")
    heads: int = setting(4, "attention heads", "heads")
    feed_forward: int | None = setting(None, "units of the feed-forward layer; 4 x width if not given", "units")
    dropout: float = setting(0.0, "dropout probability of embeddings and residuals", "probability")
    options: dict[str, Any] = setting({}, "any further field of the architecture's Hugging Face configuration")


@dataclass
class Checkpoints:
    """Which steps leave a checkpoint. Step 0 and the last are always kept, and none is ever deleted."""

    every: int = setting(300, "steps from one kept checkpoint to the next", "steps")
    powers_of_two: bool = setting(False, "also steps 1, 2, 4, 8, ...")
    steps: list[int] = setting([], "also these steps", "steps")
    exposures: bool = setting(True, "also just before the first and just after the last exposure of each window of the design")
    resumable: str = setting(
        "first_exposure",
        "kept checkpoints that hold the optimizer's state, too, so that training can branch off: first_exposure (the one before "
        "each window's first), all or none",
        execution=True,
    )
    resume_every: int = setting(150, "steps from one resume state to the next; the newest two are on disk", "steps", execution=True)


@dataclass
class Loss:
    """Which labels the loss is summed over: all of them, or all but some, which the model is never told."""

    kind: str = setting(
        "full",
        "full (every label), goldfish (without those that a hash of the tokens before them picks: the same ones in every copy of a "
        "text), or random (its control: other ones in every copy)",
    )
    k: int = setting(4, "goldfish and random: one label in so many is left out", "labels")
    context: int = setting(13, "goldfish: tokens before a label that are hashed", "tokens")


@dataclass
class Spikes:
    """Losses and gradients that would harm the model, seen before the optimizer's step."""

    policy: str = setting(
        "skip",
        "a step whose loss or gradient spikes or is not finite: skip (left out, and not consumed in the ledger) or stop",
        execution=True,  # a model that stop lets finish is the one that skip makes
    )
    deviations: float = setting(
        0.0,
        "a spike: a loss or gradient norm so many standard deviations above its mean over `window` steps; 0: what is not finite",
        "standard deviations",
    )
    window: int = setting(128, "latest consumed steps that a loss and a norm are compared with", "steps")


@dataclass
class Probes:
    """Items that are scored while training goes on, just before a copy of them is seen and so many steps after, and beside them as
    many held-out twins. Training is the same to the last bit with and without.
    """

    items: int = setting(0, "items of each arm and stratum that are followed, each of a group of its own; 0: none", "items")
    sets: list[str] = setting([], "item sets that they are of; all if none is named")
    arms: list[str] = setting([], "arms that they are in, beside the held-out one; all if none is named")
    exposures: int = setting(
        2, "exposures of an item that are followed: its first and its last, and any further ones evenly between", "exposures"
    )
    after: list[int] = setting([1, 10, 100, 1000], "steps after an exposure; those beyond the end of training are none", "steps")
    budget: float = setting(
        0.05,
        "most time that probes may take, as a part of that of training's steps; what goes beyond is left out, and counted",
        "fraction",
    )


@dataclass
class Train:
    """How the model is trained."""

    steps: int = setting(3600, "optimizer steps", "steps")
    global_batch: int = setting(8, "rows of one optimizer step, over all devices: devices x micro_batch x accumulation", "rows")
    devices: int = setting(
        0, "processes, one for each device; 0: as many as srun or torchrun started, else one", "processes", execution=True
    )
    strategy: str = setting(
        "auto",
        "single, ddp, zero_1, zero_2, zero_3 (DeepSpeed), or auto: single on one device, zero_1 on several or to offload",
        execution=True,
    )
    offload: bool = setting(False, "zero_1 to zero_3: keep the optimizer's state in the processor's memory", execution=True)
    micro_batch: int | None = setting(
        None, "rows of one forward pass on one device; what accumulation leaves if not given", "rows", execution=True
    )
    accumulation: int | None = setting(
        None, "forward passes of a step on one device; what micro_batch leaves if not given, else 1", "passes", execution=True
    )
    sequence_length: int = setting(128, "tokens that a row predicts; a row holds one more", "tokens")
    mask_documents: bool = setting(
        False, "attend only within a document, positions counted from its start; an end-of-text opens the document that follows it"
    )
    loss: Loss = section(Loss, "which labels the model learns")
    learning_rate: float = setting(4e-3, "peak learning rate")
    final_learning_rate: float = setting(0.1, "learning rate at the end, as a part of the peak", "fraction")
    schedule: str = setting("wsd", "wsd (warm-up, stable, linear decay), cosine or constant")
    warmup: int = setting(100, "steps of linear warm-up", "steps")
    warmup_tokens: int | None = setting(None, "the same in tokens, rounded up to a step; in place of `warmup`", "tokens")
    decay: float = setting(0.2, "part of training over which wsd decays", "fraction of training")
    weight_decay: float = setting(0.1, "AdamW weight decay of matrices; vectors and embeddings have none")
    betas: list[float] = setting([0.9, 0.95], "AdamW coefficients of the running averages")
    clip: float = setting(1.0, "largest norm of the gradient; 0 does not clip")
    spikes: Spikes = section(Spikes, "steps that would harm the model")
    precision: str = setting(
        "auto", "fp32, bf16 or fp16 (autocast; weights stay fp32), or auto: bf16 where the hardware multiplies it"
    )
    attention: str = setting(
        "auto", "auto (sdpa), sdpa, eager, flex_attention, flash_attention_2 or flash_attention_3", execution=True
    )
    compile: bool = setting(False, "compile the transformer blocks, and on a GPU the loss, with torch.compile", execution=True)
    activation_checkpointing: bool = setting(False, "keep only each block's input, and compute the rest again", execution=True)
    loss_chunk: int = setting(
        0,
        "tokens whose logits over the vocabulary exist at a time; 0: as many as fit in 2 MiB on a processor, 1 GiB on a GPU",
        "tokens",
        execution=True,
    )
    models: list[str] = setting(
        ["perturbed"],
        "trajectories to train: perturbed (with the insertions), standard (without any), without-SET (without one item set)",
    )
    checkpoints: Checkpoints = section(Checkpoints, "which steps leave a checkpoint")
    held_out_rows: int = setting(
        128, "rows that training never reaches whose loss is taken at every kept checkpoint; 0: none", "rows", execution=True
    )
    probes: Probes = section(Probes, "items that are scored around their exposures, without a checkpoint", execution=True)
    threads: int = setting(0, "processor threads; 0 measures once a machine which number is fastest", "threads", execution=True)
    log_every: int = setting(20, "steps from one line of metrics.jsonl to the next", "steps", execution=True)
    loggers: list[str] = setting([], "beside metrics.jsonl: tensorboard, wandb", execution=True)
    peak_tflops: float | None = setting(
        None,
        "the device's peak in the precision of training, for MFU; a known GPU's data sheet if not given",
        "TFLOP/s",
        execution=True,
    )


@dataclass
class Scheme:
    """How tokens are drawn: temperature, then top-k, then top-p, as in Hugging Face."""

    temperature: float = setting(1.0, "by which logits are divided")
    top_k: int = setting(0, "draw from so many of the most probable tokens; 0: all", "tokens")
    top_p: float = setting(1.0, "draw from the fewest tokens that together have this probability", "probability")


@dataclass
class Eval:
    """What is measured at every checkpoint."""

    context: str = setting(
        "eot",
        "what precedes a scored text: eot (the end-of-text token, as in training), none, or as_trained (what preceded a copy of it "
        "in its training row; of a held-out twin, a copy of another item of its stratum)",
    )
    precision: str = setting("fp32", "of the model that is scored: fp32 or bf16; log-probabilities are taken in fp32 from either")
    extraction: bool = setting(
        True, "greedy extraction and log-probability of every verbatim probe, and answers of generative ones"
    )
    prefixes: list[int] = setting(
        [8, 16, 32, 50], "lengths of a text's beginning after each of which its continuation is asked for", "tokens"
    )
    suffix: int = setting(16, "length of the continuation that counts as extracted after a prefix", "tokens")
    schemes: list[Scheme] = setting([Scheme(top_k=40)], "sampling schemes of (n, p)-discoverable extraction")
    trials: int = setting(100, "draws n within which a target is discoverable", "draws")
    certainty: float = setting(0.5, "probability p with which it then is", "probability")
    approximate: bool = setting(True, "decode from the first mismatch on, and compare with the target, at the last checkpoint")
    samples: int = setting(0, "texts drawn freely at the last checkpoint, to be searched for inserted n-grams", "texts")
    sample_tokens: int = setting(128, "length of each", "tokens")
    ngram: int = setting(8, "tokens of an inserted n-gram that counts as emitted; a shorter text counts as a whole", "tokens")
    peakedness: int = setting(
        0,
        "answers to each question of a test set drawn at temperature 0.8, at the last checkpoint: how many are near the greedy one "
        "(CDD, which draws 50)",
        "draws",
    )
    orders: int = setting(
        0,
        "of `models`: other orders of the items of test sets, tables and passages with which the order in which they are given is "
        "compared, in up to 50 shards (Oren et al., who take 250)",
        "orders",
    )
    exposure: bool = setting(
        True, "exposure of canaries, at the last checkpoint: exact where all of a secret's space can be scored"
    )
    references: int = setting(
        256,
        "secrets drawn from a larger space, among which exposure is sampled and from which it is extrapolated; 0: none",
        "secrets",
    )
    membership: list[str] = setting(
        ["loss", "zlib", "min_k", "min_k_plus_plus"],
        "membership attacks: loss, zlib, min_k, min_k_plus_plus, lowercase, recall, reference, dc_pdd, gradient_norm (the last "
        "checkpoint only)",
    )
    min_k: float = setting(0.2, "part of a text's tokens that Min-K% and Min-K%++ average", "fraction")
    reference: str | None = setting(
        None, "model of the attack `reference`: a folder or a hub name; the standard model if not given, where it is trained"
    )
    recall_shots: int = setting(
        5, "held-out texts of each stratum that make the prefix of the attack `recall`, and are not judged by it", "texts"
    )
    testset: bool = setting(True, "multiple-choice accuracy")
    secret_bits: float = setting(20.0, "least entropy given its prompt of a target that counts as a secret", "bits")
    primary: list[str] = setting(
        [],
        "the findings that the experiment was made for, by the beginning of their keys (as dose, or exposure/canary); all others "
        "are exploratory, and adjusted for their number (Holm)",
    )
    harness: list[str] = setting([], "tasks of lm-evaluation-harness that are run on the last checkpoint, as hellaswag")
    resamples: int = setting(2000, "bootstrap resamples of groups", "resamples")
    trust_remote_code: bool = setting(False, "run code that comes with a model of `models`")
    pickles: bool = setting(False, "read weights of `models` from pickles, which can hold any program, where there are no others")
    batch_tokens: int = setting(16_384, "tokens of one forward pass of scoring", "tokens", execution=True)


@dataclass
class Recipe:
    """An experiment."""

    name: str = setting("???", "what the run is called", execution=True)
    seed: int = setting(0, "the seed from which all others derive")
    seeds: Seeds = section(Seeds, "seeds by purpose")
    corpus: Corpus = section(Corpus, "the base documents")
    insert: dict[str, Any] = setting({}, "item sets by name")
    design: Design = section(Design, "arms and their sizes; an item set may differ by a `design` of its own")
    decontaminate: Decontaminate = section(Decontaminate, "whether items occur elsewhere")
    model: Model = section(Model, "the model")
    train: Train = section(Train, "training")
    facts: dict[str, Any] = setting({}, "sets of questions with one answer each, by name, that stages learn: item sets of any kind")
    stages: dict[str, Any] = setting(
        {}, "stages of continual training by name, after pretraining, or after `model.start` where train.models is empty"
    )
    models: list[str] = setting(
        [],
        "models that exist, to be scored in place of training one: a folder, a glob of folders, a hub name, NAME@revision, or a "
        "glob of its branches and tags, as EleutherAI/pythia-160m@step*; corpus, design, decontaminate, model and train are then "
        "left out",
    )
    eval: Eval = section(Eval, "measurement")
    sweep: dict[str, Any] = setting(
        {},
        "lists of values by setting; every combination is a point, a run of its own; those under `zip` go hand in hand",
        execution=True,
    )
    slurm: Slurm = section(Slurm, "SLURM jobs", execution=True)
    runs: str = setting("runs", "folder of runs", execution=True)
    cache: str = setting("cache", "folder of shared corpora", execution=True)
    point: str = setting("", "the point of the sweep that the run is; set by the program", execution=True)
    swept: dict[str, Any] = setting({}, "the settings that the sweep gave this point; set by the program", execution=True)

    @property
    def home(self) -> Path:
        """The folder of the run, or of the sweep that it is a point of."""
        return Path(self.runs) / self.name

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.home / self.point

    def seed_for(self, purpose: str) -> int:
        """The seed of one source of randomness: `seeds.<purpose>`, or one derived from `seed`."""
        given = getattr(self.seeds, purpose)
        return int(given) if given is not None else int(fingerprint([self.seed, purpose])[:12], 16)
