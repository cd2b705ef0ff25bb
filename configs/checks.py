"""What can be seen to be impossible from a recipe's settings alone, each told in a sentence; inject/design.py checks the design."""

from __future__ import annotations

import re
from dataclasses import asdict
from math import inf
from typing import Any

from configs.batch import share_out
from configs.errors import RecipeError
from configs.insert import ITEM_SETS
from configs.presets import shape_settings
from configs.schema import Recipe, Train
from configs.slurm_checks import check_slurm
from configs.stage_checks import check_stages

CHOICES: dict[str, list[str]] = {
    "corpus.source": ["stdlib", "synthetic", "files", "jsonl", "text", "parquet", "hub", "megatron", "npy"],
    "decontaminate.policy": ["fail", "report", "documents", "redraw", "none"],
    "train.loss.kind": ["full", "goldfish", "random"],
    "train.schedule": ["wsd", "cosine", "constant"],
    "train.precision": ["auto", "fp32", "bf16", "fp16"],
    "train.strategy": ["auto", "single", "ddp", "zero_1", "zero_2", "zero_3"],
    "train.attention": ["auto", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"],
    "train.spikes.policy": ["skip", "stop"],
    "train.checkpoints.resumable": ["first_exposure", "all", "none"],
    "eval.context": ["eot", "none", "as_trained"],
    "eval.precision": ["fp32", "bf16"],
}
SUBSETS: dict[str, list[str]] = {
    "eval.membership": [
        *("loss", "zlib", "min_k", "min_k_plus_plus", "lowercase", "recall", "reference", "dc_pdd", "gradient_norm")
    ],
    "train.loggers": ["tensorboard", "wandb"],
}
POSITIVE = [
    *("corpus.documents", "corpus.epochs", "model.layers", "model.width", "model.heads", "train.steps", "train.global_batch"),
    *("train.sequence_length", "train.learning_rate", "train.checkpoints.every", "train.checkpoints.resume_every"),
    *("train.log_every", "decontaminate.ngram", "eval.resamples", "eval.batch_tokens", "eval.min_k"),
    *("eval.suffix", "eval.trials", "eval.sample_tokens", "eval.ngram", "eval.recall_shots", "eval.certainty"),
]
NOT_NEGATIVE = [
    *("train.clip", "train.weight_decay", "train.threads", "train.devices", "train.loss_chunk", "train.held_out_rows"),
    *("train.spikes.deviations", "train.probes.items", "decontaminate.processes", "eval.secret_bits", "eval.samples"),
    *("eval.references", "eval.peakedness", "eval.orders"),
]
FRACTIONS = ["train.final_learning_rate", "train.decay", "model.dropout", "eval.min_k", "eval.certainty"]
LEAST_REFERENCES = 64  # with which exposure is extrapolated
SMALLEST_VOCABULARY = 257  # every byte, and the end of text


def check(recipe: Recipe) -> None:
    """Refuse what can be seen to be impossible from the recipe alone."""
    if "/" in recipe.name or recipe.name.startswith(".") or not recipe.name:
        raise RecipeError(f"name is {recipe.name!r}; it names a folder, so it can't be empty, hold a slash or begin with a dot")
    for key in POSITIVE:
        if not 0 < _value(recipe, key) < inf:
            raise RecipeError(f"{key} is {_value(recipe, key)}; it must be more than 0")
    for key in NOT_NEGATIVE:
        if not 0 <= _value(recipe, key) < inf:
            raise RecipeError(f"{key} is {_value(recipe, key)}; it must be 0 or more")
    for key in FRACTIONS:
        if not 0 <= _value(recipe, key) <= 1:
            raise RecipeError(f"{key} is {_value(recipe, key)}; it must lie between 0 and 1")
    for key, possible in CHOICES.items():
        if _value(recipe, key) not in possible:
            raise RecipeError(f"{key} is {_value(recipe, key)!r}; possible: {', '.join(possible)}")
    for key, possible in SUBSETS.items():
        for value in _value(recipe, key):
            if value not in possible:
                raise RecipeError(f"{key} holds {value!r}; possible: {', '.join(possible)}")
            if _value(recipe, key).count(value) > 1:
                raise RecipeError(f"{key} holds {value!r} more than once; once is enough")
    seeds = {"seed": recipe.seed, **{f"seeds.{purpose}": seed for purpose, seed in asdict(recipe.seeds).items()}}
    for key, seed in seeds.items():
        if seed is not None and not 0 <= seed < 2**63:
            raise RecipeError(f"{key} is {seed}; it must be a whole number from 0 to 2^63 - 1")
    _check_models(recipe)
    _check_released(recipe)
    _check_training(recipe)
    _check_corpus(recipe)
    _check_eval(recipe)
    check_slurm(recipe.slurm)
    check_stages(recipe, _check_training)
    if not recipe.insert and not recipe.stages:
        raise RecipeError(f"insert is empty; name at least one item set, each with a kind: {', '.join(ITEM_SETS)}")
    for name in recipe.insert:
        if not re.fullmatch(r"[\w.-]+", name):
            raise RecipeError(f"insert.{name}: the name of an item set is made of letters, digits, dots, dashes and underscores")


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _check_models(recipe: Recipe) -> None:
    models, possible = recipe.train.models, ["perturbed", "standard", *(f"without-{name}" for name in recipe.insert)]
    if not models and not recipe.stages:
        raise RecipeError(f"train.models is empty; possible: {', '.join(possible)}")
    for model in models:
        if model not in possible:
            raise RecipeError(f"train.models holds {model!r}; possible: {', '.join(possible)}")
        if models.count(model) > 1:
            raise RecipeError(f"train.models holds {model!r} more than once; once is enough")


def _check_released(recipe: Recipe) -> None:
    """Models that exist are scored as they are: what says how one is made would be ignored, so it is refused."""
    for model in recipe.models:
        if not model.strip():
            raise RecipeError("models holds an empty name; give folders, or names of the hub, as EleutherAI/pythia-160m@step1000")
        if recipe.models.count(model) > 1:
            raise RecipeError(f"models holds {model!r} more than once; once is enough")
    if not recipe.models:
        return
    defaults, made = asdict(Recipe()), asdict(recipe)
    ignored = [
        f"{section}.{key}"
        for section in ("corpus", "design", "decontaminate", "model", "train")
        for key, default in defaults[section].items()
        if made[section][key] != default
    ]
    ignored += [f"insert.{name}.design" for name, items in recipe.insert.items() if asdict(items.design) != defaults["design"]]
    if ignored:
        raise RecipeError(
            f"models holds {recipe.models[0]!r}, which exists and is scored as it is: nothing is trained or inserted, so leave out "
            f"{', '.join(ignored[:4])}" + (" ..." if ignored[4:] else "")
        )


def _check_training(recipe: Recipe) -> None:
    train, model = recipe.train, recipe.model
    for key, given in {"train.micro_batch": train.micro_batch, "train.accumulation": train.accumulation}.items():
        if given is not None and given < 1:
            raise RecipeError(f"{key} is {given}; it must be 1 or more, or left out")
    if train.strategy == "single" and train.devices > 1:
        raise RecipeError(f"train.strategy is single, but train.devices is {train.devices}; possible: ddp, zero_1, zero_2, zero_3")
    whole = train.global_batch % ((train.micro_batch or 1) * (train.accumulation or 1)) == 0
    if train.devices or not whole:  # how many a launcher starts is not known yet
        share_out(train.global_batch, train.devices or 1, train.micro_batch, train.accumulation)
    if train.offload and train.strategy in ("single", "ddp"):
        raise RecipeError(
            f"train.offload is true, which train.strategy = {train.strategy} can't do; possible: zero_1, zero_2, zero_3"
        )
    if train.compile and train.strategy == "zero_3":
        raise RecipeError(
            "train.compile is true, which train.strategy = zero_3 can't do, as it gathers parameters within the blocks; "
            "set zero_1 or zero_2, or compile to false"
        )
    if train.precision == "fp32" and train.attention.startswith("flash"):
        raise RecipeError(
            f"train.attention is {train.attention}, which computes in bf16 or fp16, but train.precision is fp32; set sdpa, or bf16"
        )
    if beyond := [step for step in train.checkpoints.steps if not 0 <= step <= train.steps]:
        raise RecipeError(f"train.checkpoints.steps holds {beyond[0]}; it must lie between 0 and train.steps = {train.steps}")
    if train.spikes.window < 2:
        raise RecipeError(f"train.spikes.window is {train.spikes.window}; a deviation needs at least 2 steps")
    if train.peak_tflops is not None and not 0 < train.peak_tflops < inf:
        raise RecipeError(f"train.peak_tflops is {train.peak_tflops}; it must be more than 0, or left out")
    if model.start is not None and (ignored := shape_settings(model)):
        raise RecipeError(f"model.start is {model.start}, whose architecture and sizes hold; leave out {', '.join(ignored)}")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise RecipeError(f"train.betas is {train.betas}; it must be two numbers, 0 or more and less than 1")
    if model.feed_forward is not None and model.feed_forward < 1:
        raise RecipeError(f"model.feed_forward is {model.feed_forward}; it must be more than 0, or left out for 4 x model.width")
    if model.width % model.heads:
        raise RecipeError(f"model.width is {model.width}, which model.heads = {model.heads} does not divide")
    _check_loss(train)
    _check_warmup(train)
    _check_probes(recipe)


def _check_loss(train: Train) -> None:
    if train.loss.k < 2:
        raise RecipeError(f"train.loss.k is {train.loss.k}; of every so many labels one is left out, so it must be 2 or more")
    if train.loss.context < 1:
        raise RecipeError(f"train.loss.context is {train.loss.context}; it must be 1 token or more")
    if train.loss.kind == "goldfish" and train.loss.context > train.sequence_length:
        raise RecipeError(
            f"train.loss.context is {train.loss.context}, more tokens than a row predicts; it must lie between 1 and "
            f"train.sequence_length = {train.sequence_length}"
        )


def _check_probes(recipe: Recipe) -> None:
    probes, sets = recipe.train.probes, list(recipe.insert)
    if unknown := [name for name in probes.sets if name not in sets]:
        raise RecipeError(f"train.probes.sets holds {unknown[0]!r}; possible: {', '.join(sets)}")
    for key, given in {"sets": probes.sets, "arms": probes.arms, "after": probes.after}.items():
        if repeated := [value for value in given if given.count(value) > 1]:  # type: ignore[attr-defined, arg-type]
            raise RecipeError(f"train.probes.{key} holds {repeated[0]!r} more than once; once is enough")
    if probes.exposures < 2:
        raise RecipeError(
            f"train.probes.exposures is {probes.exposures}; an item's first and last are followed, so it must be 2 or more"
        )
    if not probes.after or (early := [steps for steps in probes.after if steps < 1]):
        told = f"holds {early[0]}" if probes.after else "is empty"
        raise RecipeError(
            f"train.probes.after {told}; give steps after an exposure, each 1 or more (just before it is always scored)"
        )
    if not 0 < probes.budget <= 1:
        raise RecipeError(
            f"train.probes.budget is {probes.budget}; it must be more than 0 and at most 1 (train.probes.items=0 scores none)"
        )


def _check_eval(recipe: Recipe) -> None:
    settings = recipe.eval
    if 0 < settings.references < LEAST_REFERENCES:
        raise RecipeError(f"eval.references is {settings.references}; possible: 0, or {LEAST_REFERENCES} and more")
    if bad := [length for length in settings.prefixes if length < 1]:
        raise RecipeError(f"eval.prefixes holds {bad[0]}; a prefix has 1 token or more")
    if settings.certainty == 1:
        raise RecipeError("eval.certainty is 1, which no number of draws gives; it must be less than 1")
    for number, scheme in enumerate(settings.schemes):
        if not (0 < scheme.temperature < inf and scheme.top_k >= 0 and 0 < scheme.top_p <= 1):
            raise RecipeError(
                f"eval.schemes[{number}] is {asdict(scheme)}; temperature must be more than 0, top_k 0 or more, top_p in (0, 1]"
            )
    if "reference" in settings.membership and settings.reference is None and "standard" not in recipe.train.models:
        raise RecipeError(
            "eval.membership holds reference, which needs a model to compare with: set eval.reference to a folder or hub name, or "
            "train the standard model, too (train.models=[perturbed,standard])"
        )
    if recipe.models and (refused := [name for name in ("dc_pdd",) if name in settings.membership]):
        raise RecipeError(f"eval.membership holds {refused[0]}, which needs the corpus that a model was trained of; leave it out")
    if recipe.models and settings.context == "as_trained":
        raise RecipeError("eval.context is as_trained, but the training rows of `models` are not known; possible: eot, none")
    if recipe.models == [] and settings.orders:
        raise RecipeError(
            f"eval.orders is {settings.orders}, but training here places items one by one, so no order is learnt; leave it out, "
            "as it is for `models` that exist"
        )
    if recipe.models == [] and (settings.trust_remote_code or settings.pickles):
        raise RecipeError("eval.trust_remote_code and eval.pickles are for `models` that exist; what is trained here needs neither")


def _check_warmup(train: Train) -> None:
    if train.warmup_tokens is None:
        if not 0 <= train.warmup <= train.steps:
            raise RecipeError(f"train.warmup is {train.warmup}; it must lie between 0 and train.steps = {train.steps}")
        return
    if train.warmup != Train().warmup:
        raise RecipeError(f"train.warmup is {train.warmup} and train.warmup_tokens {train.warmup_tokens:,}; give one of the two")
    most = train.steps * train.global_batch * train.sequence_length
    if not 0 <= train.warmup_tokens <= most:
        raise RecipeError(
            f"train.warmup_tokens is {train.warmup_tokens:,}; it must lie between 0 and the {most:,} tokens of training"
        )


def _check_corpus(recipe: Recipe) -> None:
    corpus = recipe.corpus
    if corpus.source not in ("stdlib", "synthetic"):
        if corpus.path is None:
            what = "the name of a data set" if corpus.source == "hub" else "a file or a folder"
            raise RecipeError(f"corpus.source is {corpus.source}, which needs corpus.path: {what}")
    elif corpus.path is not None:
        raise RecipeError(
            f"corpus.path is {corpus.path}, but corpus.source is {corpus.source}, which reads no file; set corpus.source=files"
        )
    if corpus.limit is not None and corpus.limit < 1:
        raise RecipeError(f"corpus.limit is {corpus.limit}; it must be 1 or more")
    if corpus.tokenizer.path is None and corpus.tokenizer.vocabulary < SMALLEST_VOCABULARY:
        raise RecipeError(
            f"corpus.tokenizer.vocabulary is {corpus.tokenizer.vocabulary}; a byte-level vocabulary holds at least "
            f"{SMALLEST_VOCABULARY} tokens"
        )
