"""Linked text as a page of HTML, drawn by displaCy."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from entity_linking.records import LinkedDocument

COLOURS = ("#dbeafe", "#dcfce7", "#fef9c3", "#fee2e2")
"""Of links with a score from 0.9, 0.75, 0.5 and below."""


def linked_page(documents: Sequence[LinkedDocument]) -> str:
    """Every link coloured by its score, its entity beside it; text and ids are shown as they are, never obeyed."""
    from spacy import displacy

    shown, colours = [], {}
    for document in documents:
        ents = []
        for mention in document.mentions:
            label = escape(f"{mention.entity} {mention.score:.2f}")
            colours[label.upper()] = colours[label] = _colour(mention.score)
            ents.append({"start": mention.start, "end": mention.end, "label": label})
        shown.append({"text": document.text, "ents": ents, "title": escape(document.title or document.id)})
    return displacy.render(
        shown, style="ent", manual=True, page=True, options={"colors": colours}, jupyter=False
    )  # fmt: skip


def _colour(score: float) -> str:
    return COLOURS[0] if score >= 0.9 else COLOURS[1] if score >= 0.75 else COLOURS[2] if score >= 0.5 else COLOURS[3]
