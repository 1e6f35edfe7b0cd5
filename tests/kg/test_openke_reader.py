"""OpenKE's folder: its order of columns, its counts, and what other programs crash on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.export import ExportConfig
from kg.export import run as export
from kg.graph import KnowledgeGraph
from kg.readers import openke
from kg.records import ReadOptions

ENTITIES, RELATIONS = "3\nrome\t0\nitaly\t1\nnew york\t2\n", "2\nin\t0\nlikes\t1\n"


def write(folder, entities=ENTITIES, relations=RELATIONS, **triples):
    folder.mkdir(exist_ok=True)
    (folder / "entity2id.txt").write_text(entities)
    (folder / "relation2id.txt").write_text(relations)
    for split, text in (triples or {"train": "1\n0 1 0\n"}).items():
        (folder / f"{split}2id.txt").write_text(text)
    return folder


def walk(source):
    entities, triples = [], []
    for batch in openke.read(source, ReadOptions()).batches:
        entities += [entity.id for entity in batch.entities]
        rows = zip(batch.heads, batch.relation_ids, batch.tails, strict=True)
        triples += [(batch.split, *names) for names in rows]
    return entities, triples


def test_columns_are_head_tail_relation(tmp_path):
    """Read as head, relation, tail it is still a graph, of other facts."""
    folder = write(tmp_path / "g", train="2\n0 1 0\n2\t1\t1\n", test="1\n1 2 0\n")
    assert walk(folder) == (
        ["rome", "italy", "new york"],
        [
            ("train", "rome", "in", "italy"),
            ("train", "new york", "likes", "italy"),
            ("test", "italy", "in", "new york"),
        ],
    )
    assert walk(write(tmp_path / "h"))[1] == [("", "rome", "in", "italy")]


def test_what_kg_export_writes_comes_back(tmp_path):
    """The two must agree on the layout, or a graph changes on its way through another program."""
    source = tmp_path / "source"
    source.mkdir()
    for split, lines in {"train": "a\tr\tb\nb\ts\tc\n", "valid": "c\tr\ta\n", "test": "a\ts\tc\n"}.items():
        (source / f"{split}.tsv").write_text(lines)
    first = run(BuildConfig(reader="tsv", source=str(source), output=tmp_path / "first"))
    layout = export(ExportConfig(graph=first, format="openke", output=tmp_path / "layout"))
    second = run(BuildConfig(reader="openke", source=str(layout), output=tmp_path / "second"))
    one, two = KnowledgeGraph.load(first), KnowledgeGraph.load(second)
    assert one.triples.tolist() == two.triples.tolist()
    assert one.splits.tolist() == two.splits.tolist() == [0, 0, 1, 2]
    assert list(one.entity_vocab) == list(two.entity_vocab)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": "4\nrome\t0\nitaly\t1\nnew york\t2\n"}, r"entity2id.txt:1: expected 4 names .* got 3"),
        ({"entities": "2\nrome\t0\nitaly\t2\n"}, r"entity2id.txt:3: expected a name and a number from 0 to 1"),
        ({"entities": "2\nrome\t0\nitaly\t0\n"}, r"entity2id.txt:3: expected every number once"),
        ({"entities": "2\nrome\t0\nrome\t1\n"}, r"entity2id.txt: expected every name once, 'rome'"),
        ({"entities": "rome\t0\n"}, r"entity2id.txt:1: expected the number of lines that follow"),
        ({"train": "2\n0 1 0\n"}, r"train2id.txt:1: expected 2 triples .* got 1"),
        ({"train": "1\n0 3 0\n"}, r"train2id.txt:2: expected head, tail \(0 to 2\) and relation \(0 to 1\)"),
        ({"train": "1\n0 1 -1\n"}, r"train2id.txt:2: expected head"),
        ({"train": "1\n0 1\n"}, r"train2id.txt:2: expected head"),
        ({"valid": "0\n"}, r"expected train2id.txt in it"),
    ],
)
def test_a_wrong_number_is_named(tmp_path, settings, message):
    """Other programs stop here without a word, or read another's memory."""
    with pytest.raises(InputError, match=message):
        walk(write(tmp_path / "g", **settings))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_whatever_the_text_the_reader_yields_or_says_why(tmp_path, head, tail, in_triples):
    """Any other exception is a traceback in somebody's terminal."""
    folder = write(tmp_path / "g", **({"train": head + tail} if in_triples else {"entities": head + tail}))
    if not (folder / "train2id.txt").exists():
        (folder / "train2id.txt").write_text("0\n")
    try:
        walk(folder)
    except InputError:
        return
