"""A Wikidata JSON dump: one entity a line inside an array, packed or not.

Items become entities: their label, aliases and description in the asked languages (see `ReadOptions.languages`; `mul`
serves for any), the items of `P31` as types, the number of sitelinks as count. Properties become relations. Of an
item's statements those between items are kept that Wikidata calls truthy: the preferred ones of a property where it
has any, else the normal ones.

Lines are parsed by orjson: parsing is two thirds of the time, and lazy parsers (pysimdjson) are not needed to stay
ahead of unpacking.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from kg.errors import InputError
from kg.readers.lines import blocks, malformed, size_of
from kg.records import Alias, Batch, Entity, RawGraph, ReadOptions, Relation

ANY_LANGUAGE = "mul"
INSTANCE_OF = "P31"
BRACKETS = (b"[", b"]")


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens a dump; goes on at `options.position`, an offset into its unpacked text.

    A statement about an item that the dump does not hold is dropped by the stage as `unknown_entity`.

    dropped: `statement_deprecated`, `statement_not_best_rank`, `statement_not_item` (a literal), `statement_no_value`
        (unknown or none), `lexeme`, `no_label` (kept: its id is its label), `blank_line`.

    Raises:
        InputError: now, when there is no file; while walked, at a line that is no entity (file:line), or at the end,
            when the array is not closed: the dump was cut off.
    """
    return RawGraph(_batches(source, options), closed=True, total_bytes=size_of(source))


def _batches(source: Path, options: ReadOptions) -> Iterator[Batch]:
    languages = tuple(dict.fromkeys((*options.languages, ANY_LANGUAGE)))
    position, last = options.position, b""
    for block, number in blocks(source, skip=options.position):
        piece = _Piece(languages)
        with _collector_paused():
            for place, line in enumerate(block.split(b"\n"), number):
                line = line.strip()
                if line:
                    last = line
                if line and line not in BRACKETS:
                    piece.add(source, place, line)
        position += len(block)
        yield piece.batch(position=position, bytes_read=len(block))
    if not last.endswith(b"]"):
        raise InputError(f"{source}: expected `]` at its end, the dump was cut off; fetch it again")


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Parsed lines are trees of thousands of objects without a cycle, and looking for one takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Piece:
    """What the lines of a block say, collected into columns."""

    def __init__(self, languages: Sequence[str]) -> None:
        self._languages = languages
        self._entities: list[Entity] = []
        self._relations: list[Relation] = []
        self._columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        self._dropped: Counter[str] = Counter()

    def add(self, source: Path, number: int, line: bytes) -> None:
        """Takes over a line.

        Raises:
            InputError: it is no entity.
        """
        try:
            record = orjson.loads(line.removesuffix(b",").removesuffix(b"]") if line[-1:] in b",]" else line)
            kind, name = record["type"], record["id"]
            if kind == "item":
                self._item(name, record)
            elif kind == "property":
                self._relations.append(Relation(name, self._text(record.get("labels")) or name))
            else:
                self._dropped[kind] += 1
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            expected, shown = f"an entity as in a Wikidata JSON dump ({reason})", line.decode("utf-8", "replace")
            raise malformed(source, number, expected, shown, "fetch the dump again") from None

    def batch(self, *, position: int, bytes_read: int) -> Batch:
        heads, relations, tails = self._columns
        return Batch(
            entities=self._entities,
            relations=self._relations,
            heads=heads,
            relation_ids=relations,
            tails=tails,
            dropped=self._dropped,
            position=position,
            bytes_read=bytes_read,
        )

    def _item(self, name: str, record: dict[str, Any]) -> None:
        count = len(record.get("sitelinks") or ())
        label = self._text(record.get("labels"))
        if not label:
            self._dropped["no_label"] += 1
        claims = record.get("claims")
        types = self._statements(name, claims) if claims else ()
        surfaces = {label: None} if label else {}
        if aliases := record.get("aliases"):
            for code in self._languages:
                for alias in aliases.get(code, ()):
                    surfaces[alias["value"]] = None
        known = tuple([Alias(surface, count, rank) for rank, surface in enumerate(surfaces)])
        description = self._text(record.get("descriptions"))
        self._entities.append(Entity(name, label or name, known, description, types, count))

    def _text(self, texts: dict[str, Any] | None) -> str:
        """In the first of the languages that has one; empty maps are written as empty arrays."""
        if texts:
            for code in self._languages:
                if found := texts.get(code):
                    return found["value"]
        return ""

    def _statements(self, name: str, claims: dict[str, Any]) -> tuple[str, ...]:
        """Adds the item's truthy statements about items; returns its types."""
        _, relations, tails = self._columns
        before = len(tails)
        types: tuple[str, ...] = ()
        for relation, statements in claims.items():
            if len(statements) == 1 and statements[0]["rank"] != "deprecated":  # most are: one look-up after the other
                snak = statements[0]["mainsnak"]
                if snak["snaktype"] == "value" and (found := snak["datavalue"])["type"] == "wikibase-entityid":
                    value = found["value"]
                    if value["entity-type"] == "item":
                        target = value.get("id") or f"Q{value['numeric-id']}"
                        relations.append(relation)
                        tails.append(target)
                        if relation == INSTANCE_OF:
                            types = (target,)
                        continue
            targets = self._targets(statements)
            relations.extend([relation] * len(targets))
            tails.extend(targets)
            if relation == INSTANCE_OF:
                types = tuple(targets)
        self._columns[0].extend([name] * (len(tails) - before))
        return types

    def _targets(self, statements: list[dict[str, Any]]) -> list[str]:
        """The items that the best statements of one property name, each once."""
        if len(statements) > 1:
            statements = self._best(statements)
        elif statements[0]["rank"] == "deprecated":
            self._dropped["statement_deprecated"] += 1
            return []
        targets: dict[str, None] = {}
        for statement in statements:
            snak = statement["mainsnak"]
            if snak["snaktype"] != "value":
                self._dropped["statement_no_value"] += 1
                continue
            value = snak["datavalue"]
            if value["type"] != "wikibase-entityid" or value["value"]["entity-type"] != "item":
                self._dropped["statement_not_item"] += 1
                continue
            targets[value["value"].get("id") or f"Q{value['value']['numeric-id']}"] = None
        return list(targets)

    def _best(self, statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ranks = [statement["rank"] for statement in statements]
        best = "preferred" if "preferred" in ranks else "normal"
        kept = [statement for statement, rank in zip(statements, ranks, strict=True) if rank == best]
        deprecated = ranks.count("deprecated")
        if deprecated:
            self._dropped["statement_deprecated"] += deprecated
        if lesser := len(ranks) - deprecated - len(kept):
            self._dropped["statement_not_best_rank"] += lesser
        return kept
