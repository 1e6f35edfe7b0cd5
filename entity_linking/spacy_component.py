"""The linker inside a spaCy pipeline: `nlp.add_pipe("ernie_entity_linker", config={"path": FOLDER})`.

spaCy finds the factory through the package's entry point; importing this module registers it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Span

from entity_linking.linker import EntityLinker
from entity_linking.mentions import GivenSpans
from entity_linking.records import Candidate, ExplainedMention
from kg.errors import InputError

NAME = "ernie_entity_linker"
LABEL = "ENTITY"
"""Of a span that the linker finds and no earlier component has named."""

Span.set_extension("candidates", default=(), force=True)
Span.set_extension("link_score", default=0.0, force=True)


class SpacyLinker:
    """Links a document's spans: fills `kb_id_`, `span._.candidates` (best first) and `span._.link_score`.

    mentions: "own": the linker finds its mentions; they join `doc.ents`, those already there stay where they overlap;
        "ents": only what an earlier component (an NER) put into `doc.ents` is linked.
    """

    def __init__(self, linker: EntityLinker, *, mentions: str = "own") -> None:
        if mentions not in ("own", "ents"):
            raise InputError(f'expected mentions "own" or "ents", got {mentions!r}')
        self.linker = linker
        self.mentions = mentions

    def __call__(self, doc: Doc) -> Doc:
        if self.mentions == "own":
            explained = self.linker.explain(doc.text)
            taken = {token.i for span in doc.ents for token in span}
            spans = [span for found in explained if (span := _span(doc, found)) is not None]
            doc.ents = (*doc.ents, *(span for span in spans if taken.isdisjoint(range(span.start, span.end))))
        else:
            for span, found in self._of_ents(doc):
                _fill(span, found)
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Document by document: a document's links never depend on its neighbours."""
        del batch_size  # spaCy names it
        yield from map(self, stream)

    def to_disk(self, path: Any, *, exclude: Sequence[str] = ()) -> None:
        """Nothing: the linker stays in its own folder, which the pipeline's config names."""

    def from_disk(self, path: Any, *, exclude: Sequence[str] = ()) -> SpacyLinker:
        """See `to_disk`."""
        return self

    def _of_ents(self, doc: Doc) -> Iterator[tuple[Span, ExplainedMention]]:
        spans = GivenSpans(self.linker.alias_table, [[(span.start_char, span.end_char) for span in doc.ents]])
        of_ents = EntityLinker(
            detector=spans,
            candidates=self.linker.candidates,
            reranker=self.linker.reranker,
            entities=self.linker.entities,
            labels=self.linker.labels,
            min_score=self.linker.min_score,
            agreement=self.linker.agreement,
            described=self.linker.described,
        )
        found = {(e.mention.start, e.mention.end): e for e in of_ents.explain_whole(doc.text)}
        for span in doc.ents:
            if (span.start_char, span.end_char) in found:
                yield span, found[span.start_char, span.end_char]


def _span(doc: Doc, found: ExplainedMention) -> Span | None:
    """The linked mention as a span of spaCy's tokens; None where it is not linked, or ends inside a token."""
    if found.link is None:
        return None
    span = doc.char_span(found.mention.start, found.mention.end, label=LABEL, kb_id=found.link.entity)
    return None if span is None else _fill(span, found)


def _fill(span: Span, found: ExplainedMention) -> Span:
    best: tuple[Candidate, ...] = found.candidates
    span._.candidates = best
    span._.link_score = float(np.float32(best[0].score)) if best else 0.0
    if found.link is not None:
        for token in span:  # a span of `doc.ents` is a view of these
            token.ent_kb_id_ = found.link.entity
    return span


@Language.factory(NAME, default_config={"mentions": "own"}, assigns=["doc.ents", "token.ent_kb_id"])
def make_linker(nlp: Language, name: str, path: str, mentions: str) -> SpacyLinker:
    """path: a linker's folder (`link train`)."""
    del nlp, name
    linker = EntityLinker.from_pretrained(Path(path))
    return SpacyLinker(linker, mentions=mentions)
