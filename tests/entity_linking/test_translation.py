"""Nearness by one relation, against the definition written out; it must not depend on the texts beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from entity_linking.candidates import Candidates
from entity_linking.coherence import Coherence, unit_vectors
from entity_linking.folder import read_linker, save_linker
from entity_linking.linker import EntityLinker
from entity_linking.mentions import MentionTable
from entity_linking.translation import LEAST_PRIOR, Translation, distances, load_relations

TEXTS = [
    "A bank, a bank of the river. The king of Jordan, money, Jordan and basketball.",
    "",
    "Jordan played basketball by the river bank with money and more money. A king, a bank, Michael Jordan, the river.",
    "bank",
]
WINDOW = 3


@pytest.fixture
def space() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the eight entities, of which the last has none, and of three relations."""
    random = np.random.default_rng(3)
    vectors = random.normal(size=(9, 12)).astype(np.float32)
    vectors[[0, 8]] = 0
    return vectors, random.normal(size=(3, 12)).astype(np.float32)


@pytest.fixture
def linker(bank_world: Path, space: tuple[np.ndarray, np.ndarray]) -> EntityLinker:
    vectors, relations = space
    linker = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors", min_score=0.0)
    linker.reranker.coherence = Coherence.of_vectors(vectors)
    made = Translation.of_vectors(vectors, relations, directions=linker.reranker.coherence.vectors, window=WINDOW)
    assert made is not None
    made.reach = 7.0
    linker.reranker.translation = made
    return linker


def slowly(
    mentions: MentionTable, found: Candidates, vectors: np.ndarray, relations: np.ndarray, reach: float
) -> Iterator[float]:
    """The score of every candidate by the definition, on the vectors as they were trained."""

    def means(i: int) -> list[tuple[int, float]]:
        return [(int(found.entity[c]), float(found.prior[c])) for c in range(found.bounds[i], found.bounds[i + 1])]

    def is_first(j: int) -> bool:
        same = (mentions.document == mentions.document[j]) & (mentions.key == mentions.key[j])
        return int(np.flatnonzero(same)[0]) == j

    for i in range(len(mentions)):
        beside = [
            j
            for j in range(max(0, i - WINDOW), min(len(mentions), i + WINDOW + 1))
            if mentions.document[j] == mentions.document[i] and mentions.key[j] != mentions.key[i] and is_first(j)
        ]
        for entity, _ in means(i):
            total = 0.0
            for other, prior in (pair for j in beside for pair in means(j)):
                if len(means(i)) == 1 or prior < LEAST_PRIOR or not vectors[entity].any() or not vectors[other].any():
                    continue
                head, tail = vectors[entity].astype(np.float64), vectors[other].astype(np.float64)
                near = min(
                    min(np.linalg.norm(head + r - tail), np.linalg.norm(tail + r - head))
                    for r in relations.astype(np.float64)
                )
                total += prior * max(0.0, 1 - near / reach)
            yield total


def test_scores_are_those_of_the_definition(linker: EntityLinker, space: tuple[np.ndarray, np.ndarray]) -> None:
    """Expanded squares lose a sign or a factor without anything crashing."""
    translation = linker.reranker.translation
    assert translation is not None
    mentions = linker.detector.detect(TEXTS)
    found = linker.candidates.of(mentions)
    scores = translation.score(mentions, found)
    wanted = list(slowly(mentions, found, *space, reach=translation.reach))
    assert sum(score > 0.1 for score in wanted) > 10
    assert scores == pytest.approx(wanted, abs=1e-5)


def test_distances_are_the_least_over_relations_both_ways(space: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, relations = space
    differences = vectors[1:5] - vectors[4:8]
    wanted = [min(min(np.linalg.norm(x + r), np.linalg.norm(x - r)) for r in relations) for x in differences]
    assert distances(differences, relations) == pytest.approx(wanted, abs=1e-5)


def test_reach_is_what_one_pair_in_a_hundred_is_within(space: tuple[np.ndarray, np.ndarray]) -> None:
    """A reach in another unit than the vectors' would count everything or nothing."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(400, 12)).astype(np.float32)
    made = Translation.of_vectors(vectors, space[1], directions=unit_vectors(vectors))
    assert made is not None
    pairs = random.integers(0, 400, (2, 50_000))
    pairs = pairs[:, pairs[0] != pairs[1]]
    within = distances(vectors[pairs[0]] - vectors[pairs[1]], space[1]) < made.reach
    assert within.mean() == pytest.approx(0.01, abs=0.003)
    nothing = np.zeros_like(vectors)
    assert Translation.of_vectors(nothing, space[1], directions=nothing) is None
    assert Translation.of_vectors(vectors, space[1][:0], directions=unit_vectors(vectors)) is None


def test_a_text_is_scored_alike_alone_and_in_a_batch(linker: EntityLinker) -> None:
    """A window that reached into the next text would tie documents together."""
    assert linker.link_batch(TEXTS) == [linker.link(text) for text in TEXTS]
    assert linker.link_batch(TEXTS[::-1]) == [linker.link(text) for text in TEXTS[::-1]]


def test_the_folder_keeps_the_term_and_links_alike(linker: EntityLinker, tmp_path: Path) -> None:
    """A folder that forgot the relations would link by the other terms alone."""
    assert linker.reranker.translation is not None
    linker.reranker.translation.window = 15  # as coherence has it: they share the setting
    save_linker(linker, tmp_path)
    again = read_linker(tmp_path)
    assert again.reranker.translation is not None
    assert again.reranker.translation.window == 15
    for text in TEXTS:
        assert again.explain(text) == linker.explain(text)
    assert "translation" in linker.explain(TEXTS[0])[0].candidates[0].terms


def test_vectors_without_relations_leave_it_out(bank_world: Path) -> None:
    """Vectors of elsewhere may bring none."""
    assert load_relations(bank_world / "vectors") is None
    linker = EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors")
    assert linker.reranker.translation is None
    assert "translation" not in linker.explain(TEXTS[0])[0].candidates[0].terms
