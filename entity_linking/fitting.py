"""The reranker's weights from mentions whose entity is known: a conditional logit with NIL as one more choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from entity_linking.candidates import Candidates, Floats
from entity_linking.normalise import Flags, Ints
from entity_linking.rerank import softmax_with_nil
from entity_linking.weights import LinkWeights

NIL, UNKNOWN = -1, -2
"""Of `Examples.target`: no entity of the graph is meant; nobody knows."""
PENALTY = 1e-3
"""On the squared weights of terms scaled to deviation 1, per mention: keeps a term without effect near 0."""
CALIBRATION_BINS = 10
COVERAGES = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Examples:
    """Mentions with their candidates' terms and the right choice.

    document: int64 (num_mentions,). bounds: int64 (num_mentions + 1,). entity: int32 (num_candidates,).
    terms: float64 (num_candidates, len(names)). nil_terms: float64 (num_mentions, len(nil_names)).
    target: int64 (num_mentions,): index of the right candidate, or `NIL`, or `UNKNOWN`.
    names, nil_names: fields of `LinkWeights`, in the columns' order.
    """

    document: Ints
    bounds: Ints
    entity: npt.NDArray[np.int32]
    terms: Floats
    nil_terms: Floats
    target: Ints
    names: tuple[str, ...]
    nil_names: tuple[str, ...]

    def of_mentions(self, chosen: Flags) -> Examples:
        """The chosen mentions alone."""
        sizes = np.diff(self.bounds)
        kept = np.repeat(chosen, sizes)
        bounds = np.concatenate(([0], np.cumsum(sizes[chosen])))
        shifted = self.target[chosen] - self.bounds[:-1][chosen] + bounds[:-1]
        return Examples(
            document=self.document[chosen],
            bounds=bounds,
            entity=self.entity[kept],
            terms=self.terms[kept],
            nil_terms=self.nil_terms[chosen],
            target=np.where(self.target[chosen] >= 0, shifted, self.target[chosen]),
            names=self.names,
            nil_names=self.nil_names,
        )

    def predict(self, weights: LinkWeights) -> tuple[Floats, Ints]:
        """The probability of each mention's best candidate (0 for none), and its index (-1 for none)."""
        logits = self.terms @ np.array([getattr(weights, name) for name in self.names])
        nil = self.nil_terms @ np.array([getattr(weights, name) for name in self.nil_names])
        score, _, best = softmax_with_nil(logits, self.bounds, nil=nil)
        return np.append(score, 0.0)[best], best


