"""Weights that gold links teach, against what made the links; and what scores are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entity_linking.fitting import (
    NIL,
    UNKNOWN,
    Examples,
    _deviation,
    calibration_error,
    coverage_curve,
    fit_weights,
    joined,
    threshold_for,
)
from entity_linking.rerank import softmax_with_nil


def made_examples(count: int, *, seed: int) -> tuple[Examples, dict[str, float]]:
    """Choices drawn from a model with known weights."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, count)
    bounds = np.concatenate(([0], np.cumsum(sizes)))
    terms = rng.normal(size=(bounds[-1], 3)) * [1.0, 5.0, 0.2]
    nil_terms = np.stack([np.ones(count), rng.normal(size=count)], axis=1)
    true = {"prior": 1.5, "coherence": 0.4, "context": 0.0, "nil": -1.0, "nil_words": 0.7}
    values = list(true.values())
    score, nil, _ = softmax_with_nil(terms @ values[:3], bounds, nil=nil_terms @ values[3:])
    target = np.full(count, NIL)
    for i in range(count):
        chances = np.append(score[bounds[i] : bounds[i + 1]], nil[i])
        choice = rng.choice(len(chances), p=chances / chances.sum())
        target[i] = bounds[i] + choice if choice < sizes[i] else NIL
    examples = Examples(
        document=np.arange(count) // 10,
        bounds=bounds,
        entity=np.zeros(bounds[-1], np.int32),
        terms=terms,
        nil_terms=nil_terms,
        target=target,
        names=("prior", "coherence", "context"),
        nil_names=("nil", "nil_words"),
    )
    return examples, true


def test_the_fit_finds_the_weights_that_made_the_choices() -> None:
    """A gradient off by a sign or a scale still ends somewhere plausible."""
    examples, true = made_examples(6000, seed=0)
    found = fit_weights(examples, penalty=0.0)
    for name, value in true.items():
        assert getattr(found, name) == pytest.approx(value, abs=0.15), name
    assert found.case == found.encoder == 0.0
    score, best = examples.predict(found)
    kept = best >= 0
    assert calibration_error(score[kept], best[kept] == examples.target[kept]) < 0.02
    assert fit_weights(examples, penalty=1e3).prior == pytest.approx(0.0, abs=0.01)


def test_mentions_nobody_knows_teach_nothing() -> None:
    """Unlabelled spans taken for NIL would teach the linker to abstain."""
    examples, _ = made_examples(400, seed=1)
    unknown = np.arange(400) % 4 == 0
    masked = replace(examples, target=np.where(unknown, UNKNOWN, examples.target))
    assert fit_weights(masked) == fit_weights(examples.of_mentions(~unknown))
    parts = [examples.of_mentions(examples.document == d) for d in range(40)]
    again = joined(parts)
    for name in ("document", "bounds", "entity", "terms", "nil_terms", "target"):
        np.testing.assert_array_equal(getattr(again, name), getattr(examples, name))


def test_calibration_curve_and_threshold_by_hand() -> None:
    """Each is reported as a figure; an off-by-one would make it flattering."""
    score = np.array([0.95, 0.85, 0.65, 0.55])
    correct = np.array([True, True, False, True])
    assert calibration_error(score, correct) == pytest.approx((0.05 + 0.15 + 0.65 + 0.45) / 4)
    assert calibration_error(score[:0], correct[:0]) == 0.0
    curve = coverage_curve(score, correct)
    assert [(c["coverage"], c["precision"], c["score"]) for c in curve[-2:]] == [
        (0.8, pytest.approx(2 / 3), 0.65),
        (1.0, 0.75, 0.55),
    ]
    scores = np.repeat([0.9, 0.8, 0.7], 40)
    right = np.concatenate([np.ones(40), np.arange(40) % 10 > 0, np.zeros(40)]).astype(bool)
    assert threshold_for(scores, right, precision=0.94) == 0.8
    assert threshold_for(scores, right, precision=0.96) == 0.9
    assert threshold_for(scores, ~right, precision=0.9) is None


def test_a_term_that_is_constant_but_for_rounding_disturbs_no_fit() -> None:
    """Divided by its deviation of 1e-17, rounding would drown every other term."""
    columns = np.stack([np.full(50, 0.1) + np.arange(50) % 2 * 1e-17, np.arange(50.0)], axis=1)
    assert _deviation(columns).tolist() == [1.0, np.arange(50.0).std()]
    assert _deviation(np.zeros((0, 2))).tolist() == [1.0, 1.0]
