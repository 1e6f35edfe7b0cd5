"""Triples and records from plain files; every malformed line is named."""

from __future__ import annotations

import gzip
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.errors import InputError
from kg.readers import tsv
from kg.records import Alias, Entity, ReadOptions, Relation, Triple


def write(folder, triples, records=None):
    folder.mkdir(exist_ok=True)
    (folder / "triples.tsv").write_bytes(triples if isinstance(triples, bytes) else triples.encode())
    if records is not None:
        (folder / "entities.jsonl").write_bytes(records if isinstance(records, bytes) else records.encode())
    return folder


def walk(source):
    """Records, triples and counts; names without a record have none."""
    entities, triples, dropped = [], [], Counter()
    for batch in tsv.read(source, ReadOptions()).batches:
        entities += batch.entities
        triples += [Triple(*names) for names in zip(batch.heads, batch.relation_ids, batch.tails, strict=True)]
        dropped += batch.dropped
    return entities, triples, dropped


def test_records_and_triples_are_what_the_files_say(tmp_path):
    """A record read twice, or a header read as a triple, is an entity more."""
    folder = write(
        tmp_path,
        "head\trelation\ttail\nQ1\tborn_in\tNew_York\n\nQ1\tborn_in\tQ2\n",
        '{"id": "Q2", "label": "Rome", "aliases": {"Roma": 7}, "count": 3, "types": ["city"]}\n'
        '\n{"id": "Q1", "aliases": ["Bob", "Bob"], "description": "a man", "label": null, "count": 5}\n'
        '{"id": "Q1", "aliases": ["Bob"], "description": "a man", "count": 5}\n',
    )
    entities, triples, dropped = walk(folder)
    assert entities == [
        Entity("Q2", "Rome", (Alias("Rome", 3), Alias("Roma", 7)), "", ("city",), 3),
        Entity("Q1", "Q1", (Alias("Q1", 5), Alias("Bob", 5)), "a man", (), 5),
    ]
    assert triples == [Triple("Q1", "born_in", "New_York"), Triple("Q1", "born_in", "Q2")]
    assert dropped == {"header_line": 1, "blank_line": 2, "duplicate_record": 1}


