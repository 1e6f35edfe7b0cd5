"""Every format is read back by somebody else's reader, with names that are hard to write."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

import networkx as nx
import numpy as np
import pyarrow as pa
import pyoxigraph as ox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kg import build
from kg.artifact import read_manifest, write_artifact
from kg.errors import InputError
from kg.export import FORMATS, ExportConfig, run
from kg.graph import ALIASES, ENTITIES, RELATIONS, KnowledgeGraph
from kg.writers import graphml, node_link, ntriples, openke, tsv

HARD = [
    "New York",
    "http://www.wikidata.org/entity/Q42",
    "GO:0008150",
    'say "hi" & <b>\\n</b>',
    "東京 é\u0301 🇩🇴",
    "a%20b",
    "urn:ernie-kg:entity:New%20York",
    "http://not an iri",
    "x:",
    "#'|,;",
]
HARDER = ["tab\there", "two\nlines", "return\rhere", "bell\x07", "nul\x00", "\ufffe", "\x85\u2028"]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


@dataclass(frozen=True)
class Saved:
    output: Path
    read: dict[str, Path] = field(default_factory=dict)

    def inputs(self):
        return self.read


def graph_of_names(names, triples, relations=("in", "http://x.org/p", "likes it"), *, aliases=None, types=None):
    """Entities named (id and label) so; aliases: (surface, row, prior), their own labels when not given."""
    size = len(names)
    aliases = [(name, row, 1.0) for row, name in enumerate(names, 1)] if aliases is None else aliases
    own = [[surface for surface, row, _ in aliases if row == number] for number in range(1, size + 1)]
    types = types or [["a type", "http://x.org/T"] if row % 2 else [] for row in range(size)]
    columns = [range(1, size + 1), names, names, own, names, types, range(size)]
    surfaces = list(zip(*aliases)) or [[], [], []]
    return KnowledgeGraph(
        entities=pa.table([pa.array(c, f.type) for c, f in zip(columns, ENTITIES)], schema=ENTITIES),
        relations=pa.table([range(len(relations)), relations, [f"{r}!" for r in relations]], schema=RELATIONS),
        aliases=pa.table([pa.array(list(c), f.type) for c, f in zip(surfaces, ALIASES)], schema=ALIASES),
        triples=np.array(triples, np.int32).reshape(-1, 3),
    )


def ring(names):
    size = len(names)
    return graph_of_names(names, [(n + 1, n % 3, (n + 1) % size + 1) for n in range(size)] + [(1, 1, 2), (2, 0, 1)])


def saved(graph, folder):
    with write_artifact(Saved(output=folder), stage="kg build") as writer:
        graph.save(writer.path)
    return folder


def named(graph):
    entities, relations = ["", *graph.entity_vocab], graph.relation_vocab.identifiers
    return [(entities[h], relations[r], entities[t]) for h, r, t in graph.triples.tolist()]


def test_node_link_json_is_the_networkx_graph(tmp_path):
    graph = ring(HARD + HARDER)
    node_link.write(graph, tmp_path)
    read = nx.node_link_graph(json.loads((tmp_path / node_link.FILE).read_bytes()), edges="edges")
    assert nx.utils.graphs_equal(read, graph.to_networkx())


def as_graphml(graph):
    """What a GraphML reader should get of the graph: nodes with their data, and edges by relation."""
    nodes = {}
    for entity in graph.entities.to_pylist():
        data = {"label": entity["label"], "description": entity["description"], "count": entity["count"]}
        data["types"] = "|".join(entity["types"])
        nodes[entity["id"]] = {key: value for key, value in data.items() if value != ""}
    return nodes, sorted((h, t, r, f"{r}!") for h, r, t in named(graph))


def read_graphml(path):
    read = nx.read_graphml(path, force_multigraph=True)
    edges = sorted((h, t, data["relation"], data["label"]) for h, t, data in read.edges(data=True))
    return dict(read.nodes(data=True)), edges


def test_graphml_is_what_networkx_reads(tmp_path):
    """A tab inside an attribute comes back as a space unless it is escaped, and renames the node."""
    graph = ring([*HARD, "tab\there", "two\nlines", "return\rhere"])
    assert graphml.write(graph, tmp_path) == {}
    assert read_graphml(tmp_path / graphml.FILE) == as_graphml(graph)


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=5, unique=True))
def test_graphml_of_any_names_parses(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("graphml")
    graph = ring(names)
    cleaned = [graphml.FORBIDDEN.sub("\ufffd", name) for name in names]
    if len(set(cleaned)) < len(names):
        with pytest.raises(InputError, match="differ only in characters that XML cannot hold"):
            graphml.write(graph, folder)
        return
    dropped = graphml.write(graph, folder)
    nodes, edges = read_graphml(folder / graphml.FILE)
    assert set(nodes) == set(cleaned)
    assert len(edges) == graph.num_triples
    assert bool(dropped) == (cleaned != names)


def test_characters_that_xml_cannot_hold_are_counted(tmp_path):
    graph = graph_of_names(["bell\x07\x08", "ok"], [(1, 0, 2)], relations=("r\x01",))
    assert graphml.write(graph, tmp_path) == {"xml_character": 2 * 3 + 2}
    assert set(read_graphml(tmp_path / graphml.FILE)[0]) == {"bell\ufffd\ufffd", "ok"}


def parsed(folder):
    return list(ox.parse((folder / ntriples.FILE).read_bytes(), format=ox.RdfFormat.N_TRIPLES))


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT | st.sampled_from(HARD + HARDER), min_size=2, max_size=8, unique=True))
def test_ntriples_are_valid_and_say_the_same(tmp_path_factory, names):
    """Two ids under one IRI would merge two entities without a word."""
    folder = tmp_path_factory.mktemp("nt")
    graph = ring(names)
    ntriples.write(graph, folder)
    quads = [(q.subject, q.predicate.value, q.object) for q in parsed(folder)]
    by_label = {o.value: s for s, p, o in quads if p.endswith("#label")}
    assert {name for name in names if name in by_label} == set(names)
    assert len({by_label[name] for name in names}) == len(names)
    relations = {by_label[f"{name}!"].value: name for name in graph.relation_vocab}
    names_of = {by_label[name]: name for name in names}
    facts = [(names_of[s], relations[p], names_of[o]) for s, p, o in quads if p in relations]
    assert facts == named(graph)
    assert {o.value for _, p, o in quads if p == "http://schema.org/description"} == set(names)


def test_ntriples_keep_iris_and_write_names_and_types(tmp_path):
    aliases = [("label", 1, 1.0), ("other", 1, 1.0)]
    graph = graph_of_names(["label", "http://x.org/a"], [(1, 1, 2)], aliases=aliases, types=[["a type", "x:T"], []])
    assert ntriples.write(graph, tmp_path) == {"entity_count": 1}
    lines = (tmp_path / ntriples.FILE).read_text().splitlines()
    assert "<urn:ernie-kg:entity:label> <http://x.org/p> <http://x.org/a> ." in lines
    assert '<urn:ernie-kg:entity:label> <http://www.w3.org/2004/02/skos/core#altLabel> "other" .' in lines
    assert sum("altLabel" in line for line in lines) == 1
    types = [line.split()[2] for line in lines if "rdf-syntax-ns#type" in line]
    assert types == ["<urn:ernie-kg:type:a%20type>", "<x:T>"]


def numbers(path):
    """As OpenKE's C++ reads it: a count, then so many triples of white-space separated numbers."""
    words = [int(word) for word in path.read_text().split()]
    assert len(words) == 1 + 3 * words[0]
    return np.array(words[1:]).reshape(-1, 3)


