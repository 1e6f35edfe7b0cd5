"""Graphs of networkx: files and objects, and what must not be opened."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.export import ExportConfig
from kg.export import run as export
from kg.graph import KnowledgeGraph
from kg.readers import networkx as reader
from kg.records import Alias, Entity, ReadOptions


def collected(raw):
    entities, triples = [], []
    for batch in raw.batches:
        entities += batch.entities
        triples += zip(batch.heads, batch.relation_ids, batch.tails, strict=True)
    return entities, triples


def walk(source):
    return collected(reader.read(source, ReadOptions()))


def made():
    graph = nx.MultiDiGraph()
    graph.add_node("rome", label="Rome", description="a city", types=["city"], aliases="Roma|Eternal City", count=7)
    graph.add_edge("rome", "italy", key="in")
    graph.add_edge("rome", "italy", relation="capital of")
    graph.add_edge(3, "italy", type="likes")
    graph.add_edge(3, "rome")
    return graph


TRIPLES = [
    ("rome", "in", "italy"),
    ("rome", "capital of", "italy"),
    ("3", "likes", "italy"),
    ("3", "related_to", "rome"),
]


def test_a_graph_in_memory_is_a_source():
    """An edge key that is a number is no relation; a name that is no text becomes one."""
    entities, triples = collected(reader.from_networkx(made()))
    aliases = (Alias("Rome", 7, 0), Alias("Roma", 7, 1), Alias("Eternal City", 7, 2))
    assert entities[0] == Entity("rome", "Rome", aliases, "a city", ("city",), 7)
    assert [entity.id for entity in entities] == ["rome", "italy", "3"]
    assert triples == TRIPLES
    undirected = nx.Graph([("b", "a")])
    assert collected(reader.from_networkx(undirected))[1] == [("b", "related_to", "a")]


@pytest.mark.parametrize("form", ["graphml", "networkx-json"])
def test_what_kg_export_writes_comes_back(tmp_path, form):
    """The two must agree on where a relation stands, or every fact becomes `related_to`."""
    (tmp_path / "t.tsv").write_text("a\tr\tb\nb\ts\tc\na\ts\tb\n")
    first = run(BuildConfig(reader="tsv", source=str(tmp_path / "t.tsv"), output=tmp_path / "first"))
    folder = export(ExportConfig(graph=first, format=form, output=tmp_path / "out"))
    (file,) = [path for path in folder.iterdir() if path.name != "manifest.json"]
    second = run(BuildConfig(reader="networkx", source=str(file), output=tmp_path / "second"))

    def named(folder):
        graph = KnowledgeGraph.load(folder)
        ids, kinds = ["", *graph.entity_vocab], graph.relation_vocab.identifiers
        return Counter((ids[h], kinds[r], ids[t]) for h, r, t in graph.triples.tolist())

    assert named(first) == named(second)


def test_files_say_what_the_graph_says(tmp_path):
    """GraphML and edge lists through networkx's own writers."""
    graph = made()
    graph.nodes["rome"]["types"] = "city"
    nx.write_graphml(graph, tmp_path / "g.graphml")
    entities, triples = walk(tmp_path / "g.graphml")
    assert entities[0].types == ("city",)
    assert sorted(triples) == sorted(TRIPLES)
    (tmp_path / "g.edgelist.gz").write_bytes(
        gzip.compress(b"# heads first\na b\nb c {'relation': 'x y', 'weight': 2}\n\nc\ta\tfar from\n")
    )
    assert walk(tmp_path / "g.edgelist.gz")[1] == [("a", "related_to", "b"), ("b", "x y", "c"), ("c", "far from", "a")]
    (tmp_path / "g.json").write_text(json.dumps(nx.node_link_data(made(), edges="edges")))
    assert sorted(walk(tmp_path / "g.json")[1]) == sorted(TRIPLES)


BOMB = '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">]><graphml>&b;</graphml>'


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.graphml", BOMB, "without a document type"),
        ("g.graphml", "<graphml", "expected GraphML"),
        ("g.graphml", BOMB.encode("utf-16"), "expected GraphML in UTF-8"),
        ("g.json", "[1, 2]", "expected node-link JSON"),
        ("g.json", "{", "expected node-link JSON"),
        ("g.edgelist", "a\n", r"g.edgelist:1: expected two nodes"),
        ("g.edgelist", "a b {'x'\n", r"g.edgelist:1: expected \{'key': value\}"),
        ("g.pickle", "x", r"expected an ending of \.graphml, .* got \.pickle"),
    ],
)
def test_a_damaged_or_dangerous_file_is_refused(tmp_path, name, text, message):
    """Entities of XML that name each other fill any memory; a pickle runs any code."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        walk(tmp_path / name)


@pytest.mark.faults
def test_an_attribute_of_another_type_is_named():
    graph = nx.DiGraph()
    graph.add_node("a", count="many")
    with pytest.raises(InputError, match="node 'a': expected count to be a whole number"):
        collected(reader.from_networkx(graph))
    graph = nx.DiGraph()
    graph.add_node("a", types=7)
    with pytest.raises(InputError, match="node 'a': expected types to be texts"):
        collected(reader.from_networkx(graph))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.binary(max_size=60), st.sampled_from([".graphml", ".json", ".edgelist"]))
def test_whatever_the_bytes_the_reader_yields_or_says_why(tmp_path, data, ending):
    """Any other exception is a traceback in somebody's terminal."""
    (tmp_path / f"x{ending}").write_bytes(data)
    try:
        walk(tmp_path / f"x{ending}")
    except InputError:
        return
