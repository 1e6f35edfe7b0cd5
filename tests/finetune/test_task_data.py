"""Marks, links and labels on their way into features."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ernie
from entity_linking.records import Link, LinkedDocument
from finetune.data import add_markers, collate, encode_examples, joined_links, label_rows
from finetune.marking import mark
from finetune.metrics import UNSEEN
from finetune.tasks import TASKS, TaskSpec, for_examples
from finetune.tasks.schema import EntityLink, Example, Span
from kg.errors import InputError

TYPING, RELATION = TASKS["entity_typing"], TASKS["relation_classification"]


@st.composite
def intervals(draw: st.DrawFn, length: int) -> tuple[int, int]:
    start = draw(st.integers(0, length - 1))
    return start, draw(st.integers(start + 1, length))


@st.composite
def marked_examples(draw: st.DrawFn) -> tuple[Example, list[EntityLink]]:
    text = draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]"), min_size=2, max_size=30))
    roles = draw(st.sampled_from([("mention",), ("head", "tail"), ("head",), ()]))
    spans = [Span(start=s, end=e, role=role) for role in roles for s, e in [draw(intervals(len(text)))]]
    links = [
        EntityLink(start=s, end=e, entity=f"Q{n}")
        for n, (s, e) in enumerate(draw(st.lists(intervals(len(text)), max_size=4)))
    ]
    return Example(id="x", text=text, spans=tuple(spans)), links


@given(marked_examples(), st.sampled_from([TYPING, RELATION]))
def test_marks_leave_the_text_and_every_link_where_it_was(made: tuple[Example, list[EntityLink]], spec: TaskSpec):
    """A link moved by one character sits on another word piece, and training goes on with a wrong entity."""
    example, links = made
    marked = mark(example, spec=spec, links=links)
    text, moved = marked.text, marked.links
    stripped = text
    for opening, closing in spec.markers.values():
        stripped = stripped.replace(f"{opening} ", "").replace(f" {closing}", "")
    assert stripped == example.text
    borders = {p for s in example.spans if s.role in spec.markers for p in (s.start, s.end)}
    for before, after in zip(links, moved, strict=True):
        mention = example.text[before.start : before.end]
        found = text[after.start : after.end]
        inside = [p for p in borders if before.start < p < before.end]
        assert found == (mention if not inside else example.text[before.start : min(inside)])
        assert after.entity == before.entity


@given(marked_examples())
def test_the_marked_words_are_the_span(made: tuple[Example, list[EntityLink]]):
    """Text between the marks, not only text outside them, must be the mention."""
    example, _ = made
    spans = [span for span in example.spans if span.role in RELATION.markers]
    marked = mark(example, spec=RELATION)
    text = marked.text
    for span, place in zip(example.spans, marked.spans, strict=True):
        inside = [p for s in spans for p in (s.start, s.end) if span.start < p < span.end]
        if not inside:
            assert text[place.start : place.end] == example.text[span.start : span.end]
        if place.opening is not None:
            opening, closing = RELATION.markers[span.role]
            assert text[place.opening :].startswith(opening)
            assert text[place.closing :].startswith(closing)
    for span in spans:
        opening, closing = RELATION.markers[span.role]
        between = text[text.index(opening) + len(opening) + 1 : text.index(closing) - 1]
        for token in RELATION.marker_tokens:
            between = between.replace(f"{token} ", "").replace(f" {token}", "")
        assert between == example.text[span.start : span.end]


@pytest.mark.faults
def test_a_span_beyond_the_text_is_refused_where_it_is_marked():
    """Examples made in Python have not gone through the reader's check."""
    with pytest.raises(InputError, match=r"'x': span \[0, 9\) leaves the text"):
        mark(Example(id="x", text="abc", spans=(Span(start=0, end=9),)), spec=TYPING)
    with pytest.raises(InputError, match=r"'x': span \[2, 2\) is empty"):
        mark(Example(id="x", text="abc", spans=(Span(start=2, end=2),)), spec=TYPING)


