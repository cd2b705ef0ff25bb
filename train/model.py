"""A Hugging Face causal language model, drawn at random in a recipe's shape or continued from a checkpoint; how it is computed."""

from __future__ import annotations

import sysconfig
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import cached_file, is_flash_attn_2_available, is_flash_attn_3_available

from configs.errors import DataError, RecipeError
from configs.layout import CheckpointInfo
from configs.presets import shape_settings
from configs.schema import Model, Train

FEED_FORWARD = {"gpt2": "n_inner", "gptj": "n_inner", "opt": "ffn_dim"}  # where an architecture calls intermediate_size otherwise
RESIDUAL_DROPOUTS = ["hidden", "resid", "emb"]  # in the names of configuration fields; any other dropout is of attention, or unused
MOMENTS = "moments.safetensors"
# what a configuration or model raises for fields that don't fit it
UNBUILDABLE = (ValueError, TypeError, AssertionError, RuntimeError, LookupError, AttributeError, StrictDataclassError)
CAUSAL = "causal_sdpa"


def build_model(
    settings: Model,
    vocabulary: int,
    sequence_length: int,
    end_of_text: int,
    seed: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedModel:
    """A model of the recipe's shape, fp32, its weights drawn from `seed`; or the one that `model.start` names, its weights read.

    `vocabulary`, `end_of_text` and `tokenizer` are the corpus's. RecipeError for a shape that can't be built, and for a model to
    start from that can't be had or does not fit; DataError for one that is damaged.
    """
    if settings.start is not None:
        config = _started_config(settings, vocabulary, sequence_length, tokenizer)
        model = _started_model(settings.start, config)
    else:
        config = _config(settings, vocabulary, sequence_length, end_of_text)
        model = _drawn(config, seed)
    _check_dropout(model, settings.dropout)
    _check_causal(model, min(8, sequence_length))
    return model


def check_model(
    settings: Model, vocabulary: int, sequence_length: int, tokenizer: PreTrainedTokenizerFast | None = None
) -> PreTrainedModel:
    """The refusals of `build_model`, but for those that take weights; the model comes without (on torch's device `meta`)."""
    if settings.start is not None:
        config = _started_config(settings, vocabulary, sequence_length, tokenizer)
    else:
        config = _config(settings, vocabulary, sequence_length, end_of_text=0)
    with torch.device("meta"):
        model = _drawn(config, seed=0)
    _check_dropout(model, settings.dropout)
    return model


def parameters(model: torch.nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


# ------------------------------------------------------------------------------------------------ from random weights


def _config(settings: Model, vocabulary: int, sequence_length: int, end_of_text: int) -> PreTrainedConfig:
    architecture = settings.architecture
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise RecipeError(
            f"model.architecture is {architecture!r}, which is no Hugging Face causal language model; "
            "possible: gpt_neox, llama, gpt2, olmo2, qwen3, ..."
        )
    defaults = AutoConfig.for_model(architecture)
    feed_forward = FEED_FORWARD.get(architecture, "intermediate_size")
    if settings.feed_forward and not hasattr(defaults, feed_forward):
        raise RecipeError(f"model.feed_forward can't be set for {architecture}; set model.options to its own fields instead")
    dropouts = _dropouts(defaults, settings.dropout)
    for name in settings.options:
        if name in dropouts:
            raise RecipeError(
                f"model.options.{name} can't be set: model.dropout is the dropout of embeddings and residuals, and attention has "
                "none, as its kernels draw random numbers that no restart could draw again"
            )
        if not hasattr(defaults, name):
            raise RecipeError(f"model.options.{name} is not a field of the configuration of {architecture}")
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": settings.width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        feed_forward: settings.feed_forward or 4 * settings.width,
        "max_position_embeddings": sequence_length,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        **dropouts,
    }
    if hasattr(defaults, "num_key_value_heads"):
        shape["num_key_value_heads"] = settings.heads
    if defaults.to_dict().get("head_dim") is not None:  # for some it follows from the others
        shape["head_dim"] = settings.width // settings.heads
    shared = settings.options.get("num_key_value_heads", settings.heads)
    if not isinstance(shared, int) or shared < 1 or settings.heads % shared:
        raise RecipeError(f"model.options.num_key_value_heads is {shared}, which does not divide model.heads = {settings.heads}")
    try:
        config = AutoConfig.for_model(architecture, **(shape | deepcopy(settings.options)))
    except UNBUILDABLE as error:
        raise _cannot_be_built(architecture, error) from error
    for name, least in {"vocab_size": vocabulary, "max_position_embeddings": sequence_length}.items():
        if name in settings.options and getattr(config, name) < least:
            what = "tokens of the tokenizer" if name == "vocab_size" else "tokens of a row, train.sequence_length"
            raise RecipeError(f"model.options.{name} is {getattr(config, name)}, which is less than the {least} {what}")
    return config


def _drawn(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except UNBUILDABLE as error:
        raise _cannot_be_built(config.model_type, error) from error


def _cannot_be_built(architecture: str, error: Exception) -> RecipeError:
    said = f"it knows no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return RecipeError(f"model: {architecture} can't be built with this shape: {said}")


def _dropouts(config: PreTrainedConfig, probability: float) -> dict[str, float]:
    """The dropout fields of a configuration: `probability` for those of embeddings and residuals, 0 for all others."""
    names = [name for name, value in config.to_dict().items() if "drop" in name and type(value) in (int, float)]
    return {name: probability if any(part in name for part in RESIDUAL_DROPOUTS) else 0.0 for name in names}


def _check_dropout(model: PreTrainedModel, probability: float) -> None:
    """Dropout is drawn by modules, whose masks can be drawn again for a row of a step; it must not be left out in silence."""
    if probability and not any(isinstance(module, torch.nn.Dropout) and module.p == probability for module in model.modules()):
        raise RecipeError(
            f"model.dropout is {probability}, but {model.config.model_type} has no dropout of embeddings or residuals; "
            "possible: 0, or an architecture that has, as gpt_neox or gpt2"
        )


def _check_causal(model: PreTrainedModel, length: int) -> None:
    """Some architectures, as bert, attend to later tokens unless told otherwise: their loss would be that of copying."""
    if model.device.type == "meta":  # without weights there is nothing to see
        return
    tokens = torch.zeros((2, length), dtype=torch.int64, device=model.device)
    tokens[1, -1] = 1
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[:, :-1]
    except UNBUILDABLE as error:
        raise _cannot_be_built(model.config.model_type, error) from error
    finally:
        model.train(training)
    if not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise RecipeError(
            f"model: {model.config.model_type} sees the tokens that it is to predict, so it is no causal language model as it is; "
            "set model.options.is_decoder=true where it has that field, or another model.architecture"
        )


# ------------------------------------------------------------------------------------------------ from a checkpoint


def started_moments(settings: Model) -> dict[str, torch.Tensor] | None:
    """AdamW's moments in the checkpoint that `model.start` names, as the engine gave them; None where it holds none.

    Checkpoints of ours hold them where `train.checkpoints.resumable` says so.
    """
    if settings.start is None:
        return None
    path = _file(settings.start, MOMENTS)
    return None if path is None else load_file(path)


def _located(start: str) -> dict[str, str]:
    """Where transformers finds `model.start`: a folder, or a name and revision of the hub."""
    if Path(start).exists():
        return {"pretrained_model_name_or_path": start}
    name, _, revision = start.partition("@")
    return {"pretrained_model_name_or_path": name, "revision": revision or "main"}


def _file(start: str, name: str) -> str | None:
    """A file of the model to start from; None where it has no such file."""
    where = _located(start)
    try:
        found = cached_file(
            where.pop("pretrained_model_name_or_path"),
            name,
            **where,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return found if found is None else str(found)


def _started_config(
    settings: Model, vocabulary: int, sequence_length: int, tokenizer: PreTrainedTokenizerFast | None
) -> PreTrainedConfig:
    start = str(settings.start)
    if ignored := shape_settings(settings):
        raise RecipeError(f"model.start is {start}, whose architecture and sizes hold; leave out {', '.join(ignored)}")
    _check_files(start)
    try:
        config = AutoConfig.from_pretrained(**_located(start))
    except (OSError, ValueError) as error:
        raise _not_a_model(start, error) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise RecipeError(f"model.start is {start}, a {config.model_type}, which is no causal language model of Hugging Face")
    if vocabulary > config.vocab_size:
        raise RecipeError(
            f"model.start is {start}, which knows {config.vocab_size:,} tokens, but the corpus's tokenizer has {vocabulary:,}; "
            f"set corpus.tokenizer={start}"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and sequence_length > positions:
        raise RecipeError(
            f"train.sequence_length is {sequence_length}, but model.start = {start} can be given up to {positions} tokens"
        )
    if tokenizer is not None and (own := _vocabulary(start)) is not None and own != tokenizer.get_vocab():
        raise RecipeError(
            f"model.start is {start}, whose tokenizer is not the corpus's: its tokens have other ids; set corpus.tokenizer={start}"
        )
    for name, probability in _dropouts(config, settings.dropout).items():
        setattr(config, name, probability)
    return config


def _started_model(start: str, config: PreTrainedConfig) -> PreTrainedModel:
    """Weights from safetensors only: a pickle could hold any program."""
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            **_located(start), config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except SafetensorError as error:
        raise DataError(f"model.start is {start}, whose weights are damaged: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_a_model(start, error) from error
    if missing := sorted(report["missing_keys"]):
        raise DataError(f"model.start is {start}, whose weights lack {missing[0]}" + (" and others" if missing[1:] else ""))
    model.train()
    return model


def _check_files(start: str) -> None:
    """Refuse a folder that can't hold a model, or whose files are not what was written."""
    folder = Path(start)
    if not folder.exists():
        return
    if not (folder / "config.json").is_file():
        raise RecipeError(f"model.start is {start}, which is no folder of a Hugging Face model: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise RecipeError(f"model.start is {start}, which has no weights in safetensors; only these are read, never pickles")
    if (folder / "imprint.json").exists() and (name := CheckpointInfo.read(folder).damaged(folder)):
        raise DataError(f"model.start is {start}, whose {name} is damaged: it is not what was written")


def _vocabulary(start: str) -> dict[str, int] | None:
    """The ids of the tokens of the model's own tokenizer; None where it has none."""
    if _file(start, "tokenizer.json") is None:
        return None
    return dict(AutoTokenizer.from_pretrained(**_located(start)).get_vocab())


def _not_a_model(start: str, error: Exception) -> RecipeError:
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return RecipeError(
        f"model.start is {start}, which is neither a folder of a causal language model with safetensors nor to be had from the "
        f"hub: {said}"
    )


# ------------------------------------------------------------------------------------------------ how it is computed


def prepare(model: PreTrainedModel, settings: Train, device: torch.device) -> None:
    """Let a model compute on `device` as the recipe says: its attention, what it keeps for the backward pass, what is compiled.

    Neither its parameters nor their names change. RecipeError for what this model, this machine or `device` can't do.
    """
    if settings.attention != "auto":  # else it is sdpa where the model has it
        _set_attention(model, settings.attention, device)
    if settings.attention in ("auto", "sdpa") and not settings.mask_documents:
        _leave_out_masks(model)
    if settings.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise RecipeError(
                f"train.activation_checkpointing is true, which {model.config.model_type} does not support; set it to false"
            )
        _checkpoint_activations(model)
    if settings.compile:
        _check_compiler(device)
        for block in transformer_blocks(model):
            block.compile()


def _checkpoint_activations(model: PreTrainedModel) -> None:
    """By any name that transformers has given it."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


def transformer_blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks of a model, first to last."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _set_attention(model: PreTrainedModel, name: str, device: torch.device) -> None:
    installed = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if (name in installed or name == "flex_attention") and device.type != "cuda":
        raise RecipeError(f"train.attention is {name}, which needs a CUDA device; on {device.type} set sdpa or eager")
    if name in installed and not installed[name]():
        package = "flash-attn" if name == "flash_attention_2" else "flash-attn-3"
        raise RecipeError(f"train.attention is {name}, which needs the package {package} and a GPU that it supports; or set sdpa")
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise RecipeError(
            f"train.attention is {name}, which {model.config.model_type} can't use: {' '.join(str(error).split())}"
        ) from error
    if model.config._attn_implementation != name:  # a model of an older kind is left as it is, with a warning
        raise RecipeError(
            f"train.attention is {name}, but {model.config.model_type} has only {model.config._attn_implementation}; set auto"
        )


def _leave_out_masks(model: PreTrainedModel) -> None:
    """Plain causal attention needs no mask: sdpa is told that it is causal. The results are the same bits.

    To find out that there is nothing to mask, transformers reads positions back from the device in every forward pass.
    """
    config = model.config
    windows = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config._attn_implementation != "sdpa" or windows or kinds != {"full_attention"}:
        return
    AttentionInterface.register(CAUSAL, sdpa_attention_forward)  # under a name for which transformers knows no mask
    model.set_attn_implementation(CAUSAL)


def _check_compiler(device: torch.device) -> None:
    """Compilation takes place at the first step, too late for a refusal."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RecipeError("train.compile is true, which needs the package triton for this GPU; install it, or set false")
    elif device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # torch's own, of a module that not every version has
            raise RecipeError("train.compile is true, which needs a C++ compiler on a CPU; install g++, or set false") from error
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            raise RecipeError(
                "train.compile is true, which needs Python's C headers on a CPU (python3-dev); install them, or set false"
            )
