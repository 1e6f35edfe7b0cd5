"""Text in, links out: detector -> candidates -> reranker, all handed in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from entity_linking.alias_table import AliasTable
from entity_linking.candidates import CandidateTable, Rows
from entity_linking.coherence import Coherence, load_vectors
from entity_linking.context import ContextWords
from entity_linking.matcher import AliasMatcher, alias_strings
from entity_linking.mentions import MentionDetector, MentionTable
from entity_linking.normalise import Ints
from entity_linking.records import Candidate, ExplainedMention, Link, Mention
from entity_linking.rerank import LinkWeights, Reranker, Scored
from entity_linking.tokens import IS_WORD
from kg.graph import KnowledgeGraph

BATCH_CHARACTERS = 200_000
"""Texts are linked in batches of about this many characters; longer texts are cut at a blank."""
LAST_BLANK = re.compile(r"\s(?=\S*\Z)")


@dataclass(frozen=True, slots=True)
class LinkTable:
    """Links of several texts in order of text and start.

    document: int64 (num_links,): index of the text. start, end: in code points. entity: int32 rows.
    score: float32 in [0, 1].
    counts: mentions, ambiguous (more than one candidate), nil (mentions left unlinked), tokens (words).
    dropped: spans that were no mention, by reason.
    """

    document: Ints
    start: Ints
    end: Ints
    entity: Rows
    score: npt.NDArray[np.float32]
    counts: Counter[str]
    dropped: Counter[str]


class EntityLinker:
    """Links texts to a graph's entities. The links of a text never depend on the texts beside it.

    detector: finds mentions. candidates: what each may mean. reranker: how likely each is.
    entities, labels: id and label by row, row 0 "".
    min_score: a mention whose best candidate scores less stays unlinked.
    dropped_aliases: aliases of the graph that are never linked, by reason, for the record.
    """

    def __init__(
        self,
        *,
        detector: MentionDetector,
        candidates: CandidateTable,
        reranker: Reranker,
        entities: Sequence[str],
        labels: Sequence[str],
        min_score: float = 0.5,
        dropped_aliases: Counter[str] | None = None,
    ) -> None:
        self.detector = detector
        self.candidates = candidates
        self.reranker = reranker
        self.entities = entities
        self.labels = labels
        self.min_score = min_score
        self.dropped_aliases = dropped_aliases or Counter()

    @classmethod
    def from_artifacts(
        cls,
        graph: Path,
        vectors: Path | None,
        *,
        weights: LinkWeights | None = None,
        min_score: float = 0.5,
        max_candidates: int = 20,
        window: int = 15,
        numbers: bool = False,
        plurals: bool = True,
    ) -> EntityLinker:
        """A linker of a `kg build` artifact and, for coherence, a `kg embed` artifact of the same graph.

        vectors: None leaves coherence and context out, so that only prior and case decide. window: neighbours on
        each side that coherence looks at. numbers, plurals: as in `AliasMatcher.from_graph`.

        Raises:
            InputError: a folder is no such artifact, or the vectors are another graph's.
        """
        loaded = KnowledgeGraph.load(graph)
        table = AliasTable.from_aliases(alias_strings(loaded)[0], numbers=numbers, plurals=plurals)
        coherence = Coherence(load_vectors(Path(vectors), loaded), window=window) if vectors else None
        candidates = CandidateTable.from_graph(loaded, table, max_candidates=max_candidates)
        return cls(
            detector=AliasMatcher(table),
            candidates=candidates,
            reranker=Reranker(
                weights=weights or LinkWeights(),
                coherence=coherence,
                context=ContextWords.from_graph(loaded) if vectors else None,
            ),
            entities=["", *loaded.entity_vocab.identifiers],
            labels=loaded.labels,
            min_score=min_score,
            dropped_aliases=table.dropped + Counter(candidates_beyond_limit=candidates.num_cut),
        )

    def link(self, text: str) -> list[Link]:
        """The links of one text, from left to right, never overlapping."""
        return self.link_batch([text])[0]

    def link_batch(self, texts: Sequence[str]) -> list[list[Link]]:
        """The links of each text."""
        found = self.link_table(texts)
        links: list[list[Link]] = [[] for _ in texts]
        columns = (found.document, found.start, found.end, found.entity, found.score)
        for document, start, end, entity, score in zip(*(column.tolist() for column in columns)):
            links[document].append(Link(start, end, self.entities[entity], score))
        return links

    def link_table(self, texts: Sequence[str]) -> LinkTable:
        """The links of many texts as columns; the way to link a corpus."""
        parts = [self._link_pieces(pieces) for pieces in batches(texts)]
        if not parts:
            none = np.zeros(0, dtype=np.int64)
            rows = none.astype(np.int32)
            return LinkTable(none, none, none, rows, none.astype(np.float32), Counter(), Counter())
        return LinkTable(
            document=np.concatenate([part.document for part in parts]),
            start=np.concatenate([part.start for part in parts]),
            end=np.concatenate([part.end for part in parts]),
            entity=np.concatenate([part.entity for part in parts]),
            score=np.concatenate([part.score for part in parts]),
            counts=sum((part.counts for part in parts), Counter()),
            dropped=sum((part.dropped for part in parts), Counter()),
        )

    def explain(self, text: str) -> list[ExplainedMention]:
        """Every mention of a text with all its candidates, each with every term and what it adds to the logit."""
        explained = []
        for piece in (piece for batch in batches([text]) for piece in batch):
            mentions, scored = self._score([piece.text])
            explained += [self._explained(mentions, scored, i, piece) for i in range(len(mentions))]
        return explained

    def _score(self, texts: Sequence[str]) -> tuple[MentionTable, Scored]:
        mentions = self.detector.detect(texts)
        return mentions, self.reranker.score(mentions, self.candidates.of(mentions))

    def _link_pieces(self, pieces: Sequence[Piece]) -> LinkTable:
        mentions, scored = self._score([piece.text for piece in pieces])
        # Rounded to float32 before the cut, so that what is kept and what is written agree.
        best = np.append(scored.score, 0.0)[scored.best].astype(np.float32)
        linked = (scored.best >= 0) & (best >= np.float32(self.min_score))
        piece = mentions.document[linked]
        offset = np.array([p.offset for p in pieces], dtype=np.int64)[piece]
        sizes = np.diff(scored.candidates.bounds)
        return LinkTable(
            document=np.array([p.document for p in pieces], dtype=np.int64)[piece],
            start=mentions.start[linked] + offset,
            end=mentions.end[linked] + offset,
            entity=scored.candidates.entity[scored.best[linked]],
            score=best[linked],
            counts=Counter(
                mentions=len(mentions),
                ambiguous=int(np.count_nonzero(sizes > 1)),
                nil=int(np.count_nonzero(~linked)),
                words=int(np.count_nonzero(mentions.tokens.has(IS_WORD))),
            ),
            dropped=mentions.dropped,
        )

    def _explained(self, mentions: MentionTable, scored: Scored, i: int, piece: Piece) -> ExplainedMention:
        start, end = int(mentions.start[i]), int(mentions.end[i])
        rows = range(int(scored.candidates.bounds[i]), int(scored.candidates.bounds[i + 1]))
        contributions = self.reranker.contributions(scored.terms)
        candidates = [
            Candidate(
                entity_id=self.entities[scored.candidates.entity[row]],
                label=self.labels[scored.candidates.entity[row]],
                prior=float(scored.candidates.prior[row]),
                score=float(scored.score[row]),
                terms={name: float(values[row]) for name, values in scored.terms.items()},
                contributions={name: float(values[row]) for name, values in contributions.items()},
            )
            for row in rows
        ]
        candidates.sort(key=lambda candidate: -candidate.score)
        at, surface = piece.offset, piece.text[start:end]
        link = None
        if candidates and np.float32(candidates[0].score) >= np.float32(self.min_score):
            score = float(np.float32(candidates[0].score))
            link = Link(at + start, at + end, candidates[0].entity_id, score)
        mention = Mention(at + start, at + end, mentions.alias(i))
        return ExplainedMention(mention, surface, tuple(candidates), float(scored.nil[i]), link)


@dataclass(frozen=True, slots=True)
class Piece:
    """A text, or part of a long one: the code points of text `document` from `offset` on."""

    document: int
    offset: int
    text: str


def batches(texts: Sequence[str], *, limit: int = BATCH_CHARACTERS) -> Iterator[list[Piece]]:
    """Texts in groups of about `limit` characters, a text longer than that cut into pieces at a blank."""
    group, size = [], 0
    for document, text in enumerate(texts):
        for piece in pieces_of(document, text, limit=limit):
            if group and size + len(piece.text) > limit:
                yield group
                group, size = [], 0
            group.append(piece)
            size += len(piece.text)
    if group:
        yield group


def pieces_of(document: int, text: str, *, limit: int) -> Iterator[Piece]:
    """A text cut behind the last blank before every `limit`-th character (anywhere, where there is no blank)."""
    offset = 0
    while len(text) - offset > limit:
        part = text[offset : offset + limit]
        blank = LAST_BLANK.search(part, max(0, limit - 2000))
        cut = blank.end() if blank else limit
        yield Piece(document, offset, text[offset : offset + cut])
        offset += cut
    yield Piece(document, offset, text[offset:])
