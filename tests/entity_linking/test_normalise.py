"""The fold and its way back, against Python's own string methods one character at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_linking.normalise import NOT_ONE_TO_ONE, fold, fold_character, fold_table, fold_text

ODD = st.sampled_from(
    list("İßﬁ½①Éé\u0301\u0327\u200d\u200c\ufe0f\u00adʼ’“”–—が각\u3099क्ष\x00😀👩🏽‍🚀שׁﷺ\U0001d400\U0002f800")
)
TEXTS = st.text(st.one_of(ODD, st.characters(), st.sampled_from("ab '-.\n\ud800")), max_size=60)


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("Çelik", "celik"),
        ("CAFE\u0301", "cafe"),
        ("İstanbul", "istanbul"),
        ("Straße", "strasse"),
        ("ﬁnd", "find"),
        ("“it’s”", '"it\'s"'),
        ("e‑mail–x", "e-mail-x"),
        ("zero\u200dwidth", "zerowidth"),
        ("が", "が"),
        ("각", "각"),
        ("क्षि", "क्षि"),
    ],
)
def test_variants_of_one_spelling_fold_alike(written: str, folded: str) -> None:
    """Unfolded variants would silently find fewer mentions; over-folded ones (kana, Indic) would find wrong ones."""
    assert fold(written) == folded


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_the_table_folds_like_one_character_at_a_time(text: str) -> None:
    """The vectorised path and its slow path must agree, or a text and its alias fold differently."""
    assert fold(text) == "".join(fold_character(c) for c in text)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_every_folded_character_leads_back_to_the_original_it_came_from(text: str) -> None:
    """An offset shifted by one vanished mark would move every later mention of the document."""
    folded = fold_text(text)
    starts = np.arange(len(text)) if folded.starts is None else folded.starts
    ends = starts + 1 if folded.ends is None else folded.ends
    assert len(starts) == len(folded.codes)
    for code, start, end in zip(folded.codes.tolist(), starts.tolist(), ends.tolist()):
        assert chr(code) in fold_character(text[start])
        assert all(fold_character(c) == "" for c in text[start + 1 : end])


def test_folding_twice_changes_nothing() -> None:
    """An alias already folded would otherwise read differently from the text."""
    table = fold_table()
    assert NOT_ONE_TO_ONE in table
    for code in (*range(0x250), *range(0x1E00, 0x2200), *range(0xFB00, 0x10000)):
        assert fold(fold(chr(code))) == fold(chr(code)), hex(code)
