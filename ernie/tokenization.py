"""Text and character spans in, word pieces and the piece each entity sits on out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tokenizers
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ernie.collation import pad_batch
from ernie.errors import InputError

Alignment = Literal["first", "span"]


@dataclass(frozen=True, slots=True)
class EntitySpan:
    """A linked mention: text[start:end] in Unicode code points, and the entity's identifier."""

    start: int
    end: int
    entity: str


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text (or pair) as the model reads it.

    input_ids, token_type_ids: int64 (num_pieces,). entity_ids, entity_positions: int64 (num_entities,), table rows and
    the index of each mention's first word piece (alignment "span": one slot for each of its pieces); order of the given
    spans, first text before second. span_indices: int64 (num_entities,), which given span each slot was (spans of the
    second text counted on after the first's). dropped: how many spans got no entity, by reason:
        unknown_entity: the identifier is not in entity_rows.
        cut_by_max_length: the mention's first piece lies beyond max_length.
        no_word_piece: no character of the mention has a piece (spaces, control characters).
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    entity_ids: np.ndarray
    entity_positions: np.ndarray
    span_indices: np.ndarray
    dropped: Counter[str]
    pieces: tokenizers.Encoding = field(repr=False, compare=False)
    kept: np.ndarray | None = field(repr=False, compare=False)

    def piece_at(self, char: int, *, second: bool = False) -> int | None:
        """Index of the word piece over code point `char` of the first (or second) text; None where there is none:
        between words, or cut off."""
        piece = self.pieces.char_to_token(char, int(second))
        if piece is None or self.kept is None:
            return piece
        return int(self.kept[piece]) if self.kept[piece] >= 0 else None


class ErnieTokenizer:
    """A fast tokenizer that also places entities.

    An entity sits on the first word piece of its mention (the paper's alignment) or, with alignment "span", on every
    piece of it (a slot each, as the first release's pre-training data meant to and by a fault did on every second),
    found by the tokenizer's own map of characters: exact through punctuation, quotes, brackets, CJK, emoji and
    combining marks. Special pieces that mark mentions are the caller's: add them to `fast_tokenizer` and to the text.
    """

    def __init__(
        self,
        fast_tokenizer: PreTrainedTokenizerBase,
        entity_rows: Mapping[str, int],
        *,
        alignment: Alignment = "first",
    ) -> None:
        """entity_rows: entity identifier -> row of the entity table, 1.. ; an `EntityRows` has a rule for others."""
        backend = getattr(fast_tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, tokenizers.Tokenizer):
            raise InputError(
                f"ErnieTokenizer needs a fast tokenizer with character offsets, got {type(fast_tokenizer).__name__}"
            )
        if alignment not in get_args(Alignment):
            raise InputError(f"alignment is first or span, got {alignment!r}")
        self.fast_tokenizer = fast_tokenizer
        self.entity_rows = entity_rows
        self.alignment = alignment

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, entity_rows: Mapping[str, int], *, alignment: Alignment = "first"
    ) -> ErnieTokenizer:
        """folder: one with tokenizer.json (or BERT's vocab.txt)."""
        if not Path(folder).is_dir():
            raise InputError(f"no tokenizer folder at {folder}")
        fast_tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        return cls(fast_tokenizer, entity_rows, alignment=alignment)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the word pieces; entity rows belong to the vectors, not to the model."""
        self.fast_tokenizer.save_pretrained(str(folder))

    @property
    def pad_token_id(self) -> int:
        return int(self.fast_tokenizer.pad_token_id or 0)

    def __call__(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[EntitySpan]],
        *,
        text_pairs: Sequence[str] | None = None,
        pair_spans: Sequence[Sequence[EntitySpan]] | None = None,
        max_length: int,
    ) -> dict[str, torch.Tensor]:
        """`encode`, padded to one batch that a model takes as it is: `model(**tokenizer(texts, spans, ...))`."""
        encodings = self.encode(texts, spans, text_pairs=text_pairs, pair_spans=pair_spans, max_length=max_length)
        names = ("input_ids", "token_type_ids", "entity_ids", "entity_positions")
        features = [{name: getattr(encoding, name) for name in names} for encoding in encodings]
        return pad_batch(features, pad_token_id=self.pad_token_id)

    def encode(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[EntitySpan]],
        *,
        text_pairs: Sequence[str] | None = None,
        pair_spans: Sequence[Sequence[EntitySpan]] | None = None,
        max_length: int,
    ) -> list[Encoding]:
        """Encode texts (or pairs) in one call of the fast tokenizer, with special pieces, unpadded.

        spans, pair_spans: one sequence a text, offsets into that text; no order required, may overlap. max_length: word
        pieces in all, special ones included; longer inputs lose pieces at the end of the longer text, one by one.
        """
        for name, given in (("texts", texts), ("text_pairs", text_pairs)):
            if isinstance(given, str):
                raise InputError(f"{name} is a list of texts, got one text: {given[:40]!r}")
        pairs = [None] * len(texts) if text_pairs is None else list(text_pairs)
        seconds = [()] * len(texts) if pair_spans is None else list(pair_spans)
        if not len(texts) == len(spans) == len(pairs) == len(seconds):
            raise InputError(
                f"one list of spans a text: got {len(texts)} texts, {len(spans)} spans, "
                f"{len(pairs)} second texts, {len(seconds)} spans of second texts"
            )
        if text_pairs is None and any(seconds):
            raise InputError("pair_spans need text_pairs, the texts they point into")
        backend = self.fast_tokenizer.backend_tokenizer  # pyrefly: ignore[missing-attribute]
        backend.no_truncation()  # we cut ourselves: what is cut must be told from what was never there
        backend.no_padding()
        inputs = [text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]
        try:
            encodings = backend.encode_batch(inputs, add_special_tokens=True)
        except (TypeError, UnicodeEncodeError):
            _check_texts(texts, pairs)
            raise
        rows = zip(encodings, texts, spans, pairs, seconds, strict=True)
        return [
            self._place(pieces, ((text, first), (pair or "", second)), max_length)
            for pieces, text, first, pair, second in rows
        ]

    def _place(
        self,
        pieces: tokenizers.Encoding,
        sides: tuple[tuple[str, Sequence[EntitySpan]], ...],
        max_length: int,
    ) -> Encoding:
        """Cut to max_length and put each entity on its mention's first piece."""
        input_ids, type_ids = np.array(pieces.ids, dtype=np.int64), np.array(pieces.type_ids, dtype=np.int64)
        kept = None
        if len(input_ids) > max_length:
            keep = _keep_longest_first(pieces.sequence_ids, max_length)
            kept = np.where(keep, np.cumsum(keep) - 1, -1)
            input_ids, type_ids = input_ids[keep], type_ids[keep]
        dropped: Counter[str] = Counter()
        placed: list[tuple[int, int, int]] = []
        index = 0
        for side, (text, spans) in enumerate(sides):
            for span in spans:
                _check_span(span, text)
                row = self._row_of(span.entity)
                found = _pieces_of(pieces, span, side, only_first=self.alignment == "first")
                if kept is not None:
                    found_and_kept = [int(kept[piece]) for piece in found if kept[piece] >= 0]
                else:
                    found_and_kept = found
                if row == 0:
                    dropped["unknown_entity"] += 1
                elif not found:
                    dropped["no_word_piece"] += 1
                elif not found_and_kept:
                    dropped["cut_by_max_length"] += 1
                else:
                    placed.extend((row, piece, index) for piece in found_and_kept)
                index += 1
        columns = np.array(placed, dtype=np.int64).reshape(-1, 3).T
        entity_ids, positions, span_indices = (np.ascontiguousarray(column) for column in columns)
        return Encoding(input_ids, type_ids, entity_ids, positions, span_indices, dropped, pieces, kept)

    def _row_of(self, entity: str) -> int:
        row = self.entity_rows.get(entity, 0)
        if row < 0:
            raise InputError(f"rows of entities are 1.., entity_rows gives {row} for {entity!r}")
        return row


