"""Masks: rates, where labels stand, what is never touched, and that a mask depends on the row alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ernie.inputs import IGNORED
from pretrain.masking import (
    Masking,
    MaskingRates,
    WordPieces,
    keyed_uniforms,
    label_entities,
    label_replacements,
    mask_batch,
    mask_entities,
    mask_pieces,
    mentions_with_masked_piece,
    others_of_batch,
    unit_of_piece,
)
from pretrain.neighbours import Neighbours

WORDS = WordPieces.of(vocab_size=1000, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], continuing_ids=range(700, 1000))
SPECIAL = np.array([0, 1, 2, 3, 4])
RATES = MaskingRates()


def within(count: int, total: int, rate: float) -> bool:
    """Five standard deviations of a binomial."""
    return abs(count - total * rate) <= 5 * math.sqrt(total * rate * (1 - rate)) + 1


def batch_of(rows: int, length: int, slots: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """[CLS] pieces [SEP] padding; entity slots partly padded."""
    chance = np.random.default_rng(seed)
    input_ids = chance.integers(5, 1000, (rows, length))
    attention = np.ones((rows, length), dtype=np.int64)
    entity_ids = chance.integers(1, 60, (rows, slots))
    for row in range(rows):
        end = int(chance.integers(length // 2, length + 1))
        input_ids[row, 0], input_ids[row, end - 1] = 2, 3
        input_ids[row, end:], attention[row, end:] = 0, 0
        entity_ids[row, int(chance.integers(0, slots + 1)) :] = 0
    positions = np.sort(chance.integers(1, length // 2 - 2, (rows, slots)), axis=1) * (entity_ids != 0)
    named = {
        "input_ids": input_ids,
        "attention_mask": attention,
        "entity_ids": entity_ids,
        "entity_positions": positions,
        "entity_attention_mask": (entity_ids != 0).astype(np.int64),
    }
    return {name: torch.from_numpy(array) for name, array in named.items()}


def masked(batch, rows, *, epoch=0, seed=0, lengths=None, **masking):
    entity_ids = batch["entity_ids"].numpy()
    if lengths is None:
        lengths = (entity_ids != 0).astype(np.int64)
    out = mask_batch(
        batch,
        lengths,
        rows=np.asarray(rows),
        pool=np.unique(entity_ids[entity_ids != 0]),
        seed=seed,
        epoch=epoch,
        words=WORDS,
        masking=Masking(**masking),
    )
    return {name: tensor.numpy() for name, tensor in out.items()}


def test_pieces_are_masked_at_berts_rates():
    batch = batch_of(400, 128, 4)
    before = batch["input_ids"].numpy().copy()
    out = masked(batch, range(400))
    ordinary = before > 4
    picked = out["labels"] != IGNORED
    total = int(picked.sum())
    assert within(total, int(ordinary.sum()), 0.15)
    shown = out["input_ids"][picked]
    assert within(int((shown == 4).sum()), total, 0.8)
    same = shown == before[picked]
    changed = (shown != 4) & ~same
    assert within(int(changed.sum()), total, 0.1 * 994 / 995)
    assert (out["labels"][picked] == before[picked]).all(), "a label is the true piece"
    assert (out["input_ids"][~picked] == before[~picked]).all(), "what is not predicted is not touched"
    assert not (picked & ~ordinary).any(), "special pieces and padding are never predicted"
    assert not np.isin(shown[changed], SPECIAL).any(), "a special piece never stands in for a word"
    assert len(np.unique(shown[changed])) > 200, "replacements come from the whole vocabulary"


@given(
    ids=st.lists(st.lists(st.integers(0, 12), min_size=3, max_size=3), min_size=1, max_size=8),
    seed=st.integers(0, 10_000),
)
def test_entity_labels_name_the_original_and_a_random_one_is_another(ids, seed):
    entity_ids = np.array(ids)
    chance = np.random.default_rng(seed)
    fate, replacement = chance.random(entity_ids.shape), chance.random(entity_ids.shape)
    rates = MaskingRates(entities_random=0.5, entities_masked=0.2)
    real = entity_ids != 0
    candidates = np.unique(entity_ids[real])
    strangers = others_of_batch(entity_ids, replacement, candidates)
    shown, labels = (
        mask_entities(entity_ids, fate, strangers, None, rates=rates),
        label_entities(entity_ids, candidates),
    )
    assert (labels[~real] == IGNORED).all()
    assert (candidates[labels[real]] == entity_ids[real]).all()
    assert (shown[~real] == 0).all()
    if len(candidates) > 1:
        replaced = real & (fate < 0.5)
        assert (shown[replaced] != entity_ids[replaced]).all()
        assert np.isin(shown[replaced], candidates).all()
    hidden = real & (fate >= 0.5) & (fate < 0.7)
    assert (shown[hidden] == 0).all()
    kept = real & (fate >= 0.7)
    assert (shown[kept] == entity_ids[kept]).all()


def test_entities_are_denoised_at_the_papers_rates():
    batch = batch_of(3000, 16, 6)
    before = batch["entity_ids"].numpy().copy()
    out = masked(batch, range(3000))
    real = before != 0
    total, shown = int(real.sum()), out["entity_ids"]
    assert within(int((real & (shown == 0)).sum()), total, 0.15)
    assert within(int((real & (shown != 0) & (shown != before)).sum()), total, 0.05)
    assert (out["entity_attention_mask"] == (shown != 0)).all()
    assert within(int((shown[real & (shown != before) & (shown != 0)] <= 30).sum()),
                  int((real & (shown != before) & (shown != 0)).sum()), 30 / 59)  # fmt: skip


def test_a_lone_entity_has_no_other_to_be_replaced_by():
    ids, zeros = np.array([[7, 7, 0]]), np.zeros((1, 3))
    shown = mask_entities(ids, zeros, others_of_batch(ids, zeros, np.array([7])), None, rates=RATES)
    assert shown.tolist() == [[7, 7, 0]]
    assert label_entities(ids, np.array([7])).tolist() == [[0, 0, IGNORED]]
    assert label_replacements(ids, shown).tolist() == [[0, 0, IGNORED]], "it is shown as what it is"


def test_replacement_labels_follow_what_is_shown():
    ids, shown = np.array([[5, 6, 7, 0]]), np.array([[5, 9, 0, 0]])
    assert label_replacements(ids, shown).tolist() == [[0, 1, IGNORED, IGNORED]]


def test_hard_negatives_join_the_candidates_and_labels_still_name_the_truth():
    """Labels are places among the candidates; a candidate slipped in before them shifts every later one."""
    batch = batch_of(30, 32, 5)
    before = batch["entity_ids"].numpy().copy()
    known = np.arange(1, 60)
    near = Neighbours(known, np.stack([known % 60 + 100, known % 60 + 200, known % 60 + 300], axis=1))
    out = masked(batch, range(30), neighbours=near, hard_negatives=2)
    candidates, real = out["entity_candidate_ids"], before != 0
    own = np.unique(before[real])
    assert candidates.tolist() == sorted({*own, *(own % 60 + 100), *(own % 60 + 200)})
    assert (candidates[out["entity_labels"][real]] == before[real]).all()
    assert (out["entity_labels"][~real] == IGNORED).all()
    plain = masked(batch, range(30))
    assert (out["entity_ids"] == plain["entity_ids"]).all(), "neighbours as candidates do not change what is shown"
    strange = masked(batch, range(30), neighbours=near, hard_negatives=3, near_strangers=True)["entity_ids"]
    changed = real & (strange != 0) & (strange != before)
    assert changed.any()
    assert ((strange[changed] % 100) == before[changed] % 60).all(), "a stranger is a neighbour of the true entity"


def test_other_processes_entities_are_candidates_too():
    batch = batch_of(4, 32, 5)
    ids = batch["entity_ids"].numpy()
    pool = np.unique(np.concatenate([ids[ids != 0], [500, 501]]))
    lengths = (ids != 0).astype(np.int64)
    out = mask_batch(batch, lengths, rows=np.arange(4), pool=pool, seed=0, epoch=0, words=WORDS, masking=Masking())
    assert out["entity_candidate_ids"].tolist() == pool.tolist()


@pytest.mark.parametrize("unit", ["word", "mention"])
def test_units_are_masked_whole_or_not_at_all(unit):
    """Half a word masked is an easy task that looks like the harder one in every curve but this."""
    batch = batch_of(400, 64, 4)
    before, attention = batch["input_ids"].numpy().copy(), batch["attention_mask"].numpy()
    real = batch["entity_ids"].numpy() != 0
    lengths = real.astype(np.int64) * 3
    out = masked(batch, range(400), lengths=lengths, unit=unit)
    picked = out["labels"] != IGNORED
    ordinary = (before > 4) & (attention == 1)
    assert within(int(picked.sum()), int(ordinary.sum()) // 3, 0.45), "as many pieces as one by one, in larger lumps"
    of_mention = out["mention_pieces"]
    for row in range(400):
        for column in range(1, 64):
            goes_on = before[row, column] >= 700 and ordinary[row, column - 1]
            if goes_on and not (unit == "mention" and of_mention[row, column - 1 : column + 1].any()):
                assert picked[row, column] == picked[row, column - 1]
        for slot in np.flatnonzero(real[row]) if unit == "mention" else ():
            starts = np.flatnonzero(real[row]) != slot
            start = batch["entity_positions"].numpy()[row, slot]
            others = batch["entity_positions"].numpy()[row][np.flatnonzero(real[row])[starts]]
            if (abs(others - start) >= 3).all():
                assert len(set(picked[row, start : start + 3])) == 1


def test_a_special_piece_begins_a_unit_and_so_does_what_follows_it():
    ids = np.array([[2, 800, 801, 10, 800, 3]])
    maskable = ~np.isin(ids, SPECIAL)
    none = np.zeros((1, 0), dtype=np.int64)
    unit = unit_of_piece(ids, maskable, none, none, words=WORDS, unit="word")
    assert unit.tolist() == [[0, 1, 1, 3, 3, 5]]


def test_a_batch_without_entities_has_no_candidate():
    batch = batch_of(3, 16, 0)
    out = masked(batch, range(3), lengths=np.zeros((3, 0), dtype=np.int64))
    assert out["entity_candidate_ids"].shape == (0,)
    assert out["entity_labels"].shape == (3, 0)


def test_masks_depend_on_row_and_epoch_not_on_the_batch():
    """Otherwise a resumed run, or one with other batches, would see other masks for the same seed."""
    batch = batch_of(8, 32, 4)
    whole = masked(batch, range(10, 18))
    alone = masked({k: v[5:6] for k, v in batch.items()}, [15])
    assert (alone["input_ids"][0] == whole["input_ids"][5]).all()
    real = batch["entity_ids"].numpy()[5] != 0
    hidden = (whole["entity_ids"][5] == 0) & real
    assert ((alone["entity_ids"][0] == 0) & real == hidden).all()
    later = masked(batch, range(10, 18), epoch=1)
    other = masked(batch, range(10, 18), seed=1)
    for changed in (later, other):
        assert (changed["labels"] != whole["labels"]).any()


def test_rows_and_columns_are_drawn_independently():
    """A weak hash makes neighbours alike; correlation and the mean's spread would show it."""
    draws = keyed_uniforms(12345, np.arange(2000), 64)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 5 / math.sqrt(12 * draws.size)
    for left, right in ((draws[:-1], draws[1:]), (draws[:, :-1], draws[:, 1:])):
        correlation = np.corrcoef(left.ravel(), right.ravel())[0, 1]
        assert abs(correlation) < 5 / math.sqrt(left.size)
    counts = np.histogram(draws, bins=64, range=(0, 1))[0]
    expected = draws.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 64 + 5 * math.sqrt(2 * 64)


