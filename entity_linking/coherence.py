"""How well a candidate sits among what the neighbouring mentions mean, in the space of the graph's own vectors.

Cosine of the candidate's vector with the sum of its neighbours' expected vectors. Vectors are taken minus their mean
and of unit length; raw Euclidean distance says little in a TransE space, where |r| exceeds |e| and true neighbours
lie far apart (measured AUC for neighbours: cosine 0.98, Euclidean 0.81).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from entity_linking.candidates import Candidates, Floats
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Ints
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph

Vectors = npt.NDArray[np.float32]

GRID = 1 << 20
"""Expected vectors are rounded to multiples of 1 / GRID, so that their running sums are exact whole numbers and a
document's figures do not depend on the documents beside it."""


class Coherence:
    """Scores candidates by their neighbours.

    vectors: float32 (num_entities + 1, dim), row 0 and any entity without a vector all zeros.
    window: neighbours counted on each side, in mentions of the same text.
    """

    def __init__(self, vectors: Vectors, *, window: int = 15) -> None:
        self.vectors = unit_vectors(vectors)
        self.window = window

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """Cosine in [-1, 1] for each candidate, 0 where it or all its neighbours have no vector."""
        context = self._context(mentions, candidates)
        own = self.vectors[candidates.entity]
        dots = np.einsum("ij,ij->i", own, context[candidates.mention], optimize=False)
        return dots.astype(np.float64)

    def _context(self, mentions: MentionTable, candidates: Candidates) -> Vectors:
        """Unit vector of each mention's neighbourhood (num_mentions, dim): an alias counts once a text, its own not."""
        count = len(mentions)
        prior = candidates.prior.astype(np.float32)
        matrix = csr_array((prior, candidates.entity, candidates.bounds), shape=(count, len(self.vectors)))
        expected = np.rint(np.asarray(matrix @ self.vectors) * GRID).astype(np.int64)
        first = first_of_kind(mentions.document, mentions.key)
        index = np.arange(count)
        expected[first != index] = 0
        sums = np.zeros((count + 1, expected.shape[1]), dtype=np.int64)
        np.cumsum(expected, axis=0, out=sums[1:])
        low = np.maximum(index - self.window, np.searchsorted(mentions.document, mentions.document))
        high = np.minimum(index + self.window + 1, np.searchsorted(mentions.document, mentions.document, "right"))
        context = sums[high] - sums[low]
        inside = first >= low
        context[inside] -= expected[first[inside]]
        context = context.astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", context, context, optimize=False))
        return context / np.maximum(norms, 1.0)[:, None]


def unit_vectors(vectors: Vectors) -> Vectors:
    """Vectors minus their mean, of unit length; rows of zeros stay zeros and do not count in the mean."""
    present = np.any(vectors != 0, axis=1)
    if not present.any():
        return np.zeros_like(vectors, dtype=np.float32)
    centred = np.where(present[:, None], vectors - vectors[present].mean(axis=0, dtype=np.float64), 0.0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return (centred / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def first_of_kind(document: Ints, key: npt.NDArray[np.int32]) -> Ints:
    """For every mention, the index of the first with the same alias in the same text."""
    order = np.lexsort((key, document))
    new = np.ones(len(key), dtype=bool)
    new[1:] = (document[order][1:] != document[order][:-1]) | (key[order][1:] != key[order][:-1])
    first = np.empty(len(key), dtype=np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


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
