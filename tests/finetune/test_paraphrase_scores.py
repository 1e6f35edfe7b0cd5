"""Scores of paraphrases against hand-computed values and slow restatements."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.paraphrase.meteor import Synonyms, align, meteor, num_chunks
from finetune.paraphrase.scores import (
    bleu,
    distinct_n,
    edit_distance,
    edit_distances,
    ibleu,
    longest_common_subsequence,
    rouge_l,
    rouge_n,
    source_overlap,
    words,
)
from kg.errors import InputError

SENTENCES = st.lists(st.sampled_from("abc"), max_size=7)


def test_words_are_lower_case_and_marks_stand_alone() -> None:
    assert words("Where's U.S.  A?") == ["where", "'", "s", "u", ".", "s", ".", "a", "?"]


def test_rouge_counts_each_ngram_as_often_as_both_have_it() -> None:
    """the the the / the cat: one shared of 3 and of 2, F1 = 2 * 1 / 5; without clipping it would be 2 * 3 / 5."""
    assert rouge_n(["the", "the", "the"], ["the", "cat"], 1) == pytest.approx(2 / 5)
    assert rouge_n(["a", "b", "c", "d"], ["a", "b", "x", "c", "d"], 2) == pytest.approx(2 * 2 / (3 + 4))
    assert rouge_l(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == pytest.approx(2 * 3 / 8)
    assert rouge_n([], ["a"], 1) == rouge_l([], []) == 0.0


def test_bleu_by_hand() -> None:
    """Precisions 5/6, 3/5, 1/4 and, of 4-grams, 0: BLEU-4 is 0, BLEU-2 the root of their product; equal lengths."""
    candidate, reference = ["the", "cat", "is", "on", "the", "mat"], ["the", "cat", "sat", "on", "the", "mat"]
    assert bleu([candidate], [reference]) == 0.0
    assert bleu([candidate], [reference], max_order=2) == pytest.approx(math.sqrt(5 / 6 * 3 / 5))


def test_bleu_pools_over_the_corpus_and_punishes_shortness() -> None:
    """Pooled counts: 1-grams 4 of 4; the outputs are 4 words where 6 are wanted, so exp(1 - 6/4)."""
    found = bleu([["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d", "e", "f"]], max_order=1)
    assert found == pytest.approx(math.exp(1 - 6 / 4))


def test_ibleu_of_a_copy_is_what_bleu_leaves_after_the_source() -> None:
    source, target = ["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "x"]
    copied = ibleu([source], [target], [source], alpha=0.8)
    assert copied == pytest.approx(0.8 * bleu([source], [target]) - 0.2)


def test_overlap_and_variety() -> None:
    assert source_overlap(["a", "b", "c", "d"], ["a", "b", "c", "d"]) == 1.0
    assert source_overlap(["a", "b", "x"], ["a", "b", "c"]) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert source_overlap([], ["a"]) == 0.0
    assert distinct_n([["a", "b"], ["a", "b"]], 1) == 0.5
    assert distinct_n([["a"]], 2) == 0.0


@settings(max_examples=150, deadline=None)
@given(SENTENCES, SENTENCES)
def test_edit_distances_of_all_prefixes_are_levenshteins(left: list[str], right: list[str]) -> None:
    """The row-wise minimum over insertions is vectorised; the recursion is the definition."""

    @cache
    def slow(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, slow(i - 1, j - 1) + (left[i - 1] != right[j - 1]))

    table = edit_distances(left, right)
    assert table.tolist() == [[slow(i, j) for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    assert edit_distance(left, right) == slow(len(left), len(right))


@settings(max_examples=100, deadline=None)
@given(SENTENCES, SENTENCES)
def test_longest_common_subsequence_is_the_recursions(left: list[str], right: list[str]) -> None:
    @cache
    def slow(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if left[i - 1] == right[j - 1]:
            return slow(i - 1, j - 1) + 1
        return max(slow(i - 1, j), slow(i, j - 1))

    assert longest_common_subsequence(left, right) == slow(len(left), len(right))


def test_meteor_by_hand() -> None:
    """Four of five and of six words match exactly in two chunks: P = 0.8, R = 2/3, F = PR / (0.9 P + 0.1 R)."""
    candidate, reference = ["the", "cat", "sat", "here", "now"], ["now", "the", "cat", "sat", "down", "again"]
    matches = align(candidate, reference, None)
    assert matches == {0: 1, 1: 2, 2: 3, 4: 0}
    assert num_chunks(matches) == 2
    p, r = 4 / 5, 4 / 6
    expected = p * r / (0.9 * p + 0.1 * r) * (1 - 0.5 * (2 / 4) ** 3)
    assert meteor(candidate, reference, None) == pytest.approx(expected)
    assert meteor(["a"], ["b"], None) == meteor([], [], None) == 0.0


def test_meteor_matches_stems_after_equal_words() -> None:
    """`walked` must not take the place of `walks` from the equal word that comes later."""
    assert align(["walked", "walks"], ["walks", "walking"], None) == {1: 0, 0: 1}


@pytest.fixture
def wordnet_folder(tmp_path: Path) -> Path:
    """A WordNet of three words: car and automobile share a synset, good has an exception `best`."""
    licence = "  1 This software is provided as is\n"
    for name, lines in {
        "noun": ["automobile n 1 1 @ 1 1 00000007", "car n 2 1 @ 2 1 00000007 00000009", "mouse n 1 0 1 0 00000020"],
        "verb": ["drive v 1 0 1 1 00000030", "motor v 1 0 1 1 00000030"],
        "adj": ["good a 1 0 1 1 00000040", "right a 1 0 1 1 00000040"],
        "adv": [],
    }.items():
        (tmp_path / f"index.{name}").write_text(licence + "".join(f"{line}  \n" for line in lines))
        (tmp_path / f"{name}.exc").write_text(
            "mice mouse\n" if name == "noun" else "best good\n" if name == "adj" else ""
        )
    return tmp_path


def test_synonyms_share_a_synset_in_one_part_of_speech(wordnet_folder: Path) -> None:
    same = Synonyms(wordnet_folder)
    assert same("car", "automobile")
    assert same("cars", "automobiles"), "by taking the ending off"
    assert same("mice", "mouse"), "by the exception list"
    assert same("best", "right")
    assert same("driving", "motor"), "morphy's -ing, +e"
    assert not same("car", "mouse")
    assert not same("unheard", "of")
    assert align(["the", "automobile"], ["the", "car"], same) == {0: 0, 1: 1}


def test_a_wordnet_without_verbs_is_refused(wordnet_folder: Path) -> None:
    (wordnet_folder / "index.verb").unlink()
    with pytest.raises(InputError, match=r"index\.verb: no such file"):
        Synonyms(wordnet_folder)
