"""Text in, links out: detector -> candidates -> reranker, all handed in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entity_linking.alias_table import AliasTable
from entity_linking.candidates import Candidates, CandidateTable, Rows, Singles
from entity_linking.coherence import Coherence, load_vectors
from entity_linking.context import ContextWords
from entity_linking.matcher import AliasMatcher, alias_strings
from entity_linking.mentions import MentionDetector, MentionTable
from entity_linking.normalise import Flags, Ints
from entity_linking.records import Candidate, ExplainedMention, Link, Mention
from entity_linking.rerank import Reranker, Scored, agrees
from entity_linking.tokens import IS_WORD
from entity_linking.topics import Edges, Topics
from entity_linking.translation import Translation, load_relations
from entity_linking.weights import LinkWeights
from kg.graph import KnowledgeGraph

if TYPE_CHECKING:
    from entity_linking.certainty import Certainty
    from entity_linking.dense import DescribedCandidates

BATCH_CHARACTERS = 200_000
"""Texts are linked in batches of about this many characters; longer texts are cut at a blank."""
SIGNALS = ("prior", "coherence", "context")
"""Terms that must agree where `EntityLinker.agreement` is asked for."""
LAST_BLANK = re.compile(r"\s(?=\S*\Z)")


@dataclass(frozen=True, slots=True)
class LinkTable:
    """Links of several texts in order of text and start.

    document: int64 (num_links,): index of the text. start, end: in code points. entity: int32 rows.
    score: float32 in [0, 1].
    counts: mentions, ambiguous (more than one candidate), nil (mentions left unlinked), words (tokens that are any).
    dropped: spans that were no mention, by reason.
    """

    document: Ints
    start: Ints
    end: Ints
    entity: Rows
    score: npt.NDArray[np.float32]
    counts: Counter[str]
    dropped: Counter[str]


def no_links() -> LinkTable:
    """The links of nothing."""
    none = np.zeros(0, dtype=np.int64)
    return LinkTable(none, none, none, none.astype(np.int32), none.astype(np.float32), Counter(), Counter())


class EntityLinker:
    """Links texts to a graph's entities. The links of a text never depend on the texts beside it.

    detector: finds mentions. candidates: what each may mean. reranker: how likely each is.
    entities, labels: id and label by row, row 0 "", as Arrow arrays of text.
    min_score: a mention whose best candidate scores less stays unlinked.
    agreement: links only where the best candidate is also the best by prior, by coherence and by context, of those
        that say anything; for training data, of which there is enough.
    dropped_aliases: aliases of the graph that are never linked, by reason, for the record.
    described: proposes entities by their descriptions where names lead to none or too few.
    certainty: how sure a link is, in place of its candidate's score, where links were judged (`link calibrate`).
    """

    def __init__(
        self,
        *,
        detector: MentionDetector,
        candidates: CandidateTable,
        reranker: Reranker,
        entities: pa.Array,
        labels: pa.Array,
        min_score: float = 0.5,
        agreement: bool = False,
        dropped_aliases: Counter[str] | None = None,
        described: DescribedCandidates | None = None,
        certainty: Certainty | None = None,
    ) -> None:
        self.detector = detector
        self.candidates = candidates
        self.reranker = reranker
        self.entities = entities
        self.labels = labels
        self.min_score = min_score
        self.agreement = agreement
        self.dropped_aliases = dropped_aliases or Counter()
        self.described = described
        self.certainty = certainty

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
        cjk: bool = True,
        uniform: bool = False,
    ) -> EntityLinker:
        """A linker of a `kg build` artifact and, for coherence, a `kg embed` artifact of the same graph.

        vectors: None leaves out all that looks at the text around: prior, popularity and case decide. window:
        neighbours on each side that coherence looks at. numbers, plurals, cjk: as in `AliasMatcher.from_graph`.
        uniform: takes no notice of the graph's priors.

        Raises:
            InputError: a folder is no such artifact, or the vectors are another graph's.
        """
        weights = weights or LinkWeights()
        loaded = KnowledgeGraph.load(graph)
        table = AliasTable.from_aliases(alias_strings(loaded)[0], numbers=numbers, plurals=plurals, cjk=cjk)
        coherence, translation = _in_space(Path(vectors), loaded, window=window) if vectors else (None, None)
        candidates = CandidateTable.from_graph(loaded, table, max_candidates=max_candidates, uniform=uniform)
        return cls(
            detector=AliasMatcher(table),
            candidates=candidates,
            reranker=Reranker(
                weights=weights,
                degree=degrees(loaded),
                coherence=coherence,
                translation=translation,
                context=ContextWords.from_graph(loaded) if vectors else None,
                related=ContextWords.of_neighbours(loaded) if vectors and weights.related else None,
                topics=Topics.from_graph(loaded, candidates.entity, candidates.prior) if vectors else None,
                edges=Edges.from_graph(loaded) if vectors else None,
            ),
            entities=named_rows(loaded.entities["id"]),
            labels=named_rows(loaded.entities["label"]),
            min_score=min_score,
            dropped_aliases=table.dropped + Counter(candidates_beyond_limit=candidates.num_cut),
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> EntityLinker:
        """The linker in a folder of `link train`; its tables stay on disk until they are touched.

        Raises:
            InputError: no such artifact.
        """
        from entity_linking.folder import open_linker

        return open_linker(folder)

    @property
    def alias_table(self) -> AliasTable:
        """The aliases whose keys its detector speaks of."""
        return self.detector.table

    def link(self, text: str) -> list[Link]:
        """The links of one text, from left to right, never overlapping."""
        return self.link_batch([text])[0]

    def link_batch(self, texts: Sequence[str]) -> list[list[Link]]:
        """The links of each text."""
        found = self.link_table(texts)
        links: list[list[Link]] = [[] for _ in texts]
        names = self.names(found.entity)
        columns = (column.tolist() for column in (found.document, found.start, found.end, found.score))
        for document, start, end, score, name in zip(*columns, names, strict=True):
            links[document].append(Link(start, end, name, score))
        return links

    def names(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Entity ids of rows."""
        return self.entities.take(pa.array(rows)).to_pylist()

    def link_table(self, texts: Sequence[str]) -> LinkTable:
        """The links of many texts as columns; the way to link a corpus."""
        parts = [self._link_batch(batch) for batch in batches(texts)]
        if not parts:
            return no_links()
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
        pieces = [piece for batch in batches([text]) for piece in zip(batch.offsets.tolist(), batch.texts, strict=True)]
        return [found for offset, part in pieces for found in self._explain_piece(offset, part)]

    def explain_whole(self, text: str) -> list[ExplainedMention]:
        """As `explain`, the text never cut: for a detector of given spans, which knows but the whole text."""
        return self._explain_piece(0, text)

    def _explain_piece(self, offset: int, text: str) -> list[ExplainedMention]:
        mentions, scored = self.score([text])
        score = self.link_scores(scored)
        linked = self._linked(scored, score)
        kept = [float(score[i]) if linked[i] else None for i in range(len(mentions))]
        return [self._explained(mentions, scored, i, offset, kept[i]) for i in range(len(mentions))]

    def score(self, texts: Sequence[str]) -> tuple[MentionTable, Scored]:
        """Mentions of texts, and their candidates with all terms; texts are taken whole, however long."""
        mentions = self.detector.detect(texts)
        return mentions, self.reranker.score(mentions, self.candidates_of(mentions))

    def candidates_of(self, mentions: MentionTable) -> Candidates:
        """What each mention may mean: by its name, and by descriptions where that is asked for."""
        found = self.candidates.of(mentions)
        return found if self.described is None else self.described.beside(mentions, found)

    def costs(self) -> Counter[str]:
        """What dear terms and descriptions have read so far."""
        if self.described is None:
            return self.reranker.costs()
        return self.reranker.costs() + Counter({f"described_{what}": n for what, n in self.described.cost().items()})

    def link_scores(self, scored: Scored) -> Singles:
        """How likely each mention's best candidate is meant, float32 (num_mentions,), 0 where there is none.

        Rounded before `min_score` cuts, so that what is kept and what is written agree.
        """
        if self.certainty is not None:
            return self.certainty.of(scored).astype(np.float32)
        return np.append(scored.score, 0.0)[scored.best].astype(np.float32)

    def _linked(self, scored: Scored, score: Singles) -> Flags:
        """Which mentions are linked, to their best candidate."""
        linked = (scored.best >= 0) & (score >= np.float32(self.min_score))
        if self.agreement:
            for name in SIGNALS:
                if name in scored.terms:
                    linked &= agrees(scored.terms[name], scored.candidates.bounds, scored.best)
        return linked

    def _link_batch(self, batch: Batch) -> LinkTable:
        mentions, scored = self.score(batch.texts)
        score = self.link_scores(scored)
        linked = np.flatnonzero(self._linked(scored, score))
        best = scored.best[linked]
        piece = mentions.document[linked]
        offset = batch.offsets[piece]
        sizes = np.diff(scored.candidates.bounds)
        return LinkTable(
            document=batch.documents[piece],
            start=mentions.start[linked] + offset,
            end=mentions.end[linked] + offset,
            entity=scored.candidates.entity[best],
            score=score[linked],
            counts=Counter(
                mentions=len(mentions),
                ambiguous=int(np.count_nonzero(sizes > 1)),
                nil=len(mentions) - len(linked),
                words=int(np.count_nonzero(mentions.tokens.has(IS_WORD))),
            ),
            dropped=mentions.dropped,
        )

    def _explained(
        self, mentions: MentionTable, scored: Scored, i: int, at: int, score: float | None
    ) -> ExplainedMention:
        """at: offset of the text they stand in. score: of the link, None for a mention that has none."""
        start, end = int(mentions.start[i]), int(mentions.end[i])
        rows = range(int(scored.candidates.bounds[i]), int(scored.candidates.bounds[i + 1]))
        contributions = self.reranker.contributions(scored.terms)
        entities = scored.candidates.entity[rows.start : rows.stop]
        labels = self.labels.take(pa.array(entities)).to_pylist()
        candidates = [
            Candidate(
                entity_id=name,
                label=label,
                prior=float(scored.candidates.prior[row]),
                score=float(scored.score[row]),
                terms={term: float(values[row]) for term, values in scored.terms.items()},
                contributions={term: float(values[row]) for term, values in contributions.items()},
            )
            for row, name, label in zip(rows, self.names(entities), labels, strict=True)
        ]
        candidates.sort(key=lambda candidate: -candidate.score)
        surface = mentions.tokens.texts[int(mentions.document[i])][start:end]
        link = None
        if score is not None:
            link = Link(at + start, at + end, candidates[0].entity_id, score)
        mention = Mention(at + start, at + end, mentions.alias(i))
        nil = {name: float(of[i]) for name, of in self.reranker.contributions(scored.nil_terms).items()}
        return ExplainedMention(mention, surface, tuple(candidates), float(scored.nil[i]), nil, link)


