"""Figures of a graph, and the page `kg info` makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.artifact import write_artifact
from kg.errors import InputError
from kg.graph import ALIASES, ENTITIES, RELATIONS, KnowledgeGraph
from kg.info import components, degree_table, entities_per_type, figures, relation_audit, split_sizes
from kg.overview import overview, overview_figures, overview_json
from kg.tables import pairs, plain, shortened, table, width

ESCAPE = "\x1b[31mred\x07\u202e\x9b2J"
TRIPLES = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(1, 6)), max_size=40, unique=True)


@dataclass(frozen=True)
class Saved:
    output: Path
    reader: str = "tsv"

    def inputs(self):
        return {}


def small(triples, *, entities=6, relations=4, labels=None, types=None):
    names = labels or [f"e{row}" for row in range(1, entities + 1)]
    lists = [[name] for name in names]
    columns = [range(1, len(names) + 1), [f"id{n}" for n in range(len(names))], names, lists, [""] * len(names)]
    columns += [types or [[] for _ in names], [0] * len(names)]
    relation_ids = [f"r{row}" for row in range(relations)]
    return KnowledgeGraph(
        entities=pa.table([pa.array(c, f.type) for c, f in zip(columns, ENTITIES)], schema=ENTITIES),
        relations=pa.table([range(relations), relation_ids, relation_ids], schema=RELATIONS),
        aliases=pa.table([names, range(1, len(names) + 1), [1.0] * len(names)], schema=ALIASES),
        triples=np.array(triples, np.int32).reshape(-1, 3),
    )


def saved(graph, folder, dropped=()):
    with write_artifact(Saved(output=folder), stage="kg build") as writer:
        graph.save(writer.path)
        writer.dropped.update(dict(dropped))
    return folder


@given(TRIPLES)
def test_components_are_those_networkx_finds(triples):
    """Rows that are one off would join the padding row to everything."""
    graph = small(triples)
    sizes = sorted((len(part) for part in nx.weakly_connected_components(graph.to_networkx())), reverse=True)
    assert components(graph, top=3) == {"number": len(sizes), "largest": sizes[:3], "largest_share": sizes[0] / 6}


@given(TRIPLES, st.sampled_from([0.3, 0.6, 0.9]))
def test_the_audit_is_what_counting_by_hand_finds(triples, above):
    """A pair that is missed leaks the test set; one that is made up costs a relation."""
    by_relation = {row: {(h, t) for h, r, t in triples if r == row and h != t} for row in range(4)}
    sizes = {row: sum(r == row for _, r, _ in triples) for row in range(4)}
    expected = set()
    for r, s in ((r, s) for r in range(4) for s in range(4) if (sizes[r], r) <= (sizes[s], s)):
        turned = {(t, h) for h, t in by_relation[s]}
        for kind, other in (("duplicate", by_relation[s]), ("inverse", turned)):
            shared = len(by_relation[r] & other)
            if (kind, r) != ("duplicate", s) and sizes[r] and shared / sizes[r] > above:
                kind = "symmetric" if r == s else kind
                expected.add((kind, f"r{r}", f"r{s}", shared, shared / sizes[r], shared / sizes[s]))
    found = relation_audit(small(triples), above=above)
    assert {tuple(pair.values()) for pair in found} == expected
    assert [pair["shared"] for pair in found] == sorted((pair["shared"] for pair in found), reverse=True)


def test_types_are_counted_and_the_frequent_come_first():
    graph = small([], types=[["city", "port"], ["city"], [], ["port"], ["river"], ["city"]])
    assert entities_per_type(graph, top=2) == [{"type": "city", "entities": 3}, {"type": "port", "entities": 2}]


def test_a_graph_without_an_entity_or_a_triple_has_figures():
    """An empty table is where means and shares divide by zero."""
    nothing = small([], entities=0, relations=0)
    assert components(nothing) == {"number": 0, "largest": [], "largest_share": 0.0}
    assert relation_audit(nothing) == []
    assert degree_table(nothing) == []
    assert figures(small([]))["components"]["number"] == 6
    assert not np.isnan(figures(nothing)["mean_degree"])


def test_split_sizes_only_where_a_split_was_published():
    graph = small([(1, 0, 2), (2, 0, 3), (3, 0, 4)])
    assert split_sizes(graph) == {}
    graph.splits = np.array([0, 2, 0], np.int8)
    assert split_sizes(graph) == {"train": 2, "valid": 0, "test": 1}
    assert figures(graph)["split_sizes"] == {"train": 2, "valid": 0, "test": 1}


def test_the_page_shows_what_the_graph_holds(tmp_path):
    """Every list is cut at `top`; what is hidden is said, or the reader takes the page for the whole."""
    triples = [(1, 0, 2), (2, 1, 1), (1, 0, 3), (3, 1, 1), (4, 2, 5)]
    folder = saved(small(triples), tmp_path / "graph", {"self_loop": 7})
    page = overview(folder, top=2)
    assert "entities          6\n" in page
    assert "components        3, the largest holds 50.0 % of the entities" in page
    assert "inverse" in page
    assert "100.0 %" in page
    assert "… and 2 more" in page
    assert "7  self_loop" in " ".join(page.split("\n"))
    assert all(line == line.rstrip() for line in page.split("\n"))


def test_json_is_the_same_figures(tmp_path):
    folder = saved(small([(1, 0, 2)], labels=[ESCAPE, "b", "c"]), tmp_path / "graph")
    text = overview_json(folder, top=5)
    assert json.loads(text) == overview_figures(folder, top=5)
    assert not set(text) & set("\x1b\x07\u202e\x9b")
    assert json.loads(text)["highest_degrees"][0]["label"] == ESCAPE


def test_a_label_cannot_drive_the_terminal(tmp_path):
    """A dump's label with an escape code would clear the screen, or write over the line above."""
    folder = saved(small([(1, 0, 2)], labels=[ESCAPE, "two\nlines", "[bold]c[/bold]"]), tmp_path / "graph")
    page = overview(folder, top=5)
    assert not set(page) & set("\x1b\x07\u202e\x9b")
    assert "two lines" in page
    assert "[bold]c[/bold]" in page


@given(st.text(max_size=60), st.integers(8, 30), st.booleans())
def test_shortened_text_is_plain_and_fits(text, columns, middle):
    short = shortened(text, columns, middle=middle)
    assert width(short) <= columns
    assert plain(short) == short
    assert width(plain(text)) > columns or short == plain(text)


def test_columns_stand_under_each_other_in_any_script():
    lines = table(("name", "n"), [("東京", 1), ("e\u0301a", 22)], right=(1,)).split("\n")
    assert [width(line) for line in lines] == [8, 8, 8, 8]
    assert pairs([("a", 1), ("long", "x")]) == "a     1\nlong  x"


def test_another_artifact_is_refused(tmp_path):
    with write_artifact(Saved(output=tmp_path / "vectors"), stage="kg embed"):
        pass
    with pytest.raises(InputError, match="made by `ernie-kg kg embed`, expected one made by `ernie-kg kg build`"):
        overview(tmp_path / "vectors", top=5)
