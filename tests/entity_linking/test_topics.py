"""Terms of the whole text, against plain Python; they must not depend on the texts beside it."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from entity_linking.linker import EntityLinker
from entity_linking.topics import SMOOTHING, Edges, Topics
from kg.graph import KnowledgeGraph

TEXTS = [
    "A bank, a bank of the river. The king of Jordan, money, Jordan and basketball.",
    "",
    "Nothing here.",
    "Jordan played basketball by the river bank with money and more money.",
]


@pytest.fixture(scope="module")
def linker(bank_world: Path) -> EntityLinker:
    linker = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors", min_score=0.0)
    linker.reranker.topics = Topics(
        type_of=np.array([0, 1, 2, 1, 3, 1, 2, 3, 0], np.int32), share=np.array([0.1, 0.4, 0.3, 0.2])
    )
    return linker


def test_both_terms_are_those_of_plain_python(linker: EntityLinker, bank_world: Path) -> None:
    """A sum that keeps the mention's own alias lets every candidate vouch for itself."""
    edges: dict[int, set[int]] = defaultdict(set)
    for head, _, tail in KnowledgeGraph.load(bank_world / "graph").triples.tolist():
        edges[head].add(tail)
        edges[tail].add(head)
    topics = linker.reranker.topics
    assert topics is not None
    checked = 0
    for text in TEXTS:
        mentions = linker.detector.detect([text])
        found = linker.candidates.of(mentions)
        topic, edge = topics.score(mentions, found), linker.reranker.edges.score(mentions, found)
        kinds: dict[int, dict[int, float]] = {}
        for i in range(len(mentions)):
            span = range(found.bounds[i], found.bounds[i + 1])
            kinds.setdefault(int(mentions.key[i]), {int(found.entity[c]): float(found.prior[c]) for c in span})
        for c in range(len(found)):
            own = int(mentions.key[found.mention[c]])
            others = [pair for key, of in kinds.items() if key != own for pair in of.items()]
            joined = sum(prior for entity, prior in others if entity in edges[int(found.entity[c])])
            assert edge[c] == pytest.approx(math.sqrt(joined), abs=1e-12)
            kind = int(topics.type_of[found.entity[c]])
            share = float(topics.share[kind])
            same = sum(prior for entity, prior in others if topics.type_of[entity] == kind)
            mass = sum(prior for _, prior in others)
            wanted = math.log((same + SMOOTHING * share) / ((mass + SMOOTHING) * share)) if kind else 0.0
            assert topic[c] == pytest.approx(wanted, abs=1e-12)
            checked += 1
    assert checked > 15


def test_a_text_is_scored_alike_alone_and_in_a_batch(linker: EntityLinker) -> None:
    """Masses left over from the text before would tie documents together."""
    assert linker.link_batch(TEXTS) == [linker.link(text) for text in TEXTS]
    assert linker.link_batch(TEXTS[::-1]) == [linker.link(text) for text in TEXTS[::-1]]


def test_edges_run_both_ways_once_and_hubs_are_cut(bank_world: Path, monkeypatch) -> None:
    """Two relations between two entities are one edge; a hub must not cost its degree for every mention."""
    graph = KnowledgeGraph.load(bank_world / "graph")
    graph.triples = np.array([[1, 0, 5], [5, 1, 1], [1, 0, 1], [2, 0, 5], [3, 0, 5]], np.int32)
    edges = Edges.from_graph(graph)

    def beside(row: int) -> list[int]:
        return edges.neighbours[edges.bounds[row] : edges.bounds[row + 1]].tolist()

    assert [beside(row) for row in (1, 2, 5, 8)] == [[5], [5], [1, 2, 3], []]
    monkeypatch.setattr("entity_linking.topics.MOST_NEIGHBOURS", 2)
    assert len(Edges.from_graph(graph).neighbours) == 2 + 3


def test_types_that_say_nothing_score_nothing(bank_world: Path) -> None:
    """A graph without types, or of one type, must not lean towards anything."""
    linker = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors")
    for explained in linker.explain(TEXTS[0]):
        assert all(abs(candidate.terms["topic"]) < 0.2 for candidate in explained.candidates)
