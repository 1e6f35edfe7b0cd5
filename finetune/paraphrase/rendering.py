"""Ids back into text, written as the source wrote what was copied, with the spans that had to survive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.paraphrase.batches import EncodedPair
from finetune.paraphrase.constraints import find_runs
from finetune.paraphrase.vocabulary import BOS, CONTINUES, EOS, PAD, UNK, Sentence, Vocabulary

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
NO_BLANK_BEFORE = frozenset(".,;:!?)]}%'’")
NO_BLANK_AFTER = frozenset("([{$#'’")


@dataclass(frozen=True, slots=True)
class Area:
    """Characters [start, end) of a source that must survive as they are: whole pieces, from `first` up to `last`.

    run: the generator ids of those pieces, as `constraints.require` takes them.
    """

    start: int
    end: int
    first: int
    last: int
    run: tuple[int, ...]

    def moved(self, span: tuple[int, int], start: int) -> tuple[int, int]:
        """Where a span inside this area stands once the area begins at `start`."""
        return span[0] - self.start + start, span[1] - self.start + start


@dataclass(frozen=True, slots=True)
class Rendered:
    """text: the sentence. starts: where each area now begins in `text`, None where it was lost."""

    text: str
    starts: tuple[int | None, ...]


def areas_of(pair: EncodedPair, spans: Sequence[tuple[int, int]]) -> tuple[list[Area], list[int | None]]:
    """The areas that hold a source's spans, in their order, and by span the number of its area.

    Spans that touch the same piece share an area. None: a span without any piece (blanks) or behind the last one.
    """
    touched = [pieces_of(pair.source, start, end) for start, end in spans]
    offsets = pair.source.offsets
    whole = [bool(places) and int(offsets[places[-1], 1]) >= span[1] for places, span in zip(touched, spans)]
    joined: list[list[int]] = []
    for places in sorted(places for places, all_there in zip(touched, whole) if all_there):
        if joined and places[0] <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], places[-1])
        else:
            joined.append([places[0], places[-1]])
    areas = [
        Area(
            start=int(offsets[first, 0]),
            end=int(offsets[last, 1]),
            first=first,
            last=last,
            run=tuple(pair.source_ids[first : last + 1].tolist()),
        )
        for first, last in joined
    ]
    numbers = [
        next((n for n, area in enumerate(areas) if area.first <= places[0] <= area.last), None) if all_there else None
        for places, all_there in zip(touched, whole)
    ]
    return areas, numbers


def pieces_of(source: Sentence, start: int, end: int) -> list[int]:
    """Places of the pieces that touch the characters [start, end)."""
    return [place for place, (a, b) in enumerate(source.offsets.tolist()) if a < end and b > start]


def number_spans(text: str) -> list[tuple[int, int]]:
    """Where numbers stand: digits, with points, commas and colons between them.

    >>> number_spans("at 10:30, for 1,000.5 of 2")
    [(3, 8), (14, 21), (25, 26)]
    """
    return [match.span() for match in NUMBER.finditer(text)]


def render(ids: Sequence[int], pair: EncodedPair, vocabulary: Vocabulary, areas: Sequence[Area] = ()) -> Rendered:
    """The sentence that generator ids say; unknown pieces with the characters they had in the source.

    Pieces that the source has are written as they are there (its case), runs of them with its own blanks between; all
    others lower-cased as the tokenizer knows them. areas: what had to survive, written exactly as it stood.
    """
    written = [one for one in ids[: _end(ids)] if one not in (PAD, BOS)]
    found = find_runs(written, [area.run for area in areas])
    places = _source_places(written, pair, {f[0]: area.first for f, area in zip(found, areas, strict=True) if f})
    text, starts = "", []
    for number, (one, place) in enumerate(zip(written, places, strict=True)):
        piece, continues = _characters(one, place, pair, vocabulary)
        before = places[number - 1] if number else None
        if place is not None and before is not None and place == before + 1:
            text += pair.source.text[pair.source.offsets[before, 1] : pair.source.offsets[place, 0]]
        elif text and not continues and piece[:1] not in NO_BLANK_BEFORE and text[-1] not in NO_BLANK_AFTER:
            text += " "
        starts.append(len(text))
        text += piece
    return Rendered(text, tuple(None if place is None else starts[place[0]] for place in found))


def _end(ids: Sequence[int]) -> int:
    return list(ids).index(EOS) if EOS in ids else len(ids)


def _source_places(ids: Sequence[int], pair: EncodedPair, fixed: dict[int, int]) -> list[int | None]:
    """Where in the source each id may have been copied from: behind its predecessor's place if it can, else the first.

    fixed: place in `ids` -> place in the source that it is known to be from.
    """
    where: dict[int, list[int]] = {}
    for place, one in enumerate(pair.source_ids.tolist()):
        where.setdefault(one, []).append(place)
    places: list[int | None] = []
    for number, one in enumerate(ids):
        choices = where.get(one, [])
        last = places[-1] if places else None
        if number in fixed:
            places.append(fixed[number])
        elif last is not None and last + 1 in choices:
            places.append(last + 1)
        else:
            places.append(choices[0] if choices else None)
    return places


def _characters(one: int, place: int | None, pair: EncodedPair, vocabulary: Vocabulary) -> tuple[str, bool]:
    """What a piece writes, and whether it goes on the word before it."""
    if place is not None:
        start, end = pair.source.offsets[place].tolist()
        return pair.source.text[start:end], vocabulary.is_continuation(int(pair.source.piece_ids[place]))
    assert UNK != one < len(vocabulary), "decoding writes neither UNK nor what the source lacks"
    name = vocabulary.name_of(int(vocabulary.pieces[one]))
    return name.removeprefix(CONTINUES), name.startswith(CONTINUES)
