"""Learning rate by step."""

from __future__ import annotations

import math

from configs.schema import Train


def learning_rate(settings: Train, step: int) -> float:
    """Learning rate of one step: linear warm-up, then constant, cosine (Loshchilov and Hutter, 2017) or WSD (warm-up, stable,
    linear decay; Hu et al., 2024) down to `final_learning_rate` of the peak at the last step.
    """
    peak, floor = settings.learning_rate, settings.learning_rate * settings.final_learning_rate
    if step < settings.warmup:
        return peak * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return peak
    decaying = settings.steps - settings.warmup if settings.schedule == "cosine" else settings.decay * settings.steps
    done = min(1.0, max(0.0, (step + 1 - (settings.steps - decaying)) / decaying)) if decaying else 0.0
    remaining = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return floor + (peak - floor) * remaining
