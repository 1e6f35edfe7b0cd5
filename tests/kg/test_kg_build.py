"""`kg build` from end to end on small sources."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kg.aliases import AliasTable
from kg.artifact import open_artifact
from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.info import ambiguous_alias_share, degree_histogram, degree_table, degrees, triples_per_relation
from kg.readers.table import READERS
from kg.records import Alias, Entity

REAL = Path("/usr/share/wordnet")
TRIPLES = """\
rome\tin\titaly
milan\tin\titaly
italy\tin\teurope
rome\tin\titaly
rome\tlikes\trome
rome\tlikes\tmilan
x\tin\trome
"""
RECORDS = """\
{"id": "rome", "label": "Rome", "aliases": {"Rome": 30, "Eternal City": 1, "": 3}, "types": ["city"]}
{"id": "rome_ny", "label": "Rome", "count": 9}
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "triples.tsv").write_text(TRIPLES)
    (folder / "entities.jsonl").write_text(RECORDS)
    return folder


def built(source, tmp_path, **settings):
    config = BuildConfig(reader="tsv", source=str(source), output=tmp_path / "graph", **settings)
    return KnowledgeGraph.load(run(config)), open_artifact(config.output, stage="kg build")


def named(graph):
    """Triples by name, through the Parquet columns alone."""
    entities, relations = graph.entities["id"].to_pylist(), graph.relations["id"].to_pylist()
    return [(entities[h - 1], relations[r], entities[t - 1]) for h, r, t in graph.triples.tolist()]


def test_the_artifact_says_what_the_source_said(source, tmp_path):
    """Rows that are one off would still load, train and report."""
    graph, manifest = built(source, tmp_path)
    assert named(graph) == [
        ("rome", "in", "italy"),
        ("milan", "in", "italy"),
        ("italy", "in", "europe"),
        ("rome", "likes", "milan"),
        ("x", "in", "rome"),
    ]
    assert graph.labels == ["", "Rome", "Rome", "italy", "milan", "europe", "x"]
    assert graph.entity_vocab.row("italy") == 3
    assert graph.entities["aliases"].to_pylist()[:2] == [["Rome", "Eternal City"], ["Rome"]]
    assert manifest.counts == {"entities": 6, "relations": 2, "triples": 5, "aliases": 6}
    assert manifest.dropped == {"duplicate_triple": 1, "self_loop": 1, "empty_alias": 1, "short_alias": 1}
    assert manifest.data["headline"] == "6 entities, 5 triples"
    types = {name: str(kind) for name, kind in zip(graph.entities.schema.names, graph.entities.schema.types)}
    assert (types["row"], types["count"]) == ("int32", "int64")
    assert pq.read_schema(tmp_path / "graph" / "triples.parquet").names == ["head", "relation", "tail"]


def test_priors_follow_the_counts(source, tmp_path):
    """The linker's first signal; a prior by row order would be believed as well."""
    graph, _ = built(source, tmp_path)
    rome = [row for row in graph.aliases.to_pylist() if row["alias"] == "Rome"]
    assert [row["entity"] for row in rome] == [1, 2]
    assert [row["prior"] for row in rome] == pytest.approx([31 / 41, 10 / 41])


def test_the_same_source_gives_the_same_bytes(source, tmp_path):
    """The digest of an artifact decides what is built again."""
    _, first = built(source, tmp_path)
    _, second = built(source, tmp_path)
    assert first.digest == second.digest


def test_relations_can_be_chosen(source, tmp_path):
    """A relation that was filtered out must not keep a row that is then trained on nothing."""
    graph, manifest = built(source, tmp_path, relations_deny=("in",))
    assert named(graph) == [("rome", "likes", "milan")]
    assert graph.num_relations == 1
    assert manifest.dropped["relation_denied"] == 5
    assert manifest.dropped["relation_without_triple"] == 1
    graph, _ = built(source, tmp_path, relations_allow=("in",), min_alias_length=1)
    assert {relation for _, relation, _ in named(graph)} == {"in"}
    assert "x" in graph.aliases["alias"].to_pylist()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": "wordnett"}, r"no graph reader is named 'wordnett'; did you mean 'wordnet'\?"),
        ({"source": "auto"}, "the reader 'tsv' has no default source"),
        ({"source": "nowhere"}, "nowhere: no such file or folder"),
        ({"relations_deny": ("im",)}, "relation 'im' is not in the graph; nearest: in"),
        ({"relations_deny": ("in", "likes")}, "no triple is left"),
        ({"min_alias_length": 0}, "alias length of at least 1"),
        ({"alias_smoothing": 0.0}, "smoothing above 0"),
    ],
)
def test_wrong_settings_are_refused_and_leave_nothing(source, tmp_path, settings, message):
    """A half-written folder would be taken for a graph by a hurried reader."""
    config = BuildConfig(**({"reader": "tsv", "source": str(source), "output": tmp_path / "graph"} | settings))
    with pytest.raises(InputError, match=message):
        run(config)
    assert not list(tmp_path.glob("graph*"))


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["a", "bb", " bb ", "b  b", ""]), st.integers(0, 9), st.integers(0, 3)),
            max_size=4,
        ),
        max_size=5,
    ),
    st.sampled_from([0.1, 1.0, 3.0]),
)
def test_priors_are_the_formula(entities, smoothing):
    """Against plain dictionaries: p = (count + s / (1 + rank)) / sum, equal surfaces of an entity joined."""
    table = AliasTable(min_length=2, smoothing=smoothing)
    weights = defaultdict(dict)
    dropped = Counter()
    for row, aliases in enumerate(entities, 1):
        table.add(row, Entity(str(row), "x", tuple(Alias(*alias) for alias in aliases)))
        for surface in {" ".join(name.split()) for name, _, _ in aliases}:
            same = [(count, rank) for name, count, rank in aliases if " ".join(name.split()) == surface]
            if len(surface) < 2:
                dropped["short_alias" if surface else "empty_alias"] += len(same)
            else:
                weights[surface][row] = sum(c for c, _ in same) + smoothing / (1 + min(r for _, r in same))
    found = {(row["alias"], row["entity"]): row["prior"] for row in table.table().to_pylist()}
    expected = {(s, row): w / sum(of.values()) for s, of in weights.items() for row, w in of.items()}
    assert found == pytest.approx(expected, rel=1e-6)
    assert table.dropped == dropped


