"""From a source to a graph: every triple read is kept once or counted, and a killed read ends as an undisturbed one."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import kg.assembly
from kg.aliases import AliasWeights
from kg.artifact import open_artifact
from kg.assembly import Choice, assemble
from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.graph import SPLITS, KnowledgeGraph
from kg.parts import Parts
from kg.records import Batch, Entity

FB15K237 = Path(__file__).parents[3] / "shared" / "data" / "fb15k237"
OF_TRIPLES = {"self_loop", "duplicate_triple", "duplicate_across_splits", "relation_denied", "unknown_entity"}
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.ZstdCompressor().compress}


def built(tmp_path, source, **chosen):
    config = BuildConfig(**({"reader": "tsv", "source": str(source), "output": tmp_path / "graph"} | chosen))
    return KnowledgeGraph.load(run(config)), open_artifact(config.output, stage="kg build")


def named(graph):
    entities, relations = graph.entities["id"].to_pylist(), graph.relations["id"].to_pylist()
    return [(entities[h - 1], relations[r], entities[t - 1]) for h, r, t in graph.triples.tolist()]


def item(number, other):
    """A line of a Wikidata dump: an item with one statement, about another."""
    value = {"type": "wikibase-entityid", "value": {"entity-type": "item", "id": f"Q{other}"}}
    statement = {"rank": "normal", "mainsnak": {"snaktype": "value", "property": "P1", "datavalue": value}}
    labels = {"en": {"language": "en", "value": f"item {number}"}}
    return json.dumps({"type": "item", "id": f"Q{number}", "labels": labels, "claims": {"P1": [statement]}})


triples = st.tuples(st.sampled_from("abcd"), st.sampled_from("rs"), st.sampled_from("abcd"))
pieces = st.lists(st.tuples(st.sampled_from(SPLITS), st.lists(triples, max_size=6)), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("assembly")


@settings(deadline=None)
@given(pieces, st.sets(st.sampled_from("abcd")), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_every_triple_is_kept_once_or_counted(tmp_path_factory, pieces, recorded, closed, deny, loops, published):
    """Against plain dictionaries, with splits in any order: counts that do not add up hide what was lost."""
    parts = Parts(tmp_path_factory.mktemp("parts") / "parts")
    batches = [
        Batch(
            heads=[head for head, _, _ in piece],
            relation_ids=[relation for _, relation, _ in piece],
            tails=[tail for _, _, tail in piece],
            split=split if published else "",
        )
        for split, piece in pieces
    ]
    batches.append(Batch(entities=[Entity(name, f"label {name}") for name in sorted(recorded)]))
    list(parts.read(iter(batches), AliasWeights()))
    dropped = Counter()
    choice = Choice(relations_deny=("r",) if deny else (), keep_self_loops=loops)
    stream = [(triple, SPLITS.index(split)) for split, piece in pieces for triple in piece]
    read = [(t, s) for t, s in stream if not closed or {t[0], t[2]} <= recorded]
    if deny and not any(relation == "r" for (_, relation, _), _ in stream):
        with pytest.raises(InputError, match="relation 'r' is not in the graph"):
            assemble(parts, closed=closed, weights=AliasWeights(), choice=choice, dropped=dropped)
        return
    graph = assemble(parts, closed=closed, weights=AliasWeights(), choice=choice, dropped=dropped)
    denied = [(t, s) for t, s in read if deny and t[1] == "r"]
    looping = [(t, s) for t, s in read if (t, s) not in denied and t[0] == t[2] and not loops]
    left = [(t, s) for t, s in read if (t, s) not in denied and (t, s) not in looping]
    first = {triple: min(split for other, split in left if other == triple) for triple, _ in left}
    crossing = sum(split != first[triple] for triple, split in left) if published else 0
    assert named(graph) == list(first)
    assert (graph.splits is not None) == (published and any(piece for _, piece in pieces))
    if graph.splits is not None:
        assert dict(zip(named(graph), graph.splits.tolist(), strict=True)) == first
    expected = Counter(
        unknown_entity=len(stream) - len(read),
        relation_denied=len(denied),
        self_loop=len(looping),
        duplicate_across_splits=crossing,
        duplicate_triple=len(left) - len(first) - crossing,
    )
    assert {reason: count for reason, count in dropped.items() if reason in OF_TRIPLES} == dict(+expected)
    names = sorted(recorded) + ([] if closed else [n for (h, _, t), _ in stream for n in (h, t)])
    assert graph.entities["id"].to_pylist() == list(dict.fromkeys(names))


bytes_of_lines = st.lists(
    st.sampled_from(
        [b"a\tr\tb", b"b\tr\tc", b"head\trelation\ttail", b" Head\tRelation \tTAIL", b"", b" ", b"a\tr", b"x"]
    )
    | st.binary(max_size=6).map(lambda raw: b"a\t" + raw + b"\tb"),
    max_size=8,
)


@settings(deadline=None)
@given(bytes_of_lines, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans())
def test_the_graph_holds_what_a_plain_reading_finds(folder, lines, end, ended, mark):
    """Whatever the bytes: the graph, or an InputError; the quick way must read as the careful one."""
    path = folder / "graph.tsv"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + end.join(lines) + (end if ended else b""))
    try:
        graph, manifest = built(folder, path, keep_self_loops=True)
    except InputError:
        return
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    found = [tuple(line.rstrip("\r").split("\t")) for line in text.split("\n")]
    if [name.strip().lower() for name in found[0]] == ["head", "relation", "tail"]:
        del found[0]
    assert named(graph) == list(dict.fromkeys(triple for triple in found if "".join(triple).strip()))
    assert manifest.dropped.get("header_line", 0) == int(len(text.split("\n")) > len(found))


@pytest.mark.faults
def test_a_read_killed_by_the_system_goes_on(tmp_path):
    """kill -9 lets nobody tidy up: the parts that are whole serve, a half-written one does not count."""
    lines = [item(n, n % 50 + 1) for n in range(1, 300)]
    (tmp_path / "dump.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    script = f"""
