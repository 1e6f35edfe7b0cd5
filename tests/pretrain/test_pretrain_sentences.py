"""Sentence borders: exact offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.sentences import split_sentences

TEXT = st.text(alphabet=st.sampled_from("abA Z.!?\n\t\"')(。」0é\u00a0😀"), max_size=60)


@given(text=TEXT)
def test_every_visible_character_lies_in_exactly_one_sentence(text):
    """Characters between two sentences would vanish from pre-training without a trace."""
    spans = split_sentences(text)
    covered = [i for start, end in spans for i in range(start, end)]
    assert len(covered) == len(set(covered))
    assert covered == sorted(covered)
    assert {i for i, c in enumerate(text) if not c.isspace()} <= set(covered)
    assert all(not text[start].isspace() and not text[end - 1].isspace() for start, end in spans)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two.", ["One.", "Two."]),
        ("He met Dr. Who in St. Louis. It rained.", ["He met Dr. Who in St. Louis.", "It rained."]),
        ("J. R. R. Tolkien wrote. He taught.", ["J. R. R. Tolkien wrote.", "He taught."]),
        ("See No. 5 of vol. 2. He did.", ["See No. 5 of vol. 2.", "He did."]),
        ("The U.S. Army left.", ["The U.S. Army left."]),
        ("Version 2.0 is out. 3 came.", ["Version 2.0 is out.", "3 came."]),
        ("She said (loudly!) no. Then she left.", ["She said (loudly!) no.", "Then she left."]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("Title\nThe text. End", ["Title", "The text.", "End"]),
        ("東京は首都。大阪は都市。", ["東京は首都。", "大阪は都市。"]),
        ("What?! No… Yes.", ["What?!", "No…", "Yes."]),
    ],
)
def test_sentences(text, sentences):
    assert [text[start:end] for start, end in split_sentences(text)] == sentences
