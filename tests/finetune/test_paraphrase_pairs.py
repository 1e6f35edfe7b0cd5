"""Readers of sentence pairs: every format, every bad line counted, every useless file refused."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from finetune.paraphrase.negatives import NEGATIVES, negative_pairs, paraphrase_groups
from finetune.paraphrase.pairs import READERS, Pair, drawn, positives, read_pairs
from kg.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
QUORA = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
FILES = {
    "quora": QUORA + '1\t1\t2\tHow  old?\t"Which ""age""?"\t1\n2\t3\t4\tA?\tB?\t0\n3\t5\tcut off\n4\t5\t6\tC?\tD?\tx\n',
    "mrpc": "\ufeff" + MRPC + '1\t7\t8\tHow old?\tWhich "age"?\n0\t9\t10\tA?\tB?\nbroken\n',
    "twitter": 'How old?\tWhich "age"?\t(5, 6)\thttp\nA?\tB?\t(1, 6)\thttp\nC?\tD?\t(3, 6)\thttp\nE?\n',
    "tsv": 'How old?\tWhich "age"?\nA?\tB?\t0\nC?\tD?\t7\nonly one\n',
    "jsonl": '{"source": "How old?", "target": "Which \\"age\\"?"}\n'
    '{"source": "A?", "target": "B?", "label": 0}\n{"x": 1}\n',
}


def test_every_reader_has_a_case() -> None:
    assert FILES.keys() == READERS.keys()


@pytest.mark.parametrize("reader", FILES)
def test_a_reader_finds_pairs_labels_and_bad_lines(reader: str, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text(FILES[reader], encoding="utf-8")
    pairs, dropped = read_pairs(tmp_path / "pairs", reader)
    assert pairs == [
        Pair(source="How old?", target='Which "age"?'),
        Pair(source="A?", target="B?", is_paraphrase=False),
    ]
    lines = len([line for line in FILES[reader].splitlines() if line]) - (reader in ("quora", "mrpc"))
    assert dropped.total() == lines - 2, "every line is a pair or counted"
    assert positives(pairs, place="here") == pairs[:1]


def test_reasons_are_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("a\t\n\tb\nsame\tSame \na\tb\nA\tb\nx\ty\tz\tw\n", encoding="utf-8")
    pairs, dropped = read_pairs(tmp_path / "pairs.tsv", "tsv")
    assert pairs == [Pair(source="a", target="b")]
    assert dropped == {
        "empty_target": 1,
        "empty_source": 1,
        "identical": 1,
        "repeated": 1,
        "wrong_number_of_columns": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\ntwo\n", "2 of 2 lines: expected two tab-separated sentences"),
        ("a\tA\nb\tb\n", "the same everywhere, which teaches nothing but copying"),
        ("", "the file is empty"),
        ("\t\n", "empty_source"),
    ],
)
def test_a_file_without_a_usable_pair_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "pairs.tsv", "tsv")


def test_what_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    with pytest.raises(InputError, match="no such file"):
        read_pairs(path, "tsv")
    path.write_bytes(b"caf\xe9\tbar\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_pairs(path, "tsv")
    path.write_text("a\tb\n")
    with pytest.raises(InputError, match="reader 'csv' is unknown; there are quora"):
        read_pairs(path, "csv")
    with pytest.raises(InputError, match="no column question1"):
        read_pairs(path, "quora")
    with pytest.raises(InputError, match="labelled as no paraphrases"):
        positives([Pair(source="a", target="b", is_paraphrase=False)], place=path)


def test_links_of_json_lines_keep_their_places_and_are_checked(tmp_path: Path) -> None:
    record = {"source": " Kyiv  is old", "target": "old Kyiv", "source_links": [{"start": 1, "end": 5, "entity": "Q1"}]}
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(orjson.dumps(record))
    (pair,), _ = read_pairs(path, "jsonl")
    assert pair.source[pair.source_links[0].start : pair.source_links[0].end] == "Kyiv"
    path.write_bytes(orjson.dumps(record | {"source_links": [{"start": 1, "end": 99, "entity": "Q1"}]}))
    with pytest.raises(InputError, match=r"pairs.jsonl:1: source link \[1, 99\) leaves the text"):
        read_pairs(path, "jsonl")


def test_drawing_keeps_order_and_is_the_seeds() -> None:
    pairs = [Pair(source=str(i), target="x") for i in range(50)]
    few = drawn(pairs, 10, seed=1)
    assert few == drawn(pairs, 10, seed=1) != drawn(pairs, 10, seed=-1)
    assert [int(pair.source) for pair in few] == sorted(int(pair.source) for pair in few)
    assert drawn(pairs, 0, seed=1) == pairs


MEANINGS = [
    Pair(source="how can i learn to cook rice", target="what is the way to cook rice well"),
    Pair(source="what is the way to cook rice well", target="how is rice cooked best by me"),
    Pair(source="how can i learn to play chess", target="which way to learn chess is best"),
    Pair(source="why is the sky of mars red", target="what makes the sky on mars so red"),
]


def test_sentences_joined_by_a_chain_are_one_group() -> None:
    groups = paraphrase_groups(MEANINGS)
    assert groups["how can i learn to cook rice"] == groups["how is rice cooked best by me"]
    assert len(set(groups.values())) == 3


@pytest.mark.parametrize("kind", NEGATIVES)
def test_a_negative_is_no_paraphrase_in_disguise(kind: str) -> None:
    """Pair 0's near neighbour by words is pair 1, which says the same by the chain: it must not be taken."""
    groups = paraphrase_groups(MEANINGS)
    found = negative_pairs(MEANINGS, [kind], seed=3)
    assert found, "every kind finds something here"
    for negative in found:
        assert not negative.is_paraphrase
        own = next(pair for pair in MEANINGS if pair.source == negative.source)
        assert negative.target not in (own.source, own.target)
        if kind in ("random", "near"):
            assert groups[negative.target] != groups[negative.source]
        else:
            same_meaning = [pair.target for pair in MEANINGS if groups[pair.source] == groups[own.source]]
            assert negative.target not in same_meaning
    assert found == negative_pairs(MEANINGS, [kind], seed=3)


def test_near_negatives_share_words() -> None:
    by_source = {pair.source: pair.target for pair in negative_pairs(MEANINGS, ["near"], seed=0)}
    assert by_source["how can i learn to cook rice"] == "which way to learn chess is best"


def test_negatives_need_two_meanings_and_known_kinds() -> None:
    with pytest.raises(InputError, match="at least two meanings"):
        negative_pairs(MEANINGS[:2], ["random"], seed=0)
    with pytest.raises(InputError, match="'hard' are unknown; there are random, near"):
        negative_pairs(MEANINGS, ["hard"], seed=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data does not lie beside this checkout")
def test_real_files_are_read_whole() -> None:
    pairs, dropped = read_pairs(SHARED / "quora_pairs" / "train.tsv", "tsv")
    assert len(pairs) + dropped.total() == 10925
    mrpc, left = read_pairs(SHARED / "glue" / "MRPC" / "train.tsv", "mrpc")
    assert len(mrpc) + left.total() == 3667, "3,668 lines, the first of them the header"
    assert 0.6 < sum(pair.is_paraphrase for pair in mrpc) / len(mrpc) < 0.7