import os, signal, sys
from pathlib import Path
from kg.build import BuildConfig, run
from kg.parts import Parts
from kg.readers import lines, wikidata_json
original, write, written = lines.blocks, Parts.write, []
wikidata_json.blocks = lambda source, skip: original(source, 5000, skip=skip)
def mortal(self, batch, weights, **named):
    if len(self.markers) == int(sys.argv[2]):
        (self.folder / f"part-{{len(self.markers):06}}.records").write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, batch, weights, **named)
    written.append(1)
Parts.write = mortal
run(BuildConfig(reader="wikidata_json", source={str(tmp_path / "dump.json")!r}, output=Path(sys.argv[1])))
print(len(written))
"""

    def child(output, dies_at):
        command = [sys.executable, "-c", script, str(tmp_path / output), str(dies_at)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    undisturbed = child("whole", -1)
    total = int(undisturbed.stdout)
    assert total > 8
    assert child("killed", 6).returncode == -signal.SIGKILL
    assert int(child("killed", -1).stdout) == total - 6
    first, second = (open_artifact(tmp_path / name, stage="kg build") for name in ("whole", "killed"))
    assert first.data["files"] == second.data["files"]
    assert first.counts["triples"] == 299
    assert first.dropped == second.dropped


@pytest.mark.faults
def test_a_source_read_to_its_end_is_not_read_again(tmp_path, monkeypatch):
    """The tables of a dump take long, too; and a reader that finds nothing left must not take the dump for cut off."""
    dump = tmp_path / "dump.json"
    dump.write_text(f"[\n{item(1, 2)},\n{item(2, 1)}\n]\n")
    config = BuildConfig(reader="wikidata_json", source=str(dump), output=tmp_path / "graph")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with monkeypatch.context() as patched:
            patched.setattr(kg.assembly, "assemble", lambda *parts, **chosen: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run(config)
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr("kg.readers.wikidata_json.blocks", None)
    assert KnowledgeGraph.load(run(config)).num_triples == 2


@pytest.mark.faults
def test_a_dump_that_was_cut_off_is_not_taken_for_whole(tmp_path):
    """The second run must not go past what stopped the first."""
    (tmp_path / "dump.json").write_text(f"[\n{item(1, 1)},\n")
    config = BuildConfig(reader="wikidata_json", source=str(tmp_path / "dump.json"), output=tmp_path / "graph")
    for _ in range(2):
        with pytest.raises(InputError, match="cut off"):
            run(config)


@pytest.mark.faults
@pytest.mark.parametrize("packing", sorted(PACK))
def test_a_truncated_archive_leaves_no_graph(tmp_path, packing):
    """Half of the training triples look like a graph."""
    source = tmp_path / "source"
    source.mkdir()
    packed = PACK[packing](b"".join(b"e%d\tr\te%d\n" % (n, n * 7 % 9973) for n in range(15_000)))
    (source / f"train.txt.{packing}").write_bytes(packed)
    assert built(tmp_path, source)[0].num_triples > 10_000
    (source / f"train.txt.{packing}").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"train.txt.{packing}: the archive ends in the middle"):
        built(tmp_path, source)


@pytest.mark.faults
def test_one_relation_and_an_encoding_nobody_said(tmp_path):
    path = tmp_path / "graph.tsv"
    path.write_text("a\tr\tb\nb\tr\ta\n")
    graph, manifest = built(tmp_path, path)
    assert (graph.num_relations, graph.num_triples) == (1, 2)
    assert json.dumps(manifest.figures)
    path.write_text("a\tr\tb\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"graph.tsv:1: expected UTF-8, got byte 0xff at column 1"):
        built(tmp_path, path)


@pytest.mark.skipif(not FB15K237.is_dir(), reason="FB15k-237 is not in this workspace")
def test_fb15k237_is_as_published(tmp_path):
    """Its sizes as Toutanova and Chen (2015) give them; records name keys of their own, which are counted."""
    graph, manifest = built(tmp_path, FB15K237, keep_self_loops=True)
    assert np.bincount(graph.splits).tolist() == [272_115, 17_535, 20_466]
    assert (graph.num_entities, graph.num_relations) == (14_541, 237)
    assert manifest.dropped["record_key_unknown"] == 2 * 14_515
    assert manifest.figures["unseen_test_entities"] == 29
    assert graph.labels[graph.entity_vocab.row("/m/027rn")] == "Dominican Republic"
