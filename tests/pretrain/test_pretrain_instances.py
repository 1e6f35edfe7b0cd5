"""Instances: every piece of text used, every entity on its own piece, half of the seconds from elsewhere."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie.inputs import IGNORED
from ernie.tokenization import ErnieTokenizer
from pretrain.instances import (
    NEXT,
    RANDOM,
    EncodedDocument,
    Mentions,
    Segment,
    build_instances,
    count_entities,
    draw_other_run,
    drop_sparse_sentences,
    encode_documents,
    plan_packed,
    plan_pairs,
    split_long,
)
from pretrain.wordpieces import PieceCutter

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
            total = sum(run.end - run.start for run in plan.runs)
            assert 0 < total <= ROOM
            assert all(run.start < run.end <= documents[run.document][-1] for run in plan.runs)
            first, *others = plan.runs
            assert first.document == number
            used[first.start : first.end] += 1
            if plan.next_sentence_label == NEXT:
                (second,) = others
                assert (second.document, second.start) == (number, first.end)
                used[second.start : second.end] += 1
            elif plan.next_sentence_label == RANDOM:
                assert others[0].document != number
            else:
                assert (others, plan.next_sentence_label) == ([], IGNORED)
        assert (used == 1).all()


def test_half_of_the_pairs_are_random_and_of_like_length():
    """Were random seconds longer or shorter than true ones, length alone would tell them apart."""
    chance = np.random.default_rng(0)
    documents = [borders_of(chance.integers(2, 9, 12).tolist()) for _ in range(400)]
    lengths: dict[int, list[int]] = {NEXT: [], RANDOM: []}
    for number in range(400):
        for plan in plans_of(documents, number, seed=number):
            if len(plan.runs) == 2:
                lengths[plan.next_sentence_label].append(plan.runs[1].end - plan.runs[1].start)
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
        ones = np.ones(len(places), dtype=np.int64)
        segments.append(Segment(pieces, pieces[positions], positions, ones, pieces[positions] / 1e6))
        documents.append(borders)
        start += count
    known = np.concatenate([segment.entity_ids for segment in segments])
    plans = [plan for number in range(len(documents)) for plan in plans_of(documents, number, seed)]
    plans += plan_packed(documents, room=ROOM + 1)
    made = build_instances(plans, segments, cls_token_id=1, sep_token_id=2)
    assert made.entity_counts.tolist() == count_entities(plans, segments).tolist()
    ends, entity_ends = np.cumsum(made.lengths), np.cumsum(made.entity_counts)
    assert (ends[-1], entity_ends[-1]) == (len(made.input_ids), len(made.entity_ids))
    for number, plan in enumerate(plans):
        ids = made.input_ids[ends[number] - made.lengths[number] : ends[number]]
        own = slice(entity_ends[number] - made.entity_counts[number], entity_ends[number])
        spelled = [piece for run in plan.runs for piece in [*segments[run.document].pieces[run.start : run.end], 2]]
        assert ids.tolist() == [1, *spelled]
        assert (ids[made.entity_positions[own]] == made.entity_ids[own]).all()
        assert (made.entity_scores[own] == made.entity_ids[own] / 1e6).all()
        assert set(ids) & set(known) == set(made.entity_ids[own])
        second_start = made.second_start[number]
        assert ids[second_start - 1] == 2
        assert (second_start < len(ids)) == (plan.next_sentence_label != IGNORED)
        assert second_start in (len(ids), 2 + plan.runs[0].end - plan.runs[0].start)
        assert len(ids) <= ROOM + 3


@given(lengths=DOCUMENTS)
def test_packed_instances_use_every_piece_once_in_order_and_waste_less_than_a_sentence(lengths):
    documents = [borders_of(document) for document in lengths]
    plans = list(plan_packed(documents, room=ROOM))
    read = [(run.document, piece) for plan in plans for run in plan.runs for piece in range(run.start, run.end)]
    assert read == [(n, piece) for n, borders in enumerate(documents) for piece in range(borders[-1])]
    sizes = [sum(run.end - run.start for run in plan.runs) + len(plan.runs) - 1 for plan in plans]
    assert max(sizes) <= ROOM
    for size, following in zip(sizes, plans[1:]):
        run = following.runs[0]
        borders = documents[run.document]
        next_sentence = borders[np.searchsorted(borders, run.start) + 1] - run.start
        assert size + next_sentence + 1 > ROOM or size + next_sentence > ROOM


@given(lengths=DOCUMENTS, least=st.integers(1, 3), data=st.data())
def test_sparse_sentences_go_with_their_entities_and_the_rest_stays(lengths, least, data):
    for document in lengths:
        borders = borders_of(document)
        places = sorted(data.draw(st.lists(st.integers(0, int(borders[-1]) - 1), max_size=8)))
        positions, pieces = np.array(places, dtype=np.int64), np.arange(borders[-1])
        ones = np.ones(len(places))
        dropped: Counter[str] = Counter()
        whole = EncodedDocument(Segment(pieces, positions + 1, positions, ones, ones), borders)
        kept = drop_sparse_sentences(whole, min_entities=least, dropped=dropped)
        sentences = [range(a, b) for a, b in itertools.pairwise(borders)]
        dense = [s for s in sentences if sum(place in s for place in places) >= least]
        assert kept.segment.pieces.tolist() == [piece for s in dense for piece in s]
        assert np.diff(kept.borders).tolist() == [len(s) for s in dense]
        assert (kept.segment.pieces[kept.segment.entity_positions] + 1 == kept.segment.entity_ids).all()
        assert dropped["sentences_with_too_few_entities"] == len(sentences) - len(dense)


def mentions_of(*spans: tuple[int, int, int, int]) -> Mentions:
    """(document, start, end, table row) each."""
    columns = np.array(spans, dtype=np.int64).reshape(-1, 4).T
    return Mentions(*columns, np.linspace(0.5, 1.0, len(spans), dtype=np.float32))


def test_mentions_cover_their_pieces(world):
    """A mention's pieces, decoded, are the mention: also after punctuation, at the text's end and in a second text."""
    fast = ErnieTokenizer.from_pretrained(world.base, {}).fast_tokenizer
    texts = ['!! anna kern met "boris lund". Then clara moss', "", "clara moss"]
    spans = [(0, 1, 2, 1), (0, 2, 3, 1), (0, 3, 12, 1), (0, 18, 28, 2), (0, 36, 46, 0), (0, 40, 99, 2), (2, 0, 10, 3)]
    dropped: Counter[str] = Counter()
    documents = encode_documents(texts, mentions_of(*spans), PieceCutter(fast.backend_tokenizer), dropped)
    segments = [document.segment for document in documents]
    decoded = [
        fast.decode(segment.pieces[start : start + length])
        for segment in segments
        for start, length in zip(segment.entity_positions, segment.entity_lengths, strict=True)
    ]
    assert decoded == ["!", "anna kern", "boris lund", "clara moss"]
    assert [segment.entity_ids.tolist() for segment in segments] == [[1, 1, 2], [], [3]]
    assert segments[2].entity_scores.tolist() == [1.0]
    assert dropped == {"unknown_entity": 1, "no_word_piece": 1, "span_outside_text": 1}
    assert fast.decode(segments[0].pieces[documents[0].borders[-2] :]) == "then clara moss"
    assert documents[1].borders.tolist() == [0]


@given(
    words=st.lists(st.sampled_from(["anna", "met.", "Then", "kern!", "moss.", "In"]), min_size=1, max_size=12),
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 15)), max_size=4),
)
def test_no_sentence_border_cuts_a_mention(world, words, spans):
    text = " ".join(words)
    inside = sorted((start, min(start + size, len(text))) for start, size in spans if start < len(text))
    cutter = PieceCutter(ErnieTokenizer.from_pretrained(world.base, {}).fast_tokenizer.backend_tokenizer)
    mentions = mentions_of(*((0, start, end, 1) for start, end in inside))
    (document,) = encode_documents([text], mentions, cutter, Counter())
    segment = document.segment
    for first, length in zip(segment.entity_positions, segment.entity_lengths, strict=True):
        assert not ((document.borders > first) & (document.borders < first + length)).any()


@pytest.mark.faults
def test_empty_text_has_no_sentence(world):
    cutter = PieceCutter(ErnieTokenizer.from_pretrained(world.base, {}).fast_tokenizer.backend_tokenizer)
    documents = encode_documents(["", " \n"], mentions_of(), cutter, Counter())
    assert [d.borders.tolist() for d in documents] == [[0], [0]]
