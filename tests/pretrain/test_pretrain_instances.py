"""Instances: every piece of text used, every entity on its own piece, half of the seconds from elsewhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie.inputs import IGNORED
from ernie.tokenization import EntitySpan, ErnieTokenizer
from pretrain.instances import (
    NEXT,
    RANDOM,
    Segment,
    build_instance,
    draw_other_run,
    encode_documents,
    plan_pairs,
    split_long,
)

ROOM = 20
DOCUMENTS = st.lists(st.lists(st.integers(1, 45), min_size=1, max_size=9), min_size=1, max_size=6)


def borders_of(lengths: list[int]) -> np.ndarray:
    return split_long(np.concatenate([[0], np.cumsum(lengths)]), room=ROOM)


def plans_of(documents: list[np.ndarray], number: int, seed: int, short: float = 0.1):
    generator = np.random.default_rng(seed)
    return plan_pairs(
        documents[number],
        document=number,
        room=ROOM,
        short_seq_prob=short,
        generator=generator,
        draw_run=lambda pieces: draw_other_run(documents, document=number, pieces=pieces, generator=generator),
    )


@given(lengths=DOCUMENTS, seed=st.integers(0, 999), short=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_document_is_used_up_and_no_instance_is_too_long(lengths, seed, short):
    """Sentences skipped between two chunks are text that no loss will ever miss."""
    documents = [borders_of(document) for document in lengths]
    for number, borders in enumerate(documents):
        used = np.zeros(borders[-1], dtype=int)
        for plan in plans_of(documents, number, seed, short):
            runs = [plan.first] + ([plan.second] if plan.second else [])
            total = sum(run.end - run.start for run in runs)
            assert 0 < total <= ROOM
            assert all(run.start < run.end <= documents[run.document][-1] for run in runs)
            assert plan.first.document == number
            used[plan.first.start : plan.first.end] += 1
            if plan.next_sentence_label == NEXT:
                assert plan.second.document == number
                assert plan.second.start == plan.first.end
                used[plan.second.start : plan.second.end] += 1
            elif plan.next_sentence_label == RANDOM:
                assert plan.second.document != number
            else:
                assert (plan.second, plan.next_sentence_label) == (None, IGNORED)
        assert (used == 1).all()


def test_half_of_the_pairs_are_random_and_of_like_length():
    """Were random seconds longer or shorter than true ones, length alone would tell them apart."""
    chance = np.random.default_rng(0)
    documents = [borders_of(chance.integers(2, 9, 12).tolist()) for _ in range(400)]
    lengths: dict[int, list[int]] = {NEXT: [], RANDOM: []}
    for number in range(400):
        for plan in plans_of(documents, number, seed=number):
            if plan.second is not None:
                lengths[plan.next_sentence_label].append(plan.second.end - plan.second.start)
    pairs = len(lengths[NEXT]) + len(lengths[RANDOM])
    assert abs(len(lengths[RANDOM]) / pairs - 0.5) < 4 * 0.5 / np.sqrt(pairs)
    assert abs(np.mean(lengths[NEXT]) - np.mean(lengths[RANDOM])) < 2.0


def test_the_only_document_has_true_seconds_only():
    documents = [borders_of([4, 4, 4, 4])]
    assert {plan.next_sentence_label for plan in plans_of(documents, 0, seed=3)} <= {NEXT, IGNORED}


@given(lengths=DOCUMENTS, seed=st.integers(0, 999), data=st.data())
def test_entities_stay_on_their_own_pieces(lengths, seed, data):
    """Every piece is a number of its own and every entity is named after its first piece, so a slip of one shows."""
    documents, segments, start = [], [], 1000
    for document in lengths:
        borders = borders_of(document)
        count = int(borders[-1])
        places = sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=5)))
        pieces = np.arange(start, start + count)
        positions = np.array(places, dtype=np.int64)
        segments.append(Segment(pieces, pieces[positions], positions, np.ones(len(places), dtype=np.int64)))
        documents.append(borders)
        start += count
    for number in range(len(documents)):
        for plan in plans_of(documents, number, seed):
            instance = build_instance(plan, segments, cls_token_id=1, sep_token_id=2)
            ids = instance.input_ids
            assert (ids[instance.entity_positions] == instance.entity_ids).all()
            known = np.concatenate([segment.entity_ids for segment in segments])
            assert set(ids) & set(known) == set(instance.entity_ids)
            assert ids[0] == 1
            assert ids[-1] == 2
            assert (ids == 2).sum() == (1 if plan.second is None else 2)
            assert ids[instance.second_start - 1] == 2
            assert len(ids) <= ROOM + 3


def test_mentions_cover_their_pieces(world):
    """A mention's pieces, decoded, are the mention: also after punctuation and at the text's end."""
    rows = {"E:a": 1, "E:b": 2}
    tokenizer = ErnieTokenizer.from_pretrained(world.base, rows)
    text = '!! anna kern met "boris lund". Then clara moss'
    spans = [EntitySpan(3, 12, "E:a"), EntitySpan(18, 28, "E:b"), EntitySpan(36, 46, "E:x"), EntitySpan(2, 3, "E:a")]
    dropped: Counter[str] = Counter()
    (document,) = encode_documents([text], [spans], tokenizer, dropped)
    segment = document.segment
    assert segment.entity_ids.tolist() == [1, 2]
    decoded = [
        tokenizer.fast_tokenizer.decode(segment.pieces[start : start + length])
        for start, length in zip(segment.entity_positions, segment.entity_lengths, strict=True)
    ]
    assert decoded == ["anna kern", "boris lund"]
    assert dropped == {"unknown_entity": 1, "no_word_piece": 1}
    second = tokenizer.fast_tokenizer.decode(segment.pieces[document.borders[-2] :])
    assert second == "then clara moss"


@pytest.mark.faults
def test_empty_text_has_no_sentence(world):
    tokenizer = ErnieTokenizer.from_pretrained(world.base, {})
    documents = encode_documents(["", " \n"], [[], []], tokenizer, Counter())
    assert [d.borders.tolist() for d in documents] == [[0], [0]]
