"""Examples from topics, triples and types, and the splits that share nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entity_linking.corpus import Document
from entity_linking.records import Link
from finetune.builders import drafts as steps
from finetune.builders.drafts import Draft, Window, window_around
from finetune.builders.relations import NO_RELATION, RelationTable, relation_drafts, sentence_windows
from finetune.builders.topics import find_title, topic_drafts
from finetune.builders.types import type_drafts
from finetune.data import described_task, load_examples
from finetune.examples import ExamplesConfig, run
from finetune.tasks.schema import Example
from kg.artifact import open_artifact
from kg.errors import InputError
from kg.graph import KnowledgeGraph
from kg.split import split_of

SPLIT = {"dev": 0.2, "test": 0.2, "seed": 0}


def graph(triples: Sequence[tuple[int, int, int]], types: dict[int, list[str]] | None = None) -> KnowledgeGraph:
    """Entities E1 … E9 and relations r0 … r2."""
    rows = range(1, 10)
    columns = {
        "row": list(rows),
        "id": [f"E{n}" for n in rows],
        "label": [f"name{n}" for n in rows],
        "aliases": [[] for _ in rows],
        "description": ["" for _ in rows],
        "types": [(types or {}).get(n, []) for n in rows],
        "count": [0 for _ in rows],
    }
    relations = {"row": [0, 1, 2], "id": ["r0", "r1", "r2"], "label": ["r0", "r1", "r2"]}
    aliases = {"alias": [f"name{n}" for n in rows], "entity": list(rows), "prior": [1.0 for _ in rows]}
    return KnowledgeGraph(
        entities=pa.table(columns),
        relations=pa.table(relations),
        aliases=pa.table(aliases),
        triples=np.array(triples, dtype=np.int32).reshape(-1, 3),
    )


class NameLinker:
    """Links every `nameN` to EN."""

    def link_batch(self, texts: Sequence[str]) -> list[list[Link]]:
        return [self.link(text) for text in texts]

    def link(self, text: str) -> list[Link]:
        found = [(text.find(f"name{n}"), n) for n in range(1, 10)]
        return [Link(start, start + 5, f"E{n}", 0.5) for start, n in sorted(found) if start >= 0]


def relations(texts: dict[str, str], triples: Sequence[tuple[int, int, int]], **settings):
    dropped: Counter[str] = Counter()
    given = {"window_sentences": 1, "max_characters": 200, **SPLIT} | settings
    documents = [Document(name, text) for name, text in texts.items()]
    drafts = relation_drafts(documents, graph=graph(triples), linker=NameLinker(), dropped=dropped, **given)
    return list(drafts), dropped


@pytest.mark.parametrize(
    ("title", "text", "found"),
    [
        ("Mercury (planet)", "The planet Mercury is hot. Mercury!", "Mercury"),
        ("C++", "In C++, one writes", "C++"),
        ("Alder", "Alders are trees", "Alders"),
        ("KYIV", "Old Kyiv", "Kyiv"),
        ("Art", "Party artists", None),
        ("(I)", "nothing here", None),
    ],
)
def test_a_title_is_found_as_whole_words(title: str, text: str, found: str | None):
    """`Art` inside `Party` would mark the wrong thing, and the score would only be a little lower."""
    window = find_title(title, text)
    assert (text[window.start : window.end] if window else None) == found


def test_topics_are_marked_at_the_first_mention_and_counted_when_left_out():
    """A paragraph that vanishes uncounted would make a corpus look cleaner than it is."""
    dropped: Counter[str] = Counter()
    documents = [
        Document("a", "x " * 50 + "old Kyiv is old " + "y " * 50, title="Kyiv", topic="Geography"),
        Document("b", "text", title="text", topic=""),
        Document("c", "text", title="text", topic="Uncategorized"),
        Document("d", "no such name", title="Lviv", topic="Geography"),
    ]
    (draft,) = topic_drafts(documents, max_characters=40, dropped=dropped, **SPLIT)
    example = draft.example
    (span,) = example.spans
    assert example.text[span.start : span.end] == "Kyiv"
    assert len(example.text) <= 40
    assert documents[0].text[example.offset :].startswith(example.text)
    assert (example.label, draft.split) == ("Geography", split_of("a", **SPLIT))
    assert dropped == {"no_topic": 2, "title_not_in_text": 1}


@given(st.text("ab \n", min_size=1, max_size=60), st.data())
def test_a_window_holds_its_mention_and_keeps_its_size(text: str, data: st.DataObject):
    """A mention half cut off is marked all the same."""
    first = data.draw(st.integers(0, len(text) - 1))
    last = data.draw(st.integers(first + 1, len(text)))
    limit = data.draw(st.integers(1, 60))
    found = window_around(text, Window(0, len(text)), first, last, limit)
    if found is None:
        assert last - first > limit
    else:
        assert found.start <= first < last <= found.end
        assert found.end - found.start <= max(limit, 0)


@given(st.text("ab. A!?J", max_size=60), st.integers(1, 3))
def test_windows_cover_every_word_in_order(text: str, size: int):
    """A sentence in no window loses its pairs."""
    windows = sentence_windows(text, size)
    covered = {n for window in windows for n in range(window.start, window.end)}
    assert all(n in covered for n, letter in enumerate(text) if not letter.isspace())
    assert [w.start for w in windows] == sorted(w.start for w in windows)


def test_sentences_end_where_a_reader_ends_them():
    """Initials are in every biography."""
    text = 'J. Smith met A. B. Jones. He said "No." Then 3 left! ok'
    assert [text[a:b] for a, b in sentence_windows(text, 1)] == [
        "J. Smith met A. B. Jones.",
        'He said "No."',
        "Then 3 left! ok",
    ]


def test_a_pair_gets_its_triples_relation_and_direction():
    """Head and tail exchanged would teach every relation backwards."""
    text = "First name3 here. Then name2 and name1 stand. At last name4 too."
    (draft,), dropped = relations({"doc": text}, [(1, 1, 2)])
    example = draft.example
    words = {span.role: example.text[span.start : span.end] for span in example.spans}
    assert words == {"head": "name1", "tail": "name2"}
    assert example.label == "r1"
    assert [link.entity for link in example.links] == ["E1", "E2"]
    assert example.text == "Then name2 and name1 stand."
    assert text[example.offset :].startswith(example.text)
    assert (draft.fact.head, draft.fact.relation, draft.fact.tail) == ("E1", "r1", "E2")
    assert not +dropped


def test_unrelated_pairs_of_one_sentence_are_no_relation_in_both_directions():
    """A pair whose triple runs the other way round is related all the same."""
    drafts, _ = relations({"doc": "name1 name2 name3."}, [(2, 0, 1)])
    labels = {frozenset(link.entity for link in d.example.links): d.example.label for d in drafts}
    assert labels == {
        frozenset({"E1", "E2"}): "r0",
        frozenset({"E1", "E3"}): NO_RELATION,
        frozenset({"E2", "E3"}): NO_RELATION,
    }


def test_several_relations_and_distant_pairs_are_left_out_and_counted():
    """One of two true labels chosen at random is noise nobody sees."""
    drafts, dropped = relations(
        {"a": "name1 name2.", "b": f"name3 {'x' * 300} name4."}, [(1, 0, 2), (1, 1, 2), (3, 0, 4)]
    )
    assert drafts == []
    assert +dropped == {"several_relations": 1, "pair_too_far_apart": 1}


def test_a_wider_window_joins_neighbouring_sentences():
    """The setting must reach the search."""
    texts = {"doc": "Here is name1. There is name2."}
    assert relations(texts, [(1, 0, 2)])[0] == []
    assert len(relations(texts, [(1, 0, 2)], window_sentences=2)[0]) == 1


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2), st.integers(1, 9)), max_size=30))
def test_relations_between_two_entities_are_looked_up_exactly(triples: list[tuple[int, int, int]]):
    """A binary search off by one finds a neighbour's relation."""
    table = RelationTable(graph(triples))
    heads, tails = np.divmod(np.arange(81), 9) + np.ones((2, 1), dtype=int)
    for head, tail, found in zip(heads, tails, table.between(heads, tails), strict=True):
        assert found.tolist() == [r for h, r, t in triples if (h, t) == (head, tail)]


