"""Text in columns, and what becomes of records that cannot be read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_linking.corpora.columns import Columns
from entity_linking.corpora.records import Rejected
from entity_linking.corpora.seen import SeenIds
from entity_linking.corpus import Document, read_corpus
from kg.errors import InputError


def read(format: str, path: Path, **options: object) -> tuple[list[Document], Counter[str], list[Rejected]]:
    dropped: Counter[str] = Counter()
    rejected: list[Rejected] = []
    documents = list(read_corpus(format, str(path), dropped, rejected=rejected.append, **options))
    return documents, dropped, rejected


def test_csv_takes_columns_by_name_and_quoted_line_ends(tmp_path: Path) -> None:
    """A quoted field over two lines, a byte-order mark, CRLF: each shifts or splits texts when read naively."""
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,body,title\r\n7,"one, ""two""\r\nthree",T\r\n,plain,\r\n')
    (tmp_path / "b.tsv").write_bytes("body\tid\nfünf \t x\n".encode())
    documents, _, _ = read("csv", tmp_path, columns=Columns(text="body"))
    assert documents == [
        Document("7", 'one, "two"\r\nthree', "T"),
        Document("a.csv:4", "plain"),
        Document(" x", "fünf "),
    ]


def test_bad_rows_are_set_aside_and_reading_goes_on(tmp_path: Path) -> None:
    """One bad row in a million must neither stop a night's run nor vanish."""
    file = tmp_path / "a.csv"
    file.write_bytes(b'id,text\n1,good\n2,b\xe9d\n3,too,many\n4,"open"x\n1,again\n5,good too\n')
    documents, dropped, rejected = read("csv", file, on_bad_record="reject")
    assert [d.id for d in documents] == ["1", "5"]
    assert [(r.reason, r.place) for r in rejected] == [
        ("invalid_utf8", "a.csv:3"),
        ("wrong_column_count", "a.csv:4"),
        ("invalid_csv", "a.csv:5"),
        ("duplicate_id", "a.csv:6"),
    ]
    assert dropped == {f"rejected_{r.reason}": 1 for r in rejected}
    assert rejected[0].raw == "2,b\\xe9d\n"
    assert all(set(json.loads(r.to_json())) == {"reason", "place", "error", "raw"} for r in rejected)
    with pytest.raises(InputError, match=r"a.csv:3: byte 0xe9 is not valid UTF-8"):
        read("csv", file)


