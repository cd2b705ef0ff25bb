"""Membership inference over several models: how a text stands in one model against what the others, trained on it or not, say.

The models are trainings of one recipe with different assignments ("paired seeds"), each the target once and the others its
references. A signal is one number per text and model, such as the mean log-probability of the text, nats a token; higher scores
mean member. A NaN signal is that of a model that says nothing of the text: it was not scored, or is of the other side.

With 2 to 8 models few texts have two references of each side, so that a text's own variance cannot be told. It is pooled over
all texts given: pass texts of one kind, which vary alike. A text's score is NaN where it cannot be had, and what is left may be
a selection: of two models with opposite assignments, RMIA would score members alone.

A design that puts every text in half the models gives members one reference fewer that was trained on them. The number of
references must neither betray nor hide membership: LiRA is standardized for it. RMIA, as published, is not; of such a design its
AUC hardly suffers, but from chance alone it calls 0.3% of members at 1% false positives with 4 models, and 0.9% with 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from configs.errors import DataError, RecipeError

Floats = NDArray[np.float64]
LEAST_DEVIATION = 1e-6  # nats: what float32 signals can tell apart

# ------------------------------------------------------------------------------------------------ LiRA


def lira_online(phi: ArrayLike, phi_in: ArrayLike, phi_out: ArrayLike) -> Floats:
    """ln N(phi; mu_in, s_in) - ln N(phi; mu_out, s_out), (n,), the likelihood ratio of Carlini et al. 2022, arXiv:2112.03570.

    `phi`, (n,), are the target's signals, `phi_in` and `phi_out`, (n, k) and (n, l), those of references that were and were
    not trained on the text, NaN for others. A mean is of the text's own references; s^2 is their variance about it, pooled
    over texts (the paper, too, takes one for all when models are few) and times 1 + 1/k for the error of the mean of k. Of
    the factors before the exponentials only the pooled ones count.
    """
    signal = _signals(phi, 1)
    (z_in, deviation_in), (z_out, deviation_out) = _standardized(signal, phi_in), _standardized(signal, phi_out)
    return (z_out**2 - z_in**2) / 2 + log(deviation_out / deviation_in)


def lira_offline(phi: ArrayLike, phi_out: ArrayLike) -> Floats:
    """Phi((phi - mu_out) / s_out), (n,), one minus the p-value of "not trained on it" (Carlini et al. 2022, offline attack).

    Arguments, mean and deviation as of `lira_online`. It is 1 to float64 beyond 8 deviations.
    """
    return ndtr(_standardized(_signals(phi, 1), phi_out)[0])


def lira_scores(signal: ArrayLike, member: ArrayLike, online: bool = True) -> Floats:
    """LiRA of every text in every model, (n, m), with the other models as references; NaN where it cannot be had.

    `signal`, (n, m), and `member`, bool (n, m): whether a model was trained on a text. `DataError` if their shapes differ.
    """
    return np.stack(
        [
            lira_online(phi, phi_in, phi_out) if online else lira_offline(phi, phi_out)
            for phi, phi_in, phi_out, _ in _targets(signal, member)
        ],
        axis=1,
    )


def _standardized(signal: Floats, references: ArrayLike) -> tuple[Floats, float]:
    """z of each text among its references, (n,), NaN without any, and their pooled deviation, NaN if no text has two."""
    values = _signals(references, 2)
    if len(values) != len(signal):
        raise DataError(f"{len(signal)} texts have signals of the target, but {len(values)} of the references")
    mean, count = _mean(values), (~np.isnan(values)).sum(axis=1)
    freedom = np.maximum(count - 1, 0).sum()
    squares = float(np.nansum((values - mean[:, None]) ** 2))
    deviation = max(LEAST_DEVIATION, sqrt(squares / freedom)) if freedom else nan
    return (signal - mean) / (deviation * np.sqrt(1 + 1 / np.maximum(count, 1))), deviation


# ------------------------------------------------------------------------------------------------ RMIA


def rmia(
    phi: ArrayLike, phi_out: ArrayLike, population: ArrayLike, population_out: ArrayLike, a: float = 1.0, gamma: float = 1.0
) -> Floats:
    """The share of a population z with LR(x, z) > gamma, (n,), an equal one counting half (Zarifzadeh et al. 2024,
    arXiv:2312.03262, offline).

    LR(x, z) = (P_target(x) / P(x)) / (P_target(z) / P(z)), with P = ((1 + a) P_out + 1 - a) / 2 and P_out the mean probability
    under references not trained on the text. `phi` (n,), `population` (p,): mean log-probabilities, nats, exp of which is
    P_target; `phi_out` (n, k), `population_out` (p, l): those of the references, NaN for others.

    P is (P_in + P_out) / 2 with P_in = a P_out + 1 - a. The paper tunes a by data set; for a language model, whose P_out is far
    below 1, a below 1 makes P nearly constant and the attack the loss, so the default is P = P_out.
    `RecipeError` unless 0 <= a <= 1 and gamma > 0, `DataError` on a positive log-probability.
    """
    if not 0 <= a <= 1 or not gamma > 0:
        raise RecipeError(f"RMIA needs a in [0, 1] and gamma above 0, not {a} and {gamma}")
    ratios, others = _log_ratios(phi, phi_out, a), np.sort(_log_ratios(population, population_out, a))
    others = others[~np.isnan(others)]
    if others.size == 0:
        return np.full_like(ratios, np.nan)
    below, up_to = (np.searchsorted(others, ratios - log(gamma), side) for side in ("left", "right"))
    return np.where(np.isnan(ratios), np.nan, (below + up_to) / (2 * others.size))


def rmia_scores(signal: ArrayLike, member: ArrayLike, a: float = 1.0, gamma: float = 1.0) -> Floats:
    """RMIA of every text in every model, (n, m), with the other models as references; arguments as of `lira_scores`.

    The population are the texts that the target was not trained on: at gamma = 1 a score is one minus the false positive rate
    at which a text is called a member, and which texts these are does not change the order.
    """
    return np.stack(
        [rmia(phi, phi_out, phi[~inside], phi_out[~inside], a, gamma) for phi, _, phi_out, inside in _targets(signal, member)],
        axis=1,
    )


def _log_ratios(phi: ArrayLike, phi_out: ArrayLike, a: float) -> Floats:
    """ln P_target(x) / P(x), (n,)."""
    target, references = _signals(phi, 1), _signals(phi_out, 2)
    if len(references) != len(target):
        raise DataError(f"{len(target)} texts have signals of the target, but {len(references)} of the references")
    if max(np.nanmax(target, initial=0), np.nanmax(references, initial=0)) > 0:
        raise DataError("RMIA needs mean log-probabilities, which are at most 0")
    return target - np.log(((1 + a) * _mean(np.exp(references)) + 1 - a) / 2)


# ------------------------------------------------------------------------------------------------ models


def _targets(signal: ArrayLike, member: ArrayLike) -> Iterator[tuple[Floats, Floats, Floats, NDArray[np.bool_]]]:
    """Of each model: its signals, those of the others trained on the text, of the others not, and whether it was itself."""
    signals, inside = _signals(signal, 2), np.asarray(member)
    if inside.shape != signals.shape or inside.dtype != bool:
        raise DataError(f"membership must be bool {signals.shape}, as the signals, not {inside.dtype} {inside.shape}")
    for target in range(signals.shape[1]):
        others, trained = np.delete(signals, target, axis=1), np.delete(inside, target, axis=1)
        yield signals[:, target], np.where(trained, others, np.nan), np.where(trained, np.nan, others), inside[:, target]


def _mean(values: Floats) -> Floats:
    """Each row's mean over what is not NaN; NaN where all is."""
    count = (~np.isnan(values)).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)


def _signals(values: ArrayLike, dimensions: int) -> Floats:
    signals = np.asarray(values, dtype=float)
    if signals.ndim != dimensions:
        raise DataError(f"signals must have {dimensions} dimension(s), texts first, not the shape {signals.shape}")
    if np.isinf(signals).any():
        raise DataError(f"{int(np.isinf(signals).sum())} of the {signals.size} signals are infinite")
    return signals
