"""Entity typing from editors' topics: which topic has the entity in a paragraph's title?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from entity_linking.corpus import NO_TOPIC, Document
from finetune.builders.drafts import Draft, Window, normalised, window_around
from finetune.tasks.schema import Example, Span
from kg.split import split_of


def topic_drafts(
    documents: Iterable[Document],
    *,
    dev: float,
    test: float,
    seed: int,
    max_characters: int,
    dropped: Counter[str],
) -> Iterator[Draft]:
    """One draft a document: its title's first mention, marked, and the editors' topic as the label.

    dev, test, seed: as in `kg.split.split_of`, which splits by document id. max_characters: longer text is cut to
    that much around the mention. Left out and counted: `no_topic`, `title_not_in_text`, `mention_too_long`.
    """
    for document in documents:
        if document.topic in ("", NO_TOPIC):
            dropped["no_topic"] += 1
            continue
        mention = find_title(document.title, document.text)
        if mention is None:
            dropped["title_not_in_text"] += 1
            continue
        whole = Window(0, len(document.text))
        part = window_around(document.text, whole, mention.start, mention.end, max_characters)
        if part is None:
            dropped["mention_too_long"] += 1
            continue
        example = Example(
            id=f"topic:{document.id}",
            text=document.text[part.start : part.end],
            document=document.id,
            offset=part.start,
            spans=(Span(start=mention.start - part.start, end=mention.end - part.start),),
            label=document.topic,
        )
        yield Draft(
            example=example,
            split=split_of(document.id, seed=seed, dev=dev, test=test),
            keys=(
                ("document", document.id),
                ("title", document.title.casefold()),
                ("text", normalised(document.text)),
            ),
        )


def find_title(title: str, text: str) -> Window | None:
    """The first mention of a title as whole words, letter case aside.

    Else of the title without a `(disambiguator)`, else of its plural in -s or -es: `Mercury (planet)` is found in
    `Mercury is hot`, `Alder` in `Alders are trees`. None when none of them stands in the text.
    """
    bare = re.sub(r"\s*\([^()]*\)\s*$", "", title).strip()
    if not bare:
        return None
    for name in (re.escape(title.strip()), re.escape(bare), rf"{re.escape(bare)}e?s"):
        if found := re.search(rf"(?<!\w){name}(?!\w)", text, re.IGNORECASE):
            return Window(*found.span())
    return None
