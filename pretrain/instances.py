"""From a document to the pairs of segments it is read as; pure steps, one after another.

text, mentions -> Segment (word pieces, entities) and its sentence borders -> plans of pairs -> Instance
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ernie.inputs import IGNORED
from ernie.tokenization import Encoding, EntitySpan, ErnieTokenizer
from pretrain.sentences import keep_mentions_whole, split_sentences

WHOLE = 2**31
"""Longer than any document: nothing is cut while encoding."""
NEXT, RANDOM = 0, 1
"""Labels of next-sentence prediction, as in BERT."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of word pieces without special ones.

    pieces: (n,). entity_ids, entity_positions, entity_lengths: (k,): table row, first piece and number of pieces of
    each mention, in order of position.
    """

    pieces: np.ndarray
    entity_ids: np.ndarray
    entity_positions: np.ndarray
    entity_lengths: np.ndarray


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A document's pieces, and its sentences: sentence i is `pieces[borders[i]:borders[i + 1]]`."""

    segment: Segment
    borders: np.ndarray


@dataclass(frozen=True, slots=True)
class Run:
    """`pieces[start:end]` of document number `document`."""

    document: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PairPlan:
    """What an instance is made of; `second` is None, and the label IGNORED, for a lone sentence."""

    first: Run
    second: Run | None
    next_sentence_label: int


@dataclass(frozen=True, slots=True)
class Instance:
    """[CLS] first [SEP] (second [SEP]), with entities.

    second_start: index at which token type 1 begins, the length where it never does.
    """

    input_ids: np.ndarray
    second_start: int
    entity_ids: np.ndarray
    entity_positions: np.ndarray
    entity_lengths: np.ndarray
    next_sentence_label: int


def encode_documents(
    texts: Sequence[str],
    mentions: Sequence[Sequence[EntitySpan]],
    tokenizer: ErnieTokenizer,
    dropped: Counter[str],
) -> list[EncodedDocument]:
    """Word pieces of whole documents, their entities and sentence borders.

    Mentions without a row or a piece are counted in `dropped` by the tokenizer's reasons (`unknown_entity`, …).
    A document without any piece has no sentence: its borders are [0].
    """
    encodings = tokenizer.encode(texts, mentions, max_length=WHOLE)
    for encoding in encodings:
        dropped.update(encoding.dropped)
    rows = zip(texts, mentions, encodings, strict=True)
    return [_encoded_document(text, spans, encoding) for text, spans, encoding in rows]


def _encoded_document(text: str, mentions: Sequence[EntitySpan], encoding: Encoding) -> EncodedDocument:
    pieces = encoding.input_ids[1:-1]
    positions = encoding.entity_positions - 1
    lasts = [_last_piece(encoding.piece_at, mentions[i]) for i in encoding.span_indices]
    lengths = np.array(lasts, dtype=np.int64) - encoding.entity_positions + 1
    order = np.argsort(positions, kind="stable")
    segment = Segment(pieces, encoding.entity_ids[order], positions[order], lengths[order])
    sentences = keep_mentions_whole(split_sentences(text), [(m.start, m.end) for m in mentions])
    firsts = (_first_piece(encoding.piece_at, start, end) for start, end in sentences)
    borders = {piece - 1 for piece in firsts if piece is not None} | {0, len(pieces)}
    return EncodedDocument(segment, np.array(sorted(borders), dtype=np.int64))


def split_long(borders: np.ndarray, *, room: int) -> np.ndarray:
    """Adds borders so that no sentence is longer than `room` pieces.

    >>> split_long(np.array([0, 3, 11]), room=4).tolist()
    [0, 3, 7, 11]
    """
    inside = [np.arange(start, end, room) for start, end in itertools.pairwise(borders)]
    return np.concatenate([*inside, borders[-1:]])


