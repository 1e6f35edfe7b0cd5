"""Names of the columns of a corpus. Importing this loads no array library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names under which a corpus keeps the parts of a document: keys of jsonl, columns of the tables."""

    text: str = "text"
    """The text itself; the only one that must be there."""
    id: str = "id"
    """The document's name, a string or a whole number; without one, file and line or row are the name."""
    title: str = "title"
    """The document's title."""
    topic: str = "topic"
    """An editor's label of the document."""
