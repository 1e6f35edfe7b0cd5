"""Word pieces of many texts, each word looked up once: what a corpus repeats need not be cut again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

MOST_PIECES_KEPT = 4_000_000
"""The store is emptied when it holds more pieces than this (about 200 MB): memory stays flat for any corpus."""
SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of several texts, one after the other, without special ones.

    ids, starts, ends: (num_pieces,); starts and ends are code points of the piece's own text. bounds: (num_texts + 1,),
    text i has pieces bounds[i] … bounds[i + 1] - 1.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    bounds: np.ndarray


class PieceCutter:
    """A tokenizer's pieces and their places, equal to the tokenizer's own for every text.

    A tokenizer that cuts at every space, as BERT's do, gives a text the pieces of its space-separated parts in a row,
    so each distinct part is cut once and looked up afterwards; any other tokenizer reads whole texts.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = tokenizers.Tokenizer.from_str(backend.to_str())  # ours to set: no truncation, no padding
        self.backend.no_truncation()
        self.backend.no_padding()
        self.by_parts = cuts_at_spaces(self.backend)
        self._forget()

    def cut(self, texts: Sequence[str]) -> Pieces:
        if not self.by_parts:
            return self._cut_whole(texts)
        if self._used > MOST_PIECES_KEPT:
            self._forget()
        parts = [text.split(" ") for text in texts]
        known = self._number
        self._learn(dict.fromkeys(part for words in parts for part in words if part not in known))
        numbers = np.fromiter((known[part] for words in parts for part in words), np.int64, sum(map(len, parts)))
        return self._look_up(numbers, np.array([len(words) for words in parts], dtype=np.int64))

    def _look_up(self, parts: np.ndarray, parts_of_text: np.ndarray) -> Pieces:
        """parts: (num_parts,) numbers of known parts. parts_of_text: (num_texts,) how many parts each text has."""
        begins, counts, sizes = (column.astype(np.int64) for column in self._parts[parts].T)
        first_part = np.concatenate([[0], np.cumsum(parts_of_text)])
        ends = np.concatenate([[0], np.cumsum(counts)])
        found = self._pieces[np.repeat(begins - ends[:-1], counts) + np.arange(ends[-1])].astype(np.int64)
        at = np.cumsum(sizes + 1) - sizes - 1  # where a part begins, all texts in a row
        at -= np.repeat(at[first_part[:-1]], parts_of_text)
        shift = np.repeat(at, counts)
        return Pieces(found[:, 0], found[:, 1] + shift, found[:, 2] + shift, ends[first_part])

    def _learn(self, parts: dict[str, None]) -> None:
        encodings = self.backend.encode_batch(list(parts), add_special_tokens=False)
        pieces = [(piece, *place) for e in encodings for piece, place in zip(e.ids, e.offsets)]
        counts = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
        known, used = len(self._number), self._used
        self._number.update(zip(parts, range(known, known + len(parts)), strict=True))
        self._used += len(pieces)
        self._pieces = _with_room(self._pieces, self._used)
        self._pieces[used : self._used] = np.array(pieces, dtype=np.int32).reshape(-1, 3)
        self._parts = _with_room(self._parts, len(self._number))
        begins = used + np.cumsum(counts) - counts
        sizes = np.array([len(part) for part in parts], dtype=np.int32)
        self._parts[known : len(self._number)] = np.stack([begins, counts, sizes], axis=1)

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._used = 0
        self._pieces = np.empty((1024, 3), dtype=np.int32)  # id, start and end in the part
        self._parts = np.empty((1024, 3), dtype=np.int32)  # first piece, pieces, code points

    def _cut_whole(self, texts: Sequence[str]) -> Pieces:
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        offsets = np.array([place for e in encodings for place in e.offsets], dtype=np.int64).reshape(-1, 2)
        ids = np.concatenate([np.empty(0, np.int64), *(np.array(e.ids, dtype=np.int64) for e in encodings)])
        bounds = np.concatenate([[0], np.cumsum([len(e) for e in encodings])]).astype(np.int64)
        return Pieces(ids, offsets[:, 0], offsets[:, 1], bounds)


def _with_room(rows: np.ndarray, needed: int) -> np.ndarray:
    """The rows, in an array twice as long as needed when they no longer have room."""
    if needed <= len(rows):
        return rows
    larger = np.empty((2 * needed, rows.shape[1]), dtype=rows.dtype)
    larger[: len(rows)] = rows
    return larger


def cuts_at_spaces(backend: tokenizers.Tokenizer) -> bool:
    """Whether a text's pieces are those of its space-separated parts in a row: BERT's normaliser or none, a
    pre-tokenizer that cuts at white space, word pieces, and no added piece that reaches over a space."""
    described = json.loads(backend.to_str())
    kinds = {name: (described.get(name) or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")}
    over_spaces = any(" " in t["content"] or t["lstrip"] or t["rstrip"] for t in described.get("added_tokens", []))
    return (
        kinds["normalizer"] in {None, "BertNormalizer"}
        and kinds["pre_tokenizer"] in SPLITTING
        and kinds["model"] == "WordPiece"
        and not over_spaces
    )
