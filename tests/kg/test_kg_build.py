"""`kg build` from end to end on small sources."""

from __future__ import annotations

import gzip
import importlib.util
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

from kg.aliases import AliasWeights, alias_table
from kg.artifact import open_artifact
from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.info import ambiguous_alias_share, degree_histogram, degree_table, degrees, triples_per_relation
from kg.readers.table import READERS, Reader
from kg.records import Alias, Batch, Entity, RawGraph

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
    policy, counted = AliasWeights(min_length=2, smoothing=smoothing), Counter()
    places: list[tuple[str, int, float]] = []
    weights = defaultdict(dict)
    dropped = Counter()
    for row, aliases in enumerate(entities, 1):
        kept = policy.of((Alias(*alias) for alias in aliases), counted)
        places += [(surface, row, weight) for surface, weight in kept.items()]
        for surface in {" ".join(name.split()) for name, _, _ in aliases}:
            same = [(count, rank) for name, count, rank in aliases if " ".join(name.split()) == surface]
            if len(surface) < 2:
                dropped["short_alias" if surface else "empty_alias"] += len(same)
            else:
                weights[surface][row] = sum(c for c, _ in same) + smoothing / (1 + min(r for _, r in same))
    surfaces, rows, sizes = ([place[column] for place in places] for column in range(3))
    found = alias_table(pa.chunked_array([pa.array(surfaces, pa.string())]), np.array(rows, np.int32), np.array(sizes))
    assert found == found.sort_by([("alias", "ascending"), ("prior", "descending"), ("entity", "ascending")])
    found = {(row["alias"], row["entity"]): row["prior"] for row in found.to_pylist()}
    expected = {(s, row): w / sum(of.values()) for s, of in weights.items() for row, w in of.items()}
    assert found == pytest.approx(expected, rel=1e-6)
    assert counted == dropped


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
    assert all(reader.reads for reader in READERS.values())
    for name, reader in READERS.items():
        assert reader.module == f"kg.readers.{name}"
        assert Path(importlib.util.find_spec(reader.module).origin).exists(), name


def published(folder, **files):
    folder.mkdir()
    for name, lines in files.items():
        packed = "".join(f"{line}\n" for line in lines).replace(" ", "\t").encode()
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(packed))
    return folder


def test_a_published_split_goes_with_its_triples(tmp_path):
    """A test triple that is also a training triple, or moved with the filters, makes any score look good."""
    source = published(
        tmp_path / "source",
        train=["a r b", "b r c", "a s c", "a r b"],
        valid=["c r a", "b r c"],
        test=["a r d", "d s d", "c r a"],
    )
    graph, manifest = built(source, tmp_path, min_alias_length=1)
    split_of = dict(zip(named(graph), graph.splits.tolist(), strict=True))
    expected = {("a", "r", "b"): 0, ("b", "r", "c"): 0, ("a", "s", "c"): 0, ("c", "r", "a"): 1, ("a", "r", "d"): 2}
    assert split_of == expected
    assert manifest.dropped == {"duplicate_triple": 1, "duplicate_across_splits": 2, "self_loop": 1}
    assert manifest.figures["unseen_test_entities"] == 1
    assert manifest.figures["unseen_valid_entities"] == 0
    assert pq.read_schema(tmp_path / "graph" / "triples.parquet").names == ["head", "relation", "tail", "split"]
    graph, _ = built(source, tmp_path, keep_self_loops=True)
    assert ("d", "s", "d") in named(graph)
    without = published(tmp_path / "half", valid=["a r b"])
    with pytest.raises(InputError, match=r"expected triples\.tsv in it"):
        built(without, tmp_path)


def test_filters_apply_to_the_graph_that_is_written(source, tmp_path):
    """Filters are tested by themselves; here it is that every option reaches its own, on rows that fit."""
    (source / "entities.jsonl").write_text(
        RECORDS
        + '{"id": "italy", "types": ["country"], "count": 50}\n{"id": "milan", "types": ["city"], "count": 20}\n'
    )
    everything = named(built(source, tmp_path)[0])
    assert len(everything) == 5
    found, manifest = built(source, tmp_path, types_allow=("city", "country"))
    assert set(named(found)) == {("rome", "in", "italy"), ("milan", "in", "italy"), ("rome", "likes", "milan")}
    assert manifest.dropped["type_not_allowed"] == 2
    found, _ = built(source, tmp_path, types_deny=("city",))
    assert set(named(found)) == {("italy", "in", "europe")}
    found, manifest = built(source, tmp_path, min_count=20)
    assert set(named(found)) == {("milan", "in", "italy")}
    assert manifest.dropped["low_count"] == 4
    found, manifest = built(source, tmp_path, k_core=2, keep_isolated=False)
    assert set(named(found)) == {("rome", "in", "italy"), ("milan", "in", "italy"), ("rome", "likes", "milan")}
    assert found.num_entities == 3
    assert manifest.dropped["isolated_entity"] == 3
    found, _ = built(source, tmp_path, min_relation_triples=2)
    assert {relation for _, relation, _ in named(found)} == {"in"}
    found, _ = built(source, tmp_path, min_degree=2)
    assert ("x", "in", "rome") not in named(found)
    facts = tmp_path / "facts.tsv"
    facts.write_text("italy\tx\trome\nmilan\tin\tnowhere\n")
    found, manifest = built(source, tmp_path, leave_out=(facts,))
    assert set(named(found)) == {("italy", "in", "europe"), ("rome", "likes", "milan"), ("x", "in", "rome")}
    assert manifest.dropped["fact_pair"] == 1
    assert manifest.dropped["fact_head_relation"] == 1


