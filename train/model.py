"""A Hugging Face causal language model, built from a recipe with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.errors import RecipeError
from configs.schema import Model

FEED_FORWARD = {"gpt2": "n_inner", "gptj": "n_inner", "opt": "ffn_dim"}  # where an architecture calls intermediate_size otherwise
DROPOUTS = ["hidden_dropout", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "activation_dropout"]


def build_model(settings: Model, vocabulary: int, sequence_length: int, end_of_text: int, seed: int) -> PreTrainedModel:
    """A model of the recipe's shape, fp32, its weights drawn from `seed`. RecipeError for a shape that can't be built."""
    if settings.architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise RecipeError(
            f"model.architecture is {settings.architecture!r}, which is no Hugging Face causal language model; "
            "possible: gpt_neox, llama, gpt2, olmo2, qwen3, ..."
        )
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": settings.width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        FEED_FORWARD.get(settings.architecture, "intermediate_size"): settings.feed_forward or 4 * settings.width,
        "max_position_embeddings": sequence_length,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
    }
    defaults = AutoConfig.for_model(settings.architecture)
    width = FEED_FORWARD.get(settings.architecture, "intermediate_size")
    if settings.feed_forward and not hasattr(defaults, width):
        raise RecipeError(
            f"model.feed_forward can't be set for {settings.architecture}; set model.options to its own fields instead"
        )
    shape |= {name: settings.dropout for name in DROPOUTS if hasattr(defaults, name)}
    if hasattr(defaults, "num_key_value_heads"):
        shape["num_key_value_heads"] = settings.heads
    if getattr(defaults, "head_dim", None) is not None:
        shape["head_dim"] = settings.width // settings.heads
    unknown = [name for name in settings.options if not hasattr(defaults, name)]
    if unknown:
        raise RecipeError(f"model.options.{unknown[0]} is not a field of the configuration of {settings.architecture}")
    try:
        config = AutoConfig.for_model(settings.architecture, **(shape | settings.options))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise RecipeError(f"model: {settings.architecture} can't be built with this shape: {str(error).splitlines()[0]}") from error
    return model


def check_model(settings: Model, vocabulary: int, sequence_length: int) -> None:
    """RecipeError for a shape that can't be built; no memory is taken for its weights."""
    with torch.device("meta"):
        build_model(settings, vocabulary, sequence_length, end_of_text=0, seed=0)


def parameters(model: torch.nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
