"""Corpus readers: what is kept, what is counted, what is refused and where."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from entity_linking.corpus import CORPORA, Document, read_corpus
from kg.errors import InputError


def read(format: str, path: Path) -> tuple[list[Document], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(read_corpus(format, str(path), dropped)), dropped


def test_wikipedia_reads_title_text_and_topic(tmp_path: Path) -> None:
    """ "Uncategorized" taken for a topic would become a label to predict."""
    file = tmp_path / "summaries.json"
    entries = {
        "Oslo": {"title": "Oslo", "extract": "Oslo is a city.", "description": "City", "topic": "Geography"},
        "Void": {"title": "Void", "extract": " ", "topic": "Arts"},
        "Bag": {"title": "Bag", "extract": "A bag.", "topic": "Uncategorized"},
    }
    file.write_text(json.dumps(entries), encoding="utf-8")
    documents, dropped = read("wikipedia", file)
    assert documents == [Document("Oslo", "Oslo is a city.", "Oslo", "Geography"), Document("Bag", "A bag.", "Bag")]
    assert dropped == {"empty_text": 1}


def test_text_files_keep_every_character(tmp_path: Path) -> None:
    """Newline translation or a byte-order mark would shift all offsets of a file."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    (tmp_path / "a.txt").write_text("x" * 100_000, encoding="utf-8")
    documents, _ = read("text", tmp_path)
    assert [d.id for d in documents] == ["a.txt", "b/two.txt"]
    assert documents[1].text == "one\r\ntwo\n"
    assert len(documents[0].text) == 100_000


def test_lone_surrogates_are_replaced_one_for_one(tmp_path: Path) -> None:
    """Parquet cannot hold them; replacing by none or two characters would shift offsets."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 7, "text": "a\\ud800b"}\n\n{"text": ""}\n', encoding="utf-8")
    documents, dropped = read("jsonl", file)
    assert documents == [Document("7", "a\ufffdb")]
    assert dropped == {"lone_surrogates_replaced": 1, "empty_text": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": }\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n', "a.jsonl:2: byte 0xff is not valid UTF-8"),
        ("a.jsonl", b'{"txt": "x"}\n', 'a.jsonl:1: expected an object with a "text" string'),
        ("a.jsonl", b'{"text": 3}\n', 'a.jsonl:1: "text" must be a string'),
        ("a.jsonl", b'{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n', "a.jsonl:2: the document id 'x'"),
        ("a.jsonl", b'{"id": [1], "text": "a"}\n', '"id" must be a string or a whole number'),
        ("a.txt", b"good\nbad \xe9 byte\n", "a.txt:2: byte 0xe9"),
        ("a.json", b'{"A": \n\n 1 2}', "a.json:3: not JSON"),
        ("a.json", b"[]", "expected a JSON object title -> entry"),
    ],
)
def test_a_malformed_corpus_is_refused_with_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """A reader that skips what it cannot read trains on less than its user believes."""
    file = tmp_path / name
    file.write_bytes(content)
    format = {".jsonl": "jsonl", ".txt": "text", ".json": "wikipedia"}[file.suffix]
    with pytest.raises(InputError) as caught:
        read(format, file)
    assert message in str(caught.value)


def test_unknown_format_and_empty_folder_are_refused(tmp_path: Path) -> None:
    """An empty folder read as an empty corpus would make an empty artifact."""
    with pytest.raises(InputError, match="expected one of csv, dataset, folder, jsonl"):
        read("docx", tmp_path)
    with pytest.raises(InputError, match=r"holds no \*.txt file"):
        read("text", tmp_path)
    assert sorted(CORPORA) == ["csv", "dataset", "folder", "jsonl", "mediawiki", "parquet", "text", "wikipedia"]


def test_a_folder_gives_its_text_files_and_its_lines(tmp_path: Path) -> None:
    """A user's folder often holds both kinds; the half that is not read would be missed by nobody."""
    (tmp_path / "b.txt").write_text("one")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl").write_text('{"text": "two"}\n')
    documents, _ = read("folder", tmp_path)
    assert [(d.id, d.text) for d in documents] == [("b.txt", "one"), ("deep/a.jsonl:1", "two")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected a folder with \*.txt or \*.jsonl"):
        read("folder", tmp_path / "empty")
