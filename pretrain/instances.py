"""From a document to the instances it is read as; pure steps, one after another.

text, mentions -> EncodedDocument (word pieces, entities, sentence borders) -> plans -> InstanceColumns
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretrain.sentences import sentence_starts
from pretrain.wordpieces import PieceCutter, Pieces

NEXT, RANDOM, IGNORED = 0, 1, -100
"""Labels of next-sentence prediction, as in BERT, and of no pair (as `ernie.inputs.IGNORED`, which loads torch)."""


@dataclass(frozen=True, slots=True)
class Mentions:
    """Linked mentions of several texts, each column (num_mentions,), in order of text and then of start.

    document: number of the text. start, end: code points of that text. entity_ids: table rows, 0 where the entity has
    none. scores: probability of the link, 1 where none is known.
    """

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    entity_ids: np.ndarray
    scores: np.ndarray

    def take(self, rows: np.ndarray) -> Mentions:
        """rows: a boolean mask or row numbers."""
        return Mentions(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of word pieces without special ones.

    pieces: (n,). entity_ids, entity_positions, entity_lengths, entity_scores: (k,): table row, first piece, number of
    pieces and link probability of each mention, in order of position.
    """

    pieces: np.ndarray
    entity_ids: np.ndarray
    entity_positions: np.ndarray
    entity_lengths: np.ndarray
    entity_scores: np.ndarray


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
class Plan:
    """What an instance is made of.

    runs: one after the other, a [SEP] behind each. next_sentence_label: NEXT or RANDOM for a pair, whose second run
    has token type 1; IGNORED for anything else, which has token type 0 throughout.
    """

    runs: tuple[Run, ...]
    next_sentence_label: int = IGNORED


