"""Scores of predictions, on numpy alone.

Single-label functions take class rows, shape (num_examples,), integers; a gold row of `UNSEEN` is a label training
never saw: it can never be hit and counts as an error. Multi-label functions take boolean matrices, shape (num_examples,
num_labels). All results lie in [0, 1]; no examples at all is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

UNSEEN = -100
"""Row of a label that training never saw; equals the value the losses ignore."""


class PRF(NamedTuple):
    """Precision, recall, and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def prf(precision: float, recall: float) -> PRF:
    total = precision + recall
    return PRF(precision, recall, 2 * precision * recall / total if total > 0 else 0.0)


def accuracy(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Share of examples whose class is right."""
    _same_length(predicted, gold)
    return float(np.mean(predicted == gold))


def per_class_f1(predicted: np.ndarray, gold: np.ndarray) -> dict[int, float]:
    """F1 of each class that occurs among gold or predicted (`UNSEEN` among them, where it scores 0)."""
    _same_length(predicted, gold)
    classes, rows = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    scores = _f1_by_class(rows[len(gold) :], rows[: len(gold)], len(classes))
    return {int(name): float(score) for name, score in zip(classes, scores, strict=True)}


def macro_f1(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Mean F1 over the classes that occur among gold or predicted, each with the same weight (scikit-learn's macro)."""
    return float(np.mean(list(per_class_f1(predicted, gold).values())))


def strict_accuracy(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Share of examples whose whole label set is right."""
    _same_length(predicted, gold)
    return float(np.mean((predicted == gold).all(axis=1)))


def loose_micro(predicted: np.ndarray, gold: np.ndarray) -> PRF:
    """Sums over all examples: P = Σ|t∩p| / Σ|p|, R = Σ|t∩p| / Σ|t|; an empty denominator gives 0."""
    _same_length(predicted, gold)
    hits = float((predicted & gold).sum())
    return prf(_ratio(hits, float(predicted.sum())), _ratio(hits, float(gold.sum())))


def loose_macro(predicted: np.ndarray, gold: np.ndarray) -> PRF:
    """Means over the examples that have something: P over those with a prediction, R over those with a gold label.

    Ling & Weld 2012, Choi et al. 2018. See `loose_macro_over_all` for the other convention.
    """
    _same_length(predicted, gold)
    hits = (predicted & gold).sum(axis=1)
    num_predicted, num_gold = predicted.sum(axis=1), gold.sum(axis=1)
    some_predicted, some_gold = num_predicted > 0, num_gold > 0
    precision = _mean(hits[some_predicted] / num_predicted[some_predicted])
    return prf(precision, _mean(hits[some_gold] / num_gold[some_gold]))


def loose_macro_over_all(predicted: np.ndarray, gold: np.ndarray) -> PRF:
    """The same sums as `loose_macro`, both divided by the number of ALL examples, as the first ERNIE code does.

    Never above `loose_macro`; equal to it when no example goes without a prediction and none without a gold label.
    """
    _same_length(predicted, gold)
    hits = (predicted & gold).sum(axis=1)
    precision = np.mean(hits / np.maximum(predicted.sum(axis=1), 1))
    return prf(float(precision), float(np.mean(hits / np.maximum(gold.sum(axis=1), 1))))


def majority_baseline(train_gold: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 of always answering the commonest class of training (lowest row among equals)."""
    classes, counts = np.unique(train_gold, return_counts=True)
    always = np.full(len(gold), classes[np.argmax(counts)])
    return {"accuracy": accuracy(always, gold), "macro_f1": macro_f1(always, gold)}


def bootstrap_interval(
    score: Callable[[np.ndarray, np.ndarray], float],
    predicted: np.ndarray,
    gold: np.ndarray,
    *,
    seed: int,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `score` over examples drawn with replacement (Efron 1979)."""
    _same_length(predicted, gold)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(gold), size=(num_resamples, len(gold)))
    scores = [score(predicted[rows], gold[rows]) for rows in draws]
    tail = (1 - level) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def _f1_by_class(predicted: np.ndarray, gold: np.ndarray, num_classes: int) -> np.ndarray:
    """Rows 0..num_classes-1, each of which occurs, so that no denominator is 0."""
    hits = np.bincount(gold[gold == predicted], minlength=num_classes)
    denominator = np.bincount(gold, minlength=num_classes) + np.bincount(predicted, minlength=num_classes)
    return 2 * hits / denominator


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _same_length(predicted: np.ndarray, gold: np.ndarray) -> None:
    assert predicted.shape == gold.shape, (
        f"predictions have shape {predicted.shape}, gold labels {gold.shape}; they must be equal"
    )
    assert len(gold) > 0, "a score over no examples has no value; the caller refuses an empty split"
