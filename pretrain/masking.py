"""What a pre-training batch hides, drawn afresh every epoch from randomness keyed by (seed, epoch, row).

The steps take their random numbers as arguments; `mask_batch` draws them. A number depends on the instance's row and
the place in it, never on the batch or the process that draws it, so neither a resume nor another batch size moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ernie.inputs import IGNORED
from ernie.training.reproducibility import derived_seed

EntityMasking = Literal["independent", "joint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingRates:
    """Shares, each in 0 … 1. Defaults: BERT's for word pieces, ERNIE's (Zhang et al. 2019, 3.4) for entities."""

    pieces: float = 0.15
    """Word pieces to predict."""
    pieces_masked: float = 0.8
    """Of these, shown as [MASK]."""
    pieces_random: float = 0.1
    """Of these, shown as another piece; the rest stay as they are."""
    entities_random: float = 0.05
    """Entities shown as another entity of the batch."""
    entities_masked: float = 0.15
    """Entities not shown; the rest stay as they are. All are to be predicted."""


@dataclass(frozen=True, slots=True)
class WordPieces:
    """What masking must know of a vocabulary. ordinary: ids that may stand in for another, all but the special ones."""

    mask_token_id: int
    ordinary: np.ndarray

    @classmethod
    def of(cls, *, vocab_size: int, mask_token_id: int, special_ids: list[int]) -> WordPieces:
        return cls(mask_token_id, np.setdiff1d(np.arange(vocab_size), special_ids))


def mask_pieces(
    input_ids: np.ndarray,
    maskable: np.ndarray,
    chosen: np.ndarray,
    fate: np.ndarray,
    replacement: np.ndarray,
    *,
    words: WordPieces,
    rates: MaskingRates,
) -> tuple[np.ndarray, np.ndarray]:
    """Masked input_ids and their labels (the true id where it is to be predicted, else -100), both (batch, seq_len).

    maskable: bool (batch, seq_len), False at special pieces and padding. chosen, fate, replacement: uniform in [0, 1),
    (batch, seq_len): whether a piece is predicted, how it is shown, by which piece it is replaced.
    """
    picked = maskable & (chosen < rates.pieces)
    hidden = picked & (fate < rates.pieces_masked)
    replaced = picked & ~hidden & (fate < rates.pieces_masked + rates.pieces_random)
    strangers = words.ordinary[(replacement * len(words.ordinary)).astype(np.int64)]
    shown = np.where(hidden, words.mask_token_id, np.where(replaced, strangers, input_ids))
    return shown, np.where(picked, input_ids, IGNORED)


def mask_entities(
    entity_ids: np.ndarray,
    fate: np.ndarray,
    replacement: np.ndarray,
    covered: np.ndarray | None,
    *,
    rates: MaskingRates,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shown entity_ids, labels (batch, num_entities), and the batch's candidates (num_candidates,), sorted table rows.

    entity_ids: (batch, num_entities), 0 = padding. fate, replacement: uniform in [0, 1), same shape. covered: bool,
    same shape, entities to hide whatever their fate. A label is the index of the ORIGINAL entity among the candidates,
    -100 at padding; candidates are the batch's distinct entities without row 0. A random entity is never the true one;
    in a batch with one entity only there is no other, and it stays.
    """
    real = entity_ids != 0
    candidates = np.unique(entity_ids[real])
    true_index = np.searchsorted(candidates, entity_ids)
    labels = np.where(real, true_index, IGNORED)
    random = real & (fate < rates.entities_random) & (len(candidates) > 1)
    masked = real & (fate >= rates.entities_random) & (fate < rates.entities_random + rates.entities_masked)
    if covered is not None:
        masked, random = masked | (real & covered), random & ~covered
    shown = np.where(masked, 0, entity_ids)
    if random.any():
        other = (replacement[random] * (len(candidates) - 1)).astype(np.int64)
        shown[random] = candidates[other + (other >= true_index[random])]
    return shown, labels, candidates


def mentions_with_masked_piece(
    piece_labels: np.ndarray, entity_positions: np.ndarray, entity_lengths: np.ndarray
) -> np.ndarray:
    """Which mentions have a piece that is to be predicted, bool (batch, num_entities): joint masking hides them.

    entity_lengths: pieces of each mention, 0 at padding.
    """
    predicted = np.pad(np.cumsum(piece_labels != IGNORED, axis=1), ((0, 0), (1, 0)))
    first = np.take_along_axis(predicted, entity_positions, axis=1)
    last = np.take_along_axis(predicted, entity_positions + entity_lengths, axis=1)
    return last > first


def mask_batch(
    batch: dict[str, Tensor],
    entity_lengths: np.ndarray,
    *,
    rows: np.ndarray,
    seed: int,
    epoch: int,
    special_ids: np.ndarray,
    words: WordPieces,
    rates: MaskingRates,
    entity_masking: EntityMasking,
) -> dict[str, Tensor]:
    """A padded batch (`ernie.collation.pad_batch`) as pre-training sees it: `labels`, `entity_labels` and
    `entity_candidate_ids` (num_candidates,) come in, `input_ids`, `entity_ids` and `entity_attention_mask` change.

    entity_lengths: (batch, num_entities), 0 at padding. rows: (batch,) row numbers of the instances.
    """

    def draw(stream: str, width: int) -> np.ndarray:
        return keyed_uniforms(derived_seed(seed, stream, epoch), rows, width)

    input_ids, entity_ids = batch["input_ids"].numpy(), batch["entity_ids"].numpy()
    length, slots = input_ids.shape[1], entity_ids.shape[1]
    maskable = (batch["attention_mask"].numpy() == 1) & ~np.isin(input_ids, special_ids)
    shown, labels = mask_pieces(
        input_ids,
        maskable,
        *(draw(name, length) for name in ("pieces", "piece fate", "piece replacement")),
        words=words,
        rates=rates,
    )
    covered = None
    if entity_masking == "joint":
        covered = mentions_with_masked_piece(labels, batch["entity_positions"].numpy(), entity_lengths)
    shown_entities, entity_labels, candidates = mask_entities(
        entity_ids, draw("entity fate", slots), draw("entity replacement", slots), covered, rates=rates
    )
    return {
        **batch,
        "input_ids": torch.from_numpy(shown),
        "labels": torch.from_numpy(labels),
        "entity_ids": torch.from_numpy(shown_entities),
        "entity_attention_mask": torch.from_numpy((shown_entities != 0).astype(np.int64)),
        "entity_labels": torch.from_numpy(entity_labels),
        "entity_candidate_ids": torch.from_numpy(candidates.astype(np.int64)),
    }


def keyed_uniforms(key: int, rows: np.ndarray, width: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (len(rows), width), each a function of (key, row, column) alone.

    splitmix64's finaliser (Steele, Lea & Flood 2014), once over key and row, once over that and the column.

    >>> wide, narrow = keyed_uniforms(7, np.array([3, 5]), 4), keyed_uniforms(7, np.array([5]), 2)
    >>> bool((wide[1, :2] == narrow[0]).all())
    True
    """
    with np.errstate(over="ignore"):
        lanes = _mix(_mix(np.asarray(rows, dtype=np.uint64) + np.uint64(1)) ^ np.uint64(key))
        columns = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (_mix(lanes[:, None] + columns) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
