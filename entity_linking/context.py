"""How much of an entity's description stands in the text around a mention: an idf-weighted overlap of hashed words."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise

import numpy as np

from entity_linking.candidates import Candidates, Floats, Rows
from entity_linking.compiled import kernel
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints
from entity_linking.policy import FUNCTION_WORDS
from entity_linking.tokens import IS_WORD, Hashes, tokenise
from kg.graph import KnowledgeGraph

HASH_BITS = 16
NUM_BINS = 1 << HASH_BITS
LAST_BIN, ONE = np.uint64(NUM_BINS - 1), np.uint64(1)
BLOCK_TOKENS = 48
"""A mention's surroundings are its block of that many tokens and the two beside it."""
MAX_NEIGHBOURS, MAX_RELATED = 10, 25
"""Neighbours in the graph whose labels join an entity's own words, and whose descriptions are its related ones."""
ENTITIES_AT_ONCE = 20_000


class ContextWords:
    """The words that go with every entity, hashed to `NUM_BINS`.

    bins: int32 (num_words,): the words, entity by entity, each once. bounds: int64 (num_entities + 2,): entity row e
    has bins[bounds[e]] to bins[bounds[e + 1]], row 0 none. idf_squared: float64 (NUM_BINS,), 0 for function words.
    norms: float64 (num_entities + 1,): root of the sum of an entity's idf^2, at least 1.
    """

    def __init__(self, *, bins: Rows, bounds: Ints, idf_squared: Floats, norms: Floats) -> None:
        self.bins = bins
        self.bounds = bounds
        self.idf_squared = idf_squared
        self.norms = norms

    @classmethod
    def of_keys(cls, keys: Ints, *, num_entities: int) -> ContextWords:
        """keys: int64 (num_words,), sorted: entity row * NUM_BINS + hashed word, each once."""
        bins = (keys % NUM_BINS).astype(np.int32)
        bounds = np.searchsorted(keys, np.arange(num_entities + 2) * NUM_BINS)
        seen = np.bincount(bins, minlength=NUM_BINS)
        idf_squared = np.square(np.log1p(num_entities / np.maximum(seen, 1.0)))
        idf_squared[word_bins(tokenise(sorted(FUNCTION_WORDS)).hash)] = 0.0
        totals = np.concatenate(([0.0], np.cumsum(idf_squared[bins])))
        norms = np.sqrt(np.maximum(totals[bounds[1:]] - totals[bounds[:-1]], 1.0))
        return cls(bins=bins, bounds=bounds, idf_squared=idf_squared, norms=norms)

    @classmethod
    def from_graph(cls, graph: KnowledgeGraph) -> ContextWords:
        """An entity's own words: its description and the labels of up to `MAX_NEIGHBOURS` neighbours."""
        descriptions = ["", *graph.entities["description"].to_pylist()]
        return cls.of_texts(
            f"{descriptions[row]} . {' . '.join(graph.labels[n] for n in neighbours)}"
            for row, neighbours in enumerate(_neighbours(graph, MAX_NEIGHBOURS))
        )

    @classmethod
    def of_neighbours(cls, graph: KnowledgeGraph) -> ContextWords:
        """The descriptions of up to `MAX_RELATED` neighbours of an entity (extended gloss overlaps: Banerjee & Pedersen
        2003)."""
        descriptions = ["", *graph.entities["description"].to_pylist()]
        return cls.of_texts(
            " . ".join(descriptions[n] for n in neighbours) for neighbours in _neighbours(graph, MAX_RELATED)
        )

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> ContextWords:
        """The words of a text for each row from 0 on; row 0 is no entity."""
        rest, keys, done = iter(texts), [], 0
        while part := list(islice(rest, ENTITIES_AT_ONCE)):
            tokens = tokenise(part)
            words = tokens.has(IS_WORD)
            keys.append((tokens.document[words].astype(np.int64) + done) * NUM_BINS + word_bins(tokens.hash[words]))
            done += len(part)
        return cls.of_keys(np.unique(np.concatenate(keys)), num_entities=done - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The constructor's arguments, by name."""
        return {name: getattr(self, name) for name in ("bins", "bounds", "idf_squared", "norms")}

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """For each candidate, the root of the sum of idf^2 of its words around the mention over their norm: 0 upwards.

        The mention's own words do not count.
        """
        scores = np.zeros(len(candidates), dtype=np.float64)
        tokens = mentions.tokens
        if len(candidates):
            _overlap(
                tokens.hash, tokens.flags, tokens.document, mentions.first_token, mentions.num_tokens,
                candidates.bounds, candidates.entity, self.bins, self.bounds, self.idf_squared, scores,
            )  # fmt: skip
        return np.sqrt(scores / self.norms[candidates.entity])


@kernel()
def _overlap(hashes, flags, documents, firsts, nums, bounds, entities, bins, word_bounds, idf_squared, scores):
    seen = np.zeros(NUM_BINS // 64, np.uint64)
    low, high, begin, finish, at = 0, 0, 0, -1, -1
    for i in range(len(firsts)):
        if bounds[i] == bounds[i + 1]:
            continue
        first = firsts[i]
        if not begin <= first < finish:
            begin, finish = _text_around(documents, first, begin)
            at = -1
        block = (first - begin) // BLOCK_TOKENS
        if block != at:
            _set_words(seen, hashes, flags, low, high, False)
            low, high = max(begin, begin + (block - 1) * BLOCK_TOKENS), min(finish, begin + (block + 2) * BLOCK_TOKENS)
            _set_words(seen, hashes, flags, low, high, True)
            at = block
        for c in range(bounds[i], bounds[i + 1]):
            total = 0.0
            for place in range(word_bounds[entities[c]], word_bounds[entities[c] + 1]):
                word = bins[place]
                if seen[word >> 6] >> np.uint64(word & 63) & ONE and not _is_own(hashes, first, nums[i], word):
                    total += idf_squared[word]
            scores[c] = total


@kernel()
def _text_around(documents, first, start):
    """The first token of the text of token `first`, and the one behind its last. start: at or before that first."""
    begin = start
    while documents[begin] != documents[first]:
        begin += 1
    finish = first + 1
    while finish < len(documents) and documents[finish] == documents[first]:
        finish += 1
    return begin, finish


@kernel(inline="always")
def _set_words(seen, hashes, flags, low, high, value):
    for token in range(low, high):
        if flags[token] & IS_WORD:
            word = hashes[token] & LAST_BIN
            if value:
                seen[word >> np.uint64(6)] |= ONE << (word & np.uint64(63))
            else:
                seen[word >> np.uint64(6)] = 0


@kernel(inline="always")
def _is_own(hashes, first, num, word):
    own = False
    for token in range(first, first + num):
        own |= np.int64(hashes[token] & LAST_BIN) == word
    return own


def word_bins(hashes: Hashes) -> Ints:
    return (hashes & LAST_BIN).astype(np.int64)


def _neighbours(graph: KnowledgeGraph, most: int) -> list[list[int]]:
    """For each row, up to `most` rows beside it: tails of its own triples first, then heads."""
    heads, tails = graph.triples[:, 0].astype(np.int64), graph.triples[:, 2].astype(np.int64)
    row, other = np.concatenate((heads, tails)), np.concatenate((tails, heads))
    order = np.argsort(row, kind="stable")
    row, other = row[order], other[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < most
    bounds = np.searchsorted(row[kept], np.arange(graph.num_entities + 2))
    listed = other[kept].tolist()
    return [listed[low:high] for low, high in pairwise(bounds.tolist())]
