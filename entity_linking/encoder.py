"""How near a sentence is to a candidate's description, by a text encoder: the dear term, for the hard mentions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from entity_linking.candidates import Candidates, Floats
from entity_linking.mentions import MentionTable
from entity_linking.normalise import Flags, Ints
from entity_linking.rerank import over_text
from kg.graph import KnowledgeGraph
from kg.inductive import Encoder, text_encoder
from kg.sources import resolve_source

SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|\n\s*")
MARGIN = 3.0
"""Looks at mentions whose two best candidates lie within this many nats by the other terms."""
NAMES = 3
"""Aliases that stand before an entity's description."""


class EncoderSimilarity:
    """Cosine of the encoded sentence with the encoded "names: description" of each candidate, less the mention's mean.

    encode: texts -> float32 (n, width). descriptions: by entity row, row 0 "". margin: see `MARGIN`; infinite = all.
    Descriptions are encoded when first asked for and kept. num_sentences, num_mentions: what was encoded, and for
    how many mentions of how many (`num_seen`), for the record.
    """

    def __init__(self, encode: Encoder, descriptions: Sequence[str], *, margin: float = MARGIN) -> None:
        self.encode = encode
        self.descriptions = descriptions
        self.margin = margin
        self.num_sentences = self.num_mentions = self.num_seen = 0
        self._place = np.full(len(descriptions), -1, dtype=np.int64)
        self._known: list[npt.NDArray[np.float32]] = []

    @classmethod
    def of_source(cls, source: str, descriptions: Sequence[str], *, margin: float = MARGIN) -> EncoderSimilarity:
        """source: a text encoder's folder, `package:NAME/path` inside an installed package."""
        return cls(text_encoder(resolve_source(source), what=""), descriptions, margin=margin)

    def score(self, mentions: MentionTable, candidates: Candidates, logits: Floats) -> Floats:
        """float64 (num_candidates,), 0 for mentions it does not look at; mean over the text's mentions of an alias."""
        hard = within_margin(logits, candidates, self.margin)
        self.num_seen += len(mentions)
        self.num_mentions += int(np.count_nonzero(hard))
        chosen = hard[candidates.mention]
        values = np.zeros(len(candidates), dtype=np.float64)
        if not chosen.any():
            return values
        sentence, texts = sentences_of(mentions, hard)
        states = _unit(self.encode(texts))
        self.num_sentences += len(texts)
        of_mention = np.zeros(len(mentions), dtype=np.int64)
        of_mention[hard] = sentence
        left, right = of_mention[candidates.mention[chosen]], self._vectors(candidates.entity[chosen])
        values[chosen] = np.einsum("ij,ij->i", states[left], right)
        values[chosen] -= _means(values, candidates)[candidates.mention[chosen]]
        return over_text(mentions, candidates, values)

    def cost(self) -> dict[str, int]:
        """Mentions it was asked about, those it looked at, and sentences it encoded for them."""
        return {"mentions_seen": self.num_seen, "mentions": self.num_mentions, "texts": self.num_sentences}

    def _vectors(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        new = np.unique(rows[self._place[rows] < 0])
        if len(new):
            begin = sum(map(len, self._known))
            self._known.append(_unit(self.encode([self.descriptions[row] for row in new.tolist()])))
            self._place[new] = np.arange(begin, begin + len(new))
            self._known = [np.concatenate(self._known)]
        return self._known[0][self._place[rows]]


def entity_texts(graph: KnowledgeGraph) -> list[str]:
    """ "name, other name: description" by entity row, row 0 ""."""
    names, descriptions = graph.entities["aliases"].to_pylist(), graph.entities["description"].to_pylist()
    labels = graph.labels[1:]
    return [
        "",
        *(
            f"{', '.join(of[:NAMES] or [label])}: {text}"
            for of, label, text in zip(names, labels, descriptions, strict=True)
        ),
    ]


def within_margin(logits: Floats, candidates: Candidates, margin: float) -> Flags:
    """Which mentions have two candidates or more whose best two lie within `margin`; (num_mentions,)."""
    sizes = np.diff(candidates.bounds)
    hard = sizes > 1
    if not hard.any() or np.isinf(margin):
        return hard
    order = np.lexsort((-logits, candidates.mention))
    first = candidates.bounds[:-1][hard]
    hard[hard] = logits[order[first]] - logits[order[first + 1]] < margin
    return hard


def sentences_of(mentions: MentionTable, chosen: Flags) -> tuple[Ints, list[str]]:
    """For each chosen mention the number of its sentence, and the sentences' texts."""
    texts, numbers, found = mentions.tokens.texts, [], []
    bounds: list[int] = []
    document, last = -1, -1
    for text, start in zip(mentions.document[chosen].tolist(), mentions.start[chosen].tolist(), strict=True):
        if text != document:
            document, last = text, -1
            bounds = [0, *(match.end() for match in SENTENCE_END.finditer(texts[text])), len(texts[text])]
        place = int(np.searchsorted(bounds, start, "right")) - 1
        if place != last:
            last = place
            found.append(texts[text][bounds[place] : bounds[min(place + 1, len(bounds) - 1)]])
        numbers.append(len(found) - 1)
    return np.array(numbers, dtype=np.int64), found


def _unit(states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-9)


def _means(values: Floats, candidates: Candidates) -> Floats:
    count = len(candidates.bounds) - 1
    totals = np.bincount(candidates.mention, values, minlength=count)
    return totals / np.maximum(np.diff(candidates.bounds), 1)
