"""A spaCy named entity recogniser as a detector of mentions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from spacy.language import Language

from entity_linking.alias_table import AliasTable
from entity_linking.mentions import GivenSpans, MentionDetector, MentionTable, Union
from entity_linking.prefixes import NO_KEY
from entity_linking.spacy_pipelines import load_pipeline

NOT_LINKED = ("tagger", "parser", "attribute_ruler", "lemmatizer", "senter")
"""Parts of a pipeline that name no entities."""
RECOGNISERS = ("ner", "entity_ruler")
ARTICLES = ("the ", "The ", "THE ", "a ", "A ", "an ", "An ")


class SpacyDetector:
    """The entities that a pipeline names, where they read like an alias of the table, with their article or without.

    Those that read like none are counted as `ner_without_alias`, and left out unless they are asked for.
    """

    def __init__(self, table: AliasTable, nlp: Language, *, without_alias: bool = False) -> None:
        self.table = table
        self.nlp = nlp
        self.without_alias = without_alias

    def detect(self, texts: Sequence[str]) -> MentionTable:
        spans = [
            [(span.start_char, span.end_char) for span in doc.ents]
            for doc in self.nlp.pipe([text.replace("\0", " ") for text in texts])
        ]
        spans = [[without_article(text, *span) for span in of] for text, of in zip(texts, spans, strict=True)]
        whole = GivenSpans(self.table, spans).detect(texts)
        known = whole.key != NO_KEY
        whole.dropped["ner_without_alias"] += int(np.count_nonzero(~known))
        if self.without_alias:
            return whole
        chosen = (whole.first_token[known], whole.num_tokens[known], whole.key[known])
        return MentionTable.of(whole.tokens, *chosen, whole.dropped)


def without_article(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the article that recognisers take into names ("the Netherlands")."""
    for article in ARTICLES:
        if text.startswith(article, start) and start + len(article) < end:
            return start + len(article), end
    return start, end


def with_ner(matcher: MentionDetector, pipeline: str, *, alone: bool, without_alias: bool = False) -> MentionDetector:
    """What a pipeline finds, and, unless `alone`, what the matcher finds beside it.

    without_alias: also spans that read like no alias, of which a linker with descriptions can make something.

    Raises:
        InputError: no such pipeline, or none with a recogniser.
    """
    nlp = load_pipeline(pipeline, exclude=NOT_LINKED, needs=RECOGNISERS, does="names no entities")
    named = SpacyDetector(matcher.table, nlp, without_alias=without_alias)
    return named if alone else Union(named, matcher)
