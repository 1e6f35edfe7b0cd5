"""What a pre-training batch hides, drawn afresh every epoch from randomness keyed by (seed, epoch, row).

The steps take their random numbers as arguments; `mask_batch` draws them. A number depends on the instance's row and
the place in it, never on the batch or the process that draws it, so neither a resume nor another batch size moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ernie.inputs import IGNORED
from ernie.training.reproducibility import derived_seed
from kg.errors import InputError
from pretrain.neighbours import Neighbours

EntityMasking = Literal["independent", "joint"]
MaskUnit = Literal["piece", "word", "mention"]


@dataclass(frozen=True, kw_only=True)
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

    def __post_init__(self) -> None:
        for name in ("pieces", "pieces_masked", "pieces_random", "entities_random", "entities_masked"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"rates.{name} is a share in 0 … 1, but is {getattr(self, name)}")
        for parts in (("pieces_masked", "pieces_random"), ("entities_random", "entities_masked")):
            if sum(getattr(self, name) for name in parts) > 1:
                raise InputError(f"rates.{parts[0]} and rates.{parts[1]} together must not exceed 1")


@dataclass(frozen=True, slots=True)
class WordPieces:
    """What masking must know of a vocabulary.

    ordinary: ids that may stand in for another, all but the special ones. special, continues: bool (vocab_size,),
    never masked; goes on a word that began before (`##…`).
    """

    mask_token_id: int
    ordinary: np.ndarray
    special: np.ndarray
    continues: np.ndarray

    @classmethod
    def of(
        cls, *, vocab_size: int, mask_token_id: int, special_ids: Sequence[int], continuing_ids: Sequence[int] = ()
    ) -> WordPieces:
        special, continues = np.zeros(vocab_size, dtype=bool), np.zeros(vocab_size, dtype=bool)
        special[list(special_ids)] = True
        continues[list(continuing_ids)] = True
        return cls(mask_token_id, np.flatnonzero(~special), special, continues)


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


def unit_of_piece(
    input_ids: np.ndarray,
    maskable: np.ndarray,
    entity_positions: np.ndarray,
    entity_lengths: np.ndarray,
    *,
    words: WordPieces,
    unit: MaskUnit,
) -> np.ndarray:
    """Where the unit that each piece is masked with begins, int (batch, seq_len): what is drawn there decides for all.

    piece: every piece for itself. word: a word's pieces together (whole-word masking, Devlin et al. 2019). mention: a
    mention's pieces together, other words whole (entity-level masking, Sun et al. 2019).
    """
    columns = np.arange(input_ids.shape[1])
    if unit == "piece":
        return np.broadcast_to(columns, input_ids.shape)
    begins = ~(words.continues[input_ids] & maskable)
    begins[:, 1:] |= ~maskable[:, :-1]
    if unit == "mention":
        rows, slots = np.nonzero(entity_lengths)
        first = entity_positions[rows, slots]
        within = np.zeros((input_ids.shape[0], input_ids.shape[1] + 1), dtype=np.int64)
        np.add.at(within, (rows, first + 1), 1)
        np.add.at(within, (rows, first + entity_lengths[rows, slots]), -1)
        begins[rows, first] = True
        begins &= np.cumsum(within, axis=1)[:, :-1] == 0
    return np.maximum.accumulate(np.where(begins, columns, 0), axis=1)


def mask_entities(
    entity_ids: np.ndarray,
    fate: np.ndarray,
    strangers: np.ndarray,
    covered: np.ndarray | None,
    *,
    rates: MaskingRates,
) -> np.ndarray:
    """Shown entity_ids (batch, num_entities), 0 where the entity is hidden.

    entity_ids: 0 = padding. fate: uniform in [0, 1), same shape. strangers: same shape, the row that would stand in for
    each entity; where it is the entity itself there was no other, and it stays. covered: bool, same shape, entities to
    hide whatever their fate.
    """
    real = entity_ids != 0
    random = real & (fate < rates.entities_random)
    masked = real & (fate >= rates.entities_random) & (fate < rates.entities_random + rates.entities_masked)
    if covered is not None:
        masked, random = masked | (real & covered), random & ~covered
    return np.where(masked, 0, np.where(random, strangers, entity_ids))


def others_of_batch(entity_ids: np.ndarray, replacement: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """For each entity another of `pool`, uniform; the entity itself where the pool holds no other.

    entity_ids: rows, 0 = padding (any answer). replacement: uniform in [0, 1), same shape. pool: (n,) sorted distinct
    rows, the batch's entities over all processes.

    >>> others_of_batch(np.array([[3, 5]]), np.array([[0.0, 0.9]]), np.array([3, 5, 8])).tolist()
    [[5, 8]]
    """
    if len(pool) < 2:
        return entity_ids
    place = np.searchsorted(pool, entity_ids)
    other = (replacement * (len(pool) - 1)).astype(np.int64)
    return pool[other + (other >= place)]


def label_entities(entity_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Index of each ORIGINAL entity among the sorted candidates (num_candidates,), -100 at padding."""
    return np.where(entity_ids != 0, np.searchsorted(candidates, entity_ids), IGNORED)


