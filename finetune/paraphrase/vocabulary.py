"""Sentences as a generator reads and writes them: word pieces it knows, and places for those it can only copy.

A generator knows the `len(vocabulary)` commonest pieces of its training text. Any other piece of a source gets a number
of its own, valid for that source alone: len(vocabulary), len(vocabulary) + 1 … (See et al. 2017, section 2.2). What it
has never seen can so be copied, and is written with the characters it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import tokenizers

from kg.errors import InputError

PAD, UNK, BOS, EOS = range(4)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""Their pieces, in this order: a sentence begins with [CLS] and ends with [SEP]."""
FILE = "pieces.json"
CONTINUES = "##"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text cut into word pieces, special ones not among them.

    piece_ids: the tokenizer's ids, int64 (num_pieces,). offsets: (num_pieces, 2), code points of each piece.
    keys: what tells an unknown piece from others: its id, and its characters where the tokenizer itself knows it not.
    """

    text: str
    piece_ids: Ids
    offsets: Ids
    keys: tuple[tuple[int, str], ...]

    def __len__(self) -> int:
        return len(self.piece_ids)

    def cut(self, length: int) -> Sentence:
        """The first `length` pieces."""
        return Sentence(self.text, self.piece_ids[:length], self.offsets[:length], self.keys[:length])


class Vocabulary:
    """Which pieces a generator can write, and the tokenizer that makes them.

    pieces: the tokenizer's id of each generator id, int64; the first four are `SPECIAL`.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, pieces: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.pieces = np.array(pieces, dtype=np.int64)
        self._id_of = {int(piece): row for row, piece in enumerate(self.pieces)}
        names = [tokenizer.id_to_token(int(piece)) for piece in self.pieces]
        missing = [name for name, found in zip(SPECIAL, names) if name != found]
        if missing:
            raise InputError(f"expected a BERT tokenizer, with {', '.join(SPECIAL)}; this one lacks {missing[0]}")
        if self.pieces[PAD] != 0:
            raise InputError(f"expected [PAD] in row 0 of the tokenizer, found it in row {self.pieces[PAD]}")
        self.unknown_piece = int(self.pieces[UNK])

    @classmethod
    def build(cls, tokenizer: tokenizers.Tokenizer, texts: Iterable[str], *, size: int) -> Vocabulary:
        """The `size` commonest pieces of `texts` (specials included; equally common ones by their id)."""
        special = [id for name in SPECIAL if (id := tokenizer.token_to_id(name)) is not None]
        if len(special) < len(SPECIAL):
            raise InputError(f"expected a BERT tokenizer, with {', '.join(SPECIAL)}")
        counts: Counter[int] = Counter()
        for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
            counts.update(encoding.ids)
        ranked = sorted(counts.keys() - set(special), key=lambda piece: (-counts[piece], piece))
        return cls(tokenizer, special + ranked[: max(0, size - len(special))])

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        path = Path(folder) / FILE
        if not path.is_file():
            raise InputError(f"{folder}: no {FILE}; expected a folder of `ernie-kg finetune paraphrase`")
        tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        return cls(tokenizer, orjson.loads(path.read_bytes()))

    def save(self, folder: Path) -> None:
        self.tokenizer.save(str(Path(folder) / "tokenizer.json"))
        (Path(folder) / FILE).write_bytes(orjson.dumps(self.pieces.tolist()))

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, texts: Sequence[str]) -> list[Sentence]:
        """One sentence a text; an empty text has no pieces."""
        sentences = []
        for text, encoding in zip(texts, self.tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            keys = tuple(
                (piece, text[start:end].lower() if piece == self.unknown_piece else "")
                for piece, (start, end) in zip(encoding.ids, encoding.offsets)
            )
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            sentences.append(Sentence(text, np.array(encoding.ids, dtype=np.int64), offsets, keys))
        return sentences

    def source_ids(self, source: Sentence) -> tuple[Ids, dict[tuple[int, str], int]]:
        """Generator ids of a source's pieces, unknown ones numbered from len(self) on, and those numbers by key."""
        unknown: dict[tuple[int, str], int] = {}
        ids = [self._number(key, unknown) for key in source.keys]
        return np.array(ids, dtype=np.int64), unknown

    def target_ids(self, target: Sentence, unknown: dict[tuple[int, str], int]) -> Ids:
        """Generator ids of a target's pieces; unknown ones that the source has by the source's number, others UNK."""
        ids = [self._id_of.get(key[0], UNK) for key in target.keys]
        both = [own if own != UNK else unknown.get(key, UNK) for own, key in zip(ids, target.keys)]
        return np.array(both, dtype=np.int64)

    def unknown_pieces(self, unknown: dict[tuple[int, str], int]) -> list[int]:
        """The tokenizer's ids of a source's unknown pieces, by their number."""
        return [piece for piece, _ in unknown]

    def is_continuation(self, piece: int) -> bool:
        """Whether the tokenizer's piece `piece` goes on a word."""
        return self.name_of(piece).startswith(CONTINUES)

    def name_of(self, piece: int) -> str:
        """The tokenizer's piece `piece` as it stands in its vocabulary."""
        name = self.tokenizer.id_to_token(piece)
        assert name is not None, "pieces come from this tokenizer"
        return name

    def _number(self, key: tuple[int, str], unknown: dict[tuple[int, str], int]) -> int:
        known = self._id_of.get(key[0], UNK)
        return known if known != UNK else unknown.setdefault(key, len(self) + len(unknown))


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The fast tokenizer of a model folder (tokenizer.json or BERT's vocab.txt).

    Raises:
        InputError: no such folder, or no tokenizer in it.
    """
    from ernie import ErnieTokenizer

    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise InputError(f"{folder}: neither tokenizer.json nor vocab.txt; expected a BERT's or ERNIE's model folder")
    backend = ErnieTokenizer.from_pretrained(folder, {}).fast_tokenizer.backend_tokenizer  # pyrefly: ignore
    return tokenizers.Tokenizer.from_str(backend.to_str())
