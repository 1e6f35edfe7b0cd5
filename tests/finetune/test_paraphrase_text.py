"""Between text and ids: unknown words are copied, copied text is the source's own, spans come back where they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from finetune.paraphrase.batches import (
    collate,
    encode_pair,
    encode_pairs,
    sequence_mask,
    source_pieces,
    to_pieces,
    word_mask,
)
from finetune.paraphrase.pairs import Pair
from finetune.paraphrase.rendering import areas_of, number_spans, render
from finetune.paraphrase.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, read_tokenizer
from kg.errors import InputError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "where",
    "is",
    "new",
    "york",
    "city",
    "town",
    "##ish",
    "?",
    ",",
    "12",
]
WORDS += ["in", "zebra"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    """Knows all pieces but `zebra` and `york`."""
    return Vocabulary.build(read_tokenizer(folder), ["where is new city town townish ? , in 12"] * 2, size=50)


def ids_of(vocabulary: Vocabulary, *names: str) -> list[int]:
    rows = {vocabulary.name_of(int(piece)): row for row, piece in enumerate(vocabulary.pieces)}
    return [rows[name] for name in names]


def test_special_pieces_come_first_and_the_commonest_next(folder: Path) -> None:
    vocabulary = Vocabulary.build(read_tokenizer(folder), ["is is new", "new is"], size=5)
    assert [vocabulary.name_of(int(p)) for p in vocabulary.pieces] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "is"]


def test_a_piece_the_generator_does_not_know_is_numbered_and_found_again(vocabulary: Vocabulary) -> None:
    """Both kinds: `york` is a piece outside the vocabulary, `кіт` no piece at all; each keeps its own number."""
    (pair,), counts = encode_pairs(
        [Pair(source="Where is York, Кіт and Пес?", target="is Кіт in York zebra?")], vocabulary, max_length=20
    )
    size = len(vocabulary)
    unknown = [one for one in pair.source_ids.tolist() if one >= size]
    assert unknown == [size, size + 1, size + 2, size + 3], "york, кіт, and, пес"
    assert pair.target_ids.tolist()[1] == size + 1, "Кіт by the source's number"
    assert pair.target_ids.tolist()[3] == size
    assert pair.target_ids.tolist()[4] == UNK, "zebra is nowhere: neither known nor in the source"
    assert counts["target_pieces_unreachable"] == 1
    batch = collate([pair], vocabulary)
    back = to_pieces(batch["target_ids"], batch["unknown_pieces"], torch.from_numpy(vocabulary.pieces))
    assert vocabulary.name_of(int(back[0, 3])) == "york"
    assert int(back[0, 1]) == vocabulary.unknown_piece


def test_long_sentences_are_cut_and_counted(vocabulary: Vocabulary) -> None:
    pairs = [Pair(source="is is is is", target="new"), Pair(source="is", target="new new new")]
    encoded, counts = encode_pairs(pairs, vocabulary, max_length=2)
    assert [len(pair.source) for pair in encoded] == [2, 1]
    assert encoded[1].target_ids.tolist()[-1] == EOS
    assert (counts["source_cut"], counts["target_cut"]) == (1, 1)


def test_a_batch_is_the_documented_table(vocabulary: Vocabulary) -> None:
    encoded, _ = encode_pairs(
        [Pair(source="where is york", target="is"), Pair(source="new", target="town new city")],
        vocabulary,
        max_length=9,
    )
    batch = collate(encoded, vocabulary)
    assert batch["source_ids"].tolist()[1] == [BOS, *ids_of(vocabulary, "new"), EOS, PAD, PAD]
    assert batch["attention_mask"].sum(1).tolist() == [5, 3]
    assert batch["target_ids"][0].tolist() == [*ids_of(vocabulary, "is"), EOS, PAD, PAD]
    assert source_pieces(batch)[1].tolist() == [vocabulary.tokenizer.token_to_id("new"), 0, 0, 0]
    assert source_pieces(batch)[0, :3].tolist() == encoded[0].source.piece_ids.tolist()
    assert word_mask(batch["target_ids"]).sum(1).tolist() == [1, 3]
    assert sequence_mask(batch["target_ids"]).sum(1).tolist() == [2, 4]


def test_masks_end_at_the_first_end() -> None:
    ids = torch.tensor([[9, EOS, 8, EOS], [9, 8, 7, PAD]])
    assert word_mask(ids).tolist() == [[True, False, False, False], [True, True, True, False]]
    assert sequence_mask(ids).tolist() == [[True, True, False, False], [True, True, True, False]]


def test_copied_text_is_written_as_the_source_wrote_it(vocabulary: Vocabulary) -> None:
    """Case, blanks and unknown characters of a copied run; what is new is lower-cased, marks join their word."""
    text = "Is New-York 12,12 far?"
    pair = encode_pair(vocabulary.encode([text])[0], None, vocabulary)
    copied = pair.source_ids.tolist()
    assert render([*copied, EOS, *copied], pair, vocabulary).text == text
    is_, town, ish, mark = ids_of(vocabulary, "is", "town", "##ish", "?")
    assert render([town, ish, is_, mark], pair, vocabulary).text == "townish Is?"


def test_what_had_to_survive_is_found_where_it_now_stands(vocabulary: Vocabulary) -> None:
    """Two spans that share a piece are one area; each is found again by its own characters."""
    text = "york is New York, 12"
    spans = [(8, 16), (12, 16), (18, 20), (8, 16)]
    pair = encode_pair(vocabulary.encode([text])[0], None, vocabulary)
    areas, numbers = areas_of(pair, spans)
    assert [text[area.start : area.end] for area in areas] == ["New York", "12"]
    assert numbers == [0, 0, 1, 0]
    written = [*areas[1].run, *areas[0].run, *ids_of(vocabulary, "is", "where")]
    rendered = render(written, pair, vocabulary, areas)
    for span, number in zip(spans, numbers, strict=True):
        assert number is not None
        start = rendered.starts[number]
        assert start is not None
        begin, end = areas[number].moved(span, start)
        assert rendered.text[begin:end] == text[span[0] : span[1]], "the case of its own place, not of the first york"
    assert render(ids_of(vocabulary, "is"), pair, vocabulary, areas).starts == (None, None)


def test_a_span_of_blanks_or_behind_the_cut_has_no_area(vocabulary: Vocabulary) -> None:
    pair = encode_pair(vocabulary.encode(["Where is New York?"])[0].cut(3), None, vocabulary)
    assert areas_of(pair, [(9, 17), (9, 12), (5, 6)])[1] == [None, 0, None]


def test_numbers_are_found_with_their_points() -> None:
    text = "In 1999, 3.50 of 1,000 at 10:30."
    assert [text[a:b] for a, b in number_spans(text)] == ["1999", "3.50", "1,000", "10:30"]


def test_other_tokenizers_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither tokenizer"):
        read_tokenizer(tmp_path)
    tokenizer = read_tokenizer(folder)
    with pytest.raises(InputError, match="lacks"):
        Vocabulary(tokenizer, [0, 2, 1, 3])


def test_a_vocabulary_is_the_same_after_saving(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert np.array_equal(again.pieces, vocabulary.pieces)
    assert again.encode(["New York"])[0].keys == vocabulary.encode(["New York"])[0].keys
    with pytest.raises(InputError, match="finetune paraphrase"):
        Vocabulary.load(tmp_path / "nowhere")
