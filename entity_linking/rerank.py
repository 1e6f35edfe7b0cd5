"""Candidates scored: named terms, weighed, summed and turned into probabilities beside "none of them" (NIL)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from entity_linking.candidates import Candidates, Floats
from entity_linking.coherence import Coherence
from entity_linking.context import ContextWords
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints


@dataclass(frozen=True, kw_only=True)
class LinkWeights:
    """What each term adds to a candidate's logit; 0 switches a term off.

    The defaults were chosen on SemCor's ambiguous nouns with WordNet: with priors of other documents 0.575 of them
    come out right by prior alone, 0.610 with coherence and context; with no prior at all 0.443 (by chance 0.256).
    """

    prior: float = 1.0
    """Of log p(entity | alias), at most 0."""
    coherence: float = 1.0
    """Of the cosine with the neighbours' expected vectors, in [-1, 1]."""
    context: float = 0.2
    """Of the idf-weighted overlap of description and surroundings, 0 upwards."""
    case: float = 1.0
    """Of the case term: 1 a name written as one, -1 a capital where the entity has none, else 0."""
    inside_name: float = -2.0
    """Of 1 where another capitalised word stands right beside the mention: part of a longer, unknown name."""
    nil: float = -2.5
    """Logit of NIL; a mention with one candidate, certain by prior, has logit 0."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Candidates of a batch with their terms and scores.

    terms: by name, float64 (num_candidates,). score: float64 (num_candidates,): p(entity | mention, text); the
    scores of a mention and its NIL sum to 1. nil: float64 (num_mentions,).
    best: int64 (num_mentions,): index of the best candidate, -1 for none; ties go to the likelier by prior.
    """

    candidates: Candidates
    terms: dict[str, Floats]
    score: Floats
    nil: Floats
    best: Ints


class Reranker:
    """Scores candidates by prior, case, coherence and context; the last two are handed in or left out.

    The scores of a text do not depend on the other texts of its batch.
    """

    def __init__(
        self, *, weights: LinkWeights, coherence: Coherence | None = None, context: ContextWords | None = None
    ) -> None:
        self.weights = weights
        self.coherence = coherence
        self.context = context

    def score(self, mentions: MentionTable, candidates: Candidates) -> Scored:
        """Every candidate's terms and probability."""
        terms = {
            "prior": np.log(candidates.prior),
            "case": case_term(mentions, candidates),
            "inside_name": mentions.inside_name[candidates.mention].astype(np.float64),
        }
        if self.coherence is not None:
            terms["coherence"] = self.coherence.score(mentions, candidates)
        if self.context is not None:
            terms["context"] = self.context.score(mentions, candidates)
        logits = np.zeros(len(candidates), dtype=np.float64)
        for contribution in self.contributions(terms).values():
            logits += contribution
        score, nil, best = softmax_with_nil(logits, candidates.bounds, nil=self.weights.nil)
        return Scored(candidates, terms, score, nil, best)

    def contributions(self, terms: dict[str, Floats]) -> dict[str, Floats]:
        """Each term times its weight; their sum is the logit."""
        weights = asdict(self.weights)
        return {name: weights[name] * values for name, values in terms.items()}


def case_term(mentions: MentionTable, candidates: Candidates) -> Floats:
    """1 where a name is written as one, -1 where a capital stands that the entity has not, 0 where case says nothing.

    A capital at the start of a sentence says nothing.
    """
    evidence = mentions.capital_evidence[candidates.mention]
    return np.where(evidence, np.where(candidates.named, 1.0, -1.0), 0.0)


def softmax_with_nil(logits: Floats, bounds: Ints, *, nil: float) -> tuple[Floats, Floats, Ints]:
    """Probabilities of each mention's candidates and of NIL, and the index of its best candidate (-1 for none).

    logits: (num_candidates,). bounds: (num_mentions + 1,). nil: logit of NIL, the same for all.
    """
    count = len(bounds) - 1
    sizes = np.diff(bounds)
    filled = np.flatnonzero(sizes)
    highest = np.full(count, nil)
    best = np.full(count, -1, dtype=np.int64)
    if len(filled):
        top = np.maximum.reduceat(logits, bounds[filled])
        is_top = np.flatnonzero(logits == np.repeat(top, sizes[filled]))
        best[filled] = is_top[np.searchsorted(is_top, bounds[filled])]
        highest[filled] = np.maximum(top, nil)
    mention = np.repeat(np.arange(count), sizes)
    mass = np.exp(logits - highest[mention])
    nil_mass = np.exp(nil - highest)
    total = np.bincount(mention, mass, minlength=count) + nil_mass
    return mass / total[mention], nil_mass / total, best
