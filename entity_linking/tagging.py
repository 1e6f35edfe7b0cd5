"""Mentions that are no noun of the text by a tagger are left out: "to bank", "Athenian politician", "Arab *League*"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc

from entity_linking.mentions import MentionDetector, MentionTable
from entity_linking.spacy_pipelines import load_pipeline

NOT_NEEDED = ("parser", "ner", "lemmatizer", "senter", "entity_ruler", "entity_linker")
"""Parts of a pipeline that tag nothing."""
TAGGERS = ("tagger", "morphologizer", "attribute_ruler")
REASONS = {"VERB": "tagged_verb", "AUX": "tagged_verb", "ADJ": "tagged_adjective", "ADV": "tagged_adverb"}
"""Universal parts of speech that name no thing, and under which reason a mention is counted for them."""


PROPER, PART_OF_NAME = "PROPN", "part_of_name"


class NounsOnly:
    """What a detector finds, but for mentions that are no noun, or a part of a longer name, by a spaCy pipeline.

    For a graph of nouns, whose names are also verbs and adjectives; a name of several words goes by its last one. A
    mention of proper nouns beside another that is written with a capital is a part of a name that the graph has not.
    """

    def __init__(self, detector: MentionDetector, nlp: Language) -> None:
        self.detector = detector
        self.table = detector.table
        self.nlp = nlp

    def detect(self, texts: Sequence[str]) -> MentionTable:
        found = self.detector.detect(texts)
        reasons = self._reasons(found)
        kept = np.array([not reason for reason in reasons], dtype=bool)
        dropped = found.dropped + Counter(reason for reason in reasons if reason)
        chosen = (found.first_token[kept], found.num_tokens[kept], found.key[kept])
        return MentionTable.of(found.tokens, *chosen, dropped)

    def _reasons(self, found: MentionTable) -> list[str]:
        """Why each mention is left out, "" for those that stay."""
        texts = found.tokens.texts
        asked = np.unique(found.document).tolist()
        docs = self.nlp.pipe([texts[document].replace("\0", " ") for document in asked])
        bounds = np.searchsorted(found.document, [*asked, len(texts)])
        reasons: list[str] = []
        for doc, low, high in zip(docs, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            starts = np.array([token.idx for token in doc], dtype=np.int64)
            first = np.searchsorted(starts, found.start[low:high], "right") - 1
            last = np.searchsorted(starts, found.end[low:high] - 1, "right") - 1
            reasons += [reason_against(doc, *span) for span in zip(first.tolist(), last.tolist(), strict=True)]
        return reasons


def reason_against(doc: Doc, first: int, last: int) -> str:
    """Why the tokens first to last are no mention, "" where they may be one."""
    if reason := REASONS.get(doc[last].pos_, ""):
        return reason
    beside = [doc[place] for place in (first - 1, last + 1) if 0 <= place < len(doc)]
    longer = any(token.pos_ == PROPER and token.text[0].isupper() for token in beside)
    return PART_OF_NAME if longer and all(token.pos_ == PROPER for token in doc[first : last + 1]) else ""


def with_tagger(detector: MentionDetector, pipeline: str) -> NounsOnly:
    """What a detector finds, less what a pipeline takes for no noun.

    Raises:
        InputError: no such pipeline, or none with a tagger.
    """
    return NounsOnly(detector, load_pipeline(pipeline, exclude=NOT_NEEDED, needs=TAGGERS, does="tags no words"))
