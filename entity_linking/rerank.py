"""Candidates scored: named terms, weighed, summed and turned into probabilities beside "none of them" (NIL)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from entity_linking.candidates import Candidates, Floats, Singles
from entity_linking.coherence import Coherence, first_of_kind
from entity_linking.compiled import kernel
from entity_linking.context import ContextWords
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Flags, Ints
from entity_linking.topics import Edges, Topics
from entity_linking.translation import Translation
from entity_linking.weights import LinkWeights


@dataclass(frozen=True, slots=True)
class Scored:
    """Candidates of a batch with their terms and scores.

    terms: by name, float64 (num_candidates,). nil_terms: by name, float64 (num_mentions,).
    score: float64 (num_candidates,): p(entity | mention, text); the scores of a mention and its NIL sum to 1.
    nil: float64 (num_mentions,). best: int64 (num_mentions,): index of the best candidate, -1 for none; ties go to
    the likelier by prior.
    """

    candidates: Candidates
    terms: dict[str, Floats]
    nil_terms: dict[str, Floats]
    score: Floats
    nil: Floats
    best: Ints


class Similarity(Protocol):
    """A term that costs much: told what the cheap terms say, so that it may look at the hard mentions alone."""

    margin: float
    """Mentions whose two best candidates lie within so many nats are hard."""

    def score(self, mentions: MentionTable, candidates: Candidates, logits: Floats) -> Floats: ...

    def cost(self) -> dict[str, int]: ...


class Reranker:
    """Scores candidates by the terms it is given the parts for; prior, case and the place in a name always count.

    degree: float (num_entities + 1,): triples of each entity. link_log_odds: float (num_keys,): by alias key, 0 where
    nobody counted. The scores of a text do not depend on the other texts of its batch.
    """

    def __init__(
        self,
        *,
        weights: LinkWeights,
        degree: Singles | None = None,
        coherence: Coherence | None = None,
        translation: Translation | None = None,
        context: ContextWords | None = None,
        related: ContextWords | None = None,
        topics: Topics | None = None,
        edges: Edges | None = None,
        encoder: Similarity | None = None,
        cross_encoder: Similarity | None = None,
        link_log_odds: Singles | None = None,
    ) -> None:
        self.weights = weights
        self.degree = degree
        self.coherence = coherence
        self.translation = translation
        self.context = context
        self.related = related
        self.topics = topics
        self.edges = edges
        self.encoder = encoder
        self.cross_encoder = cross_encoder
        self.link_log_odds = link_log_odds

    def score(self, mentions: MentionTable, candidates: Candidates) -> Scored:
        """Every candidate's terms and probability."""
        terms, nil_terms = self.terms(mentions, candidates), self.nil_terms(mentions, candidates)
        logits = self._logits(terms, len(candidates))
        for name, similarity in self.dear().items():
            if weight := getattr(self.weights, name):
                terms[name] = similarity.score(mentions, candidates, logits)
                logits += weight * terms[name]
        score, nil, best = softmax_with_nil(logits, candidates.bounds, nil=self._logits(nil_terms, len(mentions)))
        return Scored(candidates, terms, nil_terms, score, nil, best)

    def dear(self) -> dict[str, Similarity]:
        """The terms that cost much, in the order in which they look: each knows what those before it say."""
        parts = {"encoder": self.encoder, "cross_encoder": self.cross_encoder}
        return {name: part for name, part in parts.items() if part is not None}

    def costs(self) -> Counter[str]:
        """What the dear terms have read so far: `NAME_mentions_seen`, `NAME_mentions`, `NAME_texts`."""
        return Counter({f"{name}_{what}": n for name, part in self.dear().items() for what, n in part.cost().items()})

    def terms(self, mentions: MentionTable, candidates: Candidates) -> dict[str, Floats]:
        """The candidates' terms but the dear ones; one of weight 0 costs nothing and is left out."""
        weights = self.weights
        terms: dict[str, Floats] = {}
        if weights.prior:
            terms["prior"] = np.log(candidates.prior)
        if weights.case:
            terms["case"] = case_term(mentions, candidates)
        if weights.inside_name:
            terms["inside_name"] = mentions.inside_name[candidates.mention].astype(np.float64)
        if weights.popularity and self.degree is not None:
            terms["popularity"] = np.log(
                candidates.among_mention(1.0 + self.degree[candidates.entity].astype(np.float64))
            )
        if weights.coherence and self.coherence is not None:
            terms["coherence"] = over_text(mentions, candidates, self.coherence.score(mentions, candidates))
        if weights.translation and self.translation is not None:
            terms["translation"] = over_text(mentions, candidates, self.translation.score(mentions, candidates))
        if weights.context and self.context is not None:
            terms["context"] = over_text(mentions, candidates, self.context.score(mentions, candidates))
        if weights.related and self.related is not None:
            terms["related"] = over_text(mentions, candidates, self.related.score(mentions, candidates))
        if weights.topic and self.topics is not None:
            terms["topic"] = self.topics.score(mentions, candidates)
        if weights.edges and self.edges is not None:
            terms["edges"] = self.edges.score(mentions, candidates)
        return terms

    def nil_terms(self, mentions: MentionTable, candidates: Candidates) -> dict[str, Floats]:
        """The terms of NIL, those of weight 0 left out."""
        weights = self.weights
        terms: dict[str, Floats] = {}
        if weights.nil:
            terms["nil"] = np.ones(len(mentions))
        if weights.nil_capital:
            terms["nil_capital"] = mentions.capital_evidence.astype(np.float64)
        if weights.nil_words:
            terms["nil_words"] = np.log(np.maximum(mentions.num_tokens, 1))
        if weights.nil_link_probability and self.link_log_odds is not None:
            odds = np.append(self.link_log_odds, np.float32(0)).astype(np.float64)
            terms["nil_link_probability"] = odds[mentions.key]  # NO_KEY is the last
        if weights.nil_prior:
            terms["nil_prior"] = likeliest(candidates)
        return terms

    def contributions(self, terms: Mapping[str, Floats]) -> dict[str, Floats]:
        """Each term times its weight; their sum is the logit."""
        return {name: getattr(self.weights, name) * values for name, values in terms.items()}

    def _logits(self, terms: Mapping[str, Floats], count: int) -> Floats:
        return sum(self.contributions(terms).values(), np.zeros(count, dtype=np.float64))