@dataclass(frozen=True, slots=True)
class InstanceColumns:
    """Many instances `[CLS] run [SEP] (run [SEP]) …` as flat columns, one instance after the other.

    input_ids: (num_pieces,). entity_ids, entity_positions (counted from the instance's own start), entity_lengths,
    entity_scores: (num_entities,). lengths, entity_counts: (num_instances,) how many of both are whose. second_start:
    index at which token type 1 begins, the length where it never does. next_sentence_label: as in Plan.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    entity_ids: np.ndarray
    entity_positions: np.ndarray
    entity_lengths: np.ndarray
    entity_scores: np.ndarray
    entity_counts: np.ndarray
    second_start: np.ndarray
    next_sentence_label: np.ndarray


def encode_documents(
    texts: Sequence[str], mentions: Mentions, cutter: PieceCutter, dropped: Counter[str]
) -> list[EncodedDocument]:
    """Word pieces of whole documents, their entities and sentence borders; all documents of a call at once.

    Mentions left out are counted in `dropped`: `unknown_entity` (no row), `span_outside_text` (not 0 <= start < end <=
    length), `no_word_piece` (white space or control characters only). A document without any piece has no sentence:
    its borders are [0].

    before: "Ada met Bob. He ran.", mention (8, 11) of row 7 → after: pieces ada met bob . he ran ., entity 7 on piece
    2 of length 1, borders [0, 4, 7].
    """
    cut = cutter.cut(texts)
    mentions, first, last = place_mentions(texts, mentions, cut, dropped)
    is_border = np.zeros(len(cut.ids) + 1, dtype=bool)
    is_border[_first_pieces_of_sentences(texts, cut)] = True
    is_border &= ~inside_mentions(first, last, len(cut.ids))
    is_border[cut.bounds] = True
    by_document = np.searchsorted(mentions.document, np.arange(len(texts) + 1))
    documents = []
    for number, (begin, end) in enumerate(itertools.pairwise(cut.bounds)):
        rows = slice(by_document[number], by_document[number + 1])
        segment = Segment(
            cut.ids[begin:end],
            mentions.entity_ids[rows],
            first[rows] - begin,
            last[rows] - first[rows] + 1,
            mentions.scores[rows],
        )
        documents.append(EncodedDocument(segment, np.flatnonzero(is_border[begin : end + 1])))
    return documents


def place_mentions(
    texts: Sequence[str], mentions: Mentions, cut: Pieces, dropped: Counter[str]
) -> tuple[Mentions, np.ndarray, np.ndarray]:
    """The mentions that have a row and a piece, and their first and last piece among all (`cut.ids`)."""
    sizes = np.array([len(text) for text in texts], dtype=np.int64)
    outside = (mentions.start < 0) | (mentions.start >= mentions.end) | (mentions.end > sizes[mentions.document])
    unknown = (mentions.entity_ids == 0) & ~outside
    dropped.update(span_outside_text=int(outside.sum()), unknown_entity=int(unknown.sum()))
    mentions = mentions.take(~outside & ~unknown)
    text_starts = np.cumsum(sizes + 1) - sizes - 1
    shift = np.repeat(text_starts, np.diff(cut.bounds))
    first = np.searchsorted(cut.ends + shift, text_starts[mentions.document] + mentions.start, side="right")
    last = np.searchsorted(cut.starts + shift, text_starts[mentions.document] + mentions.end, side="left") - 1
    has_piece = first <= last
    dropped["no_word_piece"] += int((~has_piece).sum())
    mentions, first, last = mentions.take(has_piece), first[has_piece], last[has_piece]
    order = np.argsort(first, kind="stable")
    return mentions.take(order), first[order], last[order]


def inside_mentions(first: np.ndarray, last: np.ndarray, num_pieces: int) -> np.ndarray:
    """bool (num_pieces + 1,): a border before this piece would cut a mention in two.

    >>> inside_mentions(np.array([1]), np.array([3]), 5).tolist()
    [False, False, True, True, False, False]
    """
    change = np.zeros(num_pieces + 2, dtype=np.int64)
    np.add.at(change, first + 1, 1)
    np.add.at(change, last + 1, -1)
    return np.cumsum(change)[: num_pieces + 1] > 0


def _first_pieces_of_sentences(texts: Sequence[str], cut: Pieces) -> np.ndarray:
    firsts = []
    for number, text in enumerate(texts):
        begin, end = cut.bounds[number], cut.bounds[number + 1]
        firsts.append(begin + np.searchsorted(cut.ends[begin:end], sentence_starts(text), side="right"))
    return np.concatenate([np.empty(0, dtype=np.int64), *firsts])


def drop_sparse_sentences(document: EncodedDocument, *, min_entities: int, dropped: Counter[str]) -> EncodedDocument:
    """The document without its sentences of fewer than `min_entities` mentions (Zhang et al. 2019, 4.1: of fewer than
    3); counted under `sentences_with_too_few_entities`.

    >>> ones = np.ones(2)
    >>> segment = Segment(np.arange(6), np.array([7, 8]), np.array([3, 4]), np.array([1, 1]), ones)
    >>> kept = drop_sparse_sentences(EncodedDocument(segment, np.array([0, 2, 6])), min_entities=1, dropped=Counter())
    >>> kept.segment.pieces.tolist(), kept.segment.entity_positions.tolist(), kept.borders.tolist()
    ([2, 3, 4, 5], [1, 2], [0, 4])
    """
    segment, borders = document.segment, document.borders
    lengths = np.diff(borders)
    sentence_of = np.searchsorted(borders, segment.entity_positions, side="right") - 1
    keep = np.bincount(sentence_of, minlength=len(lengths)) >= min_entities
    if keep.all():
        return document
    dropped["sentences_with_too_few_entities"] += int((~keep).sum())
    piece_kept = np.repeat(keep, lengths)
    new_place = np.cumsum(piece_kept) - 1
    entity_kept = keep[sentence_of]
    kept = Segment(
        segment.pieces[piece_kept],
        segment.entity_ids[entity_kept],
        new_place[segment.entity_positions[entity_kept]],
        segment.entity_lengths[entity_kept],
        segment.entity_scores[entity_kept],
    )
    return EncodedDocument(kept, np.concatenate([[0], np.cumsum(lengths[keep])]))


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
) -> list[Plan]:
    """How a document is cut into instances, after BERT's `create_instances_from_document`.

    Sentences are gathered until `room` pieces are full (with probability short_seq_prob until a random smaller
    number), then parted at a random border. Half of the second parts are replaced by `draw_run(pieces)`, a run of
    another document that long at most; the replaced sentences are used again. Where BERT forces a random second onto
    a lone sentence, it stands alone here, without a label, so that half of the labels are random, not more.

    borders: (num_sentences + 1,), no sentence longer than room. draw_run returns None when there is no other document.

    >>> plans = plan_pairs(np.array([0, 4, 9, 12]), document=0, room=12, short_seq_prob=0.0,
    ...     generator=np.random.default_rng(0), draw_run=lambda pieces: None)
    >>> [([(run.start, run.end) for run in p.runs], p.next_sentence_label) for p in plans]
    [([(0, 9), (9, 12)], 0)]
    """
    plans, start, count = [], 0, len(borders) - 1
    while start < count:
        target = room if generator.random() >= short_seq_prob else int(generator.integers(2, room + 1))
        end = start + 1
        while end < count and borders[end + 1] - borders[start] <= (room if end - start < 2 else target):
            end += 1
        first_piece, last_piece = int(borders[start]), int(borders[end])
        if end - start == 1:
            plans.append(Plan((Run(document, first_piece, last_piece),)))
            start = end
            continue
        middle = int(generator.integers(start + 1, end))
        first = Run(document, first_piece, int(borders[middle]))
        random_second = generator.random() < 0.5
        space = max(target, last_piece - first_piece) - (first.end - first.start)
        other = draw_run(space) if random_second else None
        if other is not None:
            plans.append(Plan((first, other), RANDOM))
            start = middle
        else:
            plans.append(Plan((first, Run(document, first.end, last_piece)), NEXT))
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


def plan_packed(all_borders: Sequence[np.ndarray], *, room: int) -> Iterator[Plan]:
    """Whole sentences in order, over the ends of documents, as many as fit: FULL-SENTENCES of Liu et al. (2019), 4.2.

    No pair, so no label; nearly every instance is full. all_borders: one (num_sentences + 1,) a document, no sentence
    longer than room. room: pieces of an instance besides [CLS] and its last [SEP]; each further run costs a [SEP].

    >>> plans = plan_packed([np.array([0, 3, 5]), np.array([0, 2, 9])], room=9)
    >>> [[(run.document, run.start, run.end) for run in plan.runs] for plan in plans]
    [[(0, 0, 5), (1, 0, 2)], [(1, 2, 9)]]
    """
    runs: list[Run] = []
    used = 0
    for document, borders in enumerate(all_borders):
        for start, end in itertools.pairwise(borders.tolist()):
            goes_on = bool(runs) and runs[-1].document == document
            needed = end - start + (1 if runs and not goes_on else 0)
            if runs and used + needed > room:
                yield Plan(tuple(runs))
                runs, used, goes_on, needed = [], 0, False, end - start
            if goes_on:
                runs[-1] = Run(document, runs[-1].start, end)
            else:
                runs.append(Run(document, start, end))
            used += needed
    if runs:
        yield Plan(tuple(runs))


def build_instances(
    plans: Sequence[Plan], segments: Sequence[Segment], *, cls_token_id: int, sep_token_id: int
) -> InstanceColumns:
    """The pieces that each plan names, between special ones, and the entities whose mention begins there; a mention
    that a run's end cuts is as long as what is left of it.

    >>> document = Segment(np.array([5, 6, 7]), np.array([9]), np.array([1]), np.array([2]), np.ones(1))
    >>> plans = [Plan((Run(0, 0, 1), Run(0, 1, 3)), NEXT), Plan((Run(0, 0, 2),))]
    >>> made = build_instances(plans, [document], cls_token_id=101, sep_token_id=102)
    >>> made.input_ids.tolist(), made.lengths.tolist(), made.second_start.tolist()
    ([101, 5, 102, 6, 7, 102, 101, 5, 6, 102], [6, 4], [3, 4])
    >>> made.entity_positions.tolist(), made.entity_lengths.tolist(), made.entity_counts.tolist()
    ([3, 2], [2, 1], [1, 1])
    """
    joined = _joined(segments)
    document, start, end = np.array([(r.document, r.start, r.end) for p in plans for r in p.runs], np.int64).T
    start, end = start + joined.starts[document], end + joined.starts[document]
    plan_of_run = np.repeat(np.arange(len(plans)), [len(plan.runs) for plan in plans])
    lengths = 1 + np.bincount(plan_of_run, end - start + 1, len(plans)).astype(np.int64)
    instance_start = np.cumsum(lengths) - lengths
    taken = end - start + 1
    place = np.cumsum(taken) - taken + plan_of_run + 1  # where a run begins, all instances in a row
    input_ids = np.full(lengths.sum(), sep_token_id, dtype=np.int64)
    input_ids[instance_start] = cls_token_id
    source, row = ranges(start, end)
    input_ids[source - start[row] + place[row]] = joined.pieces[source]
    low, high = (np.searchsorted(joined.entity_places, border) for border in (start, end))
    entity, run = ranges(low, high)
    at = joined.entity_places[entity]
    first_run = np.searchsorted(plan_of_run, np.arange(len(plans)))
    labels = np.array([plan.next_sentence_label for plan in plans], dtype=np.int64)
    return InstanceColumns(
        input_ids=input_ids,
        lengths=lengths,
        entity_ids=joined.entity_ids[entity],
        entity_positions=at - start[run] + place[run] - instance_start[plan_of_run[run]],
        entity_lengths=np.minimum(joined.entity_lengths[entity], end[run] - at),
        entity_scores=joined.entity_scores[entity],
        entity_counts=np.bincount(plan_of_run, high - low, len(plans)).astype(np.int64),
        second_start=np.where(labels == IGNORED, lengths, 1 + taken[first_run]),
        next_sentence_label=labels,
    )


def count_entities(plans: Sequence[Plan], segments: Sequence[Segment]) -> np.ndarray:
    """(num_plans,) how many mentions begin in the pieces that each plan names."""
    places = [segment.entity_positions for segment in segments]
    return np.array(
        [sum(int(np.diff(places[r.document].searchsorted((r.start, r.end)))[0]) for r in p.runs) for p in plans],
        dtype=np.int64,
    )


def ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers starts[i] … ends[i] - 1 one range after the other, and i of each.

    >>> numbers, which = ranges(np.array([4, 9]), np.array([6, 10]))
    >>> numbers.tolist(), which.tolist()
    ([4, 5, 9], [0, 0, 1])
    """
    counts = ends - starts
    which = np.repeat(np.arange(len(counts)), counts)
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts), which


class _Joined(NamedTuple):
    """Segments in a row; starts: (num_segments,) first piece of each. entity_places: pieces counted over all."""

    starts: np.ndarray
    pieces: np.ndarray
    entity_ids: np.ndarray
    entity_places: np.ndarray
    entity_lengths: np.ndarray
    entity_scores: np.ndarray


def _joined(segments: Sequence[Segment]) -> _Joined:
    sizes = np.array([len(segment.pieces) for segment in segments], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    return _Joined(
        starts,
        np.concatenate([segment.pieces for segment in segments]),
        np.concatenate([segment.entity_ids for segment in segments]),
        np.concatenate([segment.entity_positions + start for segment, start in zip(segments, starts)]),
        np.concatenate([segment.entity_lengths for segment in segments]),
        np.concatenate([segment.entity_scores for segment in segments]),
    )