def test_types_become_one_label_or_several():
    """An entity of two types given one of them at random is noise."""
    made = graph([], types={1: ["city"], 2: ["city", "port"]})
    documents = [Document("a", "name1 and name2 and name3, name1")]
    settings = {"graph": made, "linker": NameLinker(), "max_characters": 100, **SPLIT}
    dropped: Counter[str] = Counter()
    single = list(type_drafts(documents, multi_label=False, dropped=dropped, **settings))
    assert [d.example.label for d in single] == ["city"]
    assert dropped == {"several_types": 1, "no_type": 1}
    several = list(type_drafts(documents, multi_label=True, dropped=Counter(), **settings))
    assert [d.example.labels for d in several] == [("city",), ("city", "port")]


@given(
    st.lists(st.tuples(st.sampled_from(["train", "dev", "test"]), st.sets(st.integers(0, 8), max_size=3)), max_size=25)
)
def test_nothing_stands_in_two_splits(made: list[tuple[str, set[int]]]):
    """A leak only ever raises the score. Test loses nothing; what is dropped is counted."""
    drafts = [
        Draft(example=Example(id=str(n), text="x", label="p"), split=split, keys=tuple(("k", str(k)) for k in keys))
        for n, (split, keys) in enumerate(made)
    ]
    dropped: Counter[str] = Counter()
    kept = steps.without_leaks(drafts, dropped)
    assert steps.shared_keys(kept) == {}
    assert [d for d in kept if d.split == "test"] == [d for d in drafts if d.split == "test"]
    assert len(kept) + dropped.total() == len(drafts)


