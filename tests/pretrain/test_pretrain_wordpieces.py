"""Pieces of parts looked up equal the pieces of whole texts, character by character."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from pretrain.wordpieces import PieceCutter, cuts_at_spaces

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[MASK]",
    "an",
    "##na",
    "##n",
    "a",
    "##a",
    "met",
    "bob",
    "##s",
    "e",
    "##e",
    "(",
    ")",
    "!",
]
TEXTS = st.lists(
    st.text(alphabet=st.sampled_from("anAetmbosé\u0301 \t\n\u00a0\u200b!()[]MSK東😀"), max_size=40),
    min_size=1,
    max_size=4,
)


def bert_like(**settings: bool) -> tokenizers.Tokenizer:
    words = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[MASK]"])
    return tokenizer


CUTTERS = [PieceCutter(bert_like(lowercase=lowercase)) for lowercase in (True, False)]


def same(found, expected) -> bool:
    return all(np.array_equal(getattr(found, n), getattr(expected, n)) for n in ("ids", "starts", "ends", "bounds"))


@given(texts=TEXTS, number=st.integers(0, 1))
def test_looking_parts_up_equals_cutting_whole_texts(texts, number):
    """Combining marks, tabs, full-width characters, special pieces in the text: none may see over a space."""
    cutter = CUTTERS[number]
    assert cutter.by_parts
    assert same(cutter.cut(texts), cutter._cut_whole(texts))


def test_a_store_that_is_full_is_emptied_and_nothing_changes(monkeypatch):
    monkeypatch.setattr("pretrain.wordpieces.MOST_PIECES_KEPT", 3)
    cutter = PieceCutter(bert_like())
    for text in ("anna met bob", "bobs met an anna", "anna met bob"):
        assert same(cutter.cut([text]), cutter._cut_whole([text]))
    assert len(cutter._number) <= 4


def test_a_tokenizer_that_reads_over_spaces_is_given_whole_texts():
    byte_level = tokenizers.Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert not cuts_at_spaces(byte_level)
    over = bert_like()
    over.add_tokens(["an na"])
    assert not cuts_at_spaces(over)


@pytest.mark.parametrize("texts", [[], [""], ["", " ", ""]])
def test_nothing_gives_no_piece(texts):
    found = CUTTERS[0].cut(texts)
    assert len(found.ids) == 0
    assert found.bounds.tolist() == [0] * (len(texts) + 1)
