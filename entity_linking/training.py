"""A linker's weights, priors and probabilities from gold links, without a document ever teaching about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from entity_linking.candidates import Candidates, Floats
from entity_linking.fitting import (
    NIL,
    UNKNOWN,
    Examples,
    calibration_error,
    coverage_curve,
    examples_of,
    fit_weights,
    joined,
    threshold_for,
)
from entity_linking.gold import GoldDocument
from entity_linking.linker import BATCH_CHARACTERS, SIGNALS, EntityLinker
from entity_linking.mentions import GivenSpans, MentionTable, Union
from entity_linking.normalise import Flags, Ints
from entity_linking.prefixes import NO_KEY
from entity_linking.priors import UNSEEN_ODDS, LinkCounts, count_in, fitted_mass
from entity_linking.rerank import agrees
from entity_linking.weights import LinkWeights
from kg.vocab import Vocabulary

EVERY_TERM = LinkWeights(**{of.name: 1.0 for of in fields(LinkWeights)})
"""Asks a reranker for all terms."""


@dataclass(frozen=True, slots=True)
class GoldBatch:
    """Mentions of some gold documents with what they mean.

    document: int64 (num_mentions,): number of the document, over all batches. target: row of the right entity, `NIL`
    or `UNKNOWN`. dear: the dear terms by name, which no prior changes, float64 (num_candidates,).
    """

    mentions: MentionTable
    candidates: Candidates
    document: Ints
    target: Ints
    dear: dict[str, Floats]


def gold_batches(
    linker: EntityLinker, documents: Iterable[GoldDocument], *, unlabelled_is_nil: bool, dropped: Counter[str]
) -> Iterator[GoldBatch]:
    """Gold spans and, where what is not labelled means nothing, the other spans that read like an alias.

    dropped: receives gold links by reason: `gold_unknown_entity`, `gold_unknown_alias`, `gold_not_a_candidate`,
    `span_inside_token`.
    """
    entities = Vocabulary(linker.entities.to_pylist()[1:], first_row=1, what="entity")
    number = 0
    for group in _grouped(documents):
        spans = GivenSpans(linker.alias_table, [[(link.start, link.end) for link in d.links] for d in group])
        detector = Union(spans, linker.detector) if unlabelled_is_nil else spans
        mentions = detector.detect([document.text for document in group])
        candidates = linker.candidates.of(mentions)
        target = _targets(mentions, group, entities, other=NIL if unlabelled_is_nil else UNKNOWN, dropped=dropped)
        dropped["span_inside_token"] += mentions.dropped["span_inside_token"]
        _count_misses(mentions, candidates, target, dropped)
        dear = {
            name: part.score(mentions, candidates, np.log(candidates.prior))
            for name, part in linker.reranker.dear().items()
        }
        yield GoldBatch(mentions, candidates, mentions.document + number, target, dear)
        number += len(group)


def _grouped(documents: Iterable[GoldDocument]) -> Iterator[list[GoldDocument]]:
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size > BATCH_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _targets(
    mentions: MentionTable, group: Sequence[GoldDocument], entities: Vocabulary, *, other: int, dropped: Counter[str]
) -> Ints:
    gold = {
        (place, link.start, link.end): link.entity for place, document in enumerate(group) for link in document.links
    }
    target = np.full(len(mentions), other, dtype=np.int64)
    places = zip(mentions.document.tolist(), mentions.start.tolist(), mentions.end.tolist(), strict=True)
    for mention, place in enumerate(places):
        entity = gold.get(place)
        if entity is not None:
            target[mention] = entities.get(entity) or NIL
            dropped["gold_unknown_entity"] += bool(entity) and not entities.get(entity)
    return target


def _count_misses(mentions: MentionTable, candidates: Candidates, target: Ints, dropped: Counter[str]) -> None:
    hit = np.zeros(len(mentions), dtype=bool)
    hit[candidates.mention[candidates.entity == target[candidates.mention]]] = True
    missed = (target > 0) & ~hit
    dropped["gold_unknown_alias"] += int(np.count_nonzero(missed & (mentions.key == NO_KEY)))
    dropped["gold_not_a_candidate"] += int(np.count_nonzero(missed & (mentions.key != NO_KEY)))


def link_counts(batches: Sequence[GoldBatch]) -> LinkCounts:
    """What the gold links tell about aliases; occurrences nobody knows about do not count."""
    links, rows, documents, keys, linked = [], [], [], [], []
    for batch in batches:
        right = batch.candidates.entity == batch.target[batch.candidates.mention]
        links.append(batch.document[batch.candidates.mention[right]])
        rows.append(batch.candidates.row[right])
        known = (batch.target != UNKNOWN) & (batch.mentions.key != NO_KEY)
        documents.append(batch.document[known])
        keys.append(batch.mentions.key[known].astype(np.int64))
        linked.append(batch.target[known] > 0)
    return LinkCounts(*(np.concatenate(parts) for parts in (links, rows, documents, keys, linked)))


def gold_examples(
    linker: EntityLinker, batches: Sequence[GoldBatch], counts: LinkCounts, *, smoothing: float, log_odds: bool
) -> Examples:
    """The terms of all mentions, with priors and log odds that each document's own links had no part in.

    counts: what is known; smoothing: see `fitted_mass`. log_odds: whether the counts tell how often an alias is a
    mention at all.
    """
    reranker = linker.reranker
    total = counts.of_rows(len(linker.candidates.entity))
    parts = []
    for batch in batches:
        candidates = batch.candidates
        own = count_in(
            counts.document, counts.row, at_document=batch.document[candidates.mention], at_item=candidates.row
        )
        mass = fitted_mass(candidates, total, smoothing=smoothing) - own
        fitted = candidates.with_prior(mass)
        terms, nil_terms = reranker.terms(batch.mentions, fitted), reranker.nil_terms(batch.mentions, fitted)
        terms |= batch.dear
        if log_odds:
            nil_terms["nil_link_probability"] = _log_odds_elsewhere(counts, batch)
        parts.append(examples_of(candidates, batch.document, terms, nil_terms, batch.target))
    return joined(parts)


def _log_odds_elsewhere(counts: LinkCounts, batch: GoldBatch) -> Floats:
    """`LinkCounts.log_odds` of every mention's alias, of the other documents."""
    key, known = batch.mentions.key.astype(np.int64), batch.mentions.key != NO_KEY
    numbers = []
    for chosen in (counts.linked, np.ones_like(counts.linked)):
        document, item = counts.key_document[chosen], counts.key[chosen]
        total = np.bincount(item, minlength=int(key.max(initial=0)) + 1)[np.where(known, key, 0)]
        numbers.append(total - count_in(document, item, at_document=batch.document, at_item=np.where(known, key, 0)))
    links, seen = numbers
    odds = np.log(links + UNSEEN_ODDS) - np.log(seen - links + UNSEEN_ODDS)
    return np.where(known & (seen > 0), odds, 0.0)


