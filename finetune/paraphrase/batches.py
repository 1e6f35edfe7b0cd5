"""Encoded pairs, and the tensors of a batch of them.

| tensor | shape | what |
|---|---|---|
| input_ids | (batch, source_len) | the tokenizer's ids of the source, [CLS] first, [SEP] last; what an encoder reads |
| attention_mask | (batch, source_len) | 1 at a real piece |
| source_ids | (batch, source_len) | generator ids of the same places, unknown pieces numbered; what can be copied |
| unknown_pieces | (batch, num_unknown) | the tokenizer's id of each numbered unknown piece, 0 beyond |
| target_ids | (batch, target_len) | generator ids of the target, EOS last, PAD beyond |
| target_pieces | (batch, target_len) | the tokenizer's ids of the target, without EOS, 0 beyond |
| difficulty | (batch,) | rank of the pair by edit distance among all, in 0 … 1 |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ernie.training import Batches
from finetune.paraphrase.pairs import Pair
from finetune.paraphrase.scores import edit_distance
from finetune.paraphrase.vocabulary import BOS, EOS, PAD, UNK, Ids, Sentence, Vocabulary

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """A source and, where there is one, its target, in generator ids; see the table above."""

    source: Sentence
    target: Sentence | None
    source_ids: Ids
    target_ids: Ids
    unknown: dict[tuple[int, str], int]
    difficulty: float = 0.0


def encode_pairs(
    pairs: Sequence[Pair], vocabulary: Vocabulary, *, max_length: int
) -> tuple[list[EncodedPair], Counter[str]]:
    """Both sentences in ids, cut to `max_length` pieces (special ones not counted), and what was cut or is unknown.

    Counts: source_cut, target_cut; target_pieces_unreachable, pieces that the generator neither knows nor finds in the
    source: they are passed over by every loss.
    """
    counts: Counter[str] = Counter()
    sources = vocabulary.encode([pair.source for pair in pairs])
    targets = vocabulary.encode([pair.target for pair in pairs])
    distances = [
        edit_distance(s.piece_ids.tolist(), t.piece_ids.tolist()) for s, t in zip(sources, targets, strict=True)
    ]
    difficulties = ranks_in_unit(distances)
    encoded = []
    for source, target, difficulty in zip(sources, targets, difficulties, strict=True):
        counts["source_cut"] += len(source) > max_length
        counts["target_cut"] += len(target) > max_length
        one = encode_pair(source.cut(max_length), target.cut(max_length), vocabulary, float(difficulty))
        counts["target_pieces_unreachable"] += int((one.target_ids == UNK).sum())
        encoded.append(one)
    return encoded, +counts


def encode_pair(
    source: Sentence, target: Sentence | None, vocabulary: Vocabulary, difficulty: float = 0.0
) -> EncodedPair:
    """target: None where there is nothing but a source."""
    ids, unknown = vocabulary.source_ids(source)
    empty = np.zeros(0, dtype=np.int64)
    return EncodedPair(
        source=source,
        target=target,
        source_ids=ids,
        target_ids=empty if target is None else np.append(vocabulary.target_ids(target, unknown), EOS),
        unknown=unknown,
        difficulty=difficulty,
    )


def ranks_in_unit(values: Sequence[float]) -> np.ndarray:
    """Average rank of each value among all, scaled to 0 (least) … 1 (largest); equal values share a rank."""
    from scipy.stats import rankdata

    return (rankdata(values) - 1) / max(1, len(values) - 1)


def collate(pairs: Sequence[EncodedPair], vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The tensors of the table above, padded to the longest of the batch."""
    begin, end = vocabulary.pieces[BOS], vocabulary.pieces[EOS]
    targets = [np.zeros(0, np.int64) if p.target is None else p.target.piece_ids for p in pairs]
    return {
        "input_ids": padded([np.concatenate([[begin], p.source.piece_ids, [end]]) for p in pairs], PAD),
        "attention_mask": padded([np.ones(len(p.source) + 2, np.int64) for p in pairs], 0),
        "source_ids": padded([np.concatenate([[BOS], p.source_ids, [EOS]]) for p in pairs], PAD),
        "unknown_pieces": padded([np.array(vocabulary.unknown_pieces(p.unknown), np.int64) for p in pairs], 0),
        "target_ids": padded([p.target_ids for p in pairs], PAD),
        "target_pieces": padded(targets, 0),
        "difficulty": torch.tensor([p.difficulty for p in pairs], dtype=torch.float32),
    }


def lengths_of(pairs: Sequence[EncodedPair]) -> list[int]:
    """What padding costs: pieces of both sentences."""
    return [len(pair.source) + len(pair.target_ids) for pair in pairs]


def to_pieces(ids: Tensor, unknown_pieces: Tensor, pieces: Tensor) -> Tensor:
    """Generator ids of sampled sentences -> the tokenizer's ids, as a matching model reads them.

    ids: (batch, length), extended ids; EOS and all behind it, BOS and PAD become 0. unknown_pieces: (batch, U).
    pieces: (vocab_size,), the tokenizer's id of each generator id.
    """
    vocab_size = len(pieces)
    table = torch.cat([pieces.expand(len(ids), -1), unknown_pieces], dim=1)
    found = table.gather(1, ids.clamp(max=vocab_size + unknown_pieces.shape[1] - 1))
    return found * (word_mask(ids) & (ids != BOS))


def source_pieces(batch: Batch) -> Tensor:
    """(batch, source_len), the tokenizer's ids of the source without [CLS] and [SEP], as a matching model reads it."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    inner = torch.cat([mask[:, 2:], mask.new_zeros(len(mask), 1)], dim=1)  # 1 where a real piece follows
    return ids[:, 1:] * inner


def word_mask(ids: Tensor) -> Tensor:
    """bool (batch, length): True before the first EOS and where there is no padding."""
    ended = (ids == EOS).cumsum(1) > 0
    return ~ended & (ids != PAD)


def sequence_mask(ids: Tensor) -> Tensor:
    """bool (batch, length): `word_mask`, and the first EOS itself: the places a policy decided on."""
    ended_before = (ids == EOS).cumsum(1) - (ids == EOS).long() > 0
    return ~ended_before & (ids != PAD)


def plain_length(ids: Sequence[int]) -> int:
    """Number of ids before the first EOS (or PAD, or the end)."""
    return next((place for place, one in enumerate(ids) if one in (EOS, PAD)), len(ids))


class Timed:
    """Batches that also say where in the training they stand: `progress`, (batch,) float in 0 … 1, and `turn`,
    (batch,) int64, the number of the optimiser step (0 …).

    batches_a_step: how many of them make one optimiser step.
    """

    def __init__(self, batches: Batches, *, max_steps: int, batches_a_step: int = 1) -> None:
        self.batches = batches
        self.max_steps = max_steps
        self.batches_a_step = batches_a_step

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        batch = self.batches.batch(epoch, index)
        step = (epoch * len(self.batches) + index) // self.batches_a_step
        size = len(batch["input_ids"])
        return {
            **batch,
            "progress": torch.full((size,), min(1.0, step / self.max_steps)),
            "turn": torch.full((size,), step),
        }


def padded(rows: Sequence[Ids], padding: int) -> Tensor:
    """Rows of ids of different length as one matrix (rows, longest)."""
    out = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return torch.from_numpy(out)
