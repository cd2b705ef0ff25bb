"""Low-rank matrices beside the linear layers of a model whose own weights stay: LoRA (Hu et al., 2021, arXiv:2106.09685).

In continual training it is the baseline of parameter expansion: what a stage learns has parameters of its own. The layers keep
their class and the names of their weights, and a hook adds the product: optimizer, states and strategies need know nothing of it,
and only checkpoints are merged. (The package peft renames all weights that it wraps, which all of them would have to undo.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from configs.errors import RecipeError
from train.model import UNBUILDABLE, transformer_blocks
from train.objective import evaluation

A, B = "lora_A", "lora_B"  # as the paper's code and peft call them


def expand(model: torch.nn.Module, rank: int, alpha: float, seed: int) -> None:
    """Put A (rank, inputs) and B (outputs, rank) beside each linear layer of the blocks; nothing else is trained from here on.

    The linear layers are torch.nn.Linear and gpt2's Conv1D; not those of embeddings and head, nor a mixture's experts that are one
    parameter. A is drawn from `seed` as in the paper's code, uniform with variance 1 / (3 inputs), B is zero: so the model computes
    what it did before, to the last bit. RecipeError as of `expandable`.
    """
    layers = expandable(model, rank)
    model.requires_grad_(False)
    drawn = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        weight = layer.weight
        outputs, inputs = reversed(weight.shape) if isinstance(layer, Conv1D) else weight.shape
        first = torch.nn.init.kaiming_uniform_(torch.empty(rank, inputs), a=math.sqrt(5), generator=drawn)
        layer.register_parameter(A, torch.nn.Parameter(first.to(weight.device)))
        layer.register_parameter(B, torch.nn.Parameter(torch.zeros(outputs, rank, device=weight.device)))
        layer.lora_scale = alpha / rank
        layer.register_forward_hook(_add_product)


def expandable(model: torch.nn.Module, rank: int) -> dict[str, torch.nn.Module]:
    """The layers beside which `expand` puts matrices, by name. RecipeError where there are none, or the model reads their weights
    itself, or `rank` is no rank of theirs.

    A model on torch's device `meta` is enough; if that can't be computed, whether it reads weights itself is not seen.
    """
    layers = _linear_layers(model)
    if not layers:
        raise RecipeError(
            f"lora.rank is {rank}, but {type(model).__name__} has no linear layer in a transformer block; possible: 0, which "
            "trains all weights"
        )
    most = max(min(layer.weight.shape) for layer in layers.values())
    if not 1 <= rank <= most:
        raise RecipeError(
            f"lora.rank is {rank}; possible: 1 to {most}, the rank of the largest layer, or 0, which trains all weights"
        )
    _require_called(model, layers)
    return layers


def is_expanded(model: torch.nn.Module) -> bool:
    """Whether `expand` has put matrices into a model.

    Its checkpoints can't be resumed from, only its states can: a checkpoint is a plain model, which has no room for A and B.
    """
    return any(hasattr(module, A) for module in model.modules())


def merged(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the plain model that computes what `model` does: W + alpha / rank x B A in place of W, A and B.

    weights: the full parameters of `model` by name, as the engine gives them. Those of a model without matrices are given back.
    """
    plain = {name: weight for name, weight in weights.items() if name.rpartition(".")[2] not in (A, B)}
    for name, layer in _linear_layers(model).items():
        if hasattr(layer, A):
            product = layer.lora_scale * (weights[f"{name}.{B}"] @ weights[f"{name}.{A}"])
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + (product.T if isinstance(layer, Conv1D) else product)
    return plain


def _add_product(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """W x + alpha / rank x B A x: the paper's equation 3."""
    return output + layer.lora_scale * F.linear(F.linear(inputs[0], layer.lora_A), layer.lora_B)


def _require_called(model: torch.nn.Module, layers: Mapping[str, torch.nn.Module]) -> None:
    """RecipeError where a block multiplies by a layer's weight without calling the layer, as mamba's do: no hook would see that.

    A layer of a part that is not called either, as an expert that no token is sent to, is not suspected.
    """
    called: set[int] = set()
    device = next(model.parameters()).device
    without_weights = device.type == "meta"
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(id(module))) for module in model.modules()]
    try:
        with evaluation(model):  # without a cache, transformers reads positions, which have no values on `meta`
            model(input_ids=torch.zeros(1, 4, dtype=torch.int64, device=device), use_cache=without_weights)
    except UNBUILDABLE:
        if without_weights:  # as of experts, which take tokens by their values
            return
        raise
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if id(layer) not in called and id(model.get_submodule(name.rpartition(".")[0])) in called:
            raise RecipeError(
                f"lora.rank is above 0, but {type(model).__name__} reads the weight of {name} itself, so nothing can be added to "
                "what this layer computes; possible: 0, which trains all weights, or another architecture"
            )


def _linear_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The linear layers of a model's transformer blocks, by name."""
    inside = {id(module) for block in transformer_blocks(model) for module in block.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, torch.nn.Linear | Conv1D)
    }
