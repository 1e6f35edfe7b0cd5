"""N-Triples: `graph.nt`, for RDF stores.

An id that is an absolute IRI stands as it is (`http://www.wikidata.org/entity/Q42`, but also `GO:0008150`); any
other, percent-encoded, behind `urn:ernie-kg:entity:`, `urn:ernie-kg:relation:` or `urn:ernie-kg:type:`. Label:
`rdfs:label`; every other alias: `skos:altLabel`; description: `schema:description`; types: `rdf:type`. Literals
carry no language, because the graph keeps none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from pyoxigraph import NamedNode

from kg.graph import KnowledgeGraph
from kg.writers.rows import entity_records, named_triples, split_names

FILE = "graph.nt"
PREFIX = "urn:ernie-kg:"
LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
ALIAS = "<http://www.w3.org/2004/02/skos/core#altLabel>"
DESCRIPTION = "<http://schema.org/description>"
TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
ESCAPED = re.compile('["\\\\\x00-\x1f\x7f]')
SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write(graph: KnowledgeGraph, folder: Path, *, vectors: Path | None = None) -> Counter[str]:
    """Writes graph.nt: relations' labels, entities, triples.

    Returns: what N-Triples has no place for: `entity_count` (counts above 0), `triple_split` (published splits).
    """
    relations = _iris("relation", graph.relation_vocab.identifiers)
    entities = ["", *_iris("entity", graph.entity_vocab.identifiers)]
    dropped: Counter[str] = Counter()
    with (folder / FILE).open("w", encoding="utf-8", newline="\n") as file:
        for iri, label in zip(relations, graph.relations["label"].to_pylist(), strict=True):
            file.write(f"{iri} {LABEL} {literal(label)} .\n")
        for entity in entity_records(graph):
            file.writelines(_entity_lines(entities[entity["row"]], entity))
            dropped["entity_count"] += entity["count"] > 0
        for head, relation, tail in named_triples(graph, entities, relations):
            file.write(f"{head} {relation} {tail} .\n")
    if splits := split_names(graph):
        dropped["triple_split"] = len(splits)
    return +dropped


def iri(kind: str, name: str) -> str:
    """`<IRI>` of an id.

    >>> iri("entity", "http://x.org/a"), iri("entity", "New York"), iri("relation", "/a/b")
    ('<http://x.org/a>', '<urn:ernie-kg:entity:New%20York>', '<urn:ernie-kg:relation:%2Fa%2Fb>')
    """
    return f"<{name}>" if is_iri(name) else f"<{PREFIX}{kind}:{quote(name, safe='')}>"


def is_iri(name: str) -> bool:
    """Whether the name is an absolute IRI as N-Triples wants it."""
    if ":" not in name:
        return False
    try:
        NamedNode(name)
    except ValueError:
        return False
    return True


def literal(text: str) -> str:
    """The text in quotes, escaped.

    >>> print(literal('say "hi"'))
    "say \\\\"hi\\\\""
    """
    return f'"{ESCAPED.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    return SHORT.get(found[0]) or f"\\u{ord(found[0]):04X}"


def _iris(kind: str, names: list[str]) -> list[str]:
    """One IRI a name, no two alike: an id that looks like another id's made-up IRI is encoded itself."""
    own, known = f"{PREFIX}{kind}:", set(names)
    return [
        f"<{own}{quote(name, safe='')}>"
        if name.startswith(own) and unquote(name.removeprefix(own)) in known
        else iri(kind, name)
        for name in names
    ]


def _entity_lines(subject: str, entity: dict) -> Iterator[str]:
    yield f"{subject} {LABEL} {literal(entity['label'])} .\n"
    for alias in entity["aliases"]:
        if alias != entity["label"]:
            yield f"{subject} {ALIAS} {literal(alias)} .\n"
    if entity["description"]:
        yield f"{subject} {DESCRIPTION} {literal(entity['description'])} .\n"
    for name in entity["types"]:
        yield f"{subject} {TYPE} {iri('type', name)} .\n"