def plan_pairs(
    borders: np.ndarray,
    *,
    document: int,
    room: int,
    short_seq_prob: float,
    generator: np.random.Generator,
    draw_run: Callable[[int], Run | None],
) -> list[PairPlan]:
    """How a document is cut into instances, after BERT's `create_instances_from_document`.

    Sentences are gathered until `room` pieces are full (with probability short_seq_prob until a random smaller
    number), then parted at a random border. Half of the second parts are replaced by `draw_run(pieces)`, a run of
    another document that long at most; the replaced sentences are used again. Where BERT forces a random second onto
    a lone sentence, it stands alone here, without a label, so that half of the labels are random, not more.

    borders: (num_sentences + 1,), no sentence longer than room. draw_run returns None when there is no other document.

    >>> plans = plan_pairs(np.array([0, 4, 9, 12]), document=0, room=12, short_seq_prob=0.0,
    ...     generator=np.random.default_rng(0), draw_run=lambda pieces: None)
    >>> [(p.first.start, p.first.end, p.second.start, p.second.end, p.next_sentence_label) for p in plans]
    [(0, 9, 9, 12, 0)]
    """
    plans, start, count = [], 0, len(borders) - 1
    while start < count:
        target = room if generator.random() >= short_seq_prob else int(generator.integers(2, room + 1))
        end = start + 1
        while end < count and borders[end + 1] - borders[start] <= (room if end - start < 2 else target):
            end += 1
        first_piece, last_piece = int(borders[start]), int(borders[end])
        if end - start == 1:
            plans.append(PairPlan(Run(document, first_piece, last_piece), None, IGNORED))
            start = end
            continue
        middle = int(generator.integers(start + 1, end))
        first = Run(document, first_piece, int(borders[middle]))
        random_second = generator.random() < 0.5
        space = max(target, last_piece - first_piece) - (first.end - first.start)
        other = draw_run(space) if random_second else None
        if other is not None:
            plans.append(PairPlan(first, other, RANDOM))
            start = middle
        else:
            plans.append(PairPlan(first, Run(document, first.end, last_piece), NEXT))
            start = end
    return plans


def draw_other_run(
    all_borders: Sequence[np.ndarray], *, document: int, pieces: int, generator: np.random.Generator
) -> Run | None:
    """A run of whole sentences of another document, from a random one on, as many as `pieces` hold.

    When the first is longer than that, its beginning. None when there is no other document. Every document has at
    least one sentence.
    """
    if len(all_borders) < 2:
        return None
    other = int(generator.integers(len(all_borders) - 1))
    other += other >= document
    borders = all_borders[other]
    begin = int(generator.integers(len(borders) - 1))
    start = int(borders[begin])
    last = int(np.searchsorted(borders, start + pieces, side="right")) - 1
    return Run(other, start, int(borders[last]) if last > begin else start + pieces)


def cut(segment: Segment, start: int, end: int) -> Segment:
    """Pieces start … end - 1; entities whose mention begins there, positions counted from `start`, lengths cut off.

    >>> part = cut(Segment(np.arange(6), np.array([7, 8]), np.array([1, 4]), np.array([1, 2])), 3, 5)
    >>> part.pieces.tolist(), part.entity_ids.tolist(), part.entity_positions.tolist(), part.entity_lengths.tolist()
    ([3, 4], [8], [1], [1])
    """
    low, high = np.searchsorted(segment.entity_positions, (start, end))
    positions = segment.entity_positions[low:high]
    return Segment(
        segment.pieces[start:end],
        segment.entity_ids[low:high],
        positions - start,
        np.minimum(segment.entity_lengths[low:high], end - positions),
    )


def build_instance(plan: PairPlan, segments: Sequence[Segment], *, cls_token_id: int, sep_token_id: int) -> Instance:
    """The pieces a plan names, between special ones.

    >>> document = Segment(np.array([5, 6, 7]), np.array([9]), np.array([1]), np.array([2]))
    >>> plan = PairPlan(Run(0, 0, 1), Run(0, 1, 3), NEXT)
    >>> instance = build_instance(plan, [document], cls_token_id=101, sep_token_id=102)
    >>> instance.input_ids.tolist(), instance.second_start, instance.entity_positions.tolist()
    ([101, 5, 102, 6, 7, 102], 3, [3])
    """
    first = cut(segments[plan.first.document], plan.first.start, plan.first.end)
    separator = np.array([sep_token_id])
    parts = [np.array([cls_token_id]), first.pieces, separator]
    second_start = len(first.pieces) + 2
    if plan.second is None:
        return Instance(
            np.concatenate(parts),
            second_start,
            first.entity_ids,
            first.entity_positions + 1,
            first.entity_lengths,
            plan.next_sentence_label,
        )
    second = cut(segments[plan.second.document], plan.second.start, plan.second.end)
    return Instance(
        np.concatenate([*parts, second.pieces, separator]),
        second_start,
        np.concatenate([first.entity_ids, second.entity_ids]),
        np.concatenate([first.entity_positions + 1, second.entity_positions + second_start]),
        np.concatenate([first.entity_lengths, second.entity_lengths]),
        plan.next_sentence_label,
    )


def _first_piece(piece_at: Callable[[int], int | None], start: int, end: int) -> int | None:
    return next((p for p in map(piece_at, range(start, end)) if p is not None), None)


def _last_piece(piece_at: Callable[[int], int | None], mention: EntitySpan) -> int:
    pieces = map(piece_at, range(mention.end - 1, mention.start - 1, -1))
    last = next((p for p in pieces if p is not None), None)
    assert last is not None, "the tokenizer places no entity on a mention without a piece"
    return last