def test_joint_masking_hides_the_entity_wherever_a_piece_is_predicted():
    batch = batch_of(300, 64, 5)
    lengths = (batch["entity_ids"].numpy() != 0).astype(np.int64) * 3
    out = masked(batch, range(300), entity_masking="joint", lengths=lengths)
    labels, positions = out["labels"], out["entity_positions"]
    some = 0
    for row in range(300):
        for slot in range(5):
            if lengths[row, slot]:
                start = positions[row, slot]
                predicted = (labels[row, start : start + 3] != IGNORED).any()
                some += predicted
                assert not (predicted and out["entity_ids"][row, slot])
    assert some > 100


@pytest.mark.parametrize("length", [1, 2, 3])
def test_mentions_with_masked_piece_equals_the_loop(length):
    chance = np.random.default_rng(length)
    labels = np.where(chance.random((20, 12)) < 0.3, 1, IGNORED)
    positions, lengths = chance.integers(0, 9, (20, 4)), np.full((20, 4), length)
    expected = [
        [(labels[r, positions[r, s] : positions[r, s] + length] != IGNORED).any() for s in range(4)] for r in range(20)
    ]
    assert (mentions_with_masked_piece(labels, positions, lengths) == expected).all()


def test_uniform_bounds_decide_the_fate_of_a_piece():
    """At the very borders of the rates: 0.15 is not chosen; 0.8 is no longer [MASK], 0.9 no longer replaced."""
    ids = np.array([[10, 11, 12, 13, 14]])
    chosen = np.array([[0.15, 0.1499, 0.0, 0.0, 0.0]])
    fate = np.array([[0.0, 0.79, 0.8, 0.8999, 0.9001]])
    shown, labels = mask_pieces(
        ids, np.ones_like(ids, dtype=bool), chosen, fate, np.zeros((1, 5)), words=WORDS, rates=RATES
    )
    assert shown.tolist() == [[10, 4, 5, 5, 14]]
    assert labels.tolist() == [[IGNORED, 11, 12, 13, 14]]
