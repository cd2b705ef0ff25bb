"""Learning rate by step."""

from __future__ import annotations

import math

from configs.schema import Train


def learning_rate(settings: Train, step: int) -> float:
    """Learning rate of one step: linear warm-up, then constant, cosine (Loshchilov and Hutter, 2017) or WSD (warm-up, stable,
    linear decay; Hu et al., 2024) down to `final_learning_rate` of the peak at the last step.
    """
    peak, floor = settings.learning_rate, settings.learning_rate * settings.final_learning_rate
    warmup = warmup_steps(settings)
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    decaying: float = settings.steps - warmup
    if settings.schedule == "wsd":
        decaying = min(decaying, settings.decay * settings.steps)
    done = min(1.0, max(0.0, (step + 1 - (settings.steps - decaying)) / decaying)) if decaying else 0.0
    remaining = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return floor + (peak - floor) * remaining


def warmup_steps(settings: Train) -> int:
    """Steps of linear warm-up: `warmup`, or as many as it takes to predict `warmup_tokens` tokens."""
    if settings.warmup_tokens is None:
        return settings.warmup
    return -(-settings.warmup_tokens // (settings.global_batch * settings.sequence_length))
