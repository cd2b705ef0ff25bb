"""Arithmetic of training: what a token costs, what a device could do, and so the part of it that is used (MFU).

Model FLOPs utilization is defined in PaLM (Chowdhery et al., 2022), appendix B: tokens a second, times the operations that the
model needs for one, over the peak of all devices. What is computed twice to save memory does not count.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

# Dense peaks in TFLOP/s from NVIDIA's data sheets and architecture papers (where a sheet tells the rate with 2:4 sparsity, half of
# it; GeForce: with fp32 accumulation, as training multiplies), by what torch.cuda.get_device_name() gives, without NVIDIA, Tesla
# and GeForce. Names match whole: laptop and regional variants, parts of a GPU (MIG) and an "H100" of unknown form are not guessed.
_PEAKS: dict[str, dict[str, float]] = {
    r"V100-SXM2-\d+GB(-LS)?": {"fp32": 15.7, "fp16": 125},
    r"V100-PCIE-\d+GB": {"fp32": 14, "fp16": 112},
    r"V100S-PCIE-\d+GB": {"fp32": 16.4, "fp16": 130},
    r"T4": {"fp32": 8.1, "fp16": 65},
    r"A100-SXM4-[48]0GB|A100-PCIE-[48]0GB|A100 80GB PCIe": {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
    r"A40": {"fp32": 37.4, "tf32": 74.8, "bf16": 149.7, "fp16": 149.7},
    r"A30": {"bf16": 165, "fp16": 165},
    r"A10": {"fp32": 31.2, "tf32": 62.5, "bf16": 125, "fp16": 125},
    r"RTX A6000": {"fp32": 38.7, "tf32": 77.4, "bf16": 154.8, "fp16": 154.8},
    r"L4": {"fp32": 30.3, "tf32": 60, "bf16": 121, "fp16": 121},
    r"L40": {"fp32": 90.5, "tf32": 90.5, "bf16": 181.05, "fp16": 181.05},
    r"L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362.05, "fp16": 362.05},
    r"RTX 6000 Ada Generation": {"fp32": 91.1, "bf16": 364.2, "fp16": 364.2},
    r"RTX 4090": {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2},
    r"RTX 5090": {"fp32": 104.8, "tf32": 104.8, "bf16": 209.5, "fp16": 209.5},
    r"H20": {"bf16": 148, "fp16": 148},
    r"H100 PCIe": {"fp32": 51.2, "tf32": 378, "bf16": 756, "fp16": 756},
    r"H100 NVL|H200 NVL": {"fp32": 60, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5},
    r"H100 80GB HBM3|H200|GH200 (120GB|480GB|144G HBM3e)": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
    r"B200": {"fp32": 75, "tf32": 1100, "bf16": 2250, "fp16": 2250},
    r"GB200": {"fp32": 80, "tf32": 1250, "bf16": 2500, "fp16": 2500},
}


def flops_per_token(model: PreTrainedModel, sequence_length: int) -> float:
    """Floating-point operations, forward and backward, that training takes for one token of a row.

    6 for each weight that is multiplied: matrices, the head (also where it shares the embedding's weights), of a mixture's experts
    those that a token passes; 4 where a weight is not trained, and so has no gradient; an embedding's rows are only looked up, and
    norms and biases are not worth counting. Attention adds 12 x layers x width of the heads x sequence length: the masked half is
    counted too, as the field does.
    """
    config = model.config
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    active = getattr(config, "num_experts_per_tok", None) or 0
    of_weights = 0.0
    for parameter in model.parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty one in a parameter's place
        if len(shape) < 2 or id(parameter) in embeddings:
            continue
        experts = shape[0] if active and len(shape) == 3 else 0  # transformers holds all experts of a layer in one parameter
        of_weights += _of_weight(parameter) * math.prod(shape) * (active / experts if experts else 1)
    head = model.get_output_embeddings()
    if head is not None and id(head.weight) in embeddings:
        of_weights += _of_weight(head.weight) * math.prod(getattr(head.weight, "ds_shape", head.weight.shape))
    heads = getattr(config, "num_attention_heads", 0)
    width = heads * (getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0))
    return of_weights + 12 * config.num_hidden_layers * width * sequence_length


def _of_weight(parameter: torch.Tensor) -> int:
    """Multiplied and added forward, for the gradient of what it multiplies, and for its own where it is trained."""
    return 6 if parameter.requires_grad else 4


def peak_flops(name: str, precision: str) -> float | None:
    """Dense peak, in FLOP/s, of a GPU as torch.cuda.get_device_name() names it, in fp32, tf32, bf16 or fp16; None if not known."""
    bare = re.sub(r"^(NVIDIA |Tesla |GeForce )+", "", name)
    known = next((peaks for pattern, peaks in _PEAKS.items() if re.fullmatch(pattern, bare)), {})
    return known[precision] * 1e12 if precision in known else None


@dataclass(frozen=True)
class Peak:
    """What MFU is measured against, and how that is told once at the start."""

    flops: float | None  # FLOP/s of all devices together
    told: str


def assumed_peak(device: torch.device, precision: str, devices: int = 1, peak_tflops: float | None = None) -> Peak:
    """The peak of `devices` like `device` in the precision of training: `peak_tflops` of each if given, else by its name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"
    if precision == "fp32" and device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        precision = "tf32"
    if peak_tflops is not None:
        each, source = peak_tflops * 1e12, "train.peak_tflops"
    elif (known := peak_flops(name, precision) if device.type == "cuda" else None) is not None:
        each, source = known, f"the data sheet of {name}, {precision}, dense"
    else:
        return Peak(None, f"MFU is not shown: the peak of {name} in {precision} is not known; train.peak_tflops sets it")
    times = f"{devices} x " if devices > 1 else ""
    return Peak(each * devices, f"MFU is the part of {times}{each / 1e12:,.6g} TFLOP/s ({source})")