def case_term(mentions: MentionTable, candidates: Candidates) -> Floats:
    """1 where a name is written as one, -1 where a capital stands that the entity has not, 0 where case says nothing.

    A capital at the start of a sentence says nothing.
    """
    evidence = mentions.capital_evidence[candidates.mention]
    return np.where(evidence, np.where(candidates.named, 1.0, -1.0), 0.0)


def likeliest(candidates: Candidates) -> Floats:
    """The log prior of each mention's likeliest candidate, 0 for a mention without any."""
    best = np.zeros(len(candidates.bounds) - 1)
    filled = np.flatnonzero(np.diff(candidates.bounds))
    if len(filled):
        best[filled] = np.log(np.maximum.reduceat(candidates.prior, candidates.bounds[filled]))
    return best


def agrees(term: Floats, bounds: Ints, best: Ints) -> Flags:
    """Where a mention's best candidate has the highest value of a term too, or the term is the same for all.

    term: (num_candidates,). bounds: (num_mentions + 1,). best: (num_mentions,), -1 for none, which agrees with nothing.
    """
    given = best >= 0
    agreed = np.zeros(len(best), dtype=bool)
    highest = np.maximum.reduceat(term, bounds[:-1][given]) if given.any() else term[:0]
    agreed[given] = term[best[given]] >= highest
    return agreed


def over_text(mentions: MentionTable, candidates: Candidates, values: Floats) -> Floats:
    """The mean of a term over all mentions of an alias in a text: an alias hardly changes its meaning within one.

    (One sense per discourse: Gale, Church and Yarowsky 1992.) values: float64 (num_candidates,).
    """
    pooled = np.array(values, dtype=np.float64)
    if len(mentions):
        first = first_of_kind(mentions.document, mentions.key)
        _pool(first, candidates.bounds, candidates.entity, pooled)
    return pooled


@kernel()
def _pool(firsts, bounds, entities, values):
    """The first mention of an alias gathers sums; spellings may allow a later one fewer candidates, or others."""
    totals, counts = np.zeros(len(values)), np.zeros(len(values))
    place = np.full(len(values), -1, np.int64)
    for i in range(len(firsts)):
        low, high = bounds[firsts[i]], bounds[firsts[i] + 1]
        at = low
        for c in range(bounds[i], bounds[i + 1]):
            tried = 0
            while tried < high - low and entities[at] != entities[c]:
                at = at + 1 if at + 1 < high else low
                tried += 1
            if tried < high - low:
                place[c] = at
                totals[at] += values[c]
                counts[at] += 1
    for c in range(len(values)):
        if place[c] >= 0:
            values[c] = totals[place[c]] / counts[place[c]]


def softmax_with_nil(logits: Floats, bounds: Ints, *, nil: Floats) -> tuple[Floats, Floats, Ints]:
    """Probabilities of each mention's candidates and of NIL, and the index of its best candidate (-1 for none).

    logits: (num_candidates,). bounds: (num_mentions + 1,). nil: (num_mentions,), logit of NIL.
    """
    count = len(bounds) - 1
    score, best = np.empty(len(logits)), np.empty(count, dtype=np.int64)
    nil_score = np.array(nil, dtype=np.float64)
    _softmax(logits, bounds, score, nil_score, best)
    return score, nil_score, best


@kernel()
def _softmax(logits, bounds, score, nil, best):
    """nil: logits of NIL, which its probabilities replace."""
    for i in range(len(nil)):
        low, high = bounds[i], bounds[i + 1]
        at = low
        for c in range(low + 1, high):
            if logits[c] > logits[at]:
                at = c
        best[i] = at if low < high else -1
        highest = max(nil[i], logits[at]) if low < high else nil[i]
        total = np.exp(nil[i] - highest)
        nil[i] = total
        for c in range(low, high):
            score[c] = np.exp(logits[c] - highest)
            total += score[c]
        nil[i] /= total
        for c in range(low, high):
            score[c] /= total
