"""How well a candidate sits in its whole text: by the types of what else is meant there, and by edges of the graph.

Both look at all mentions of a text, where coherence and context look at a window: on SemCor's nouns the text's types
say more than its direct edges, and both more than the same within a window.
"""

from __future__ import annotations

import numpy as np

from entity_linking.candidates import Candidates, Floats, Rows, Singles
from entity_linking.coherence import first_of_kind
from entity_linking.compiled import kernel
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints
from kg.graph import KnowledgeGraph

SMOOTHING = 10.0
"""Mentions of the graph's own mixture of types that stand in every text from the start."""
MOST_NEIGHBOURS = 64
"""Edges of an entity that count, in the order of the graph; hubs have more and say little."""


class Topics:
    """Log of a type's share among a text's other mentions over its share among the names of the graph.

    type_of: int32 (num_entities + 1,): the first type of each entity, 0 where it has none. share: float64 (num_types,),
    above 0, sums to 1.
    """

    def __init__(self, *, type_of: Rows, share: Floats) -> None:
        self.type_of = type_of
        self.share = share

    @classmethod
    def from_graph(cls, graph: KnowledgeGraph, entity: Rows, prior: Singles) -> Topics:
        """entity, prior: of all candidates of all names, whose types make up the graph's mixture."""
        first = [types[0] if types else "" for types in graph.entities["types"].to_pylist()]
        number = {name: i for i, name in enumerate(dict.fromkeys(["", *first]))}
        type_of = np.array([0, *(number[name] for name in first)], dtype=np.int32)
        mass = np.bincount(type_of[entity], prior, minlength=len(number)) + 1.0
        return cls(type_of=type_of, share=mass / mass.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """The constructor's arguments, by name."""
        return {"type_of": self.type_of, "share": self.share}

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """float64 (num_candidates,); 0 in a text without other mentions, and for an entity without a type.

        An alias counts once a text, by its candidates' priors, the mention's own not at all.
        """
        scores = np.zeros(len(candidates), dtype=np.float64)
        if len(mentions) and len(self.share) > 1:
            first = first_of_kind(mentions.document, mentions.key)
            types = self.type_of[candidates.entity]
            _topics(mentions.document, first, candidates.bounds, types, candidates.prior, self.share, scores)
        return scores


@kernel()
def _topics(documents, firsts, bounds, types, priors, share, scores):
    totals = np.zeros(len(share))
    begin = 0
    while begin < len(documents):
        end, mass = begin, 0.0
        while end < len(documents) and documents[end] == documents[begin]:
            if firsts[end] == end:
                for c in range(bounds[end], bounds[end + 1]):
                    totals[types[c]] += priors[c]
                    mass += priors[c]
            end += 1
        for i in range(begin, end):
            own_low, own_high = bounds[firsts[i]], bounds[firsts[i] + 1]
            own_mass = 0.0
            for o in range(own_low, own_high):
                own_mass += priors[o]
            for c in range(bounds[i], bounds[i + 1]):
                kind = types[c]
                if kind == 0:
                    continue
                own = 0.0
                for o in range(own_low, own_high):
                    if types[o] == kind:
                        own += priors[o]
                found = max(totals[kind] - own, 0.0) + SMOOTHING * share[kind]
                scores[c] = np.log(found / ((max(mass - own_mass, 0.0) + SMOOTHING) * share[kind]))
        for c in range(bounds[begin], bounds[end]):
            totals[types[c]] = 0.0
        begin = end


class Edges:
    """Root of the prior mass, in the whole text, of entities that an edge of the graph joins to the candidate.

    bounds: int64 (num_entities + 2,): entity row e has neighbours[bounds[e]] to neighbours[bounds[e + 1]], each once.
    """

    def __init__(self, *, bounds: Ints, neighbours: Rows) -> None:
        self.bounds = bounds
        self.neighbours = neighbours

    @classmethod
    def from_graph(cls, graph: KnowledgeGraph) -> Edges:
        """Edges in both directions, up to `MOST_NEIGHBOURS` an entity, itself not among them."""
        heads, tails = graph.triples[:, 0].astype(np.int64), graph.triples[:, 2].astype(np.int64)
        width = graph.num_entities + 1
        pairs = np.concatenate((heads * width + tails, tails * width + heads))
        row, other = np.divmod(np.unique(pairs), width)
        kept = row != other
        row, other = row[kept], other[kept]
        few = np.arange(len(row)) - np.searchsorted(row, row) < MOST_NEIGHBOURS
        row, other = row[few], other[few]
        return cls(bounds=np.searchsorted(row, np.arange(width + 1)), neighbours=other.astype(np.int32))

    def arrays(self) -> dict[str, np.ndarray]:
        """The constructor's arguments, by name."""
        return {"bounds": self.bounds, "neighbours": self.neighbours}

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """float64 (num_candidates,), 0 upwards; an alias counts once a text, the mention's own not at all."""
        scores = np.zeros(len(candidates), dtype=np.float64)
        if len(mentions):
            first = first_of_kind(mentions.document, mentions.key)
            _edges(
                mentions.document, first, candidates.bounds, candidates.entity, candidates.prior,
                self.bounds, self.neighbours, scores,
            )  # fmt: skip
        return np.sqrt(scores)


@kernel()
def _edges(documents, firsts, bounds, entities, priors, edge_bounds, neighbours, scores):
    mass, own = np.zeros(len(edge_bounds)), np.zeros(len(edge_bounds))
    begin = 0
    while begin < len(documents):
        end = begin
        while end < len(documents) and documents[end] == documents[begin]:
            if firsts[end] == end:
                for c in range(bounds[end], bounds[end + 1]):
                    mass[entities[c]] += priors[c]
            end += 1
        for i in range(begin, end):
            own_low, own_high = bounds[firsts[i]], bounds[firsts[i] + 1]
            for o in range(own_low, own_high):
                own[entities[o]] = priors[o]
            for c in range(bounds[i], bounds[i + 1]):
                total = 0.0
                for at in range(edge_bounds[entities[c]], edge_bounds[entities[c] + 1]):
                    other = neighbours[at]
                    total += max(mass[other] - own[other], 0.0)
                scores[c] = total
            for o in range(own_low, own_high):
                own[entities[o]] = 0.0
        for c in range(bounds[begin], bounds[end]):
            mass[entities[c]] = 0.0
        begin = end