def test_a_bare_file_is_enough(tmp_path):
    """A byte order mark or Windows line ends must not become part of a name."""
    path = tmp_path / "graph.txt"
    path.write_bytes(b"\xef\xbb\xbfa\tr\tb\r\nb\tr\tc\r\n")
    entities, triples, _ = walk(path)
    assert entities == []
    assert triples == [Triple("a", "r", "b"), Triple("b", "r", "c")]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("triples", "records", "message"),
    [
        ("a\tr\tb\na r b\n", None, r"triples.tsv:2: expected head<TAB>relation<TAB>tail, got 'a r b'"),
        ("a\tr\tb\tc\n", None, r"triples.tsv:1: expected head"),
        ("a\t \tb\n", None, r"triples.tsv:1: expected head"),
        (b"a\tr\tb\nM\xfcnchen\tr\tb\n", None, r"triples.tsv:2: expected UTF-8, got byte 0xfc at column 2"),
        ("a\tr\tb\n", '{"id": "a"}\n{"id": "b"', r"entities.jsonl:2: expected a JSON object"),
        ("a\tr\tb\n", '["a"]', r"entities.jsonl:1: expected a JSON object with an .id."),
        ("a\tr\tb\n", '{"label": "a"}', r"entities.jsonl:1: expected a JSON object with an .id."),
        ("a\tr\tb\n", '{"id": "a", "label": 0}', r"entities.jsonl:1: expected label and description to be texts"),
        ("a\tr\tb\n", '{"id": "a", "aliases": "b"}', r"entities.jsonl:1: expected aliases"),
        ("a\tr\tb\n", '{"id": "a", "aliases": {"b": -1}}', r"entities.jsonl:1: expected aliases"),
        ("a\tr\tb\n", '{"id": "a", "types": [1]}', r"entities.jsonl:1: expected types"),
        ("a\tr\tb\n", '{"id": "a", "count": true}', r"entities.jsonl:1: expected count"),
        ("a\tr\tb\n", '{"id": "a", "label": "x"}\n{"id": "a", "label": "y"}', r"entities.jsonl:2: .* line 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, triples, records, message):
    """A skipped line is a fact less, and nobody knows which."""
    with pytest.raises(InputError, match=message):
        walk(write(tmp_path, triples, records))


def test_a_folder_without_triples_is_refused(tmp_path):
    """It would be an empty graph."""
    with pytest.raises(InputError, match=r"expected triples.tsv"):
        tsv.read(tmp_path, ReadOptions())


lines = st.lists(st.text(st.characters(codec="utf-8"), max_size=12) | st.just("a\tr\tb"), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2)
)
records = st.dictionaries(st.sampled_from(["id", "label", "aliases", "description", "types", "count", "x"]), values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, st.lists(records, max_size=3), st.binary(max_size=8))
def test_whatever_the_bytes_the_reader_yields_or_says_why(tmp_path, triples, entities, tail):
    """Any other exception is a traceback in somebody's terminal."""
    import json

    written = "\n".join(json.dumps(entity) for entity in entities)
    folder = write(tmp_path, "\n".join(triples).encode() + tail, written)
    try:
        found, named, _ = walk(folder)
    except InputError:
        return
    kept = [line.rstrip("\r") for line in folder.joinpath("triples.tsv").read_bytes().decode().split("\n")]
    assert [(t.head, t.relation, t.tail) for t in named] == [
        tuple(line.split("\t")) for line in kept if line.strip() and line.lower() != "head\trelation\ttail"
    ]
    assert len({entity.id for entity in found}) == len(found)


@pytest.mark.parametrize("packed", [False, True])
def test_wikidata5m_is_read_from_its_five_files(tmp_path, packed):
    """Descriptions stand in another file, in another order, and not for every entity."""
    files = {
        "wikidata5m_transductive_train": "Q1\tP1\tQ2\n",
        "wikidata5m_transductive_valid": "Q2\tP1\tQ3\n",
        "wikidata5m_transductive_test": "Q1\tP1\tQ3\n",
        "wikidata5m_entity": "Q1\tone\tthe first\tone\nQ2\ttwo\nQ3\tthree\n",
        "wikidata5m_relation": "P1\tcomes before\tprecedes\n",
        "wikidata5m_text": "\ufeffQ3\tThree is é\tnumber.\nQ9\tnobody\n\nQ1\tOne.\r\nQ3\tagain",
    }
    for name, text in files.items():
        content = text.encode()
        (tmp_path / f"{name}.txt{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    batches = list(tsv.read(tmp_path, ReadOptions()).batches)
    assert [(batch.split, list(batch.heads), list(batch.tails)) for batch in batches if batch.split] == [
        ("train", ["Q1"], ["Q2"]),
        ("valid", ["Q2"], ["Q3"]),
        ("test", ["Q1"], ["Q3"]),
    ]
    entities, _, dropped = walk(tmp_path)
    assert entities == [
        Entity("Q1", "one", (Alias("one"), Alias("the first", rank=1)), "One."),
        Entity("Q2", "two", (Alias("two"),)),
        Entity("Q3", "three", (Alias("three"),), "Three is é\tnumber."),
    ]
    assert dropped == {"text_without_entity": 1, "duplicate_text": 1, "blank_line": 1}
    assert [relation for batch in batches for relation in batch.relations] == [Relation("P1", "comes before")]
    (tmp_path / f"wikidata5m_text.txt{'.gz' * packed}").write_bytes(b"Q1\tOne.\nQ2\n")
    with pytest.raises(InputError, match=r"wikidata5m_text.txt(.gz)?:2: expected id<TAB>description, got 'Q2'"):
        walk(tmp_path)


def test_commas_and_quotes(tmp_path):
    """A comma inside a quoted name is part of it, a tab is nothing special."""
    (tmp_path / "train.csv").write_text('head,relation,tail\n"New York, NY",in,"the ""States"""\n\na\tb,r,c\n')
    (tmp_path / "relations.tsv").write_text("in\tlies in\n")
    _, triples, dropped = walk(tmp_path)
    assert triples == [Triple("New York, NY", "in", 'the "States"'), Triple("a\tb", "r", "c")]
    assert dropped == {"header_line": 1, "blank_line": 1}
    for wrong in ("a,b", 'a,"b,c', "a,,c", "a,b,c,d"):
        (tmp_path / "train.csv").write_text(f"x,r,y\n{wrong}\n")
        with pytest.raises(InputError, match=r"train.csv:2: expected head,relation,tail"):
            walk(tmp_path)


def test_a_header_is_passed_over_in_the_first_line_alone(tmp_path):
    """Read as a triple it would be two entities and a relation; passed over elsewhere, a fact less."""
    (tmp_path / "g.tsv").write_text(" Head\tRelation\tTAIL \na\tr\tb\nhead\trelation\ttail\n")
    _, triples, dropped = walk(tmp_path / "g.tsv")
    assert triples == [Triple("a", "r", "b"), Triple("head", "relation", "tail")]
    assert dropped == {"header_line": 1}
