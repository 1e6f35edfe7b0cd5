"""Paraphrases as more training examples: kept places come through, long sentences stay, nothing is lost uncounted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.augment.paraphrase import Paraphrasing, from_config, sentences_of
from finetune.augment.passages import Passage, check_rewriting
from finetune.augment.stage import AugmentConfig
from finetune.paraphrase.paraphraser import Paraphraser
from finetune.paraphrase.pointer_generator import PointerGenerator
from finetune.paraphrase.vocabulary import Vocabulary, read_tokenizer
from kg.errors import InputError

PASSAGES = [
    Passage(key="a", text="The Q w runs. It is K!  Who", kept=((4, 7), (4, 5), (20, 21))),
    Passage(key="b", text="x y z " * 9, kept=()),
    Passage(key="c", text="a b 7 c", kept=()),
    Passage(key="d", text="", kept=()),
]


@pytest.fixture(scope="module")
def augmenter(pretrained: Path) -> Paraphrasing:
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(read_tokenizer(pretrained), ["a b c d e f g h i"], size=20)
    generator = PointerGenerator(vocab_size=len(vocabulary), embedding_size=8, hidden_size=8).eval()
    paraphraser = Paraphraser(generator=generator, vocabulary=vocabulary, kind="pointer-generator", max_length=12)
    return Paraphrasing(paraphraser, batch_size=8)


def test_kept_places_hold_their_characters_wherever_they_went(augmenter: Paraphrasing) -> None:
    found = augmenter(PASSAGES, copies=3, seed=1)
    assert len(found) == 4
    assert found[0], "an untaught generator says something else than the source"
    for passage, rewritings in zip(PASSAGES, found, strict=True):
        for rewriting in rewritings:
            check_rewriting(passage, rewriting)
            assert rewriting.text != passage.text
    assert all("7" in rewriting.text for rewriting in found[2]), "numbers survive"
    assert found[1] == found[3] == []


def test_every_copy_that_is_missing_has_a_reason(augmenter: Paraphrasing) -> None:
    augmenter.dropped.clear()
    found = augmenter(PASSAGES, copies=3, seed=1)
    assert augmenter.dropped["source_too_long"] == 1
    assert augmenter.dropped["nothing_changed"] == 4 * 3 - sum(map(len, found))


def test_a_passage_is_the_same_whatever_stands_beside_it(augmenter: Paraphrasing) -> None:
    together = augmenter(PASSAGES, copies=2, seed=1)
    assert augmenter([PASSAGES[2]], copies=2, seed=1) == [together[2]]
    assert augmenter([PASSAGES[0]], copies=2, seed=1) == [together[0]]
    assert augmenter(PASSAGES, copies=2, seed=2) != together


def test_sentences_end_behind_their_marks_and_never_in_a_kept_place() -> None:
    passage = Passage(key="", text='Mr. X said "No." Yes? ', kept=((0, 5),))
    assert [passage.text[a:b] for a, b in sentences_of(passage)] == ['Mr. X said "No."', "Yes?"]


def test_the_model_of_this_method_is_a_generator(tmp_path: Path) -> None:
    config = AugmentConfig(output=tmp_path / "out", examples=tmp_path, model=str(tmp_path), method="paraphrase")
    with pytest.raises(InputError, match="takes as `model` a folder of `ernie-kg finetune paraphrase`"):
        from_config(config)