def linked_document() -> LinkedDocument:
    return LinkedDocument("d", "", "ab cd ef gh", (Link(0, 2, "Q1", 0.9), Link(6, 8, "Q2", 0.8), Link(9, 11, "Q3", 1)))


def test_mentions_of_the_document_join_the_examples_own():
    """An offset forgotten would put entities on other words; an own link doubled would give two answers."""
    own = EntityLink(start=3, end=5, entity="Q9")
    example = Example(id="x", text="cd ef", document="d", offset=3, links=(own,))
    moved = EntityLink(start=3, end=5, entity="Q2", score=0.8)
    assert joined_links(example, {"d": linked_document()}, Counter()) == (own,)
    bare = Example(id="x", text="cd ef", document="d", offset=3)
    assert joined_links(bare, {"d": linked_document()}, Counter()) == (moved,)


def test_a_document_that_was_not_linked_is_counted():
    """Silently linkless examples would make the entities look useless."""
    counts: Counter[str] = Counter()
    assert joined_links(Example(id="x", text="cd", document="e", offset=0), {"d": linked_document()}, counts) == ()
    assert counts == {"document_not_linked": 1}


@pytest.mark.faults
def test_links_of_another_text_are_refused():
    """Shards of an older corpus would put every entity on a wrong word."""
    with pytest.raises(InputError, match="not that of document 'd' at offset 0"):
        joined_links(Example(id="x", text="cd", document="d", offset=0), {"d": linked_document()}, Counter())


def encode(examples: list[Example], spec: TaskSpec, tokenizer: ernie.ErnieTokenizer, **settings):
    add_markers(tokenizer, spec)
    given = {"label_to_id": {"p": 0, "q": 1}, "max_length": 32, "linked": None, "entities": "given"}
    return encode_examples(examples, spec=spec, tokenizer=tokenizer, **(given | settings))


def test_features_carry_marks_entities_and_label_rows(tokenizer: ernie.ErnieTokenizer):
    """Marks split into letters would be learnt as ordinary words."""
    link = EntityLink(start=3, end=5, entity="Q2")
    example = Example(id="x", text="ab cd ef", spans=(Span(start=3, end=5),), links=(link,), label="q")
    (feature,), counts = encode([example], TYPING, tokenizer)
    pieces = tokenizer.fast_tokenizer.convert_ids_to_tokens(feature["input_ids"].tolist())
    assert pieces == ["[CLS]", "a", "##b", "[ENT]", "c", "##d", "[/ENT]", "e", "##f", "[SEP]"]
    assert feature["entity_ids"].tolist() == [2]
    assert feature["entity_positions"].tolist() == [4]
    assert feature["labels"] == 1
    assert not counts
    (bare,), _ = encode([example], TYPING, tokenizer, entities="none")
    assert bare["entity_ids"].tolist() == []
    assert bare["input_ids"].tolist() == feature["input_ids"].tolist()


def test_marks_survive_the_tokenizers_folder(tokenizer: ernie.ErnieTokenizer, tmp_path):
    """A reloaded tokenizer without them would shift every input at prediction time only."""
    add_markers(tokenizer, RELATION)
    tokenizer.save_pretrained(tmp_path)
    again = ernie.ErnieTokenizer.from_pretrained(tmp_path, {})
    wanted = tokenizer.fast_tokenizer.convert_tokens_to_ids(RELATION.marker_tokens)
    assert again.fast_tokenizer.convert_tokens_to_ids(RELATION.marker_tokens) == wanted
    assert len(set(wanted)) == 4
    assert add_markers(again, RELATION) == 0