def test_figures_agree_with_networkx(source, tmp_path):
    """An independent count of what the report shows."""
    graph, manifest = built(source, tmp_path)
    other = graph.to_networkx()
    assert sorted((h, r, t) for h, t, r in other.edges(keys=True)) == sorted(named(graph))
    assert degrees(graph).tolist() == [0] + [other.degree(name) for name in graph.entity_vocab]
    assert degree_table(graph, top=1) == [{"id": "rome", "label": "Rome", "degree": 3, "as_head": 2, "as_tail": 1}]
    assert degree_histogram(graph) == [
        {"from": 0, "to": 0, "entities": nx.number_of_isolates(other)},
        {"from": 1, "to": 1, "entities": 2},
        {"from": 2, "to": 3, "entities": 3},
    ]
    assert [(row["relation"], row["triples"]) for row in triples_per_relation(graph)] == [("in", 4), ("likes", 1)]
    assert ambiguous_alias_share(graph) == pytest.approx(1 / 5)
    assert manifest.figures["isolated_entities"] == 1
    assert json.dumps(manifest.figures)


def test_tables_that_do_not_fit_are_refused(source, tmp_path):
    """A triple to a row past the table would index another entity's vector, or crash deep in training."""
    graph, _ = built(source, tmp_path)
    parts = {"entities": graph.entities, "relations": graph.relations, "aliases": graph.aliases}
    for wrong in ([0, 0, 1], [1, 0, 7], [1, 2, 1], [1, -1, 1]):
        with pytest.raises(InputError, match="outside"):
            KnowledgeGraph(**parts, triples=np.array([wrong]))
    with pytest.raises(InputError, match="expected rows 1, 2"):
        KnowledgeGraph(**(parts | {"entities": graph.entities.slice(1)}), triples=graph.triples)
    pq.write_table(pa.table({"row": [1]}), tmp_path / "graph" / "entities.parquet")
    with pytest.raises(InputError, match=r"entities.parquet"):
        KnowledgeGraph.load(tmp_path / "graph")


def test_importing_the_stage_is_light():
    """`kg build --help` must not wait for numpy, pyarrow or torch."""
    heavy = ("numpy", "pyarrow", "torch", "networkx", "rich")
    code = f"import sys, kg.build; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_every_reader_says_what_it_reads():
    """The error for a missing source quotes it."""
    assert set(READERS) == {"wordnet", "tsv"}
    assert all(reader.reads for reader in READERS.values())


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "data.noun").exists(), reason="Debian's wordnet-base is not installed")
def test_wordnet_builds_within_its_memory(tmp_path):
    """The embedded default: 82,115 entities, every one reachable, in well under 1 GB."""
    folder = tmp_path / "graph"
    config = f"output=Path({str(folder)!r}), source={str(REAL)!r}"
    code = f"from pathlib import Path; from kg.build import BuildConfig, run; run(BuildConfig({config}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    graph = KnowledgeGraph.load(folder)
    manifest = open_artifact(folder, stage="kg build")
    assert manifest.counts["entities"] == 82_115
    assert manifest.figures["isolated_entities"] == 0
    ends = (graph.triples[:, 0] - 1, graph.triples[:, 2] - 1)
    adjacency = coo_array((np.ones(graph.num_triples), ends), shape=(graph.num_entities, graph.num_entities))
    assert connected_components(adjacency, directed=False, return_labels=False) == 1
    assert manifest.data["peak_memory_bytes"] < 1_000_000_000
    dog = [row for row in graph.aliases.to_pylist() if row["alias"] == "dog"]
    assert graph.entity_vocab.identifier(dog[0]["entity"]) == "dog%1:05:00::"
    assert [row["prior"] for row in dog] == sorted((row["prior"] for row in dog), reverse=True)
    assert sum(row["prior"] for row in dog) == pytest.approx(1)
    assert len({round(row["prior"], 9) for row in dog}) == len(dog) == 7
