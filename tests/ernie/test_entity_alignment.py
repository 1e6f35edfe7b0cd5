"""Both alignments over any text: an entity lies on pieces of its mention and nowhere else, or it is counted."""

from __future__ import annotations

import string

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from ernie import EntitySpan, EntityTable, ErnieConfig, ErnieModel, ErnieTokenizer, InputError

ROWS = {"Q1": 1, "Q2": 2, "Q3": 3}
LETTERS = string.ascii_lowercase + string.digits + "ßøπж"
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *("##" + c for c in LETTERS),
    *"東京“”«»()[]",
    "paris",
]
FAST = BertTokenizer(vocab={piece: row for row, piece in enumerate(dict.fromkeys(PIECES))})
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    'ab é“”"()[]東京🎸👩‍👧\u0301\t', max_size=12
)


def tokenizer(alignment: str = "span") -> ErnieTokenizer:
    return ErnieTokenizer(FAST, ROWS, alignment=alignment)  # type: ignore[arg-type]


@st.composite
def linked_texts(draw: st.DrawFn) -> tuple[str, list[EntitySpan]]:
    """A text and up to three spans in it: overlapping, nested, in any order."""
    text = draw(ANY_TEXT)
    spans = []
    if text:
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(text) - 1))
            end = draw(st.integers(start + 1, len(text)))
            spans.append(EntitySpan(start, end, draw(st.sampled_from(["Q1", "Q2", "Q3", "Q99"]))))
    return text, spans


@settings(max_examples=300, deadline=None)
@given(first=linked_texts(), second=st.none() | linked_texts(), max_length=st.integers(3, 20))
def test_slots_are_the_kept_pieces_of_the_mention(
    first: tuple[str, list[EntitySpan]], second: tuple[str, list[EntitySpan]] | None, max_length: int
) -> None:
    """Oracle: the offsets of the whole, uncut text. Whatever is cut is cut for both alignments alike."""
    texts = {"texts": [first[0]], "spans": [first[1]]}
    if second is not None:
        texts |= {"text_pairs": [second[0]], "pair_spans": [second[1]]}
    spans_of = {0: first[1], 1: second[1] if second else []}
    got = {name: tokenizer(name).encode(**texts, max_length=max_length)[0] for name in ("first", "span")}  # type: ignore[arg-type]
    whole = tokenizer().encode(**texts, max_length=10_000)[0]  # type: ignore[arg-type]
    kept = list(range(len(whole.input_ids))) if got["span"].kept is None else got["span"].kept.tolist()
    wanted: dict[str, list[tuple[int, int, int]]] = {"first": [], "span": []}
    dropped = dict.fromkeys(("unknown_entity", "no_word_piece", "cut_by_max_length"), 0)
    sided = [(0, span) for span in spans_of[0]] + [(1, span) for span in spans_of[1]]
    for number, (side, span) in enumerate(sided):
        under = [
            piece
            for piece, ((left, right), of) in enumerate(
                zip(whole.pieces.offsets, whole.pieces.sequence_ids, strict=True)
            )
            if of == side and max(left, span.start) < min(right, span.end)
        ]
        stay = [kept[piece] for piece in under if kept[piece] >= 0]
        if span.entity == "Q99":
            dropped["unknown_entity"] += 1
        elif not under:
            dropped["no_word_piece"] += 1
        elif not stay:
            dropped["cut_by_max_length"] += 1
        else:
            wanted["span"] += [(ROWS[span.entity], piece, number) for piece in stay]
            assert kept[under[0]] == stay[0], "pieces are cut from the end"
            wanted["first"].append((ROWS[span.entity], stay[0], number))
    for name, encoding in got.items():
        slots = zip(encoding.entity_ids, encoding.entity_positions, encoding.span_indices, strict=True)
        assert [tuple(int(n) for n in slot) for slot in slots] == wanted[name]
        assert encoding.dropped == {reason: n for reason, n in dropped.items() if n}
        assert len(encoding.input_ids) <= max_length


def test_a_mention_of_three_pieces_has_three_slots() -> None:
    """One entity, three slots, one span index: whoever counts mentions counts span indices."""
    encoding = tokenizer().encode(
        ["a (bbb) paris"], [[EntitySpan(3, 6, "Q2"), EntitySpan(8, 13, "Q3")]], max_length=20
    )[0]
    assert encoding.entity_ids.tolist() == [2, 2, 2, 3]
    assert encoding.entity_positions.tolist() == [3, 4, 5, 7]
    assert encoding.span_indices.tolist() == [0, 0, 0, 1]
    cut = tokenizer().encode(["a (bbb) paris"], [[EntitySpan(3, 6, "Q2"), EntitySpan(8, 13, "Q3")]], max_length=6)[0]
    assert cut.entity_positions.tolist() == [3, 4], "what is left of a mention keeps its entity"
    assert cut.dropped == {"cut_by_max_length": 1}


def test_a_batch_is_what_the_model_takes() -> None:
    """Five lines from text to states: the padded batch must be complete, and equal to single texts."""
    torch.manual_seed(0)
    config = ErnieConfig(
        vocab_size=len(FAST),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        entity_size=4,
    )
    model = ErnieModel(config).eval()
    model.attach_entity_table(EntityTable(torch.cat([torch.zeros(1, 4), torch.randn(3, 4)])))
    texts, spans = ["paris", "(a b) c d"], [[EntitySpan(0, 5, "Q1")], [EntitySpan(1, 2, "Q2"), EntitySpan(8, 9, "Q3")]]
    for alignment in ("first", "span"):
        together = model(**tokenizer(alignment)(texts, spans, max_length=16)).pooler_output
        for row in (0, 1):
            alone = model(**tokenizer(alignment)(texts[row : row + 1], spans[row : row + 1], max_length=16))
            torch.testing.assert_close(together[row], alone.pooler_output[0], rtol=0.0, atol=1e-6)


def test_texts_that_are_none_are_named() -> None:
    """A list of ten thousand texts with one NaN from a table, or one broken emoji: which?"""
    with pytest.raises(InputError, match="text 1 is nan"):
        tokenizer().encode(["a", float("nan")], [[], []], max_length=8)  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"text 1 has half of a surrogate pair at 2 \(U\+D83D\)"):
        tokenizer().encode(["a", "b \ud83d"], [[], []], max_length=8)
    with pytest.raises(InputError, match="first or span, got 'last'"):
        tokenizer("last")