def labelled(names: str, split: str = "train") -> list[Draft]:
    return [Draft(example=Example(id=f"{split}{n}", text="x", label=name), split=split) for n, name in enumerate(names)]


def test_caps_hold_and_do_not_depend_on_order():
    """A cap that takes the first examples takes one end of the alphabet."""
    drafts, dropped = labelled("aaaaaaabb"), Counter()
    settings = {"seed": 3, "dropped": dropped, "reason": "over"}
    kept = steps.capped(drafts, steps.single_label, 3, **settings)
    assert Counter(d.example.label for d in kept) == {"a": 3, "b": 2}
    assert dropped == {"over": 4}
    again = steps.capped(drafts[::-1], steps.single_label, 3, **settings)
    assert {d.example.id for d in again} == {d.example.id for d in kept} != {"train0", "train1", "train2"}


def test_rare_labels_and_labels_without_training_are_left_out():
    """A class that only test has can only be missed."""
    dropped: Counter[str] = Counter()
    kept = steps.without_rare_labels(labelled("aaab") + labelled("ccc", split="test"), 2, dropped)
    assert {d.example.label for d in kept} == {"a"}
    assert dropped == {"label_too_rare": 4}


def write_corpus(folder: Path, topics: Sequence[str], per_topic: int = 20) -> Path:
    path = folder / "corpus.jsonl"
    lines = [
        {"id": f"{topic}{n}", "title": f"{topic}{n}", "topic": topic, "text": f"The {topic}{n} is a thing, number {n}."}
        for topic in topics
        for n in range(per_topic)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def topics_config(tmp_path: Path, topics: Sequence[str], **settings) -> ExamplesConfig:
    source = write_corpus(tmp_path, topics)
    given = {"dev": 0.2, "test": 0.2} | settings
    return ExamplesConfig(output=tmp_path / "out", task="topics", corpus="jsonl", source=str(source), **given)


def test_the_stage_writes_splits_labels_and_facts(tmp_path: Path):
    """Documents must fall where `pretrain prepare` lets them fall, or test texts are read before the test."""
    folder = run(topics_config(tmp_path, ["art", "law"]))
    manifest = open_artifact(folder, stage="finetune examples")
    assert json.loads((folder / "labels.json").read_text()) == ["art", "law"]
    assert (folder / "facts.tsv").read_text() == ""
    assert described_task(folder) == {"task": "entity_typing"}
    total = 0
    for split in ("train", "dev", "test"):
        examples = load_examples(folder, split)
        total += len(examples)
        assert manifest.counts[split] == len(examples)
        assert {split_of(e.document, seed=0, dev=0.2, test=0.2) for e in examples} == {split}
    assert total == 40
    assert manifest.figures["examples_per_label"] == {"art": 20, "law": 20}


def test_the_same_text_under_two_names_stays_in_one_split(tmp_path: Path):
    """Copies of a paragraph are common in dumps."""
    lines = [
        {"id": f"{n}", "title": "thing", "topic": "ab"[n % 2], "text": f"A thing,  {'of art' if n % 2 else 'OF law'}!"}
        for n in range(40)
    ]
    source = tmp_path / "corpus.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    config = ExamplesConfig(output=tmp_path / "out", task="topics", corpus="jsonl", source=str(source))
    with pytest.raises(InputError, match=r"none.*leak_title"):
        run(config)


@pytest.mark.faults
def test_examples_nothing_can_be_learned_from_are_refused_in_one_line(tmp_path: Path):
    """One label would train to 100 % and say nothing."""
    with pytest.raises(InputError, match=r"40 examples carry only 'art'|20 examples carry only 'art'"):
        run(topics_config(tmp_path, ["art"]))
    with pytest.raises(InputError, match="no examples in dev and test"):
        run(topics_config(tmp_path, ["art", "law"], dev=0.0, test=0.0))
    with pytest.raises(InputError, match="needs `graph`"):
        run(ExamplesConfig(output=tmp_path / "out", task="relations", corpus="jsonl", source="x"))
    with pytest.raises(InputError, match="min_per_label is 0"):
        run(topics_config(tmp_path, ["art", "law"], min_per_label=0))
    assert not (tmp_path / "out").exists()


@pytest.mark.faults
def test_a_split_without_examples_is_refused_when_read(tmp_path: Path, make_examples):
    """A mean over no examples is NaN, far from its cause."""
    folder = make_examples(train=[Example(id="a", text="x", label="p")], dev=[], test=[])
    assert len(load_examples(folder, "train")) == 1
    with pytest.raises(InputError, match=r"dev\.jsonl holds no examples"):
        load_examples(folder, "dev")
    with pytest.raises(InputError, match="finetune examples"):
        load_examples(tmp_path, "train")
