"""Filters keep what they should and count the rest."""

from __future__ import annotations

import doctest
import tracemalloc
from collections import Counter

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kg.filters
from kg.errors import InputError
from kg.filters import (
    fact_rows,
    k_core,
    read_facts,
    with_frequent_relations,
    with_min_count,
    with_min_degree,
    with_relations,
    with_types,
    without_duplicates,
    without_facts,
    without_self_loops,
)
from kg.records import Triple
from kg.vocab import Vocabulary

TYPES = [[], ["city"], ["person"], ["person", "fiction"], [], ["city", "fiction"], ["river"]]
COUNTS = np.array([99, 0, 1, 2, 3, 3, 5])

rows = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(1, 6)), max_size=40)
facts = st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 3), st.integers(0, 6)), max_size=8)


def array(triples):
    return np.array(triples, np.int32).reshape(-1, 3)


def listed(triples):
    return [tuple(triple) for triple in triples.tolist()]


@pytest.mark.parametrize(
    "filtered",
    [
        without_self_loops,
        without_duplicates,
        lambda triples: with_relations(triples, allow=[0, 1, 2], deny=[1, 3]),
        lambda triples: without_facts(triples, array([(1, 0, 2), (0, -1, 3)])),
        lambda triples: with_types(triples, TYPES, allow=["city", "person"], deny=["fiction"]),
        lambda triples: with_min_degree(triples, 3),
        lambda triples: with_min_count(triples, COUNTS, 2),
        lambda triples: with_frequent_relations(triples, 3),
        lambda triples: k_core(triples, 2),
    ],
)
@given(triples=rows)
def test_kept_and_dropped_add_up(filtered, triples):
    """A triple that is neither kept nor counted is lost silently."""
    kept, dropped = filtered(array(triples))
    assert len(kept) + dropped.total() == len(triples)


@given(rows, facts, st.booleans())
def test_the_leak_filter_does_what_the_sentence_says(triples, asked, drop_head_relation):
    """Checked against plain loops: a leaked fact is a better test score and nothing else."""
    expected = [
        (head, relation, tail)
        for head, relation, tail in triples
        if not any({head, tail} == {a, b} and 0 not in (a, b) for a, _, b in asked)
        and not (drop_head_relation and any((head, relation) == (a, r) and a > 0 and r >= 0 for a, r, _ in asked))
    ]
    kept, _ = without_facts(array(triples), array(asked), drop_head_relation=drop_head_relation)
    assert listed(kept) == expected


def test_facts_outside_the_graph_are_counted_and_still_used():
    """A fact with an unknown tail still asks for (head, relation, ?): dropping the fact would leak that."""
    entities = Vocabulary(["a", "b", "c"], first_row=1, what="entity")
    relations = Vocabulary(["r", "s"], first_row=0, what="relation")
    asked = [Triple("a", "r", "elsewhere"), Triple("b", "unheard", "c"), Triple("x", "y", "z")]
    found, strange = fact_rows(asked, entities=entities, relations=relations)
    assert listed(found) == [(1, 0, 0), (2, -1, 3), (0, -1, 0)]
    assert strange == {"fact_unknown_entity": 2, "fact_unknown_relation": 2}
    kept, dropped = without_facts(array([(1, 0, 2), (1, 1, 2), (3, 0, 2)]), found)
    assert listed(kept) == [(1, 1, 2)]
    assert dropped == {"fact_head_relation": 1, "fact_pair": 1}


@given(rows)
def test_loops_and_duplicates_go_in_order(triples):
    """Order decides which batch a triple is in; a filter that sorts would change every later figure."""
    assert listed(without_self_loops(array(triples))[0]) == [t for t in triples if t[0] != t[2]]
    assert listed(without_duplicates(array(triples))[0]) == list(dict.fromkeys(triples))


def test_a_denied_relation_is_denied_even_when_allowed():
    """Both lists naming one relation must not depend on their order."""
    kept, dropped = with_relations(array([(1, 0, 2), (1, 1, 2), (1, 2, 2)]), allow=[0, 1], deny=[1])
    assert listed(kept) == [(1, 0, 2)]
    assert dropped == {"relation_denied": 1, "relation_not_allowed": 1}
    assert len(with_relations(array([(1, 0, 2)]))[0]) == 1


def test_a_malformed_facts_line_is_named(tmp_path):
    """A facts file with spaces for tabs would filter nothing."""
    path = tmp_path / "facts.tsv"
    path.write_text("a\tr\tb\na r b\n")
    with pytest.raises(InputError, match=r"facts.tsv:2: expected head<TAB>relation<TAB>tail, got 'a r b'"):
        read_facts(path)
    path.write_text("")
    assert read_facts(path) == []
    with pytest.raises(InputError, match="no such facts file"):
        read_facts(tmp_path / "none.tsv")


