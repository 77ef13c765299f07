"""Probabilities that can be believed: temperature, expected calibration error, and thresholds.

Temperature scaling divides the logits by one number T, chosen by the likelihood of held-out labels, and changes no
answer of a softmax (Guo et al. 2017, arXiv:1706.04599, 4.2). Here it works on probabilities: the logarithm of a
softmax is its logits up to a constant, and the logit of a sigmoid is its logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertkit.metrics import interval
from bertkit.metrics.classification import Array

BINS = 15
"""Of the calibration error (arXiv:1706.04599, 5)."""
TEMPERATURES = (0.05, 20.0)
"""Between which a temperature is looked for."""
LEAST = 1e-15
"""Below this, a probability of a float64 sigmoid has no logit that means anything."""
CANDIDATES = 200
"""Thresholds that are tried at most."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The decisions whose confidence is between two numbers."""

    low: float
    """Above this (in the first bin, from it on),"""
    high: float
    """up to this."""
    number: int
    """Decisions."""
    confidence: float
    """Their mean confidence; 0 where there are none."""
    accuracy: float
    """Share of them that are right; 0 where there are none."""


def bins(confidence: Array, right: Array, *, number: int = BINS) -> list[Bin]:
    """Return decisions in bins of equal width, as a reliability diagram shows them.

    Args:
        confidence: probability of each decision ``(n,)``, 0 to 1.
        right: whether it was right ``(n,)``, bool or 0 and 1.
        number: of bins.
    """
    edges = np.linspace(0, 1, number + 1)
    given, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.clip(np.searchsorted(edges, given, side="left") - 1, 0, number - 1)
    counts = np.bincount(place, minlength=number)
    shares = [np.bincount(place, each, minlength=number) / np.maximum(counts, 1) for each in (given, correct)]
    return [
        Bin(low=low, high=high, number=count, confidence=mean, accuracy=share)
        for low, high, count, mean, share in zip(
            *(each.tolist() for each in (edges[:-1], edges[1:], counts, *shares)), strict=True
        )
    ]


def expected_error(confidence: Array, right: Array, *, number: int = BINS) -> float:
    """Return the expected calibration error, 0 to 1 (arXiv:1706.04599, eq. 3): 0 without decisions.

    The mean distance of a decision's confidence from the share of right ones, bin by bin.

    Args:
        confidence: probability of each decision ``(n,)``.
        right: whether it was right ``(n,)``.
        number: of bins of equal width.
    """
    total = len(confidence)
    found = bins(confidence, right, number=number)
    return sum(one.number / total * abs(one.accuracy - one.confidence) for one in found if one.number)


def decisions(probabilities: Array, references: Array) -> tuple[Array, Array]:
    """Return the confidence of each decision, and whether it was right: what the calibration error is of.

    Args:
        probabilities: ``(n, K)`` float64.
        references: ids ``(n,)``: a decision a row, the likeliest label. Or 0 and 1 ``(n, K)``: a decision a row and
            label, the probability of the label against whether the row has it.
    """
    if references.ndim == 2:
        return probabilities.ravel(), references.ravel()
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == references


def tempered(probabilities: Array, temperature: float, *, several: bool = False) -> Array:
    """Return probabilities as they are once their logits are divided by a temperature.

    Args:
        probabilities: ``(n, K)`` float64, of a softmax, or of K sigmoids where ``several``.
        temperature: above 0; 1 changes nothing.
        several: whether each label has a sigmoid of its own.
    """
    scaled = _logits(probabilities, several=several) / temperature
    if several:
        return np.asarray(np.exp(-np.logaddexp(0, -scaled)))
    return np.asarray(np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)))


def fit_temperature(probabilities: Array, references: Array) -> float | None:
    """Return the temperature under which the references are likeliest.

    None where every decision is right: then the likelihood grows without end as the temperature goes to 0, and nothing
    is learned about how sure the model should be.

    Args:
        probabilities: ``(n, K)`` float64.
        references: ids ``(n,)``, or 0 and 1 ``(n, K)``; see :func:`decisions`.
    """
    from scipy.optimize import minimize_scalar

    several = references.ndim == 2
    right = (probabilities >= 0.5) == references if several else probabilities.argmax(axis=1) == references
    if right.all():
        return None
    logits = _logits(probabilities, several=several)

    def loss(log_temperature: float) -> float:
        scaled = logits * np.exp(-log_temperature)
        if several:
            return float(np.logaddexp(0, np.where(references == 1, -scaled, scaled)).mean())
        chosen = scaled[np.arange(len(scaled)), references]
        return float((np.logaddexp.reduce(scaled, axis=1) - chosen).mean())

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def fit_threshold(
    metric: str, probabilities: Array, references: Array, *, num_labels: int, kind: str
) -> tuple[float, float, float]:
    """Return the threshold with the best score, that score, and the score at 0.5; of equal ones that nearest to 0.5.

    Tried are up to 200 places half-way between neighbouring probabilities, and 0.5.

    Args:
        metric: a score by :data:`bertkit.metrics.names.SCORES`.
        probabilities: of label 1 ``(n,)`` where a row has one of two labels, of all labels ``(n, K)`` where it has
            several.
        references: ids ``(n,)``, or 0 and 1 ``(n, K)``.
        num_labels: K.
        kind: ``single`` (two labels) or ``multi``.
    """
    values = np.unique(probabilities)
    halfway = (values[1:] + values[:-1]) / 2
    spread = np.unique(np.linspace(0, len(halfway) - 1, min(CANDIDATES, len(halfway))).round().astype(int))
    candidates: Sequence[float] = sorted((0.5, *halfway[spread].tolist()), key=lambda place: abs(place - 0.5))
    scores = [
        interval.points([metric], (probabilities >= place).astype(int), references, num_labels=num_labels, kind=kind)
        for place in candidates
    ]
    best = max(range(len(candidates)), key=lambda index: scores[index][metric])
    return candidates[best], scores[best][metric], scores[0][metric]


def _logits(probabilities: Array, *, several: bool) -> Array:
    given = np.clip(probabilities, LEAST if several else np.finfo(np.float64).tiny, 1 - LEAST if several else 1)
    return np.asarray(np.log(given) - np.log1p(-given) if several else np.log(given))