@pytest.mark.faults
def test_what_is_too_long_is_cut_and_counted(tmp_path):
    """A label of ten megabytes would be read, indexed and printed by every stage after this one."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "triples.tsv").write_text("a\tr\tb\n")
    (source / "entities.jsonl").write_text(json.dumps({"id": "a", "label": "x" * 10_000_000}) + "\n")
    graph, manifest = built(source, tmp_path)
    assert len(graph.labels[1]) == 1_000
    assert manifest.dropped == {"label_cut": 1, "long_alias": 1, "short_alias": 1}


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"\n\n \n"])
def test_an_empty_source_is_no_graph(tmp_path, content):
    """An artifact of nothing would fail three stages later."""
    (tmp_path / "triples.tsv").write_bytes(content)
    with pytest.raises(InputError, match="no triple is left"):
        built(tmp_path / "triples.tsv", tmp_path)


@pytest.mark.faults
def test_a_newer_artifact_is_refused(source, tmp_path):
    """Read as if it were of today, it would be misread."""
    built(source, tmp_path)
    path = tmp_path / "graph" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "version": "9.0"}))
    with pytest.raises(InputError, match=r"format 99, written by version 9\.0"):
        KnowledgeGraph.load(tmp_path / "graph")


def dump_reader(monkeypatch, *, fails_after=None):
    """A made reader of ten batches that can fail; what it was asked to begin at."""
    begun = []

    def read(source, options):
        begun.append(options.position)

        def batches():
            for number in range(options.position, 10):
                if number == fails_after:
                    raise InputError("the dump was cut off")
                records = [Entity(f"e{number}", f"Entity {number}", (Alias(f"Entity {number}"),))]
                yield Batch(
                    entities=records,
                    heads=[f"e{number}"],
                    relation_ids=["next"],
                    tails=[f"e{number + 1}"],
                    dropped=Counter(odd=1),
                    position=number + 1,
                )

        return RawGraph(batches(), closed=True)

    made = importlib.util.module_from_spec(importlib.util.spec_from_loader("made_reader", None))
    made.read = read
    monkeypatch.setitem(sys.modules, "made_reader", made)
    monkeypatch.setitem(READERS, "made", Reader("made_reader", "anything", resumable=True))
    return begun


@pytest.mark.faults
def test_an_interrupted_read_goes_on_where_it_was(tmp_path, monkeypatch):
    """A dump takes hours: reading it again from the beginning, or twice in part, must not happen."""
    (tmp_path / "dump").write_text("x")
    configs = [BuildConfig(reader="made", source=str(tmp_path / "dump"), output=tmp_path / name) for name in "ab"]
    dump_reader(monkeypatch)
    run(configs[0])
    dump_reader(monkeypatch, fails_after=6)
    with pytest.raises(InputError, match="cut off"):
        run(configs[1])
    begun = dump_reader(monkeypatch)
    run(configs[1])
    assert begun == [5]
    first, second = (open_artifact(config.output, stage="kg build") for config in configs)
    assert first.data["files"] == second.data["files"]
    assert first.dropped == second.dropped == {"odd": 10, "unknown_entity": 1}
    assert first.counts["triples"] == 9


@pytest.mark.faults
def test_two_records_of_one_id_are_refused_and_equal_ones_counted(tmp_path, monkeypatch):
    """The later record would win, or the earlier: nobody knows which label the model learnt."""
    records = [Entity("a", "A"), Entity("b", "B"), Entity("a", "A")]
    batches = [Batch(entities=records, heads=["a"], relation_ids=["r"], tails=["b"])]
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader("made_reader", None))
    made.read = lambda source, options: RawGraph(iter(batches))
    monkeypatch.setitem(sys.modules, "made_reader", made)
    monkeypatch.setitem(READERS, "made", Reader("made_reader", "anything"))
    config = BuildConfig(reader="made", source=str(tmp_path), output=tmp_path / "graph")
    assert open_artifact(run(config), stage="kg build").dropped["duplicate_record"] == 1
    batches.append(Batch(entities=[Entity("b", "Bee")]))
    with pytest.raises(InputError, match="'b' has two: labels 'B' and 'Bee'"):
        run(config)


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
