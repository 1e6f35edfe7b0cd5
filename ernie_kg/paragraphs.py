"""Linked paragraphs as HTML: the text with its mentions marked, each with the entity it was linked to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from kg.errors import InputError

MAX_CHARACTERS = 1200


@dataclass(frozen=True, slots=True)
class EntityName:
    """How an entity is shown: its label, and its description in the tooltip."""

    label: str
    description: str = ""


def render_paragraphs(folder: Path, *, names: Mapping[str, EntityName], number: int, seed: int) -> tuple[str, int]:
    """Paragraphs of a `link` artifact that carry at least one link, drawn by a hash of their id and the seed.

    Returns the HTML and how many there are, at most `number`.
    """
    documents = _sample(folder, number=number, seed=seed)
    return "".join(render_document(document, names=names) for document in documents), len(documents)


def render_document(document: Mapping[str, Any], *, names: Mapping[str, EntityName]) -> str:
    """One paragraph; text beyond `MAX_CHARACTERS` is cut after the last whole mention before it.

    document: a row of a linked shard: id, title, text, mentions of {start, end, entity, score}.
    """
    text, mentions = document["text"], _within(document["mentions"], document["text"], document["id"])
    shown = [mention for mention in mentions if mention["end"] <= MAX_CHARACTERS]
    pieces, done = [], 0
    for mention in shown:
        pieces += [escape(text[done : mention["start"]]), _mark(text, mention, names)]
        done = mention["end"]
    cut = len(text) > MAX_CHARACTERS
    pieces.append(escape(text[done : max(MAX_CHARACTERS, done)] if cut else text[done:]) + ("…" if cut else ""))
    title = escape(document["title"] or document["id"])
    return f'<article class="linked"><h4>{title}</h4><p>{"".join(pieces)}</p></article>'


def entity_names(graph: Path, wanted: set[str]) -> dict[str, EntityName]:
    """Labels and descriptions of a `kg build` artifact's entities, of those wanted."""
    import pyarrow.parquet as pq

    table = pq.read_table(graph / "entities.parquet", columns=["id", "label", "description"])
    rows = zip(*(table[name].to_pylist() for name in ("id", "label", "description")), strict=True)
    return {key: EntityName(label, description or "") for key, label, description in rows if key in wanted}


def linked_entities(folder: Path, *, number: int, seed: int) -> set[str]:
    """Ids of the entities that `render_paragraphs` would show."""
    documents = _sample(folder, number=number, seed=seed)
    return {mention["entity"] for document in documents for mention in document["mentions"]}


def _sample(folder: Path, *, number: int, seed: int) -> list[dict[str, Any]]:
    """The rows whose keyed hash is lowest, so that the draw is spread over all shards and stays the same."""
    import pyarrow.parquet as pq

    places = []
    for shard in sorted(folder.glob("shard-*.parquet")):
        table = pq.read_table(shard, columns=["id", "mentions"])
        counts = table["mentions"].combine_chunks()
        lengths = counts.value_lengths().to_pylist()
        for row, (name, length) in enumerate(zip(table["id"].to_pylist(), lengths, strict=True)):
            if length:
                places.append((_key(name, seed), shard, row))
    chosen = sorted(places)[:number]
    documents = {}
    for shard in sorted({shard for _, shard, _ in chosen}):
        rows = [row for _, of, row in chosen if of == shard]
        taken = pq.read_table(shard).take(rows).to_pylist()
        documents.update({(shard, row): document for row, document in zip(rows, taken, strict=True)})
    return [documents[shard, row] for _, shard, row in chosen]


def _key(name: str, seed: int) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8, key=str(seed).encode()).digest()


def _within(mentions: Sequence[Mapping[str, Any]], text: str, name: str) -> list[Mapping[str, Any]]:
    """Mentions in order; one that leaves the text or overlaps the last is a damaged shard."""
    ordered = sorted(mentions, key=lambda mention: mention["start"])
    done = 0
    for mention in ordered:
        if not done <= mention["start"] < mention["end"] <= len(text):
            raise InputError(
                f"document {name!r}: the mention [{mention['start']}, {mention['end']}) overlaps another or leaves "
                f"the text of {len(text)} characters; the linked shards are damaged, run `ernie-kg link` again"
            )
        done = mention["end"]
    return ordered


def _mark(text: str, mention: Mapping[str, Any], names: Mapping[str, EntityName]) -> str:
    name = names.get(mention["entity"], EntityName(mention["entity"]))
    about = f" — {name.description}" if name.description else ""
    tip = f"{name.label} ({mention['entity']}, score {mention['score']:.2f}){about}"
    surface = text[mention["start"] : mention["end"]]
    label = "" if name.label.casefold() == surface.casefold() else f"{name.label} "
    return f'<mark title="{escape(tip)}">{escape(surface)}<small>{escape(label)}{mention["score"]:.2f}</small></mark>'
