"""How sure a link is, learnt from links that somebody judged: by its score, and by which terms agree with the choice.

Scores are calibrated where the gold links are; in text of another kind other meanings are common. A linker's terms tell
which of its links hold there: what prior and surroundings both say is seldom wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from entity_linking.candidates import Floats
from entity_linking.normalise import Flags, Ints
from entity_linking.rerank import Scored, agrees

LEAST = 1e-6
"""Probabilities are kept so far away from 0 and 1."""
OF_SPELLING = ("case", "inside_name")
"""Terms by which a mention's candidates hardly differ."""
STRENGTH, FOLDS = 1.0, 10


@dataclass(frozen=True, slots=True)
class Certainty:
    """p(the best candidate is meant) = σ(Σ weight · signal), over the signals of `signals_of` by name."""

    weights: Mapping[str, float]

    def of(self, scored: Scored) -> Floats:
        """Of every mention's best candidate, float64 (num_mentions,), 0 where there is none."""
        signals = signals_of(scored)
        sure = sum((weight * signals[name] for name, weight in self.weights.items()), np.zeros(len(scored.best)))
        return np.where(scored.best >= 0, expit(sure), 0.0)


def signals_of(scored: Scored) -> dict[str, Floats]:
    """What speaks for each mention's best candidate; float64 (num_mentions,) by name.

    one: 1. score: log odds of its score. alone: 1 where there is no other candidate. leads_by_TERM: 1 where no other
    candidate has more of the term.
    """
    bounds, best = scored.candidates.bounds, scored.best
    score = np.append(scored.score, 0.5)[best]
    signals = {"one": np.ones(len(best)), "score": logit(score.clip(LEAST, 1 - LEAST)), "alone": np.diff(bounds) == 1}
    for name, term in scored.terms.items():
        if name not in OF_SPELLING:
            signals[f"leads_by_{name}"] = agrees(term, bounds, best)
    return {name: np.asarray(values, dtype=np.float64) for name, values in signals.items()}


def fit_certainty(signals: Floats, names: Sequence[str], right: Flags) -> Certainty:
    """Logistic regression with a quadratic penalty. signals: (num_links, len(names)). right: (num_links,)."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=1000).fit(signals, right)
    return Certainty(dict(zip(names, found.coef_[0].tolist(), strict=True)))


def parts_of(document: Ints) -> list[tuple[Ints, Ints]]:
    """The links to fit on and those held out, at most `FOLDS` times; [] for links of one document, or none.

    document: (num_links,), a number each; links of one are held out together.
    """
    from sklearn.model_selection import GroupKFold

    num_documents = len(np.unique(document))
    if num_documents < 2:
        return []
    return list(GroupKFold(min(FOLDS, num_documents)).split(document, groups=document))


def certainty_elsewhere(
    signals: Floats, names: Sequence[str], right: Flags, parts: Sequence[tuple[Ints, Ints]]
) -> Floats:
    """What models fitted on other documents' links say of each link; float64 (num_links,). parts: of `parts_of`."""
    sure = np.zeros(len(right))
    for others, held_out in parts:
        weights = fit_certainty(signals[others], names, right[others]).weights
        sure[held_out] = expit(signals[held_out] @ np.array([weights[name] for name in names]))
    return sure
