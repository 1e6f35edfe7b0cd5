"""Scores against hand-computed cases and slow restatements on Python sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from finetune import metrics

CLASSES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)
SETS = st.lists(st.tuples(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4))), min_size=1, max_size=20)


def matrices(pairs: list[tuple[set[int], set[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Boolean (n, 5) predictions and gold labels of label sets."""
    predicted, gold = np.zeros((2, len(pairs), 5), dtype=bool)
    for row, (p, t) in enumerate(pairs):
        predicted[row, list(p)] = True
        gold[row, list(t)] = True
    return predicted, gold


def test_hand_computed_single_label_scores():
    """A macro-F1 that forgot a class, or weighted by class size, would still look like a plausible number."""
    gold = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 0, 0])
    # class 0: tp 2, fp 2, fn 1 -> 4/7; class 1: tp 1, fp 1, fn 1 -> 1/2; class 2: never predicted -> 0
    assert metrics.per_class_f1(predicted, gold) == pytest.approx({0: 4 / 7, 1: 1 / 2, 2: 0})
    assert metrics.macro_f1(predicted, gold) == pytest.approx((4 / 7 + 1 / 2) / 3)
    assert metrics.accuracy(predicted, gold) == pytest.approx(3 / 6)


def test_hand_computed_multi_label_scores():
    """The two loose-macro conventions differ only where something is empty, which real data hides until it matters."""
    predicted, gold = matrices([({0}, {0, 1}), (set(), {2}), ({3, 4}, {3}), ({1}, set())])
    assert metrics.strict_accuracy(predicted, gold) == 0
    micro = metrics.loose_micro(predicted, gold)
    assert (micro.precision, micro.recall) == pytest.approx((2 / 4, 2 / 4))
    macro = metrics.loose_macro(predicted, gold)
    assert (macro.precision, macro.recall) == pytest.approx(((1 + 0.5 + 0) / 3, (0.5 + 0 + 1) / 3))
    over_all = metrics.loose_macro_over_all(predicted, gold)
    assert (over_all.precision, over_all.recall) == pytest.approx((1.5 / 4, 1.5 / 4))
    assert over_all.f1 == pytest.approx(0.375)


def test_nothing_predicted_scores_zero_without_a_warning():
    """Division by zero would give NaN, which compares false with everything and picks no checkpoint."""
    predicted, gold = matrices([(set(), {1}), (set(), set())])
    assert metrics.loose_micro(predicted, gold) == (0, 0, 0)
    assert metrics.loose_macro(predicted, gold) == (0, 0, 0)
    assert metrics.strict_accuracy(predicted, gold) == 0.5


@given(CLASSES)
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]):
    """scikit-learn is the definition readers have in mind."""
    predicted, gold = np.array(pairs).T
    expected = f1_score(gold, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(predicted, gold) == pytest.approx(expected)


@given(SETS)
def test_loose_scores_are_a_slow_restatement(pairs: list[tuple[set[int], set[int]]]):
    """Set arithmetic, example by example, shares no code with the matrix form."""
    predicted, gold = matrices(pairs)
    hits = [len(p & t) for p, t in pairs]
    precisions = [hit / len(p) for hit, (p, _) in zip(hits, pairs, strict=True) if p]
    recalls = [hit / len(t) for hit, (_, t) in zip(hits, pairs, strict=True) if t]
    macro = metrics.loose_macro(predicted, gold)
    assert macro.precision == pytest.approx(sum(precisions) / len(precisions) if precisions else 0)
    assert macro.recall == pytest.approx(sum(recalls) / len(recalls) if recalls else 0)
    over_all = metrics.loose_macro_over_all(predicted, gold)
    assert over_all.precision == pytest.approx(sum(precisions) / len(pairs))
    assert over_all.recall == pytest.approx(sum(recalls) / len(pairs))
    micro = metrics.loose_micro(predicted, gold)
    assert micro.precision == pytest.approx(sum(hits) / max(sum(len(p) for p, _ in pairs), 1))
    assert micro.recall == pytest.approx(sum(hits) / max(sum(len(t) for _, t in pairs), 1))
    assert metrics.strict_accuracy(predicted, gold) == pytest.approx(np.mean([p == t for p, t in pairs]))
    assert over_all.f1 <= macro.f1 + 1e-9


def test_a_label_training_never_saw_is_an_error_not_a_crash():
    """Dropping such examples would raise the score by the very cases the model cannot answer."""
    gold = np.array([0, 1, metrics.UNSEEN])
    predicted = np.array([0, 1, 1])
    assert metrics.accuracy(predicted, gold) == pytest.approx(2 / 3)
    assert metrics.macro_f1(predicted, gold) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_majority_baseline_answers_the_commonest_training_class():
    """A baseline taken from the test set's own majority would be too high."""
    train, gold = np.array([1, 1, 0]), np.array([0, 0, 0, 1])
    found = metrics.majority_baseline(train, gold)
    assert found == pytest.approx({"accuracy": 0.25, "macro_f1": (0 + 2 * 1 / (4 + 1)) / 2})


def test_bootstrap_interval_is_seeded_and_holds_the_normal_approximation():
    """An interval that resampled scores instead of examples would be far too narrow."""
    rng = np.random.default_rng(0)
    gold = np.zeros(400, dtype=int)
    predicted = (rng.random(400) > 0.8).astype(int)
    share = metrics.accuracy(predicted, gold)
    low, high = metrics.bootstrap_interval(metrics.accuracy, predicted, gold, seed=1)
    assert (low, high) == metrics.bootstrap_interval(metrics.accuracy, predicted, gold, seed=1)
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.01)


def test_no_examples_are_refused():
    """A mean over nothing is NaN."""
    with pytest.raises(AssertionError, match="no examples"):
        metrics.accuracy(np.array([], dtype=int), np.array([], dtype=int))