def test_cut_examples_and_strange_labels_are_counted_and_stay(tokenizer: ernie.ErnieTokenizer):
    """The first implementation skipped them, in evaluation too, so its score was over fewer examples."""
    long = Example(id="x", text="ab " * 20, spans=(Span(start=57, end=59),), label="p")
    strange = Example(id="y", text="ab", spans=(Span(start=0, end=2),), label="r")
    unknown = EntityLink(start=0, end=2, entity="Q77")
    linked = Example(id="z", text="ab", links=(unknown,), label="q")
    features, counts = encode([long, strange, linked], TYPING, tokenizer, max_length=12)
    assert [len(feature["input_ids"]) for feature in features] == [12, 6, 4]
    assert [feature["labels"] for feature in features] == [0, UNSEEN, 1]
    assert counts == {
        "examples_cut_by_max_length": 1,
        "examples_with_a_mark_cut_off": 1,
        "label_unseen_in_training": 1,
        "link_unknown_entity": 1,
    }


def test_multi_label_features_count_what_training_never_saw(tokenizer: ernie.ErnieTokenizer):
    """An unseen gold label left out would raise recall."""
    examples = [Example(id="x", text="ab", labels=("q", "r", "s")), Example(id="y", text="ab", labels=())]
    features, counts = encode(examples, for_examples(TYPING, examples), tokenizer)
    assert [feature["labels"].tolist() for feature in features] == [[0, 1], [0, 0]]
    assert [feature["num_unseen_labels"] for feature in features] == [2, 0]
    assert counts == {"label_unseen_in_training": 2}
    batch = collate(features, pad_token_id=0)
    assert batch["labels"].tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_examples_without_an_answer_have_no_labels(tokenizer: ernie.ErnieTokenizer):
    """A made-up label would be scored."""
    (feature,), _ = encode([Example(id="x", text="ab")], TYPING, tokenizer)
    assert "labels" not in feature
    assert "labels" not in collate([feature], pad_token_id=0)


def test_a_batch_pads_entities_and_stacks_labels(tokenizer: ernie.ErnieTokenizer):
    """A class row padded like word-piece labels would become a vector of ignored values."""
    link = EntityLink(start=0, end=2, entity="Q1")
    examples = [Example(id="x", text="ab cd", links=(link,), label="q"), Example(id="y", text="ab", label="p")]
    features, _ = encode(examples, TYPING, tokenizer)
    batch = collate(features, pad_token_id=0)
    assert batch["labels"].tolist() == [1, 0]
    assert batch["entity_ids"].tolist() == [[1], [0]]
    assert batch["entity_attention_mask"].tolist() == [[1], [0]]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "carry none"),
        ([Example(id="x", text="a", label="p")] * 3, "3 examples carry only 'p'"),
        ([Example(id="x", text="a", labels=())], "carry none"),
    ],
)
def test_fewer_than_two_labels_are_refused(examples: list[Example], message: str):
    """A classifier of one class scores 100 % and knows nothing."""
    with pytest.raises(InputError, match=message):
        label_rows(examples)


def test_label_rows_do_not_depend_on_the_order_of_examples():
    """Rows that drift between runs make two models' logits incomparable."""
    examples = [Example(id=str(n), text="a", label=name) for n, name in enumerate("cabca")]
    assert label_rows(examples) == label_rows(examples[::-1]) == {"a": 0, "b": 1, "c": 2}
    assert np.array_equal(list(label_rows(examples).values()), [0, 1, 2])


def test_a_text_is_encoded_alike_whatever_stands_beside_it(tokenizer: ernie.ErnieTokenizer):
    """A second text in one example must not give the others an empty one: answers would depend on the batch."""
    alone = Example(id="1", text="a b", label="x")
    pair = Example(id="2", text="a b", text_pair="c", label="x")
    settings = {"spec": TASKS["sequence_classification"], "tokenizer": tokenizer, "label_to_id": {"x": 0, "y": 1}}
    settings |= {"max_length": 16, "linked": None, "entities": "none"}
    first, _ = encode_examples([alone], **settings)
    both, _ = encode_examples([alone, pair], **settings)
    assert first[0]["input_ids"].tolist() == both[0]["input_ids"].tolist()
    assert len(both[1]["input_ids"]) == len(both[0]["input_ids"]) + 2
