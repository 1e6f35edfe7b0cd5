"""How well a candidate sits among what the neighbouring mentions mean, in the space of the graph's own vectors.

Cosine of the candidate's vector with the sum of its neighbours' expected vectors. Vectors are taken minus their mean
and of unit length; raw Euclidean distance says little in a TransE space, where |r| exceeds |e| and true neighbours
lie far apart (measured AUC for neighbours: cosine 0.98, Euclidean 0.81).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from entity_linking.candidates import Candidates, Floats
from entity_linking.compiled import kernel, summing
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph

Vectors = npt.NDArray[np.float32]

GRID = np.float32(1 << 20)
"""Expected vectors are rounded to multiples of 1 / GRID, so that their running sums are exact whole numbers and a
document's figures do not depend on the documents beside it."""


class Coherence:
    """Scores candidates by their neighbours.

    vectors: float32 (num_entities + 1, dim) as `unit_vectors` makes them, row 0 and any entity without a vector all
        zeros. window: neighbours counted on each side, in mentions of the same text.
    """

    def __init__(self, vectors: Vectors, *, window: int = 15) -> None:
        self.vectors = vectors
        self.window = window

    @classmethod
    def of_vectors(cls, vectors: Vectors, *, window: int = 15) -> Coherence:
        """Of vectors as they were trained."""
        return cls(unit_vectors(vectors), window=window)

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """Cosine in [-1, 1] for each candidate, 0 where it or all its neighbours have no vector.

        An alias counts once a text, the mention's own not at all.
        """
        scores = np.zeros(len(candidates), dtype=np.float64)
        if len(mentions):
            first = first_of_kind(mentions.document, mentions.key)
            _cohere(
                self.vectors, self.window, mentions.document, first,
                candidates.bounds, candidates.entity, candidates.prior, scores,
            )  # fmt: skip
        return scores


@summing()
def _cohere(vectors, window, documents, firsts, bounds, entities, priors, scores):
    """Walks the mentions with a running sum of the window's expected vectors, kept in whole numbers.

    ring holds the expected vector of every mention from `window` behind to `window` ahead, in units of 1 / GRID.
    """
    count, dim, length = len(firsts), vectors.shape[1], 2 * window + 2
    ring = np.zeros((length, dim), np.int32)
    total, context, expected = np.zeros(dim, np.int64), np.zeros(dim, np.float32), np.zeros(dim, np.float32)
    ahead, behind = 0, 0
    for i in range(count):
        if i == 0 or documents[i] != documents[i - 1]:
            total[:], ahead, behind = 0, i, i
        while ahead < count and ahead <= i + window and documents[ahead] == documents[i]:
            row = ring[ahead % length]
            if firsts[ahead] == ahead:
                expected[:] = 0
                for c in range(bounds[ahead], bounds[ahead + 1]):
                    vector, prior = vectors[entities[c]], np.float32(priors[c])
                    for k in range(dim):
                        expected[k] += prior * vector[k]
                for k in range(dim):
                    row[k] = np.int32(np.rint(expected[k] * GRID))
                    total[k] += row[k]
            else:
                row[:] = 0
            ahead += 1
        while behind < i - window:
            row = ring[behind % length]
            for k in range(dim):
                total[k] -= row[k]
            behind += 1
        if bounds[i] == bounds[i + 1]:
            continue
        own = ring[firsts[i] % length]
        shown = 1 if firsts[i] >= behind else 0
        squares = np.float32(0)
        for k in range(dim):
            context[k] = np.float32(total[k] - shown * own[k])
            squares += context[k] * context[k]
        norm = max(np.sqrt(squares), np.float32(1))
        for c in range(bounds[i], bounds[i + 1]):
            vector, dot = vectors[entities[c]], np.float32(0)
            for k in range(dim):
                dot += vector[k] * context[k]
            scores[c] = dot / norm


def unit_vectors(vectors: Vectors) -> Vectors:
    """Vectors minus their mean, of unit length; rows of zeros stay zeros and do not count in the mean."""
    moved = centred(vectors)
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    return (moved / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def centred(vectors: Vectors) -> Floats:
    """Vectors minus the mean of those that are not all zeros, which stay zeros."""
    present = np.any(vectors != 0, axis=1)
    if not present.any():
        return np.zeros(vectors.shape)
    return np.where(present[:, None], vectors - vectors[present].mean(axis=0, dtype=np.float64), 0.0)


def first_of_kind(document: Ints, key: npt.NDArray[np.int32]) -> Ints:
    """For every mention, the index of the first with the same alias in the same text (itself where it has none)."""
    first = np.empty(len(key), dtype=np.int64)
    _first_of_kind(document, key, np.zeros(int(key.max(initial=0)) + 1, dtype=np.int64), first)
    return first


@kernel()
def _first_of_kind(document, key, seen, first):
    """seen: by key, 1 + the index of the last mention that was a first; older texts' are smaller than the text's."""
    begin = 0
    for i in range(len(key)):
        if i and document[i] != document[i - 1]:
            begin = i
        first[i] = i
        if key[i] >= 0:
            if seen[key[i]] > begin:
                first[i] = seen[key[i]] - 1
            else:
                seen[key[i]] = i + 1


def load_vectors(folder: Path, graph: KnowledgeGraph) -> Vectors:
    """Entity vectors of a `kg embed` artifact: float32 (num_entities + 1, dim), row = the graph's.

    Raises:
        InputError: no such artifact, or it was made of another graph.
    """
    from safetensors.numpy import load_file

    open_artifact(folder, stage="kg embed")
    names = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    names = names[:-1] if names[-1] == "" else names
    if names != graph.entity_vocab.identifiers:
        raise InputError(
            f"{folder}: its {len(names):,} entities are not the {graph.num_entities:,} of the graph in the same order; "
            f"give the graph the vectors were made of, or run `ernie-kg kg embed` on this one"
        )
    vectors = load_file(folder / "entity_embeddings.safetensors")["entity_embeddings"]
    if vectors.ndim != 2 or len(vectors) != graph.num_entities + 1:
        raise InputError(
            f"{folder}: expected {graph.num_entities + 1:,} rows of vectors, got shape {vectors.shape}; "
            f"run `ernie-kg kg embed` again"
        )
    return vectors.astype(np.float32)