def label_replacements(entity_ids: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """1 where another entity is shown, 0 where the true one is, -100 at padding and where none is shown."""
    return np.where((entity_ids == 0) | (shown == 0), IGNORED, (shown != entity_ids).astype(np.int64))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How instances are masked. neighbours: where hard negatives come from; needed for the last two settings.

    rates, unit, entity_masking: see MaskingRates, unit_of_piece, mentions_with_masked_piece. hard_negatives: that many
    nearest neighbours of each entity of the batch join dEA's candidates. near_strangers: an entity is replaced by one
    of its neighbours, not by any other of the batch.
    """

    rates: MaskingRates = MaskingRates()
    unit: MaskUnit = "piece"
    entity_masking: EntityMasking = "independent"
    neighbours: Neighbours | None = None
    hard_negatives: int = 0
    near_strangers: bool = False


def mask_batch(
    batch: dict[str, Tensor],
    entity_lengths: np.ndarray,
    *,
    rows: np.ndarray,
    pool: np.ndarray,
    seed: int,
    epoch: int,
    words: WordPieces,
    masking: Masking,
) -> dict[str, Tensor]:
    """A padded batch (`ernie.collation.pad_batch`) as pre-training sees it: `labels`, `entity_labels`,
    `replacement_labels`, `mention_pieces` (bool (batch, seq_len), a piece of a mention) and `entity_candidate_ids`
    (num_candidates,) come in, `input_ids`, `entity_ids` and `entity_attention_mask` change.

    entity_lengths: (batch, num_entities), 0 at padding. rows: (batch,) row numbers of the instances. pool: sorted
    distinct entities of the whole batch, over all processes: dEA's candidates, and what stands in for an entity.
    """

    def draw(stream: str, width: int) -> np.ndarray:
        return keyed_uniforms(derived_seed(seed, stream, epoch), rows, width)

    input_ids, entity_ids = batch["input_ids"].numpy(), batch["entity_ids"].numpy()
    positions = batch["entity_positions"].numpy()
    length, slots = input_ids.shape[1], entity_ids.shape[1]
    maskable = (batch["attention_mask"].numpy() == 1) & ~words.special[input_ids]
    unit = unit_of_piece(input_ids, maskable, positions, entity_lengths, words=words, unit=masking.unit)
    chosen, fate = (np.take_along_axis(draw(name, length), unit, axis=1) for name in ("pieces", "piece fate"))
    shown, labels = mask_pieces(
        input_ids, maskable, chosen, fate, draw("piece replacement", length), words=words, rates=masking.rates
    )
    covered = None
    if masking.entity_masking == "joint":
        covered = mentions_with_masked_piece(labels, positions, entity_lengths)
    replacement, candidates = draw("entity replacement", slots), pool
    strangers = others_of_batch(entity_ids, replacement, pool)
    if masking.neighbours is not None:
        candidates = np.union1d(pool, masking.neighbours.of(pool)[:, : masking.hard_negatives])
        if masking.near_strangers:
            strangers = masking.neighbours.one_of(entity_ids, replacement, otherwise=strangers)
    shown_entities = mask_entities(entity_ids, draw("entity fate", slots), strangers, covered, rates=masking.rates)
    added = {
        "input_ids": shown,
        "labels": labels,
        "mention_pieces": pieces_of_mentions(positions, entity_lengths, length),
        "entity_ids": shown_entities,
        "entity_attention_mask": (shown_entities != 0).astype(np.int64),
        "entity_labels": label_entities(entity_ids, candidates),
        "replacement_labels": label_replacements(entity_ids, shown_entities),
        "entity_candidate_ids": candidates.astype(np.int64),
    }
    return {**batch, **{name: torch.from_numpy(array) for name, array in added.items()}}


def pieces_of_mentions(entity_positions: np.ndarray, entity_lengths: np.ndarray, length: int) -> np.ndarray:
    """bool (batch, length): the piece belongs to a mention.

    >>> pieces_of_mentions(np.array([[1, 0]]), np.array([[2, 0]]), 4).tolist()
    [[False, True, True, False]]
    """
    change = np.zeros((len(entity_positions), length + 1), dtype=np.int64)
    rows, slots = np.nonzero(entity_lengths)
    first = entity_positions[rows, slots]
    np.add.at(change, (rows, first), 1)
    np.add.at(change, (rows, first + entity_lengths[rows, slots]), -1)
    return np.cumsum(change, axis=1)[:, :-1] > 0


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
