"""How much of an entity's description stands in the text around a mention: an idf-weighted overlap of hashed words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from entity_linking.candidates import Candidates, Floats, expand
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints
from entity_linking.policy import FUNCTION_WORDS
from entity_linking.tokens import Hashes, Tokens, tokenise
from kg.graph import KnowledgeGraph

HASH_BITS = 16
NUM_BINS = 1 << HASH_BITS
BLOCK_TOKENS = 48
"""A mention's surroundings are its block of that many tokens and the two beside it."""
BLOCKS_AT_ONCE = 256
"""Bounds the table of words seen to 16 MB."""
MAX_NEIGHBOURS = 10
"""Labels of neighbours in the graph that join an entity's words."""
ENTITIES_AT_ONCE = 20_000


class ContextWords:
    """The words of every entity: description and labels of its neighbours, hashed to `NUM_BINS`.

    keys: int64 (num_words,), sorted: entity row * NUM_BINS + hashed word, each once.
    num_entities: rows run to num_entities; row 0 has no words.
    """

    def __init__(self, keys: Ints, *, num_entities: int) -> None:
        self.keys = keys
        self.bins = (keys % NUM_BINS).astype(np.int32)
        self.bounds = np.searchsorted(keys, np.arange(num_entities + 2) * NUM_BINS)
        seen = np.bincount(self.bins, minlength=NUM_BINS)
        self.idf = np.log1p(num_entities / np.maximum(seen, 1.0))
        self.idf[word_bins(tokenise(sorted(FUNCTION_WORDS)).hash)] = 0.0
        totals = np.concatenate(([0.0], np.cumsum(np.square(self.idf[self.bins]))))
        self.norms = np.sqrt(np.maximum(totals[self.bounds[1:]] - totals[self.bounds[:-1]], 1.0))

    @classmethod
    def from_graph(cls, graph: KnowledgeGraph) -> ContextWords:
        """Reads descriptions and the labels of up to `MAX_NEIGHBOURS` neighbours of each entity."""
        texts = ["", *graph.entities["description"].to_pylist()]
        for row, neighbours in enumerate(_neighbours(graph)):
            texts[row] += " . " + " . ".join(graph.labels[n] for n in neighbours)
        keys = []
        for low in range(0, len(texts), ENTITIES_AT_ONCE):
            tokens = tokenise(texts[low : low + ENTITIES_AT_ONCE])
            words = tokens.is_word
            keys.append((tokens.document[words] + low) * NUM_BINS + word_bins(tokens.hash[words]))
        return cls(np.unique(np.concatenate(keys)), num_entities=graph.num_entities)

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """For each candidate, sum of idf^2 of its words around the mention, over their norm: 0 (none) upwards.

        The mention's own words do not count.
        """
        tokens = mentions.tokens
        blocks = _blocks(tokens)
        scores = np.zeros(len(candidates), dtype=np.float64)
        seen = np.zeros((BLOCKS_AT_ONCE, NUM_BINS), dtype=bool)
        of_candidate = blocks[mentions.first_token][candidates.mention]
        num_blocks = int(blocks[-1]) + 1 if len(blocks) else 0
        for low in range(0, num_blocks, BLOCKS_AT_ONCE):
            part = slice(*np.searchsorted(of_candidate, (low, low + BLOCKS_AT_ONCE)))
            marked = self._mark(seen, tokens, blocks, low)
            scores[part] = self._overlap(seen, of_candidate[part] - low, candidates.entity[part])
            seen[marked] = False
        own = self._own_words(mentions, candidates)
        return np.maximum(scores - own, 0.0) / self.norms[candidates.entity]

    def _mark(self, seen: npt.NDArray[np.bool_], tokens: Tokens, blocks: Ints, low: int) -> tuple[Ints, Ints]:
        """Sets the words of each block and of the blocks beside it in the same text; returns what was set."""
        near = slice(*np.searchsorted(blocks, (low - 1, low + BLOCKS_AT_ONCE + 1)))
        words = np.flatnonzero(tokens.is_word[near]) + (near.start or 0)
        bins = word_bins(tokens.hash[words])
        text_of_block = np.full(BLOCKS_AT_ONCE, -1, dtype=np.int64)
        inside = slice(*np.searchsorted(blocks, (low, low + BLOCKS_AT_ONCE)))
        text_of_block[blocks[inside] - low] = tokens.document[inside]
        rows, columns = [], []
        for shift in (-1, 0, 1):
            row = blocks[words] - low + shift
            valid = (row >= 0) & (row < BLOCKS_AT_ONCE)
            valid[valid] = text_of_block[row[valid]] == tokens.document[words[valid]]
            rows.append(row[valid])
            columns.append(bins[valid])
        marked = (np.concatenate(rows), np.concatenate(columns))
        seen[marked] = True
        return marked

    def _overlap(self, seen: npt.NDArray[np.bool_], block: Ints, entity: npt.NDArray[np.int32]) -> Floats:
        candidate, at = expand(self.bounds[entity], self.bounds[entity + 1])
        bins = self.bins[at]
        hit = seen[block[candidate], bins]
        weights = np.square(self.idf[bins[hit]])
        return np.bincount(candidate[hit], weights, minlength=len(entity)).astype(np.float64)

    def _own_words(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """idf^2 of the mention's own words that are words of the candidate too."""
        own = np.zeros(len(candidates), dtype=np.float64)
        if not len(candidates) or not len(self.keys):
            return own
        first, num = mentions.first_token[candidates.mention], mentions.num_tokens[candidates.mention]
        for k in range(int(num.max())):
            at = np.flatnonzero(num > k)
            bins = word_bins(mentions.tokens.hash[first[at] + k])
            wanted = candidates.entity[at].astype(np.int64) * NUM_BINS + bins
            place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
            own[at] += np.where(self.keys[place] == wanted, np.square(self.idf[bins]), 0.0)
        return own


def word_bins(hashes: Hashes) -> Ints:
    return (hashes & np.uint64(NUM_BINS - 1)).astype(np.int64)


def _blocks(tokens: Tokens) -> Ints:
    """Number of each token's block, counted over the batch; a text begins a new one."""
    index = np.arange(len(tokens))
    within = index - np.searchsorted(tokens.document, tokens.document)
    return np.cumsum(within % BLOCK_TOKENS == 0) - 1


def _neighbours(graph: KnowledgeGraph) -> list[list[int]]:
    """For each row, up to `MAX_NEIGHBOURS` rows beside it: tails of its own triples first, then heads."""
    heads, tails = graph.triples[:, 0].astype(np.int64), graph.triples[:, 2].astype(np.int64)
    row, other = np.concatenate((heads, tails)), np.concatenate((tails, heads))
    order = np.argsort(row, kind="stable")
    row, other = row[order], other[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < MAX_NEIGHBOURS
    bounds = np.searchsorted(row[kept], np.arange(graph.num_entities + 2))
    listed = other[kept].tolist()
    return [listed[low:high] for low, high in pairwise(bounds.tolist())]