names = st.lists(st.sampled_from(["city", "person", "fiction", "river"]), unique=True)


@given(rows, st.none() | names, names)
def test_types_are_asked_of_both_ends(triples, allow, deny):
    """Against plain loops, and lists against Arrow: an entity without types must not slip through an allow list."""

    def wanted(entity):
        allowed = allow is None or set(TYPES[entity]) & set(allow)
        return bool(allowed) and not set(TYPES[entity]) & set(deny)

    kept, dropped = with_types(array(triples), TYPES, allow=allow, deny=deny)
    assert listed(kept) == [t for t in triples if wanted(t[0]) and wanted(t[2])]
    column = pa.chunked_array([pa.array(TYPES[:3]), pa.array(TYPES[3:])])
    again, same = with_types(array(triples), column, allow=allow, deny=deny)
    assert (listed(again), same) == (listed(kept), dropped)


def test_a_type_nobody_has_is_refused():
    """A mistyped denied type would deny nothing, silently."""
    with pytest.raises(InputError, match="no entity has the type 'persn'; nearest: person"):
        with_types(array([(1, 0, 2)]), TYPES, deny=["persn"])


@given(rows, st.integers(0, 6))
def test_thresholds_do_what_their_names_say(triples, n):
    """Against plain loops; an off-by-one here is an entity more or less in every later figure."""
    degrees = Counter(entity for head, _, tail in triples for entity in (head, tail))
    kept, _ = with_min_degree(array(triples), n)
    assert listed(kept) == [t for t in triples if degrees[t[0]] >= n and degrees[t[2]] >= n]
    kept, _ = with_min_count(array(triples), COUNTS, n)
    assert listed(kept) == [t for t in triples if COUNTS[t[0]] >= n and COUNTS[t[2]] >= n]
    frequency = Counter(relation for _, relation, _ in triples)
    kept, _ = with_frequent_relations(array(triples), n)
    assert listed(kept) == [t for t in triples if frequency[t[1]] >= n]


@given(rows, st.integers(0, 4))
def test_the_core_is_networkx_own(triples, k):
    """Parallel triples and loops must not count as neighbours: two facts about one pair are no dense part."""
    graph = nx.Graph((head, tail) for head, _, tail in triples if head != tail)
    graph.add_nodes_from(head for head, _, _ in triples)
    core = set(nx.k_core(graph, k))
    kept, dropped = k_core(array(triples), k)
    assert listed(kept) == [t for t in triples if t[0] in core and t[2] in core]
    assert listed(k_core(kept, k)[0]) == listed(kept), "a second pass drops nothing"
    smaller, more = k_core(array(triples), k + 1)
    assert set(listed(smaller)) <= set(listed(kept))
    assert more.total() >= dropped.total()


def test_a_long_chain_is_peeled_from_its_ends_in_time():
    """Walking all triples once a round would take a chain hours."""
    chain = np.stack([np.arange(1, 20_001), np.zeros(20_000, int), np.arange(2, 20_002)], axis=1)
    kept, dropped = k_core(chain, 2)
    assert (len(kept), dropped) == (0, {"outside_k_core": 20_000})


@given(rows, st.sampled_from([0, 2**31 - 8]), st.sampled_from([0, 2**31 - 8]))
def test_duplicates_are_found_whatever_the_rows(triples, entities, relations):
    """Rows too large to pack into one number take another way, which must agree."""
    shifted = [(head + entities, relation + relations, tail + entities) for head, relation, tail in triples]
    assert listed(without_duplicates(array(shifted))[0]) == list(dict.fromkeys(shifted))


def test_duplicates_take_little_memory():
    """20 million triples must fit beside everything else a build holds: at most 60 bytes each."""
    random = np.random.default_rng(0)
    triples = random.integers([1, 0, 1], [40_000, 9, 40_000], (200_000, 3), dtype=np.int32)
    triples[100_000:150_000] = triples[:50_000]
    tracemalloc.start()
    kept, dropped = without_duplicates(triples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dropped.total() >= 50_000
    assert len(np.unique(kept, axis=0)) == len(kept)
    assert peak < 60 * len(triples)


def test_the_examples_in_the_docstrings_hold():
    """An example that has drifted explains another filter."""
    found = doctest.testmod(kg.filters)
    assert found.attempted >= 10
    assert found.failed == 0
