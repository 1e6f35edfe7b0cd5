"""Identifiers and rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.errors import InputError
from kg.vocab import Vocabulary

names = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=30)


@given(names, st.sampled_from([0, 1]))
def test_rows_and_identifiers_are_inverse(identifiers, first_row):
    """An off-by-one here gives every entity its neighbour's vector; nothing downstream would notice."""
    vocabulary = Vocabulary(identifiers, first_row=first_row, what="entity")
    assert [vocabulary.row(name) for name in identifiers] == list(range(first_row, first_row + len(identifiers)))
    assert [vocabulary.identifier(row) for row in range(first_row, len(vocabulary))] == identifiers
    assert vocabulary.rows(identifiers).tolist() == [vocabulary.get(name) for name in identifiers]


def test_unknown_names_are_padding_for_entities_and_minus_one_for_relations():
    """Row 0 of the relations is a real relation: an unknown one must not become it."""
    entities = Vocabulary(["dog"], first_row=1, what="entity")
    relations = Vocabulary(["hypernym"], first_row=0, what="relation")
    assert entities.get("cow") == 0
    assert entities.rows(["cow", "dog"]).tolist() == [0, 1]
    assert relations.get("likes") == -1
    assert relations.rows(["hypernym", "likes"]).tolist() == [0, -1]
    assert entities.get("cow", default=-7) == -7


def test_an_unknown_name_is_refused_with_the_nearest():
    """A misspelt relation filter would otherwise read as "no such triples"."""
    with pytest.raises(InputError, match=r"relation 'hypernim' is not in the graph; nearest: hypernym"):
        Vocabulary(["hypernym", "antonym"], first_row=0, what="relation").row("hypernim")


@pytest.mark.parametrize("row", [0, 2, -1])
def test_a_row_of_no_entity_has_no_name(row):
    """Python's negative indexing would name row -1 without a word."""
    with pytest.raises(InputError, match="not among rows 1 to 1"):
        Vocabulary(["dog"], first_row=1, what="entity").identifier(row)


@pytest.mark.parametrize("identifiers", [["dog", "cat", "dog"], [""]])
def test_names_must_be_unique_and_not_empty(identifiers):
    """A dictionary built from a list with a double keeps the later row only: vectors would sit one off."""
    with pytest.raises(InputError):
        Vocabulary(identifiers, first_row=1, what="entity")