def test_the_openke_layout_is_the_graph_from_zero(tmp_path):
    """Head, tail, relation: in the order of every other format the numbers would still load, and mean nothing."""
    graph = ring(HARD)
    openke.write(graph, tmp_path)
    names = {}
    for kind in ("entity", "relation"):
        first, *lines = (tmp_path / f"{kind}2id.txt").read_text().split("\n")[:-1]
        names[kind] = [line.split("\t")[0] for line in lines]
        assert [int(line.split("\t")[1]) for line in lines] == list(range(int(first)))
    found = [
        (names["entity"][h], names["relation"][r], names["entity"][t]) for h, t, r in numbers(tmp_path / "train2id.txt")
    ]
    assert found == named(graph)
    words = iter(map(int, (tmp_path / "type_constrain.txt").read_text().split()))
    assert next(words) == graph.num_relations
    for relation in range(graph.num_relations):
        for column in (0, 2):
            assert next(words) == relation
            met = {next(words) for _ in range(next(words))}
            assert met == set((graph.triples[graph.triples[:, 1] == relation, column] - 1).tolist())
    assert next(words, None) is None


def test_published_splits_keep_their_files(tmp_path):
    graph = ring(HARD)
    graph.splits = np.arange(graph.num_triples, dtype=np.int8) % 3
    openke.write(graph, tmp_path)
    tsv.write(graph, tmp_path)
    for number, name in enumerate(("train", "valid", "test")):
        part = graph.triples[graph.splits == number]
        assert (numbers(tmp_path / f"{name}2id.txt")[:, [0, 2, 1]] + [1, 0, 1]).tolist() == part.tolist()
        lines = (tmp_path / f"{name}.tsv").read_text().splitlines()
        assert [tuple(line.split("\t")) for line in lines] == [
            fact for fact, split in zip(named(graph), graph.splits.tolist()) if split == number
        ]
    assert not (tmp_path / "triples.tsv").exists()
    assert ntriples.write(graph, tmp_path)["triple_split"] == graph.num_triples
    graphml.write(graph, tmp_path)
    edges = nx.read_graphml(tmp_path / graphml.FILE, force_multigraph=True).edges(data="split")
    assert sorted(split for *_, split in edges) == sorted(["train", "valid", "test"] * 4)