def _pieces_of(pieces: tokenizers.Encoding, span: EntitySpan, side: int, *, only_first: bool) -> list[int]:
    """The pieces over the mention's characters, in their order, or the first of them; empty where there is none."""
    found: dict[int, None] = {}
    for char in range(span.start, span.end):
        piece = pieces.char_to_token(char, side)
        if piece is not None:
            found[piece] = None
            if only_first:
                break
    return list(found)


def _check_texts(texts: Sequence[str], pairs: Sequence[str | None]) -> None:
    """Names the text that a tokenizer cannot take: none at all, or half of a UTF-16 pair in it."""
    for number, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        for one in (text, pair or ""):
            if not isinstance(one, str):
                raise InputError(f"a text is a string, text {number} is {one!r}")
            half = next((i for i, char in enumerate(one) if "\ud800" <= char <= "\udfff"), None)
            if half is not None:
                raise InputError(
                    f"text {number} has half of a surrogate pair at {half} (U+{ord(one[half]):04X}): "
                    f"it was decoded wrongly, decode it as UTF-8 or UTF-16"
                )


def _keep_longest_first(sequence_ids: Sequence[int | None], max_length: int) -> np.ndarray:
    """Which pieces stay: all special ones (sequence id None), and of the texts what `max_length` leaves.

    The longer text loses pieces at its end until both are equally long, then both; an odd piece is left to the longer
    text (of two equal ones, the second). The rule of the fast tokenizers' own `longest_first`.
    """
    sides = np.array([-1 if side is None else side for side in sequence_ids])
    first, second = int((sides == 0).sum()), int((sides == 1).sum())
    room = max_length - int((sides == -1).sum())
    if room < 0:
        raise InputError(f"max_length={max_length} has no room for the special pieces alone")
    keep_longer = max(room - min(first, second), room - room // 2)
    keep_first = keep_longer if first > second else room - keep_longer
    keep = sides == -1
    keep[np.flatnonzero(sides == 0)[:keep_first]] = True
    keep[np.flatnonzero(sides == 1)[: room - keep_first]] = True
    return keep


def _check_span(span: EntitySpan, text: str) -> None:
    if not all(hasattr(span, name) for name in ("start", "end", "entity")):
        raise InputError(f"a span has start, end and entity, EntitySpan(3, 8, 'Q90'), got {span!r}")
    if not 0 <= span.start < span.end <= len(text):
        raise InputError(
            f"a span lies in its text of {len(text)} code points with start < end, "
            f"got {span.start}..{span.end} for {span.entity!r}"
        )
