"""Ontologies in OBO format, 1.2 and 1.4 (geneontology.org): terms become entities, `is_a` and relationships triples.

A term's `name` is its label; `name`, exact and related synonyms and alternative ids are its aliases; `def` is its
description, `namespace` its type. `is_a`, `relationship`, `intersection_of` (genus as `is_a`, differentia as the
relationship it names) and, for instances, `instance_of` become triples. A `[Typedef]` names a relation. Cycles of
`is_a` stay, since a graph may have them, and are counted, since an ontology should not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from kg.readers.batches import ENTITIES_AT_ONCE
from kg.readers.lines import malformed, numbered_lines, size_of
from kg.records import Alias, Batch, Entity, RawGraph, ReadOptions, Relation, readable

IS_A, INSTANCE_OF = "is_a", "instance_of"
TERM, TYPEDEF, INSTANCE = "[Term]", "[Typedef]", "[Instance]"
KEPT_SCOPES = ("EXACT", "RELATED")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(\S*)')
ESCAPED = re.compile(r"\\(.)")
MEANING = {"n": " ", "t": " ", "W": " "}
REMEDY = "mend the line"


@dataclass(slots=True)
class Stanza:
    """A stanza as it is read; `kind` is its first line, `number` that line's."""

    kind: str
    number: int
    id: str = ""
    name: str = ""
    definition: str = ""
    namespace: str = ""
    obsolete: bool = False
    aliases: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


def read(source: Path, options: ReadOptions) -> RawGraph:
    """Opens an ontology; OBO has one language, so `options` say nothing to it.

    dropped: `obsolete_term`, `synonym_not_exact` (broad and narrow ones), `unknown_stanza`, `is_a_in_cycle` (kept).

    Raises:
        InputError: now, when there is no file; while walked, at a line without a tag, a synonym or definition without
            quotes, or a stanza without an id (file:line).
    """
    return RawGraph(_batches(source), total_bytes=size_of(source))


def _batches(source: Path) -> Iterator[Batch]:
    dropped: Counter[str] = Counter()
    entities, relations, facts = [], [], []
    classes: list[tuple[str, str]] = []
    for stanza in _stanzas(source, dropped):
        if stanza.kind == TYPEDEF:
            relations.append(Relation(stanza.id, stanza.name or readable(stanza.id)))
        elif stanza.obsolete:
            dropped["obsolete_term"] += 1
        else:
            entities.append(_entity(stanza))
            facts += [(stanza.id, relation, target) for relation, target in stanza.facts]
            classes += [(stanza.id, target) for relation, target in stanza.facts if relation == IS_A]
        if len(entities) == ENTITIES_AT_ONCE:
            yield _batch(entities, relations, facts)
            entities, relations, facts = [], [], []
    if cyclic := _in_cycles(classes):
        dropped["is_a_in_cycle"] += cyclic
    yield _batch(entities, relations, facts, dropped)


def _in_cycles(edges: list[tuple[str, str]]) -> int:
    """How many of the directed edges lie on a cycle: those inside a strongly connected component, and loops."""
    if not edges:
        return 0
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for edge in edges for name in edge))}
    ends = np.array([[numbers[name] for name in edge] for edge in edges])
    joined = csr_array((np.ones(len(ends), np.int8), ends.T), shape=(len(numbers), len(numbers)))
    component = connected_components(joined, connection="strong")[1]
    sizes = np.bincount(component)
    loops = ends[:, 0] == ends[:, 1]
    inside = (component[ends[:, 0]] == component[ends[:, 1]]) & (sizes[component[ends[:, 0]]] > 1)
    return int((loops | inside).sum())


def _batch(entities: list, relations: list, facts: list, dropped: Counter[str] | None = None) -> Batch:
    heads, kinds, tails = zip(*facts, strict=True) if facts else ((), (), ())
    counts = dropped or Counter()
    return Batch(entities=entities, relations=relations, heads=heads, relation_ids=kinds, tails=tails, dropped=counts)


def _entity(stanza: Stanza) -> Entity:
    label = stanza.name or readable(stanza.id)
    aliases = tuple(Alias(surface, rank=rank) for rank, surface in enumerate(dict.fromkeys([label, *stanza.aliases])))
    types = (stanza.namespace,) if stanza.namespace else ()
    return Entity(stanza.id, label, aliases, stanza.definition, types)


def _stanzas(source: Path, dropped: Counter[str]) -> Iterator[Stanza]:
    """The stanzas of known kinds; the header's default namespace serves those without one."""
    stanza, default = None, ""
    for number, raw in numbered_lines(source):
        line = _without_comment(raw).strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            if stanza:
                yield _whole(source, stanza, default)
            known = line in (TERM, TYPEDEF, INSTANCE)
            dropped.update({} if known else {"unknown_stanza": 1})
            stanza = Stanza(line, number) if known else None
            continue
        tag, colon, value = line.partition(":")
        if not colon or not tag:
            raise malformed(source, number, "tag: value", raw, REMEDY)
        if stanza:
            _take(source, number, stanza, tag.strip(), value.strip(), raw, dropped)
        elif tag == "default-namespace":
            default = value.strip()
    if stanza:
        yield _whole(source, stanza, default)


def _whole(source: Path, stanza: Stanza, default: str) -> Stanza:
    if not stanza.id:
        raise malformed(source, stanza.number, "a stanza with an id", stanza.kind, REMEDY)
    stanza.namespace = stanza.namespace or default
    return stanza


def _take(source: Path, number: int, stanza: Stanza, tag: str, value: str, raw: str, dropped: Counter[str]) -> None:
    """One tag of a stanza; tags that say nothing to a graph (xref, created_by …) are passed over."""
    if tag in ("def", "synonym"):
        found = QUOTED.match(value)
        if not found:
            raise malformed(source, number, f'{tag}: "text in quotes"', raw, REMEDY)
        text = _plain(found[1])
        if tag == "def":
            stanza.definition = text
        elif found[2] in (*KEPT_SCOPES, "") or found[2].startswith("["):
            stanza.aliases.append(text)
        else:
            dropped["synonym_not_exact"] += 1
        return
    value = _without_qualifiers(value)
    if tag == "id":
        stanza.id = value
    elif tag == "name":
        stanza.name = _plain(value)
    elif tag == "namespace":
        stanza.namespace = value
    elif tag == "is_obsolete":
        stanza.obsolete = value == "true"
    elif tag == "alt_id":
        stanza.aliases.append(value)
    elif tag in (IS_A, INSTANCE_OF):
        stanza.facts.append((tag, _named(source, number, value, raw)))
    elif tag in ("relationship", "intersection_of"):
        relation, _, target = value.partition(" ")
        if not target:
            relation, target = IS_A, relation
            if tag == "relationship":
                raise malformed(source, number, "relationship: relation target", raw, REMEDY)
        stanza.facts.append((relation, _named(source, number, target.strip(), raw)))


def _named(source: Path, number: int, value: str, raw: str) -> str:
    if not value:
        raise malformed(source, number, "the id of a term", raw, REMEDY)
    return value


def _without_comment(line: str) -> str:
    """Without what follows ` !` outside quotes; a line that begins with `!` is a comment."""
    quoted = escaped = False
    for place, character in enumerate(line):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "!" and not quoted and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


def _without_qualifiers(value: str) -> str:
    """Without a trailing `{…}`."""
    return value[: value.rindex("{")].strip() if value.endswith("}") and " {" in value else value


def _plain(text: str) -> str:
    return ESCAPED.sub(lambda found: MEANING.get(found[1], found[1]), text)