def test_jsonl_rejects_by_line(tmp_path: Path) -> None:
    """The line number is all a user has to find the record by."""
    lines = [b'{"text": "a"}', b"{", b'{"text": "\xff"}', b"[1]", b'{"text": 5}', b'{"id": true, "text": "x"}']
    lines += [b"[" * 100_000, b'{"text": ' + b"1" * 5000 + b"}", b'{"text": "z"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, _, rejected = read("jsonl", tmp_path / "a.jsonl", on_bad_record="reject")
    assert [(d.id, d.text) for d in documents] == [("a.jsonl:1", "a"), ("a.jsonl:9", "z")]
    assert [(r.reason, r.place) for r in rejected] == [
        ("invalid_json", "a.jsonl:2"),
        ("invalid_utf8", "a.jsonl:3"),
        ("wrong_type", "a.jsonl:4"),
        ("wrong_type", "a.jsonl:5"),
        ("wrong_type", "a.jsonl:6"),
        ("invalid_json", "a.jsonl:7"),
        ("invalid_json", "a.jsonl:8"),
    ]
    assert max(len(r.raw) for r in rejected) == 10_000


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_by_name_in_any_kind_of_string(tmp_path: Path, kind: pa.DataType) -> None:
    """Data sets come with large_string or dictionary columns; a row that is not UTF-8 must not end its batch."""
    (tmp_path / "deep").mkdir()
    table = pa.table({"n": [1, 2, 3], "text": pa.array(["a", None, "c"]).cast(kind)})
    pq.write_table(table, tmp_path / "deep" / "x.parquet")
    documents, dropped, _ = read("parquet", tmp_path, columns=Columns(id="n"))
    assert documents == [Document("1", "a"), Document("3", "c")]
    assert dropped == {"empty_text": 1}
    assert [d.id for d in read("parquet", tmp_path)[0]] == ["deep/x.parquet:1", "deep/x.parquet:3"]


def test_parquet_that_is_not_utf8_is_rejected_by_row(tmp_path: Path) -> None:
    """Arrow's writers do not check: such files exist."""
    bytes_ = pa.array([b"good", b"b\xff", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, bytes_.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "x.parquet")
    documents, _, rejected = read("parquet", tmp_path / "x.parquet", on_bad_record="reject")
    assert [d.text for d in documents] == ["good", "fine"]
    assert [(r.reason, r.place, r.raw) for r in rejected] == [("invalid_utf8", "x.parquet:2", "b\\xff")]


def test_a_saved_data_set_gives_its_splits_in_order(tmp_path: Path) -> None:
    """Ids must tell split and file, or rows of two splits share one."""
    datasets = pytest.importorskip("datasets")
    made = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({"text": ["a", "b"]}),
            "test": datasets.Dataset.from_dict({"text": ["c"]}),
        }
    )
    made.save_to_disk(tmp_path / "set")
    assert [(d.id, d.text) for d in read("dataset", tmp_path / "set")[0]] == [
        ("train/data-00000-of-00001.arrow:1", "a"),
        ("train/data-00000-of-00001.arrow:2", "b"),
        ("test/data-00000-of-00001.arrow:1", "c"),
    ]
    made["test"].save_to_disk(tmp_path / "one")
    assert [d.text for d in read("dataset", tmp_path / "one")[0]] == ["c"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("format", "name", "content", "message"),
    [
        ("csv", "a.csv", b"id,body\n1,x\n", "a.csv:1: expected a column 'text' with the text, found id, body"),
        ("csv", "a.csv", b"", "a.csv:1: expected a column 'text'"),
        ("csv", "a.csv", b"text,text\nx,y\n", "the column 'text' is there twice"),
        ("parquet", "a.parquet", b"PAR1 no", "not a whole Parquet file"),
        ("dataset", "state.json", b"{}", "expected a JSON object with a list '_data_files'"),
        ("jsonl", "a.jsonl.gz", b"", "cut off"),
        ("jsonl", "a.jsonl.gz", b"\x1f\x8b\x08\x00\x00", "a.jsonl.gz"),
    ],
)
def test_what_no_record_follows_is_an_error(
    tmp_path: Path, format: str, name: str, content: bytes, message: str
) -> None:
    """With `reject`, a file read as empty would be a corpus without it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(format, tmp_path, on_bad_record="reject")


def test_a_wrong_kind_of_column_is_named(tmp_path: Path) -> None:
    """Numbers read as text would be linked as text."""
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'text' holds int64, expected strings"):
        read("parquet", tmp_path)
    with pytest.raises(InputError, match="on_bad_record is 'skip'; expected error or reject"):
        read("parquet", tmp_path, on_bad_record="skip")


def test_hostile_characters_are_replaced_one_for_one_and_counted(tmp_path: Path) -> None:
    """A NUL ends a text for other programs; a replacement of another length shifts offsets."""
    text = "a\0b\ud800c\u200d\u202e\ufeff"
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "x\0", "text": text}) + "\n")
    documents, dropped, _ = read("jsonl", tmp_path)
    assert documents == [Document("x\ufffd", "a\ufffdb\ufffdc\u200d\u202e\ufeff")]
    assert dropped == {"nul_replaced": 1, "lone_surrogates_replaced": 1}


@given(st.lists(st.text(max_size=6), max_size=200))
@settings(max_examples=60, deadline=None)
def test_seen_ids_are_a_set(ids: list[str]) -> None:
    """A table that grows wrongly forgets ids, and two documents pass for one."""
    table, oracle = SeenIds(), set()
    for name in ids * 2 + [str(n) for n in range(5000 if len(ids) > 150 else 0)]:
        assert table.add(name) == (name not in oracle)
        oracle.add(name)
    assert len(table) == len(oracle)
