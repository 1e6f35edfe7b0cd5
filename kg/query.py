"""`kg query`: an entity by id or name, what the graph says of it, and its neighbours as a small tree."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from kg.errors import InputError
from kg.graph import FIRST_ENTITY_ROW, KnowledgeGraph
from kg.info import degrees
from kg.records import readable
from kg.tables import and_more, counted, pairs, plain, shortened, table

pc: Any = pyarrow.compute  # its functions are made when it is loaded: no type checker sees them
NEAREST = 3
COMPARED_AT_MOST = 20_000  # names an edit distance is worth; more take seconds
LISTED_ALIASES = 8
LISTED_ENTITIES = 20


@dataclass(frozen=True, slots=True)
class Match:
    """An entity that a name means.

    row: of the entity. surface: the name as the graph has it. prior: p(entity | surface), None where the graph has no
    prior: an id, or a label too short to be an alias.
    """

    row: int
    surface: str
    prior: float | None


def find(graph: KnowledgeGraph, name: str) -> list[Match]:
    """Every entity that a name means, the likeliest first: by id, then by exact name, then in any case of letters.

    The entity of that id comes before those of that name. Any case is tried only when nothing is called so exactly.

    Raises:
        InputError: an empty name, or one that no entity has; the nearest are named.
    """
    surface = " ".join(name.split())
    if not surface:
        raise InputError("expected the name or the id of an entity, got an empty one")
    found = _by_id(graph, name) + _by_name(graph, surface)
    if not found:
        found = _in_any_case(graph, surface)
    if not found:
        near = [f"{plain(text)!r}" for text in nearest_names(graph, surface)]
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise InputError(f"no entity has the name or the id {surface!r}{hint}")
    best: dict[int, Match] = {}
    for match in found:
        best.setdefault(match.row, match)
    return list(best.values())


def nearest_names(graph: KnowledgeGraph, name: str, *, n: int = NEAREST) -> list[str]:
    """Names in the graph that differ little from `name`, the nearest first; at most n."""
    lowered = name.lower()
    surfaces = pc.unique(
        pa.chunked_array([*graph.aliases["alias"].chunks, *graph.entities["label"].chunks], pa.string())
    )
    if len(surfaces) > COMPARED_AT_MOST:
        surfaces = _worth_comparing(surfaces, lowered)
    by_lower: dict[str, str] = {}
    for surface in surfaces.to_pylist():
        by_lower.setdefault(surface.lower(), surface)
    return [by_lower[text] for text in difflib.get_close_matches(lowered, by_lower, n, cutoff=0.6)]


def answer(graph: KnowledgeGraph, name: str, *, neighbours: int, relations: int) -> str:
    """What `kg query` prints: all entities of the name when there are several, the first one in full.

    neighbours: shown under each relation and direction. relations: shown, the largest.

    Raises:
        InputError: see `find`.
    """
    matches = find(graph, name)
    shown = describe(graph, matches[0].row, neighbours=neighbours, relations=relations)
    return f"{_listing(graph, name, matches)}\n\n{shown}" if len(matches) > 1 else shown


def describe(graph: KnowledgeGraph, row: int, *, neighbours: int, relations: int) -> str:
    """An entity in full: names, description, types, counts, and its tree of neighbours."""
    entity = graph.entities.slice(row - FIRST_ENTITY_ROW, 1).to_pylist()[0]
    as_head, as_tail = (int((graph.triples[:, column] == row).sum()) for column in (0, 2))
    others = [alias for alias in entity["aliases"] if alias != entity["label"]]
    rows = [
        ("label", entity["label"]),
        ("id", entity["id"]),
        ("description", entity["description"] or "none"),
        ("types", ", ".join(entity["types"]) or "none"),
        ("other names", _listed(others) or "none"),
        ("count", f"{entity['count']:,}"),
        ("triples", f"{as_head + as_tail:,}: {as_head:,} as head, {as_tail:,} as tail"),
    ]
    branches = tree(graph, row, neighbours=neighbours, relations=relations)
    return "\n\n".join([pairs(rows, widest=200), f"{shortened(entity['label'], 100)}\n{branches}".rstrip()])


def tree(graph: KnowledgeGraph, row: int, *, neighbours: int, relations: int) -> str:
    """The triples around an entity, a branch for each relation and direction, the largest first; "" without any.

    Neighbours of higher degree come first. An arrow points from head to tail: `→` at a branch of tails.
    """
    groups = _groups(graph, row)
    weight = degrees(graph)
    lines: list[str] = []
    for number, (relation, outward, rows) in enumerate(groups[:relations], start=1):
        last = number == len(groups)
        name = relation_text(graph, relation)
        name = f"{name} →" if outward else f"{name} ←"
        shown = rows[np.argsort(-weight[rows], kind="stable")][:neighbours].tolist()
        fork, stem = ("└── ", "    ") if last else ("├── ", "│   ")
        if len(rows) == 1:
            lines.append(f"{fork}{name} {entity_text(graph, shown[0])}")
            continue
        lines.append(f"{fork}{name} ({len(rows):,})")
        leaves = [entity_text(graph, other) for other in shown]
        if len(rows) > len(shown):
            leaves.append(and_more(len(rows) - len(shown)))
        lines += [f"{stem}├── {leaf}" for leaf in leaves[:-1]] + [f"{stem}└── {leaves[-1]}"]
    if len(groups) > relations:
        hidden = sum(len(rows) for *_, rows in groups[relations:])
        rest = counted(len(groups) - relations, "relation", "relations")
        lines.append(f"└── … and {rest} more, with {counted(hidden, 'neighbour', 'neighbours')}")
    return "\n".join(lines)


def entity_text(graph: KnowledgeGraph, row: int) -> str:
    """`label (id)` on one line."""
    label, identifier = (graph.entities[name][row - FIRST_ENTITY_ROW].as_py() for name in ("label", "id"))
    return _named(label, identifier)


def relation_text(graph: KnowledgeGraph, row: int) -> str:
    """`label (id)` on one line, the id alone where the label only repeats it."""
    label, identifier = (graph.relations[name][row].as_py() for name in ("label", "id"))
    return _named(identifier if label == readable(identifier) else label, identifier)


def _named(label: str, identifier: str) -> str:
    short = shortened(identifier, 60, middle=True)
    return short if label == identifier else f"{shortened(label, 60)} ({short})"


def _by_id(graph: KnowledgeGraph, name: str) -> list[Match]:
    place = pc.index(graph.entities["id"], pa.scalar(name, pa.string())).as_py()
    return [Match(place + FIRST_ENTITY_ROW, name, None)] if place >= 0 else []


def _by_name(graph: KnowledgeGraph, surface: str) -> list[Match]:
    """By alias, the largest prior first, then by labels that are no alias."""
    return _aliased(graph, pc.equal(graph.aliases["alias"], surface)) + _labelled(
        graph, pc.equal(graph.entities["label"], surface)
    )


def _in_any_case(graph: KnowledgeGraph, surface: str) -> list[Match]:
    lowered = surface.lower()
    identifiers = pc.equal(pc.utf8_lower(graph.entities["id"]), lowered)
    found = _aliased(graph, pc.equal(pc.utf8_lower(graph.aliases["alias"]), lowered))
    found += _labelled(graph, pc.equal(pc.utf8_lower(graph.entities["label"]), lowered))
    return found + [Match(match.row, surface, None) for match in _labelled(graph, identifiers)]


def _aliased(graph: KnowledgeGraph, chosen: pa.ChunkedArray) -> list[Match]:
    lines = graph.aliases.filter(chosen).sort_by([("prior", "descending"), ("entity", "ascending")]).to_pylist()
    return [Match(line["entity"], line["alias"], line["prior"]) for line in lines]


def _labelled(graph: KnowledgeGraph, chosen: pa.ChunkedArray) -> list[Match]:
    lines = graph.entities.select(["row", "label"]).filter(chosen).to_pylist()
    return [Match(line["row"], line["label"], None) for line in lines]


def _worth_comparing(surfaces: pa.Array, lowered: str) -> pa.Array:
    """Of a large graph's names those of about the same length that start alike or share the longest word."""
    slack = max(3, len(lowered) // 3)
    lengths = pc.utf8_length(surfaces)
    surfaces = surfaces.filter(
        pc.and_(pc.greater_equal(lengths, len(lowered) - slack), pc.less_equal(lengths, len(lowered) + slack))
    )
    lower = pc.utf8_lower(surfaces)
    for start in (lowered[:1], lowered[:2], lowered[:3], lowered[:4]):
        chosen = surfaces.filter(
            pc.or_(pc.starts_with(lower, start), pc.match_substring(lower, max(lowered.split(), key=len)))
        )
        if len(chosen) <= COMPARED_AT_MOST:
            break
    return chosen[:COMPARED_AT_MOST]


def _groups(graph: KnowledgeGraph, row: int) -> list[tuple[int, bool, np.ndarray]]:
    """(relation, whether the entity is the head, rows at the other end), the largest first."""
    groups = []
    for outward, (own, other) in ((True, (0, 2)), (False, (2, 0))):
        found = graph.triples[graph.triples[:, own] == row]
        for relation in np.unique(found[:, 1]).tolist():
            groups.append((relation, outward, found[found[:, 1] == relation, other]))
    return sorted(groups, key=lambda group: (-len(group[2]), not group[1], group[0]))


def _listing(graph: KnowledgeGraph, name: str, matches: list[Match]) -> str:
    rows = []
    for match in matches[:LISTED_ENTITIES]:
        entity = graph.entities.slice(match.row - FIRST_ENTITY_ROW, 1).to_pylist()[0]
        prior = "by id" if match.surface == entity["id"] and match.prior is None else "-"
        prior = prior if match.prior is None else f"{match.prior:.3f}"
        rows.append((prior, match.surface, entity["label"], entity["id"], entity["description"]))
    rest = f"\n{and_more(len(matches) - LISTED_ENTITIES)}" if len(matches) > LISTED_ENTITIES else ""
    title = f"{plain(name)!r} means {len(matches):,} entities; the first of them in full below"
    return f"{title}\n\n{table(('prior', 'name', 'label', 'id', 'description'), rows, right=(0,))}{rest}"


def _listed(names: list[str]) -> str:
    text = ", ".join(shortened(name, 60) for name in names[:LISTED_ALIASES])
    return f"{text}, {and_more(len(names) - LISTED_ALIASES)}" if len(names) > LISTED_ALIASES else text