def test_vectors_keep_every_bit_and_the_layout_the_first_ernie_reads(tmp_path):
    graph_folder = saved(ring(HARD), tmp_path / "graph")
    table = np.random.default_rng(0).normal(size=(11, 5)).astype(np.float32)
    table[3], table[4, 0] = 0.0, 1e-20
    vectors = Saved(output=tmp_path / "vectors", read={"graph": graph_folder})
    with write_artifact(vectors, stage="kg embed") as writer:
        save_file({"entity_embeddings": table}, writer.path / "entity_embeddings.safetensors")
        save_file({"relation_embeddings": table[:3]}, writer.path / "relation_embeddings.safetensors")
    config = ExportConfig(graph=graph_folder, vectors=vectors.output, output=tmp_path / "out", format="openke")
    folder = run(config)
    lines = (folder / "entity2vec.vec").read_text().split("\n")
    assert lines.pop() == ""
    assert all(line.endswith("\t") for line in lines)
    read = np.array([[float(number) for number in line.strip().split("\t")] for line in lines])
    np.testing.assert_array_equal(read.astype(np.float32), table[1:])
    assert np.loadtxt(folder / "relation2vec.vec", dtype=np.float32).tolist() == table[:3].tolist()
    assert set(read_manifest(folder).data["inputs"]) == {"graph", "vectors"}
    other = saved(graph_of_names(["a", "b"], [(1, 0, 2)]), tmp_path / "other")
    with pytest.raises(InputError, match="is not the graph that"):
        run(ExportConfig(graph=other, vectors=vectors.output, output=tmp_path / "out", format="openke"))
    assert (tmp_path / "out" / "entity2vec.vec").exists()
    assert not (tmp_path / "out.partial").exists()


@given(st.lists(st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 5)), min_size=1, max_size=5), max_size=8))
def test_counts_give_the_same_priors_again(senses):
    """Counts and ranks are gone when a graph is written; the priors are what the linker sees."""
    groups = np.repeat(np.arange(len(senses)), [len(sense) for sense in senses])
    weights = np.array([count + 1 / (1 + rank) for sense in senses for count, rank in sense])
    priors = (weights / np.bincount(groups, weights)[groups]).astype(np.float32) if len(weights) else weights
    counts = tsv.whole_counts(groups, priors.astype(np.float32))
    assert (counts >= 0).all()
    again = (counts + 1) / np.bincount(groups, counts + 1)[groups] if len(counts) else counts
    np.testing.assert_allclose(again, priors, rtol=3e-7)


