"""Mentions that a part-of-speech tagger takes for no noun are left out: "to bank", "Athenian politician"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from spacy.language import Language

from entity_linking.mentions import MentionDetector, MentionTable
from entity_linking.spacy_pipelines import load_pipeline

NOT_NEEDED = ("parser", "ner", "lemmatizer", "senter", "entity_ruler", "entity_linker")
"""Parts of a pipeline that tag nothing."""
TAGGERS = ("tagger", "morphologizer", "attribute_ruler")
REASONS = {"VERB": "tagged_verb", "AUX": "tagged_verb", "ADJ": "tagged_adjective", "ADV": "tagged_adverb"}
"""Universal parts of speech that name no thing, and under which reason a mention is counted for them."""


class NounsOnly:
    """What a detector finds, but for mentions whose last word is none of a noun's kinds by a spaCy pipeline.

    For a graph of nouns, whose names are also verbs and adjectives; a name of several words goes by its last one.
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
            last = np.searchsorted(starts, found.end[low:high] - 1, "right") - 1
            reasons += [REASONS.get(doc[place].pos_, "") for place in last.tolist()]
        return reasons


def with_tagger(detector: MentionDetector, pipeline: str) -> NounsOnly:
    """What a detector finds, less what a pipeline takes for no noun.

    Raises:
        InputError: no such pipeline, or none with a tagger.
    """
    return NounsOnly(detector, load_pipeline(pipeline, exclude=NOT_NEEDED, needs=TAGGERS, does="tags no words"))
