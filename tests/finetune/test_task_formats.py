"""Native layouts in and out: small files made here, and the real data where it lies beside the checkout."""

from __future__ import annotations

import csv
import dataclasses
import tempfile
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.converting import ConvertConfig
from finetune.converting import run as convert
from finetune.data import described_task, load_examples
from finetune.formats import FORMATS, Columns, read_format, write_format
from finetune.formats.records import BRACKETS
from finetune.importing import ImportConfig, run
from finetune.tasks.schema import Example, Span, write_examples
from kg.artifact import open_artifact
from kg.build import BuildConfig
from kg.build import run as build_graph
from kg.errors import InputError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

ULTRA_FINE = [
    {
        "y_str": ["person", "politician"],
        "annot_id": "HAND:1",
        "mention_span": "He",
        "left_context_token": [],
        "right_context_token": ["spoke", "-LRB-", "twice", "-RRB-", "."],
    },
    {
        "y_str": ["politician"],
        "annot_id": "HAND:2",
        "mention_span": "the deal",
        "left_context_token": ["After"],
        "right_context_token": [],
    },
]
TACRED = [
    {
        "id": "e1",
        "relation": "per:title",
        "token": ["Ann", "is", "chief", "engineer", "."],
        "subj_start": 0,
        "subj_end": 0,
        "obj_start": 2,
        "obj_end": 3,
        "subj_type": "PERSON",
        "obj_type": "TITLE",
    },
    {
        "id": "e2",
        "relation": "no_relation",
        "token": ["Bob", "met", "Ann"],
        "subj_start": 2,
        "subj_end": 2,
        "obj_start": 0,
        "obj_end": 0,
        "subj_type": "PERSON",
        "obj_type": "PERSON",
    },
]
FEWREL = {
    "P1": [{"tokens": ["Rome", "in", "Italy"], "h": ["rome", "Q220", [[0]]], "t": ["italy", "Q38", [[2]]]}],
    "P2": [{"tokens": ["New", "York", "Yankees"], "h": ["new york", "Q60", [[0, 1]]], "t": ["yankees", "Q1", [[2]]]}],
}
ERNIE_TYPING = [
    {"sent": "Rome is old", "start": 0, "end": 4, "labels": ["place"], "ents": [["Q220", 0, 4, 0.7]]},
    {"sent": "aged 8", "start": 5, "end": 6, "labels": [], "ents": []},
]
ERNIE_RELATION = [
    {"label": "P1", "text": "Rome in Italy", "ents": [["Q220", 0, 4, 1.0], ["Q38", 8, 13, 1.0]]},
    {"label": "P2", "text": "Oslo, Norway", "ents": [["Q585", 0, 4, 1.0], ["Q20", 6, 12, 1.0]]},
]
SEMEVAL = '8001\t"The <e1>cup</e1> of <e2>tea</e2> is hot."\nContent-Container(e2,e1)\nComment: x\n\n'
SEMEVAL += '8002\t"A <e2>lid</e2> and a <e1>pot</e1>."\nOther\nComment:\n\n'
OPENNRE = [
    {"text": "Rome in Italy", "h": {"id": "Q220", "pos": [0, 4]}, "t": {"id": "Q38", "pos": [8, 13]}, "relation": "in"},
    {"token": ["Oslo", "Norway"], "h": {"pos": [0, 1]}, "t": {"pos": [1, 2]}, "relation": "NA"},
]
CONLL = (
    "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\nBlackburn NNP I-NP I-PER\n"
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One small file a format, as its publishers write it."""
    made = {name: tmp_path / name.replace("/", "_") for name in FORMATS}
    made["ultra_fine"].write_bytes(b"\n".join(map(orjson.dumps, ULTRA_FINE)))
    made["open_entity"].write_bytes(b"\n".join(map(orjson.dumps, ULTRA_FINE)))
    made["tacred"].write_bytes(orjson.dumps(TACRED))
    made["fewrel"].write_bytes(orjson.dumps(FEWREL))
    made["ernie_typing"].write_bytes(orjson.dumps(ERNIE_TYPING))
    made["ernie_relation"].write_bytes(orjson.dumps(ERNIE_RELATION))
    made["ernie_tacred"].write_bytes(orjson.dumps([{**r, "ann": [["Q9", 0, 4, 0.5]]} for r in ERNIE_RELATION]))
    made["semeval2010"].write_text(SEMEVAL, encoding="utf-8")
    made["opennre"].write_bytes(b"\n".join(map(orjson.dumps, OPENNRE)))
    made["conll"].write_text(CONLL, encoding="utf-8")
    made["csv"].write_text('text,label,mention\n"Rome, old",place,Rome\nOslo lies,place,Oslo\n', encoding="utf-8")
    write_examples(made["jsonl"], [Example(id="a", text="x", label="p"), Example(id="b", text="y", label="q")])
    made["glue/cola"].write_text('gj04\t1\t\tHe said "go.\ngj04\t0\t*\tHim go.\n', encoding="utf-8")
    made["glue/sst2"].write_text('sentence\tlabel\n"bad\t0\ngood"\t1\n', encoding="utf-8")
    mrpc = '﻿Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA "b\tC\n0\t9\t10\tD\tE\n'
    made["glue/mrpc"].write_text(mrpc, encoding="utf-8")
    qqp = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tHow?\t0\n1\t3\t4\tA?\tB?\t1\n"
    made["glue/qqp"].write_text(qqp, encoding="utf-8")
    made["glue/stsb"].write_text("index\tsentence1\tsentence2\tscore\n0\tA\tB\t4.2\n1\tC\tD\t0.0\n", encoding="utf-8")
    mnli = "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA\tB\tneutral\tneutral\n1\tC\tD\te\tentailment\n"
    made["glue/mnli"].write_text(mnli, encoding="utf-8")
    qnli = "index\tquestion\tsentence\tlabel\n0\tA?\tB\tentailment\n1\tC?\tD\tnot_entailment\n"
    made["glue/qnli"].write_text(qnli, encoding="utf-8")
    rte = "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n1\tC\tD\tnot_entailment\n"
    made["glue/rte"].write_text(rte, encoding="utf-8")
    return made


def read(name: str, path: Path, **settings) -> list[Example]:
    task = "entity_typing" if name == "csv" else "sequence_classification"
    return list(read_format(name, path, task=settings.pop("task", task), **settings))


@pytest.mark.parametrize("name", FORMATS)
def test_a_layout_read_written_and_read_again_is_the_same(name: str, files: dict[str, Path], tmp_path: Path):
    """A converter that loses a span by one token still makes a file that reads well."""
    examples = read(name, files[name])
    assert len(examples) == 2
    write_format(name, tmp_path / "again.csv", examples)
    again = read(name, tmp_path / "again.csv")
    assert [strip_id(e) for e in again] == [strip_id(e) for e in examples]


def strip_id(example: Example) -> tuple:
    return example.text, example.text_pair, example.spans, example.links, example.label, example.labels, example.value


def test_what_each_layout_says(files: dict[str, Path]):
    """Offsets by hand: inclusive ends, token indices, brackets, tags in either order."""
    he, deal = read("open_entity", files["open_entity"])
    assert (he.text, he.labels) == ("He spoke ( twice ) .", ("person",))
    assert deal.labels == ()
    assert deal.text[slice(*ends(deal.spans[0]))] == "the deal"
    assert read("ultra_fine", files["ultra_fine"])[0].labels == ("person", "politician")
    title, none = read("tacred", files["tacred"])
    assert marked(title) == ["Ann", "chief engineer"]
    assert [span.type for span in title.spans] == ["PERSON", "TITLE"]
    assert (marked(none), none.label) == (["Ann", "Bob"], "no_relation")
    assert [marked(e) for e in read("fewrel", files["fewrel"])] == [["Rome", "Italy"], ["New York", "Yankees"]]
    cup, lid = read("semeval2010", files["semeval2010"])
    assert (cup.id, cup.text, marked(cup)) == ("8001", "The cup of tea is hot.", ["cup", "tea"])
    assert marked(lid) == ["pot", "lid"]
    assert [k.entity for k in read("ernie_tacred", files["ernie_tacred"])[0].links] == ["Q9"]
    assert [s.type for s in read("conll", files["conll"])[1].spans] == ["B-PER", "I-PER"]
    assert read("glue/cola", files["glue/cola"])[0].text == 'He said "go.'
    assert [e.text for e in read("glue/sst2", files["glue/sst2"])] == ['"bad', 'good"']
    assert read("glue/mrpc", files["glue/mrpc"])[0].text_pair == "C"
    assert [e.value for e in read("glue/stsb", files["glue/stsb"])] == [4.2, 0.0]


def ends(span: Span) -> tuple[int, int]:
    return span.start, span.end


def marked(example: Example) -> list[str]:
    return [example.text[span.start : span.end] for span in example.spans]


def test_test_files_without_answers_are_read(tmp_path: Path):
    """GLUE's and SemEval's test files lack the answer; a reader that took another column for it would be believed."""
    (tmp_path / "rte.tsv").write_text("index\tsentence1\tsentence2\n0\tA\tB\n", encoding="utf-8")
    (tmp_path / "cola.tsv").write_text("index\tsentence\n0\tHe go.\n", encoding="utf-8")
    (tmp_path / "s.txt").write_text('9\t"<e1>a</e1> <e2>b</e2>"\n\n', encoding="utf-8")
    (rte,) = read("glue/rte", tmp_path / "rte.tsv")
    (cola,) = read("glue/cola", tmp_path / "cola.tsv")
    (sem,) = read("semeval2010", tmp_path / "s.txt")
    assert (rte.label, rte.text_pair, cola.label, cola.text, sem.label) == (None, "B", None, "He go.", None)


words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=6).filter(
    lambda word: word.strip() and word not in BRACKETS and "<" not in word
)


@given(st.lists(words, min_size=2, max_size=12), st.data())
def test_token_layouts_keep_any_two_spans(tokens: list[str], data: st.DataObject):
    """Round trips over random sentences: head and tail anywhere, in either order, next to each other."""
    cut = sorted(data.draw(st.lists(st.integers(0, len(tokens)), min_size=4, max_size=4)))
    first, second = (cut[0], max(cut[1], cut[0] + 1)), (max(cut[2], cut[1], cut[0] + 1), max(cut[3], cut[2] + 1))
    if second[0] >= second[1] or second[1] > len(tokens) or second[0] < first[1]:
        return
    head, tail = (first, second) if data.draw(st.booleans()) else (second, first)
    starts = [sum(len(t) + 1 for t in tokens[:n]) for n in range(len(tokens))]
    spans = tuple(
        Span(start=starts[a], end=starts[b - 1] + len(tokens[b - 1]), role=role, type="X")
        for (a, b), role in ((head, "head"), (tail, "tail"))
    )
    example = Example(id="1", text=" ".join(tokens), spans=spans, label="r")
    for name in ("tacred", "fewrel", "semeval2010"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "f"
            write_format(name, path, [example])
            (again,) = read(name, path)
            assert (again.text, marked(again), again.label) == (example.text, marked(example), "r")
            assert [ends(s) for s in again.spans] == [ends(s) for s in spans]


BAD = {
    "span_outside": (
        "ernie_typing",
        [{"sent": "abc", "start": 1, "end": 9, "labels": [], "ents": []}],
        "leaves the text",
    ),
    "empty_span": ("ernie_typing", [{"sent": "abc", "start": 2, "end": 2, "labels": [], "ents": []}], "start < end"),
    "link_outside": (
        "ernie_typing",
        [{"sent": "abc", "start": 0, "end": 2, "labels": [], "ents": [["Q1", 2, 7, 1]]}],
        "leaves the text",
    ),
    "bad_link": (
        "ernie_typing",
        [{"sent": "abc", "start": 0, "end": 2, "labels": [], "ents": [["Q1", 2]]}],
        r"expected \[entity, start, end, score\]",
    ),
    "missing_or_wrong_type": (
        "ernie_typing",
        [{"sent": "abc", "start": "0", "end": 2, "labels": []}],
        "`start` is '0'",
    ),
    "not_an_object": ("ernie_typing", ["abc"], "expected a JSON object"),
    "empty_text": ("ernie_typing", [{"sent": " ", "start": 0, "end": 1, "labels": [], "ents": []}], "expected a text"),
    "bad_spans": (
        "ernie_relation",
        [{"text": "abcdef", "label": "r", "ents": [["Q1", 0, 3, 1], ["Q2", 2, 5, 1]]}],
        r"overlapping head \[0, 3\) and tail \[2, 5\)",
    ),
    "bad_mention": ("ernie_relation", [{"text": "abc", "label": "r", "ents": [["Q1", 0, 3, 1]]}], "head and tail"),
}


@pytest.mark.faults
@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_is_an_error_with_its_place_or_is_counted(reason: str, tmp_path: Path):
    """The first implementation ended in a KeyError, or dropped such examples without a word."""
    name, records, message = BAD[reason]
    good = ERNIE_TYPING[0] if name == "ernie_typing" else ERNIE_RELATION[0]
    (tmp_path / "f.json").write_bytes(orjson.dumps([good, *records, good | {"id": "again"}]))
    with pytest.raises(InputError, match=rf"f\.json: record 2: .*{message}"):
        read(name, tmp_path / "f.json")
    dropped, aside = Counter(), []
    kept = read(
        name,
        tmp_path / "f.json",
        on_bad_record="skip",
        dropped=dropped,
        skipped=lambda place, fault: aside.append((place, fault.field)),
    )
    assert (len(kept), dropped) == (2, {f"skipped_{reason}": 1})
    assert aside[0][0].endswith("record 2")


@pytest.mark.faults
def test_files_of_another_structure_are_refused(tmp_path: Path):
    """An empty file, an object for an array, a file that is none: each once a traceback or an empty data set."""
    (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="holds no record"):
        read("ernie_typing", tmp_path / "empty.json")
    with pytest.raises(InputError, match="expected a JSON array"):
        (tmp_path / "o.json").write_text("{}", encoding="utf-8")
        read("tacred", tmp_path / "o.json")
    with pytest.raises(InputError, match="no such file"):
        read("tacred", tmp_path / "none.json")
    with pytest.raises(InputError, match="format 'tacrd' is unknown; there are jsonl"):
        read("tacrd", tmp_path / "o.json")
    with pytest.raises(InputError, match="no column 'sentence2'"):
        (tmp_path / "r.tsv").write_text("index\tsentence1\tlabel\n0\ta\tb\n", encoding="utf-8")
        read("glue/rte", tmp_path / "r.tsv")
    with pytest.raises(InputError, match=r"line 2: `line` is 2: the header has 3 columns"):
        (tmp_path / "c.csv").write_text("text,label,value\nx,y\n", encoding="utf-8")
        read("csv", tmp_path / "c.csv")
    for value in ("much", "nan", "inf"):
        (tmp_path / "c.csv").write_text(f"text,value\nx,{value}\n", encoding="utf-8")
        with pytest.raises(InputError, match=f"`value` is '{value}': expected a"):
            read("csv", tmp_path / "c.csv", task="sequence_classification")
    with pytest.raises(InputError, match="expected one JSON object a line"):
        (tmp_path / "n.jsonl").write_text('{"id": "a", "text": "x", "value": NaN}\n', encoding="utf-8")
        read("jsonl", tmp_path / "n.jsonl")


def test_a_table_of_ones_own_is_read_by_its_column_names(tmp_path: Path):
    """Marked words by surface or by place, several labels in a cell, a second text."""
    rows = [
        {"nr": "7", "satz": "Rom ist alt", "typ": "Ort; Stadt", "wo": "Rom"},
        {"nr": "8", "satz": "in Oslo", "typ": "Ort", "wo": "Oslo"},
    ]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    columns = Columns(id="nr", text="satz", label="typ", mention="wo", label_separator=";")
    first, second = read("csv", tmp_path / "t.csv", columns=columns)
    assert (first.id, first.labels, marked(first)) == ("7", ("Ort", "Stadt"), ["Rom"])
    assert (second.labels, ends(second.spans[0])) == (("Ort",), (3, 7))


def test_patches_correct_labels_and_leave_out(files: dict[str, Path], tmp_path: Path):
    """TACREV names some examples, Re-TACRED all that stay."""
    (tmp_path / "rev.json").write_bytes(orjson.dumps([{"id": "e2", "relation": "per:other"}]))
    (tmp_path / "re.json").write_bytes(orjson.dumps({"e1": "per:title", "e2": "per:identity"}))
    (tmp_path / "one.json").write_bytes(orjson.dumps({"e1": "per:title"}))
    settings = {"format": "tacred", "train": files["tacred"], "dev": files["tacred"]}
    for patch, labels, left_out in (("rev", ["per:title", "per:other"], 0), ("re", ["per:title", "per:identity"], 0)):
        folder = run(ImportConfig(output=tmp_path / "out", patch=tmp_path / f"{patch}.json", **settings))
        assert [e.label for e in load_examples(folder, "train")] == labels
        manifest = open_artifact(folder, stage="finetune import")
        assert manifest.dropped.get("train_relabelled_by_patch") == 1
        assert manifest.dropped.get("train_not_in_patch", 0) == left_out
    with pytest.raises(InputError, match="at least two labels in train, its 1 examples carry 'per:title'"):
        run(ImportConfig(output=tmp_path / "out", patch=tmp_path / "one.json", **settings))


def test_a_graph_links_anew_or_where_the_file_has_no_link(tmp_path: Path):
    """Beside, a link of the file holds its place even when the graph lacks its entity."""
    (tmp_path / "g.tsv").write_text("Rome\tin\tItaly\nLazio\tin\tItaly\nRoma\tin\tRome\n", encoding="utf-8")
    graph = build_graph(BuildConfig(reader="tsv", source=str(tmp_path / "g.tsv"), output=tmp_path / "graph"))
    relations = FEWREL | {"P1": [FEWREL["P1"][0] | {"tokens": ["Rome", "in", "Italy", "and", "Lazio"]}]}
    (tmp_path / "f.json").write_bytes(orjson.dumps(relations))
    settings = {"format": "fewrel", "train": tmp_path / "f.json", "dev": tmp_path / "f.json", "graph": graph}
    shown = {}
    for keep in (False, True):
        folder = run(ImportConfig(output=tmp_path / f"keep-{keep}", keep_links=keep, **settings))
        (example,) = (e for e in load_examples(folder, "train") if "Rome" in e.text)
        shown[keep] = {example.text[k.start : k.end]: k.entity for k in example.links}
    assert shown[False] == {"Rome": "Rome", "Italy": "Italy", "Lazio": "Lazio"}
    assert shown[True] == {"Rome": "Q220", "Italy": "Q38", "Lazio": "Lazio"}


def test_an_import_maps_links_finds_the_null_label_and_names_the_facts(files: dict[str, Path], tmp_path: Path):
    """The leak filter asks for the facts by the graph's own ids."""
    (tmp_path / "map.tsv").write_text("Q220\t/m/rome\nQ38\t/m/italy\n", encoding="utf-8")
    config = ImportConfig(
        output=tmp_path / "out",
        format="fewrel",
        train=files["fewrel"],
        dev=files["fewrel"],
        entity_map=tmp_path / "map.tsv",
    )
    folder = run(config)
    assert (folder / "facts.tsv").read_text() == "/m/rome\tP1\t/m/italy\nQ60\tP2\tQ1\n"
    records = [{"id": "/m/rome", "wikidata_id": "Q220", "label": "Rome"}, {"id": "/m/none"}]
    records.append({"id": "/m/double", "wikidata_id": "Q220"})
    (tmp_path / "entities.jsonl").write_bytes(b"\n".join(map(orjson.dumps, records)))
    again = dataclasses.replace(config, entity_map=tmp_path / "entities.jsonl", output=tmp_path / "again")
    assert (run(again) / "facts.tsv").read_text().splitlines()[0] == "/m/rome\tP1\tQ38"
    assert open_artifact(again.output, stage="finetune import").dropped == {"entity_map_shares_an_id": 1}
    (tmp_path / "map.tsv").write_text("Q220\ta\nQ220\tb\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"map\.tsv:2: 'Q220' is mapped to 'a' and to 'b'"):
        run(config)
    assert described_task(folder) == {"task": "relation_classification", "scorer": "single_label"}
    assert load_examples(folder, "test", may_be_empty=True) == []
    tacred = run(ImportConfig(output=tmp_path / "t", format="tacred", train=files["tacred"], dev=files["tacred"]))
    manifest = open_artifact(tacred, stage="finetune import")
    assert manifest.figures["null_label"] == "no_relation"
    assert "null label 'no_relation'" in manifest.data["headline"]
    back = convert(ConvertConfig(output=tmp_path / "back", examples=folder, format="opennre"))
    assert [marked(e) for e in read("opennre", back / "train.jsonl")] == [["Rome", "Italy"], ["New York", "Yankees"]]
    with pytest.raises(InputError, match="has 0 spans of role 'mention'"):
        convert(ConvertConfig(output=tmp_path / "no", examples=folder, format="ernie_typing"))


def test_labels_unseen_in_train_and_skipped_records_are_in_the_manifest(tmp_path: Path):
    """Both would otherwise be found out by a score that is too low."""
    (tmp_path / "train.csv").write_text("text,label\na,p\n,q\nb,q\n", encoding="utf-8")
    (tmp_path / "dev.csv").write_text("text,label\nc,r\n", encoding="utf-8")
    config = ImportConfig(
        output=tmp_path / "out",
        format="csv",
        task="sequence_classification",
        train=tmp_path / "train.csv",
        dev=tmp_path / "dev.csv",
        on_bad_record="skip",
    )
    manifest = open_artifact(run(config), stage="finetune import")
    assert manifest.dropped == {"train_skipped_empty_text": 1}
    assert manifest.figures["unseen_in_train"] == ["r"]
    assert "line 3" in (tmp_path / "out" / "skipped.jsonl").read_text()


@pytest.mark.skipif(not DATA.exists(), reason="the development data do not lie beside this checkout")
def test_the_real_files_are_read_whole(tmp_path: Path):
    """A quote that swallows lines, or a byte-order mark, shows in the count alone (MRPC: the lines but the header)."""
    counts = {
        ("ernie_typing", "open_entity/train.json"): 1998,
        ("fewrel", "fewrel16/dev.json"): 1600,
        ("semeval2010", "semeval2010_task8/train.txt"): 7109,
        ("glue/cola", "glue/CoLA/train.tsv"): 8551,
        ("glue/sst2", "glue/SST-2/train.tsv"): 67349,
        ("glue/mrpc", "glue/MRPC/train.tsv"): 3667,
        ("glue/rte", "glue/RTE/train.tsv"): 2490,
        ("glue/stsb", "glue/STS-B/train.tsv"): 5749,
    }
    for (name, file), count in counts.items():
        found = read(name, DATA / file)
        assert len(found) == count, name
    examples = read("fewrel", DATA / "fewrel16/dev.json")
    write_format("ernie_relation", tmp_path / "e.json", examples)
    assert [strip_id(e) for e in read("ernie_relation", tmp_path / "e.json")] == [strip_id(e) for e in examples]
