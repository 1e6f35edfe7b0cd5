"""Candidates by description: entities that no name of the text leads to, but what is written about them does.

(Dense retrieval of entities: Wu et al. 2020, "Scalable Zero-shot Entity Linking with Dense Entity Retrieval", section
4.1; here with any text encoder, untrained for it.) A mention of fewer candidates by name than `below` is asked about:
"surface: sentence" is encoded, and the nearest "names: description" of the graph are proposed. Dear, and off unless
asked for: it is for spans of a recogniser or of a user that read like no alias.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from entity_linking.candidates import Candidates, Floats
from entity_linking.encoder import sentences_of
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Flags
from kg.index import VectorIndex
from kg.inductive import Encoder

MASS = 0.1
"""Prior of all that is proposed for a mention together; what no name bears out is seldom meant."""
SHARPNESS = 20.0
"""Of the softmax over cosines that shares it out."""
FOLDER = "described"
"""Of the index, in a linker's folder."""
ENTITIES_AT_ONCE = 4096


class DescribedCandidates:
    """Proposes the `most` entities nearest by description for mentions of fewer than `below` candidates.

    encode: texts -> float32 (n, width). index: descriptions by entity row, written as text. num_seen, num_mentions,
    num_proposed: mentions it was told of, asked about, and candidates it gave, for the record.
    """

    def __init__(self, encode: Encoder, index: VectorIndex, *, below: int = 1, most: int = 10) -> None:
        self.encode = encode
        self.index = index
        self.below = below
        self.most = most
        self.num_seen = self.num_mentions = self.num_proposed = 0

    @classmethod
    def of_descriptions(
        cls, encode: Encoder, descriptions: Sequence[str], *, below: int = 1, most: int = 10
    ) -> DescribedCandidates:
        """descriptions: by entity row, row 0 "" (`encoder.entity_texts`); all of them are encoded now."""
        states = [
            encode(descriptions[low : low + ENTITIES_AT_ONCE]) for low in range(1, len(descriptions), ENTITIES_AT_ONCE)
        ]
        names = [str(row) for row in range(1, len(descriptions))]
        return cls(encode, VectorIndex.build(np.concatenate(states), names, threads=1), below=below, most=most)

    @classmethod
    def open(cls, encode: Encoder, folder: Path, *, below: int, most: int) -> DescribedCandidates:
        """What `save` wrote; the index stays on disk."""
        return cls(encode, VectorIndex.load(folder / FOLDER, mmap=True, threads=1), below=below, most=most)

    def save(self, folder: Path) -> None:
        """Writes the index into a linker's folder."""
        (folder / FOLDER).mkdir()
        self.index.save(folder / FOLDER)

    def cost(self) -> dict[str, int]:
        """Mentions it was told of, those it asked the index about, and candidates it proposed."""
        return {"mentions_seen": self.num_seen, "mentions": self.num_mentions, "candidates": self.num_proposed}

    def beside(self, mentions: MentionTable, found: Candidates) -> Candidates:
        """The candidates by name, and behind them those proposed, whose `row` is -1.

        Priors of candidates by name and of proposals sum to 1; where there are only proposals, to `MASS`.
        """
        few = np.diff(found.bounds) < self.below
        self.num_seen += len(mentions)
        self.num_mentions += int(np.count_nonzero(few))
        if not few.any():
            return found
        asked = np.flatnonzero(few)
        names, scores = self.index.search(self.encode(self._queries(mentions, few)), self.most)
        entity = np.array([[int(name or 0) for name in of] for of in names], dtype=np.int32)
        new = ~_has(found, asked, entity)
        shares = np.where(new, np.exp(SHARPNESS * (scores - scores.max(1, keepdims=True))), 0.0)
        shares *= MASS / np.maximum(shares.sum(1, keepdims=True), 1e-300)
        self.num_proposed += int(np.count_nonzero(new))
        prior = found.prior * np.where(few & _any(new, asked, len(few)), 1.0 - MASS, 1.0)[found.mention]
        proposed = (np.broadcast_to(asked[:, None], entity.shape)[new], entity[new], shares[new])
        return _joined(found, prior, *proposed)

    def _queries(self, mentions: MentionTable, chosen: Flags) -> list[str]:
        numbers, sentences = sentences_of(mentions, chosen)
        spans = zip(*(of[chosen].tolist() for of in (mentions.document, mentions.start, mentions.end)), strict=True)
        surfaces = [mentions.tokens.texts[document][start:end] for document, start, end in spans]
        return [f"{surface}: {sentences[place]}" for surface, place in zip(surfaces, numbers.tolist(), strict=True)]


def _has(found: Candidates, asked: np.ndarray, entity: np.ndarray) -> Flags:
    """Where an entity is a candidate of the mention already, or none at all (row 0); (num_asked, most)."""
    known = [
        np.isin(of, found.entity[found.bounds[mention] : found.bounds[mention + 1]]) | (of == 0)
        for mention, of in zip(asked.tolist(), entity, strict=True)
    ]
    return np.array(known, dtype=bool)


def _any(new: Flags, asked: np.ndarray, count: int) -> Flags:
    """Which of all mentions were given something; (count,)."""
    given = np.zeros(count, dtype=bool)
    given[asked] = new.any(1)
    return given


def _joined(found: Candidates, prior: Floats, mention: np.ndarray, entity: np.ndarray, mass: Floats) -> Candidates:
    mentions = np.concatenate((found.mention, mention))
    order = np.argsort(mentions, kind="stable")

    def sorted_(own: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.concatenate((own, new))[order]

    return Candidates(
        bounds=np.searchsorted(mentions[order], np.arange(len(found.bounds))),
        mention=mentions[order],
        entity=sorted_(found.entity, entity),
        row=sorted_(found.row, np.full(len(entity), -1)),
        prior=sorted_(prior, mass),
        named=sorted_(found.named, np.zeros(len(entity), dtype=bool)),
    )