def _in_space(folder: Path, graph: KnowledgeGraph, *, window: int) -> tuple[Coherence, Translation | None]:
    """The two terms of the vectors' space, which share one table."""
    vectors, relations = load_vectors(folder, graph), load_relations(folder)
    coherence = Coherence.of_vectors(vectors, window=window)
    if relations is None:
        return coherence, None
    return coherence, Translation.of_vectors(vectors, relations, directions=coherence.vectors, window=window)


def named_rows(names: pa.ChunkedArray) -> pa.Array:
    """Names by entity row, row 0 being ""."""
    return pa.concat_arrays([pa.array([""], pa.string()), *names.cast(pa.string()).chunks])


def degrees(graph: KnowledgeGraph) -> Singles:
    """Triples of every entity, float32 (num_entities + 1,)."""
    return np.bincount(graph.triples[:, [0, 2]].ravel(), minlength=graph.num_entities + 1).astype(np.float32)


class Batch(NamedTuple):
    """Texts and parts of long ones, as columns: objects by the ten thousand would keep the garbage collector busy.

    documents: int64: the index of the text each is of. offsets: int64: the code points of it that come before. texts:
    themselves.
    """

    documents: Ints
    offsets: Ints
    texts: Sequence[str]


def batches(texts: Sequence[str], *, limit: int = BATCH_CHARACTERS) -> Iterator[Batch]:
    """Texts in groups of at most `limit` characters, a longer text cut into pieces at a blank, each a group."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(sizes)
    low = 0
    while low < len(texts):
        if sizes[low] > limit:
            for offset, part in pieces_of(texts[low], limit=limit):
                yield Batch(np.array([low]), np.array([offset]), [part])
            low += 1
            continue
        high = int(np.searchsorted(ends, ends[low] - sizes[low] + limit, "right"))
        yield Batch(np.arange(low, high), np.zeros(high - low, dtype=np.int64), texts[low:high])
        low = high


def pieces_of(text: str, *, limit: int) -> Iterator[tuple[int, str]]:
    """A text cut behind the last blank before every `limit`-th character (anywhere, where there is no blank)."""
    offset = 0
    while len(text) - offset > limit:
        part = text[offset : offset + limit]
        blank = LAST_BLANK.search(part, max(0, limit - 2000))
        cut = blank.end() if blank else limit
        yield offset, text[offset : offset + cut]
        offset += cut
    yield offset, text[offset:] if offset else text