@dataclass(frozen=True, slots=True)
class Trained:
    """weights: fitted on all documents. figures: of documents that the weights and priors behind them never saw.

    score, correct, agreed: float64, bool, bool (num_mentions,): by cross-validation, of every mention whose fate is
        known; agreed: prior, coherence and context all name the best candidate.
    """

    weights: LinkWeights
    figures: dict[str, Any]
    score: Floats
    correct: Flags
    agreed: Flags

    def threshold(self, precision: float) -> float | None:
        """The least score whose links are right that often."""
        return threshold_for(self.score, self.correct, precision=precision)


def train(
    linker: EntityLinker,
    batches: Sequence[GoldBatch],
    *,
    folds: int,
    smoothing: float,
    own_priors: bool,
    log_odds: bool,
    seed: int,
    ranking: LinkWeights | None = None,
    without: Sequence[str] = (),
) -> Trained:
    """Fits the weights, and measures them by cross-validation over documents, priors included.

    own_priors: the gold links make priors; otherwise the linker's stay. log_odds: as in `gold_examples`. ranking: as in
    `fit_weights`. without: terms that are left out.
    """
    linker.reranker.weights = replace(EVERY_TERM, **dict.fromkeys(without, 0.0))
    counts = link_counts(batches)
    if not own_priors:
        counts = counts.without(np.ones(1 + int(max(batch.document.max(initial=0) for batch in batches)), bool))
    num_documents = 1 + max(int(batch.document.max(initial=0)) for batch in batches)
    fold_of = np.random.default_rng(seed).permutation(num_documents) % folds
    everything = gold_examples(linker, batches, counts, smoothing=smoothing, log_odds=log_odds)
    score, best = np.zeros(len(everything.document)), np.full(len(everything.document), -1, dtype=np.int64)
    choice, agreed = best.copy(), np.zeros(len(best), dtype=bool)
    for fold in range(folds):
        held_out = fold_of == fold
        kept = counts.without(held_out)
        examples = gold_examples(linker, batches, kept, smoothing=smoothing, log_odds=log_odds)
        test = held_out[examples.document]
        weights = fit_weights(examples.of_mentions(~test), ranking=ranking)
        found, chosen = examples.predict(weights)
        score[test], best[test] = found[test], chosen[test]
        choice[test] = _likeliest(examples)[test]
        agreed[test] = _agreed(examples, chosen)[test]
    known = everything.target != UNKNOWN
    correct = (best >= 0) & (best == everything.target)
    figures = figures_of(everything, score, best, by_prior=choice)
    told = known & (best >= 0)
    figures["curve_agreement"] = coverage_curve(score[told], correct[told], agreed[told])
    return Trained(fit_weights(everything, ranking=ranking), figures, score[told], correct[told], agreed[told])


def _agreed(examples: Examples, best: Ints) -> Flags:
    """Where prior, coherence and context, those there are, all name the best candidate."""
    agreed = np.ones(len(best), dtype=bool)
    for column, name in enumerate(examples.names):
        if name in SIGNALS:
            agreed &= agrees(examples.terms[:, column], examples.bounds, best)
    return agreed


def _likeliest(examples: Examples) -> Ints:
    """The candidate that the prior alone would choose, -1 for none."""
    only = LinkWeights(**{of.name: float(of.name == "prior") for of in fields(LinkWeights)})
    return examples.predict(only)[1]


def figures_of(examples: Examples, score: Floats, best: Ints, *, by_prior: Ints) -> dict[str, Any]:
    """What cross-validation found; shares of gold links whose entity is a candidate, unless another name says else."""
    sizes = np.diff(examples.bounds)
    in_graph, known = examples.target >= 0, examples.target != UNKNOWN
    ambiguous = in_graph & (sizes > 1)
    right = best == examples.target
    told = known & (best >= 0)
    surest = coverage_curve(score[ambiguous], right[ambiguous])
    return {
        "links": int(in_graph.sum()),
        "ambiguous_links": int(ambiguous.sum()),
        "accuracy": _share(right[in_graph]),
        "accuracy_ambiguous": _share(right[ambiguous]),
        "accuracy_ambiguous_prior": _share((by_prior == examples.target)[ambiguous]),
        "accuracy_ambiguous_chance": float((1 / sizes[ambiguous]).mean()) if ambiguous.any() else 0.0,
        "calibration_error": calibration_error(score[told], right[told]),
        "calibration_error_ambiguous": calibration_error(score[ambiguous], right[ambiguous]),
        "curve": coverage_curve(score[told], right[told]),
        "curve_ambiguous": surest,
    }


def _share(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else 0.0
