"""Near words by vector: from a model's own word table, a `.txt` file of GloVe, or a spaCy model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kg.errors import InputError
from kg.sources import resolve_source

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SPACY = "spacy:"
READ_WORDS = 100_000
"""Words read of a vectors file, as in the released TinyBERT: the commonest come first."""


class Neighbours:
    """The nearest of `words` to a word by cosine, without the word itself; () for a word without a vector.

    vectors: float32 (num_words, width). vector_of: a word's vector, None for one that has none.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: np.ndarray,
        *,
        num_candidates: int,
        vector_of: Callable[[str], np.ndarray | None] | None = None,
    ) -> None:
        self.words, self.num_candidates = list(words), num_candidates
        self.unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        rows = {word: row for row, word in enumerate(self.words)}
        self.vector_of = vector_of or (lambda word: vectors[rows[word]] if word in rows else None)
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, word: str) -> tuple[str, ...]:
        key = word.lower()
        if key not in self._known:
            self._known[key] = self._find(key)
        return self._known[key]

    def _find(self, word: str) -> tuple[str, ...]:
        vector = self.vector_of(word)
        if vector is None or not vector.any():
            return ()
        likeness = self.unit @ (vector / np.linalg.norm(vector)).astype(self.unit.dtype)
        number = min(self.num_candidates + 1, len(likeness))
        best = np.argpartition(-likeness, number - 1)[:number]
        ordered = best[np.lexsort((best, -likeness[best]))]
        return tuple(self.words[row] for row in ordered if self.words[row] != word)[: self.num_candidates]


def neighbours_from(
    source: str | None, *, tokenizer: PreTrainedTokenizerBase, table: Tensor, num_candidates: int
) -> Neighbours:
    """source: none = the model's word table (a word is the mean of its pieces, candidates are whole-word pieces); a
    `.txt` file, `word number number …` a line; or `spacy:NAME`, an installed model with vectors.

    Raises:
        InputError: no such file or model, a bad line, a model without vectors.
    """
    if source is None:
        return _of_table(tokenizer, table, num_candidates)
    if source.startswith(SPACY):
        return _of_spacy(source.removeprefix(SPACY), num_candidates)
    words, vectors = read_glove(resolve_source(source))
    return Neighbours(words, vectors, num_candidates=num_candidates)


def read_glove(path: Path, *, most: int = READ_WORDS) -> tuple[list[str], np.ndarray]:
    """The first `most` words of a file and their vectors, (num_words, width); a first line `count width` is left out.

    Raises:
        InputError: a line of another width or with something else than numbers, by its number; no words at all.
    """
    words: list[str] = []
    rows: list[np.ndarray] = []
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            parts = line.rstrip().split(" ")
            if number == 1 and len(parts) == 2:
                continue
            try:
                row = np.array(parts[1:], dtype=np.float32)
            except ValueError:
                raise InputError(f"{path}:{number}: expected a word and numbers, got {line[:60]!r}") from None
            if rows and len(row) != len(rows[0]):
                raise InputError(f"{path}:{number}: {len(row)} numbers, the lines before have {len(rows[0])}")
            words.append(parts[0])
            rows.append(row)
            if len(words) == most:
                break
    if not words or not len(rows[0]):
        raise InputError(f"{path} holds no vectors; expected `word number number …` a line")
    return words, np.stack(rows)


def _of_table(tokenizer: PreTrainedTokenizerBase, table: Tensor, num_candidates: int) -> Neighbours:
    everything = table.float().cpu().numpy()
    special, vocabulary = set(tokenizer.all_special_ids), tokenizer.get_vocab()
    whole = sorted((row, piece) for piece, row in vocabulary.items() if row not in special and piece.isalpha())

    def vector_of(word: str) -> np.ndarray | None:
        rows: list[int] = [vocabulary[piece] for piece in tokenizer.tokenize(word)]
        return everything[rows].mean(axis=0) if rows and tokenizer.unk_token_id not in rows else None

    rows = [row for row, _ in whole]
    return Neighbours(
        [piece for _, piece in whole], everything[rows], num_candidates=num_candidates, vector_of=vector_of
    )


def _of_spacy(name: str, num_candidates: int) -> Neighbours:
    import spacy

    try:
        model: Any = spacy.load(name)
    except OSError as error:
        raise InputError(f"spaCy has no model {name!r} ({str(error).splitlines()[0]}); install it") from None
    if not model.vocab.vectors.shape[0]:
        raise InputError(f"the spaCy model {name!r} has no vectors; use one whose name ends in md or lg")
    keys = [(key, row) for key, row in model.vocab.vectors.key2row.items()][:READ_WORDS]
    words = [model.vocab.strings[key] for key, _ in keys]
    kept = [(word, row) for word, (_, row) in zip(words, keys) if word.isalpha() and word.islower()]
    data = np.asarray(model.vocab.vectors.data, dtype=np.float32)
    return Neighbours([word for word, _ in kept], data[[row for _, row in kept]], num_candidates=num_candidates)
