"""Hostile text through the whole stage: no crash, no shifted offset, everything that is changed counted by reason."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_linking.alias_table import AliasTable
from entity_linking.annotate import LinkConfig, read_linked, run
from entity_linking.candidates import CandidateTable
from entity_linking.gold import read_gold
from entity_linking.linker import EntityLinker, named_rows
from entity_linking.matcher import AliasMatcher, alias_strings
from entity_linking.mentions import GivenSpans
from entity_linking.normalise import fold
from entity_linking.rerank import Reranker
from entity_linking.weights import LinkWeights
from kg.artifact import open_artifact
from kg.graph import KnowledgeGraph

pytestmark = pytest.mark.faults

HOSTILE = [
    "Oslo\0Bergen\0",  # NUL
    "\ud800Oslo\udfff Bergen",  # lone surrogates
    "שלום Oslo \u202eNorway\u202c مرحبا Bergen",  # right to left, overrides
    "O\u200ds\u200dl\u200do and Ber\u00adgen",  # zero-width joiners and soft hyphens inside a name
    "Oslo",  # an alias that is the whole text
    "👩🏽\u200d🚀Oslo👩🏽\u200d🚀 Ｎｏｒｗａｙ Ｏｓｌｏ",  # clusters, full width
    "…?!.,;:—()[]{}",  # punctuation alone
    "Ö́̂̈slo O\u0301slo\u0301",  # marks upon marks
    "ﬁord Oslo ½ Norway",  # characters that fold to several
    "\ufeffOslo\r\n\u2028Norway\u2029\x85Bergen",  # marks and every kind of line end
]
FOUND = [2, 2, 3, 2, 1, 3, 0, 2, 2, 3]


def test_hostile_texts_keep_every_offset(world: LinkConfig, tmp_path: Path) -> None:
    """A shift by one is invisible in totals; each surface must fold to a name of its entity."""
    file = tmp_path / "hostile.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(HOSTILE)))
    documents = list(read_linked(run(replace(world, source=str(file)))))
    assert [document.id for document in documents] == [str(i) for i in range(len(HOSTILE))]
    for document in documents:
        assert len(document.text) == len(HOSTILE[int(document.id)])
        for mention in document.mentions:
            assert fold(document.text[mention.start : mention.end]) == mention.entity
    assert [len(document.mentions) for document in documents] == FOUND
    dropped = open_artifact(world.output, stage="link").dropped
    assert (dropped["nul_replaced"], dropped["lone_surrogates_replaced"]) == (2, 2)


def test_fifty_megabytes_on_one_line(world: LinkConfig, tmp_path: Path) -> None:
    """A line without end must be one document, cut inside for linking and whole in the shard."""
    line = "So the words of one long line go on and on, é. " * 500 + "Oslo. "
    times = 50_000_000 // len(line)
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": line * times}) + "\n")
    [document] = read_linked(run(replace(world, vectors=None, source=str(tmp_path / "long.jsonl"))))
    assert len(document.text) == len(line) * times
    assert [mention.end for mention in document.mentions] == [len(line) * (i + 1) - 2 for i in range(times)]


def test_a_hundred_thousand_candidates_for_one_alias() -> None:
    """ "John Smith" in a large graph: the cut is counted, the likeliest stay, ties by row."""
    many = 100_000
    table = AliasTable.from_aliases(["John Smith"], plurals=False)
    rows = list(range(1, many + 1))
    names = pa.array([["John Smith"]] * many, pa.list_(pa.string()))
    columns = {"row": rows, "id": [f"Q{i}" for i in rows], "label": ["x"] * many, "aliases": names}
    columns |= {"description": [""] * many, "types": pa.array([[]] * many, pa.list_(pa.string())), "count": [1] * many}
    graph = KnowledgeGraph(
        entities=pa.table(columns),
        relations=pa.table({"row": [0], "id": ["r"], "label": ["r"]}),
        aliases=pa.table(
            {"alias": ["John Smith"] * many, "entity": rows, "prior": [1 / many] * (many - 1) + [0.5]},
        ),
        triples=np.zeros((0, 3), np.int32),
    )
    assert alias_strings(graph)[0] == ["John Smith"]
    candidates = CandidateTable.from_graph(graph, table, max_candidates=20)
    assert candidates.num_cut == many - 20
    assert candidates.entity.tolist() == [many, *range(1, 20)]


@pytest.mark.parametrize("aliases", [[], ["...", "—", "1984"]])
def test_an_empty_alias_table_links_nothing_and_says_why(aliases: list[str]) -> None:
    """A graph without names, or whose names are all refused, must not divide by nothing."""
    count = len(aliases)
    graph = KnowledgeGraph(
        entities=pa.table(
            {"row": [1], "id": ["a"], "label": ["x"], "aliases": pa.array([aliases], pa.list_(pa.string()))}
            | {"description": [""], "types": pa.array([[]], pa.list_(pa.string())), "count": [1]}
        ),
        relations=pa.table({"row": [0], "id": ["r"], "label": ["r"]}),
        aliases=pa.table(
            {
                "alias": pa.array(aliases, pa.string()),
                "entity": pa.array([1] * count, pa.int32()),
                "prior": pa.array([1.0] * count, pa.float32()),
            }
        ),
        triples=np.zeros((0, 3), np.int32),
    )
    table = AliasTable.from_aliases(alias_strings(graph)[0])
    assert table.num_keys == 0
    assert sum(table.dropped.values()) == count
    linker = EntityLinker(
        detector=AliasMatcher(table),
        candidates=CandidateTable.from_graph(graph, table),
        reranker=Reranker(weights=LinkWeights()),
        entities=named_rows(graph.entities["id"]),
        labels=named_rows(graph.entities["label"]),
    )
    assert linker.link("Oslo in 1984 ...") == []
    assert linker.explain("Oslo") == []
    linker.detector = GivenSpans(table, [[(0, 4)]])
    [found] = linker.explain_whole("Oslo")
    assert (found.candidates, found.link) == ((), None)


def test_overlapping_gold_is_counted_not_linked_twice(tmp_path: Path) -> None:
    """Two gold spans on one word would count one mention twice in every score."""
    places = ((0, 4, "a"), (2, 8, "b"), (5, 8, "c"))
    spans = [{"start": start, "end": end, "entity": name} for start, end, name in places]
    (tmp_path / "g.jsonl").write_text(json.dumps({"text": "Oslo bay", "mentions": spans}) + "\n")
    dropped: Counter[str] = Counter()
    [document] = read_gold("jsonl", tmp_path / "g.jsonl", dropped)
    assert [link.entity for link in document.links] == ["a", "c"]
    assert dropped == {"overlapping_gold": 1}


@pytest.fixture(scope="module")
def linker(bank_world: Path) -> EntityLinker:
    return EntityLinker.from_artifacts(bank_world / "graph", bank_world / "vectors", min_score=0.0)


PIECES = st.sampled_from(
    [
        *("bank", "Bank", "river bank", "Jordan", "JORDAN", "king's", "kings", "money-king", "ＫＩＮＧ", "k\u0301ing"),
        *(" ", " ", "\n", "\n\n", "-", "'s", "\0", "\u200d", "\u202e", "½", "ﬁ", "İ", "👩🏽\u200d🚀", "東京", "\ud800"),
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=40).map("".join))
@settings(max_examples=200, deadline=None)
def test_every_link_lies_on_a_name_of_its_entity_whatever_the_text(linker: EntityLinker, text: str) -> None:
    """The contract of offsets, for whole linked texts: in order, apart, inside, and each on a name."""
    end = 0
    for link in linker.link(text):
        assert end <= link.start < link.end <= len(text)
        end = link.end
        [key] = linker.alias_table.keys_of([text[link.start : link.end]]).tolist()
        low, high = linker.candidates.bounds[key], linker.candidates.bounds[key + 1]
        assert link.entity in linker.names(linker.candidates.entity[low:high])
