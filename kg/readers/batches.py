"""Streams cut into batches, for readers that make their records and triples one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from kg.records import Batch, Entity

ENTITIES_AT_ONCE = 20_000
TRIPLES_AT_ONCE = 100_000


def entity_batches(entities: Iterable[Entity]) -> Iterator[Batch]:
    """Records, some thousands at a time."""
    stream = iter(entities)
    while records := list(islice(stream, ENTITIES_AT_ONCE)):
        yield Batch(entities=records)


def triple_batches(triples: Iterable[tuple[str, str, str]], *, split: str = "") -> Iterator[Batch]:
    """Triples (head, relation, tail) in columns, some thousands at a time."""
    stream = iter(triples)
    while rows := list(islice(stream, TRIPLES_AT_ONCE)):
        heads, relations, tails = zip(*rows, strict=True)
        yield Batch(heads=heads, relation_ids=relations, tails=tails, split=split)
