"""Examples on disk: what is written is read, what is wrong is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.tasks import TASKS, for_examples
from finetune.tasks.schema import EntityLink, Example, Span, as_record, from_record, read_examples, write_examples
from kg.errors import InputError

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
GOOD = {"id": "a", "text": "Kyiv is old", "spans": [{"start": 0, "end": 4, "role": "mention"}], "label": "city"}


@st.composite
def examples(draw: st.DrawFn) -> Example:
    text = draw(WORDS)
    start = draw(st.integers(0, len(text) - 1))
    end = draw(st.integers(start + 1, len(text)))
    answer = draw(st.sampled_from(["label", "labels", None]))
    return Example(
        id=draw(WORDS),
        text=text,
        text_pair=draw(st.none() | WORDS),
        document=draw(st.none() | WORDS),
        offset=draw(st.none() | st.integers(0, 10)),
        spans=(Span(start=start, end=end, role="head", type=draw(st.none() | WORDS)),),
        links=(EntityLink(start=start, end=end, entity=draw(WORDS), score=draw(st.floats(0, 1))),),
        label=draw(WORDS) if answer == "label" else None,
        labels=tuple(draw(st.lists(WORDS, max_size=3))) if answer == "labels" else None,
    )


@given(examples())
def test_an_example_survives_its_json(example: Example):
    """A field lost on the way would only show as a worse score."""
    assert from_record(json.loads(json.dumps(as_record(example))), place="x:1") == example


def test_a_file_of_examples_is_read_in_order(tmp_path: Path):
    """Line separators inside text (U+2028) must not cut a record in two."""
    written = [Example(id="b", text="one\u2028line\nmore"), Example(id="a", text="é" * 3)]
    assert write_examples(tmp_path / "x.jsonl", written) == 2
    assert list(read_examples(tmp_path / "x.jsonl")) == written


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": [{"start": 0, "end": 99}]}, r"span \[0, 99\) leaves the text of 11"),
        ({"spans": [{"start": 4, "end": 4}]}, r"span \[4, 4\) is empty"),
        ({"spans": [{"start": 5, "end": 2}]}, r"span \[5, 2\) is empty"),
        ({"spans": [{"start": -1, "end": 2}]}, r"span \[-1, 2\) leaves"),
        ({"spans": [{"start": "0", "end": 2}]}, "`start` is '0', expected int"),
        ({"links": [{"start": 0, "end": 4}]}, "`entity` is None, expected str"),
        ({"links": [{"start": 0, "end": 4, "entity": "Q1", "score": "high"}]}, "`score` is 'high'"),
        ({"labels": ["city"]}, "both `label` and `labels`"),
        ({"label": None, "labels": "city"}, "expected a list of strings"),
        ({"text": None}, "`text` is None, expected str"),
        ({"lable": "city"}, r"unknown keys \['lable'\]"),
    ],
)
def test_a_bad_record_names_file_line_and_fault(tmp_path: Path, change: dict, message: str):
    """A span beyond its text would mark the wrong words; Python's slices never complain."""
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | {"id": "b"} | change) + "\n")
    with pytest.raises(InputError, match=rf"train\.jsonl:3: .*{message}"):
        list(read_examples(path))


@pytest.mark.faults
def test_broken_json_missing_files_and_repeated_ids_are_named(tmp_path: Path):
    """A repeated id would join the same predictions to two records."""
    path = tmp_path / "train.jsonl"
    with pytest.raises(InputError, match="no such file"):
        list(read_examples(path))
    path.write_text('{"id": ')
    with pytest.raises(InputError, match=r"train\.jsonl:1: not JSON"):
        list(read_examples(path))
    path.write_text((json.dumps(GOOD) + "\n") * 2)
    with pytest.raises(InputError, match=r"train\.jsonl:2: the id 'a' came before"):
        list(read_examples(path))


def test_the_kind_of_answer_comes_from_the_examples():
    """A multi-label set trained with a softmax would learn one label of each."""
    one, many = Example(id="a", text="x", label="p"), Example(id="b", text="x", labels=("p", "q"))
    spec = TASKS["entity_typing"]
    assert for_examples(spec, [one]).problem_type == "single_label_classification"
    assert for_examples(spec, [many]).multi_label
    assert for_examples(spec, [many]).primary_metric == "loose_micro_f1"


@pytest.mark.faults
def test_examples_without_one_kind_of_answer_are_refused():
    """Mixed kinds would silently train on half of the data."""
    spec = TASKS["entity_typing"]
    with pytest.raises(InputError, match="no examples"):
        for_examples(spec, [])
    with pytest.raises(InputError, match="neither `label` nor `labels`"):
        for_examples(spec, [Example(id="a", text="x")])
    with pytest.raises(InputError, match="some examples carry `label`"):
        for_examples(spec, [Example(id="a", text="x", label="p"), Example(id="b", text="x", labels=())])