def examples_of(
    candidates: Candidates,
    document: Ints,
    terms: dict[str, Floats],
    nil_terms: dict[str, Floats],
    target_entity: Ints,
) -> Examples:
    """target_entity: int64 (num_mentions,): row of the right entity, `NIL` or `UNKNOWN`.

    A right entity that is no candidate makes the mention NIL: the linker can do no better than to abstain.
    """
    right = np.flatnonzero(candidates.entity == target_entity[candidates.mention])
    target = np.where(target_entity == UNKNOWN, UNKNOWN, NIL)
    target[candidates.mention[right]] = right
    return Examples(
        document=document,
        bounds=candidates.bounds,
        entity=candidates.entity,
        terms=np.stack([*terms.values()], axis=1),
        nil_terms=np.stack([*nil_terms.values()], axis=1),
        target=target,
        names=tuple(terms),
        nil_names=tuple(nil_terms),
    )


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples one after the other; of the same terms."""
    offsets = np.cumsum([0, *(len(part.entity) for part in parts)])
    targets = [np.where(p.target >= 0, p.target + at, p.target) for p, at in zip(parts, offsets[:-1], strict=True)]
    bounds = [part.bounds[1:] + at for part, at in zip(parts, offsets[:-1], strict=True)]
    return Examples(
        document=np.concatenate([part.document for part in parts]),
        bounds=np.concatenate([[0], *bounds]),
        entity=np.concatenate([part.entity for part in parts]),
        terms=np.concatenate([part.terms for part in parts]),
        nil_terms=np.concatenate([part.nil_terms for part in parts]),
        target=np.concatenate(targets),
        names=parts[0].names,
        nil_names=parts[0].nil_names,
    )


def fit_weights(examples: Examples, *, ranking: LinkWeights | None = None, penalty: float = PENALTY) -> LinkWeights:
    """The weights of the highest penalised likelihood; terms that the examples lack get weight 0.

    Mentions whose target is `UNKNOWN` teach nothing. The bias `nil` is not penalised. ranking: weights of the
    candidates' terms that stay as they are, so that only those of NIL are fitted.
    """
    known = examples.of_mentions(examples.target != UNKNOWN)
    scale, nil_scale = _deviation(known.terms), _deviation(known.nil_terms)
    terms, nil_terms = known.terms / scale, known.nil_terms / nil_scale
    sizes = np.diff(known.bounds)
    mention = np.repeat(np.arange(len(sizes)), sizes)
    right = np.zeros(len(terms))
    right[known.target[known.target >= 0]] = 1.0
    right_nil = (known.target == NIL).astype(np.float64)
    penalised = np.array([1.0] * terms.shape[1] + [float(name != "nil") for name in known.nil_names])
    given = np.array([getattr(ranking, name, 0.0) for name in known.names]) * scale
    fitted = np.concatenate([np.full(len(scale), ranking is None), np.ones(len(nil_scale), bool)])

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits, nil = terms @ weights[: terms.shape[1]], nil_terms @ weights[terms.shape[1] :]
        score, nil_score, _ = softmax_with_nil(logits, known.bounds, nil=nil)
        likelihood = np.where(right_nil > 0, nil_score, np.bincount(mention, score * right, minlength=len(sizes)))
        gradient = np.concatenate([terms.T @ (score - right), nil_terms.T @ (nil_score - right_nil)]) / len(sizes)
        shrinkage = penalty * penalised * weights
        return -np.log(likelihood.clip(1e-300)).mean() + shrinkage @ weights / 2, (gradient + shrinkage) * fitted

    start = np.concatenate([given, np.zeros(len(nil_scale))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    values = dict(zip((*known.names, *known.nil_names), found / np.concatenate([scale, nil_scale]), strict=True))
    if ranking is not None:
        values |= {of.name: getattr(ranking, of.name) for of in fields(LinkWeights) if of.name not in known.nil_names}
    return LinkWeights(**{of.name: float(values.get(of.name, 0.0)) for of in fields(LinkWeights)})


def _deviation(columns: Floats) -> Floats:
    """1 for a column that is constant, but for rounding, which no weight may blow up."""
    if not len(columns):
        return np.ones(columns.shape[1])
    deviation = columns.std(0)
    return np.where(deviation > 1e-9 * np.abs(columns).max(0), deviation, 1.0)


# --- what scores are worth ------------------------------------------------------------------------------------


def calibration_error(score: Floats, correct: Flags) -> float:
    """Expected calibration error: mean distance of score and share correct, over `CALIBRATION_BINS` equal bins.

    (Guo et al. 2017, equation 5.) score: in [0, 1]. 0 for nothing.
    """
    if not len(score):
        return 0.0
    bins = np.minimum((score * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, score - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(score))


def coverage_curve(score: Floats, correct: Flags, given: Flags | None = None) -> list[dict[str, float]]:
    """Precision of the surest links, by share of all mentions linked; `score` is the least among them.

    given: the mentions that may be linked at all, bool (num_mentions,), None = every one; the curve ends at their
    share.
    """
    given = np.ones(len(score), dtype=bool) if given is None else given
    order = np.flatnonzero(given)[np.argsort(-score[given], kind="stable")]
    right = np.cumsum(correct[order])
    shares = [*(share for share in COVERAGES if share * len(score) < len(order)), len(order) / max(len(score), 1)]
    places = [max(1, round(share * len(score))) for share in shares] if len(order) else []
    return [
        {"coverage": share, "precision": float(right[k - 1] / k), "score": float(score[order[k - 1]])}
        for share, k in zip(shares, places, strict=False)
    ]


def threshold_for(score: Floats, correct: Flags, *, precision: float) -> float | None:
    """The least score from which on links are right with at least this precision; None where no score reaches it.

    A cut is believed from 30 links on.
    """
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(correct[order]) / np.arange(1, len(score) + 1)
    last_of_equals = np.append(score[order][1:] != score[order][:-1], True)
    reached = np.flatnonzero((right >= precision) & last_of_equals & (np.arange(len(score)) >= 29))
    return float(score[order[reached[-1]]]) if len(reached) else None
