"""How near a candidate lies, by one relation of the graph, to what the neighbouring mentions mean.

TransE puts head + relation near the tail, so two entities are near when some relation leads from one to the other:
d(a, b) = min over r of |a + r - b| and |b + r - a|. Most mentions of a window stand in no relation, and their distance
says nothing (the mean over a window ranks no better than chance); so a neighbour counts only below a reach that one
pair of entities in a hundred is within, the more the nearer it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from entity_linking.candidates import Candidates, Floats
from entity_linking.coherence import Vectors, centred, first_of_kind
from entity_linking.compiled import kernel
from entity_linking.mentions import MentionTable

REACH = 0.01
"""Share of all pairs of entities that count as near."""
PAIRS = 20_000
"""Pairs of entities drawn to find out how far that is."""
LANES = 32
"""Vectors are filled up with zeros to a multiple of so many numbers, which the compiler adds up at a time."""
LEAST_PRIOR = 0.1
"""What a neighbour means with less than this does not count."""
RELATIONS = "relation_embeddings.safetensors"


class Translation:
    """Prior mass of the neighbouring mentions' entities, each weighed by 1 - d / reach, 0 beyond the reach.

    directions: float32 (num_entities + 1, dim), `unit_vectors`, and lengths: float32 (num_entities + 1,), of the
        centred vectors, 0 for an entity without one; their product differs from the trained vectors by a constant.
    relations: float32 (num_relations, dim), inverse ones too where there are some. reach: in the vectors' own unit.
    window: neighbours counted on each side, in mentions of the same text.
    """

    def __init__(
        self, *, directions: Vectors, lengths: Vectors, relations: Vectors, reach: float, window: int = 15
    ) -> None:
        self.directions = directions
        self.lengths = lengths
        self.relations = relations
        self.reach = reach
        self.window = window

    @classmethod
    def of_vectors(
        cls, vectors: Vectors, relations: Vectors, *, directions: Vectors, window: int = 15
    ) -> Translation | None:
        """vectors, relations: as they were trained. directions: `unit_vectors(vectors)`.

        None where no two entities have a vector, or there are no relations.
        """
        lengths = np.linalg.norm(centred(vectors), axis=1).astype(np.float32)
        present = np.flatnonzero(lengths)
        if len(present) < 2 or not len(relations):
            return None
        heads, others = np.random.default_rng(0).choice(present, (2, PAIRS))
        differences = vectors[heads] - vectors[others]
        apart = distances(differences[heads != others], relations)
        reach = float(np.quantile(apart, REACH))
        return cls(directions=directions, lengths=lengths, relations=relations, reach=reach, window=window)

    def arrays(self) -> dict[str, np.ndarray]:
        """The constructor's arguments but `directions` and `window`, by name."""
        return {"lengths": self.lengths, "relations": self.relations, "reach": np.array(self.reach, np.float32)}

    def score(self, mentions: MentionTable, candidates: Candidates) -> Floats:
        """float64 (num_candidates,), 0 upwards; 0 for a mention's only candidate, and for one without a vector.

        An alias counts once a text, the mention's own not at all.
        """
        scores = np.zeros(len(candidates), dtype=np.float64)
        if len(candidates) and self.reach > 0:
            rows, place = np.unique(candidates.entity, return_inverse=True)
            vectors = np.zeros((len(rows), -(-self.directions.shape[1] // LANES) * LANES), dtype=np.float32)
            vectors[:, : self.directions.shape[1]] = self.directions[rows] * self.lengths[rows, None]
            projections = vectors[:, : self.directions.shape[1]] @ self.relations.T
            first = first_of_kind(mentions.document, mentions.key)
            _near(
                vectors, projections, np.square(self.relations).sum(1), self.lengths[rows],
                np.float32(self.reach), self.window, mentions.document, first, candidates.bounds,
                place, candidates.prior, scores,
            )  # fmt: skip
        return scores


def distances(differences: Vectors, relations: Vectors) -> Vectors:
    """min over relations r of |x + r| and |x - r| for every difference x of two entities; (n,)."""
    squares = np.square(differences).sum(1) + _least(differences @ relations.T, np.square(relations).sum(1))
    return np.sqrt(np.maximum(squares, 0))


def _least(projections: Vectors, squares: Vectors) -> Vectors:
    return (squares - 2 * np.abs(projections)).min(1)


@kernel(fastmath={"reassoc", "contract", "nsz", "nnan"})
def _near(
    vectors, projections, squares, lengths, reach, window, documents, firsts, bounds, places, priors, scores
):  # fmt: skip
    """Every pair of mentions in a window once, to both; a mention of one candidate tells others, and is told nothing.

    vectors, projections, lengths: of the entities of the batch, `places` among them. projections: onto each relation.
    """
    count = len(firsts)
    for i in range(count):
        for j in range(i + 1, min(count, i + window + 1)):
            if documents[j] != documents[i]:
                break
            if firsts[j] == firsts[i]:
                continue
            to_i = firsts[j] == j and bounds[i + 1] - bounds[i] > 1
            to_j = firsts[i] == i and bounds[j + 1] - bounds[j] > 1
            if not (to_i or to_j):
                continue
            for c in range(bounds[i], bounds[i + 1]):
                if lengths[places[c]] == 0:
                    continue
                c_counts = to_j and priors[c] >= LEAST_PRIOR
                for e in range(bounds[j], bounds[j + 1]):
                    e_counts = to_i and priors[e] >= LEAST_PRIOR
                    if not (c_counts or e_counts) or lengths[places[e]] == 0:
                        continue
                    near = _nearness(vectors, projections, squares, reach, places[c], places[e])
                    if e_counts:
                        scores[c] += priors[e] * near
                    if c_counts:
                        scores[e] += priors[c] * near


@kernel(fastmath={"reassoc", "contract", "nsz", "nnan"}, forceinline=True)
def _nearness(vectors, projections, squares, reach, one, other):
    """1 - d / reach, at least 0. |x + r|^2 = |x|^2 + |r|^2 + 2 x.r, and the sign of x is free."""
    apart, least = np.float32(0), np.float32(np.inf)
    for k in range(vectors.shape[1]):
        difference = vectors[one, k] - vectors[other, k]
        apart += difference * difference
    for r in range(projections.shape[1]):
        square = squares[r] - np.float32(2) * abs(projections[one, r] - projections[other, r])
        least = min(least, square)
    squared = max(apart + least, np.float32(0))
    return np.float32(1) - np.sqrt(squared) / reach if squared < reach * reach else np.float32(0)


def load_relations(folder: Path) -> Vectors | None:
    """Relation vectors of a `kg embed` artifact, the inverse ones behind: float32 (n, dim); None where it has none."""
    from safetensors.numpy import load_file

    path = Path(folder) / RELATIONS
    return np.concatenate([*load_file(path).values()]).astype(np.float32) if path.is_file() else None