def test_small_counts_come_back_as_they_were():
    groups, counts = np.array([0, 0, 1, 1, 1, 2]), np.array([30, 9, 0, 5, 2, 0])
    priors = ((counts + 1) / np.bincount(groups, counts + 1)[groups]).astype(np.float32)
    assert tsv.whole_counts(groups, priors).tolist() == counts.tolist()


def rebuilt(source, folder):
    return KnowledgeGraph.load(build.run(build.BuildConfig(reader="tsv", source=str(source), output=folder)))


def assert_same(graph, again):
    assert again.entities.equals(graph.entities)
    assert named(again) == named(graph)
    assert again.relations["label"].to_pylist() == graph.relations["label"].to_pylist()
    columns = ["alias", "entity"]
    assert again.aliases.select(columns).equals(graph.aliases.select(columns))
    np.testing.assert_allclose(again.aliases["prior"].to_numpy(), graph.aliases["prior"].to_numpy(), rtol=1e-6)


def test_tsv_comes_back_as_the_same_graph(tmp_path):
    """Aliases, their priors, types, counts and entities without a triple: all of it, or an export is a loss."""
    source = tmp_path / "source"
    source.mkdir()
    records = [
        {"id": "rome", "label": "Rome", "aliases": {"Rome": 30, "Eternal City": 1}, "types": ["city"], "count": 5},
        {"id": "rome_ny", "label": "Rome", "count": 9, "description": 'in "NY"'},
        {"id": "it", "label": "Italy", "aliases": ["Italia", "Eternal City"], "count": 3},
        {"id": "alone", "label": "Alone  and apart"},
    ]
    (source / "entities.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (source / "triples.tsv").write_text("rome\tin\tit\nrome_ny\tlikes\trome\nx\tin\trome\nit\tlikes\tx\n")
    (source / "relations.tsv").write_text("likes\tis fond of\nin\tlies in\n")
    graph = rebuilt(source, tmp_path / "graph")
    assert graph.relations["label"].to_pylist() == ["is fond of", "lies in"]
    exported = run(ExportConfig(graph=tmp_path / "graph", output=tmp_path / "out", format="tsv"))
    assert_same(graph, rebuilt(exported, tmp_path / "again"))
    assert read_manifest(exported).dropped == {}


def test_a_first_triple_that_looks_like_a_header_is_kept(tmp_path):
    graph = graph_of_names(["head", "tail"], [(1, 0, 2)], relations=("relation",))
    tsv.write(graph, tmp_path)
    assert rebuilt(tmp_path, tmp_path / "again").num_triples == 1


@pytest.mark.parametrize(("module", "name"), [(tsv, "a\tb"), (tsv, " "), (openke, "two\nlines")])
def test_a_name_that_would_break_a_line_is_refused(module, name, tmp_path):
    """Written all the same it would be two columns, and the file another graph."""
    with pytest.raises(InputError, match=r"entity id .* cannot stand in .*export as graphml"):
        module.write(graph_of_names([name, "b"], [(1, 0, 2)]), tmp_path)


def test_every_format_has_a_module_and_a_value_of_the_option(tmp_path):
    """One that is only in the table cannot be asked for; one that is only in the option fails late."""
    assert set(FORMATS) == set(get_args(get_type_hints(ExportConfig)["format"]))
    graph = saved(ring(HARD), tmp_path / "graph")
    for name in FORMATS:
        folder = run(ExportConfig(graph=graph, output=tmp_path / name, format=name))
        manifest = read_manifest(folder)
        assert manifest.stage == "kg export"
        assert manifest.counts == {"entities": 10, "relations": 3, "triples": 12}


def test_vectors_beside_another_format_are_refused():
    with pytest.raises(InputError, match="expected vectors with format openke only, got format tsv"):
        ExportConfig(graph=Path("g"), output=Path("o"), format="tsv", vectors=Path("v"))
