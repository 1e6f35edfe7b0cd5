"""Finding an entity by what a person types, and showing what is around it."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg import query
from kg.errors import InputError
from kg.graph import ALIASES, ENTITIES, RELATIONS, KnowledgeGraph
from kg.query import answer, describe, find, nearest_names, tree

TRIPLES = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2), st.integers(1, 6)), max_size=40, unique=True)


def graph_with(
    labels, aliases=(), triples=(), *, ids=None, relations=("born_in", "P31", "likes"), relation_labels=None
):
    """labels: by row. aliases: (surface, row, prior)."""
    size = len(labels)
    own = [[surface for surface, row, _ in aliases if row == number] for number in range(1, size + 1)]
    columns = [range(1, size + 1), ids or [f"Q{row}" for row in range(1, size + 1)], labels, own]
    columns += [["described"] * size, [["human"]] * size, [7] * size]
    columns_of_aliases = list(zip(*aliases)) or [[], [], []]
    return KnowledgeGraph(
        entities=pa.table([pa.array(c, f.type) for c, f in zip(columns, ENTITIES)], schema=ENTITIES),
        relations=pa.table(
            [range(len(relations)), list(relations), list(relation_labels or relations)], schema=RELATIONS
        ),
        aliases=pa.table([pa.array(list(c), f.type) for c, f in zip(columns_of_aliases, ALIASES)], schema=ALIASES),
        triples=np.array(triples, np.int32).reshape(-1, 3),
    )


PARIS = [("Hilton", 3, 1.0), ("Paris", 1, 0.7), ("Paris", 2, 0.2), ("Paris", 3, 0.1), ("paris", 2, 1.0)]
CITIES = graph_with(["Paris", "Paris, Texas", "Paris Hilton", "Lyon", "A"], [*PARIS, ("Lyon", 4, 1.0)])


def rows(found):
    return [match.row for match in found]


def test_names_are_tried_from_the_strictest_to_the_loosest():
    """A looser way that is tried too early hides what the person typed exactly."""
    assert rows(find(CITIES, "Q3")) == [3]
    assert [(m.row, round(m.prior, 3)) for m in find(CITIES, "Paris")] == [(1, 0.7), (2, 0.2), (3, 0.1)]
    assert rows(find(CITIES, "  Paris ")) == [1, 2, 3]
    assert rows(find(CITIES, "paris")) == [2]
    assert rows(find(CITIES, "PARIS")) == [2, 1, 3]
    assert rows(find(CITIES, "lYON")) == [4]
    assert rows(find(CITIES, "A")) == [5]
    assert rows(find(CITIES, "q5")) == [5]


def test_an_id_comes_before_a_name_and_does_not_hide_it():
    """In a file of names an id is often another entity's alias."""
    graph = graph_with(["First", "Second"], [("rome", 2, 1.0)], ids=["rome", "rome_ny"])
    assert [(m.row, m.prior) for m in find(graph, "rome")] == [(1, None), (2, 1.0)]


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_an_empty_name_is_refused(name):
    with pytest.raises(InputError, match="expected the name or the id of an entity, got an empty one"):
        find(CITIES, name)


@pytest.mark.parametrize("compared", [20_000, 3])
def test_an_unknown_name_names_the_nearest(compared, monkeypatch):
    """The way for large graphs looks at few names only; it must not look past the right one."""
    monkeypatch.setattr(query, "COMPARED_AT_MOST", compared)
    assert nearest_names(CITIES, "Pariss Hilton")[0] == "Paris Hilton"
    assert nearest_names(CITIES, "Lion")[0] == "Lyon"
    with pytest.raises(InputError, match="no entity has the name or the id 'Lion'; nearest: 'Lyon'"):
        find(CITIES, "Lion")
    with pytest.raises(InputError, match=r"'zzzzzzzzzz'$"):
        find(CITIES, "zzzzzzzzzz")


def test_several_entities_are_listed_and_the_likeliest_shown():
    text = answer(CITIES, "Paris", neighbours=5, relations=5)
    listing, first = text.split("\n\nlabel ")
    assert "'Paris' means 3 entities" in listing
    assert [line.split()[0] for line in listing.split("\n")[4:]] == ["0.700", "0.200", "0.100"]
    assert re.search(r"^id +Q1$", first, re.MULTILINE)
    assert "means" not in answer(CITIES, "Lyon", neighbours=5, relations=5)


@given(TRIPLES, st.integers(1, 6))
def test_the_tree_has_every_triple_of_the_entity_once(triples, row):
    """A neighbour in the wrong direction reads like a fact."""
    graph = graph_with([f"e{number}" for number in range(1, 7)], triples=triples)
    found, branch = [], None
    for line in tree(graph, row, neighbours=99, relations=99).split("\n"):
        if heads := re.fullmatch(r"[├└]── (.+) ([→←]) (?:\(\d+\)|e\d \(Q(\d)\))", line):
            branch = (heads[1], heads[2])
            found += [(*branch, int(heads[3]))] if heads[3] else []
        elif leaf := re.fullmatch(r"(?:│   |    )[├└]── e\d \(Q(\d)\)", line):
            found.append((*branch, int(leaf[1])))
        else:
            assert line == ""
    names = graph.relation_vocab.identifiers
    outward = [(names[r], "→", t) for h, r, t in triples if h == row]
    inward = [(names[r], "←", h) for h, r, t in triples if t == row]
    assert sorted(found) == sorted(outward + inward)


def test_what_a_tree_does_not_show_is_counted():
    hub = [(1, 0, other) for other in range(2, 7)] + [(other, 1, 1) for other in (2, 3)] + [(1, 2, 2)]
    text = tree(graph_with([f"e{n}" for n in range(1, 7)], triples=hub), 1, neighbours=2, relations=2)
    assert "├── born_in → (5)" in text
    assert "│   └── … and 3 more" in text
    assert text.endswith("└── … and 1 relation more, with 1 neighbour")
    assert "likes" not in text


def test_relations_show_their_id_where_the_label_is_another():
    names = ("born in", "instance of", "likes")
    graph = graph_with(["a", "b"], triples=[(1, 0, 2), (1, 1, 2)], relation_labels=names)
    assert tree(graph, 1, neighbours=1, relations=9) == "├── born_in → b (Q2)\n└── instance of (P31) → b (Q2)"


def test_an_entity_alone_is_shown_without_a_tree():
    text = describe(CITIES, 4, neighbours=3, relations=3)
    assert re.search(r"^triples +0: 0 as head, 0 as tail$", text, re.MULTILINE)
    assert text.endswith("\n\nLyon")


def test_nothing_a_graph_holds_drives_the_terminal():
    bad = "\x1b]0;owned\x07\x9bx\u202ey"
    graph = graph_with(
        [bad, "b"], [(bad, 1, 1.0), ("b", 1, 0.5), ("b", 2, 0.5)], [(2, 0, 1)], relations=(bad,), ids=[f"{bad}1", "b2"]
    )
    shown = answer(graph, "b", neighbours=2, relations=2) + answer(graph, "b2", neighbours=2, relations=2)
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    with pytest.raises(InputError) as error:
        find(graph, bad.replace("owned", "ownd"))
    assert not set(str(error.value)) & set("\x1b\x07\x9b\u202e")
