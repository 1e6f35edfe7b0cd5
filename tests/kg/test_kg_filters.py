"""Filters keep what they should and count the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.errors import InputError
from kg.filters import (
    fact_rows,
    read_facts,
    with_relations,
    without_duplicates,
    without_facts,
    without_self_loops,
)
from kg.records import Triple
from kg.vocab import Vocabulary

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
