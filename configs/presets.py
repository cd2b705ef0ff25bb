"""Models with a name: `model.preset`, from half a million to a billion parameters.

A preset is a shape (`model.architecture`, sizes, `model.options`), no weights and no way of drawing them: the vocabulary is the
corpus's, the positions are `train.sequence_length`, and initial weights are those of Hugging Face's class. `model.start` is for the
weights. A published shape has the published number of parameters at the published vocabulary (tests/configs/test_presets.py).
"""

from __future__ import annotations

import difflib
from copy import deepcopy
from dataclasses import fields
from typing import Any

from configs.errors import RecipeError
from configs.schema import Model


def _shape(architecture: str, layers: int, width: int, heads: int, feed_forward: int, **options: Any) -> dict[str, Any]:
    sizes = {"layers": layers, "width": width, "heads": heads, "feed_forward": feed_forward}
    return {"architecture": architecture, **sizes, "options": options}


def _pythia(layers: int, width: int, heads: int) -> dict[str, Any]:
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25}
    return _shape("gpt_neox", layers, width, heads, 4 * width, rope_parameters=rotary, use_parallel_residual=True)


def _rotary(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


PRESETS: dict[str, dict[str, Any]] = {
    # For laptops: about as many parameters as the name says, at a vocabulary of 1,024 (0.5m) or 4,096.
    "neox-0.5m": _pythia(3, 96, 4),
    "neox-3m": _pythia(3, 192, 6),
    "neox-10m": _pythia(6, 320, 5),
    "neox-30m": _pythia(8, 512, 8),
    "llama-0.5m": _shape("llama", 3, 96, 4, 256),
    "llama-3m": _shape("llama", 3, 192, 6, 512),
    "llama-10m": _shape("llama", 6, 320, 5, 864),
    "llama-30m": _shape("llama", 8, 512, 8, 1376),
    # Pythia (Biderman et al. 2023, https://arxiv.org/abs/2304.01373), as huggingface.co/EleutherAI/pythia-*/config.json has them
    "pythia-14m": _pythia(6, 128, 4),
    "pythia-31m": _pythia(6, 256, 8),
    "pythia-70m": _pythia(6, 512, 8),
    "pythia-160m": _pythia(12, 768, 12),
    "pythia-410m": _pythia(24, 1024, 16),
    "pythia-1b": _pythia(16, 2048, 8),
    # GPT-2 (Radford et al. 2019), huggingface.co/openai-community; its learned positions are train.sequence_length, 1,024 there
    "gpt2": _shape("gpt2", 12, 768, 12, 3072),
    "gpt2-medium": _shape("gpt2", 24, 1024, 16, 4096),
    # Hubble (Wei et al. 2025, https://arxiv.org/abs/2510.19811), github.com/allegro-lab/hubble: configs/hubble_1b
    "hubble-1b": _shape(
        *("llama", 16, 2048, 32, 8192),
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        rope_parameters=_rotary(10_000.0),
        tie_word_embeddings=False,
    ),
    # OLMo 2 (2025, https://arxiv.org/abs/2501.00656), huggingface.co/allenai/OLMo-2-0425-1B
    "olmo2-1b": _shape(
        *("olmo2", 16, 2048, 16, 8192), num_key_value_heads=16, rms_norm_eps=1e-6, rope_parameters=_rotary(500_000.0)
    ),
    # Qwen3 (2025, https://arxiv.org/abs/2505.09388), huggingface.co/Qwen/Qwen3-0.6B
    "qwen3-0.6b": _shape(
        *("qwen3", 28, 1024, 16, 3072),
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_parameters=_rotary(1_000_000.0),
        tie_word_embeddings=True,
    ),
}


def preset(name: str) -> dict[str, Any]:
    """The settings of `model` that a preset's name stands for; RecipeError, listing the names, for a name that is none.

    >>> preset("pythia-160m")["layers"], preset("pythia-160m")["width"]
    (12, 768)
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]}? possible" if near else "possible"
        raise RecipeError(f"model.preset is {name!r}; {hint}: {', '.join(PRESETS)}")
    return deepcopy(PRESETS[name])


def shape_settings(model: Model) -> list[str]:
    """The settings that say another shape than the schema's defaults; beside `model.start` they would count for nothing."""
    default = Model()
    return [
        f"model.{f.name}"
        for f in fields(Model)
        if f.name not in ("start", "dropout") and getattr(model, f.name) != getattr(default, f.name)
    ]
