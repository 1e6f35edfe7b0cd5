"""OBO ontologies: what a term, a typedef and an instance become, and what is refused."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.errors import InputError
from kg.readers import obo
from kg.records import Alias, Entity, ReadOptions, Relation

ONTOLOGY = """\
format-version: 1.2
default-namespace: things
! a comment

[Term]
id: GO:1
name: water\\, frozen ! not a part of it
namespace: matter
def: "Ice: \\"hard\\" water." [ref:1, "x"] {source="y"}
synonym: "ice" EXACT []
synonym: "cold stuff" BROAD [GO:9]
synonym: "H2O(s)" RELATED []
synonym: "glace" [FR:1]
alt_id: GO:0001
xref: Wiki:Ice "a page"
is_a: GO:2 {is_inferred="true"} ! water
relationship: part_of GO:3 ! glacier
intersection_of: GO:2 ! water
intersection_of: has_state GO:4

[Term]
id: GO:2
name: water
is_a: GO:1

[Term]
id: GO:7
name: phlogiston
is_obsolete: true
is_a: GO:2

[Typedef]
id: part_of
name: part of

[Instance]
id: I:1
name: that glacier
instance_of: GO:1

[Annotation]
id: x
"""


def walk(path, text):
    path.write_text(text, encoding="utf-8")
    entities, relations, triples, dropped = [], [], [], Counter()
    for batch in obo.read(path, ReadOptions()).batches:
        entities += batch.entities
        relations += batch.relations
        triples += zip(batch.heads, batch.relation_ids, batch.tails, strict=True)
        dropped += batch.dropped
    return entities, relations, triples, dropped


def test_an_ontology_says_what_it_means(tmp_path):
    """A comment read as a part of a name, or an obsolete term kept, is in the model for good."""
    entities, relations, triples, dropped = walk(tmp_path / "o.obo", ONTOLOGY)
    surfaces = ("water, frozen", "ice", "H2O(s)", "glace", "GO:0001")
    assert entities == [
        Entity(
            "GO:1",
            "water, frozen",
            tuple(Alias(surface, rank=rank) for rank, surface in enumerate(surfaces)),
            'Ice: "hard" water.',
            ("matter",),
        ),
        Entity("GO:2", "water", (Alias("water"),), "", ("things",)),
        Entity("I:1", "that glacier", (Alias("that glacier"),), "", ("things",)),
    ]
    assert relations == [Relation("part_of", "part of")]
    assert triples == [
        ("GO:1", "is_a", "GO:2"),
        ("GO:1", "part_of", "GO:3"),
        ("GO:1", "is_a", "GO:2"),
        ("GO:1", "has_state", "GO:4"),
        ("GO:2", "is_a", "GO:1"),
        ("I:1", "instance_of", "GO:1"),
    ]
    assert dropped == {"obsolete_term": 1, "synonym_not_exact": 1, "unknown_stanza": 1, "is_a_in_cycle": 3}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Term]\nname: x\n", r"o.obo:1: expected a stanza with an id"),
        ("[Term]\nid: a\nno tag here\n", r"o.obo:3: expected tag: value"),
        ("[Term]\nid: a\ndef: bare\n", r"o.obo:3: expected def: \"text in quotes\""),
        ("[Term]\nid: a\nsynonym: 'x' EXACT\n", r"o.obo:3: expected synonym"),
        ("[Term]\nid: a\nis_a: ! nothing\n", r"o.obo:3: expected the id of a term"),
        ("[Term]\nid: a\nrelationship: part_of\n", r"o.obo:3: expected relationship: relation target"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, message):
    """A line passed over is a fact less."""
    with pytest.raises(InputError, match=message):
        walk(tmp_path / "o.obo", text)


names = st.from_regex(r"[A-Za-z][A-Za-z ,()]{0,8}[a-z]", fullmatch=True)
terms = st.lists(
    st.tuples(names, st.lists(names, max_size=2), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(terms)
def test_a_made_ontology_comes_back(tmp_path, found):
    """Cycles and repeated parents are a graph like any other."""
    lines = ["format-version: 1.4"]
    for number, (name, synonyms, parents) in enumerate(found):
        lines += ["", "[Term]", f"id: T:{number}", f"name: {name}"]
        lines += [f'synonym: "{synonym}" EXACT []' for synonym in synonyms]
        lines += [f"is_a: T:{parent} ! said again" for parent in parents]
    entities, _, triples, _ = walk(tmp_path / "o.obo", "\n".join(lines))
    assert [(e.label, [a.surface for a in e.aliases]) for e in entities] == [
        (name, list(dict.fromkeys([name, *synonyms]))) for name, synonyms, _ in found
    ]
    assert triples == [(f"T:{n}", "is_a", f"T:{p}") for n, (_, _, parents) in enumerate(found) for p in parents]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_whatever_the_text_the_reader_yields_or_says_why(tmp_path, text):
    """Any other exception is a traceback in somebody's terminal."""
    try:
        walk(tmp_path / "o.obo", "[Term]\nid: a\n" + text)
    except InputError:
        return


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_classes_that_are_their_own_ancestors_are_counted(tmp_path, edges):
    """A tree walk over a cyclic ontology does not end; whoever builds on one must be able to see it."""
    terms = "".join(
        f"[Term]\nid: T:{n}\n" + "".join(f"is_a: T:{target}\n" for source, target in sorted(edges) if source == n)
        for n in range(6)
    )
    found = walk(tmp_path / "o.obo", terms)
    graph = nx.DiGraph(sorted(edges))
    expected = sum(nx.has_path(graph, target, source) for source, target in edges)
    assert found[3] == ({"is_a_in_cycle": expected} if expected else {})
    assert len(found[2]) == len(edges), "they stay"
