"""The distillation losses against NumPy, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie.errors import InputError
from ernie.losses.distillation import (
    attention_loss,
    attention_scores,
    change_loss,
    change_weights,
    distribution_loss,
    hidden_loss,
    prediction_loss,
    relation_loss,
    released_attention_loss,
    released_hidden_loss,
    sampled_distribution_loss,
)

WIDTH, HEADS = 12, 3


def _tensors(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mask(lengths: list[int], length: int) -> torch.Tensor:
    return (torch.arange(length)[None, :] < torch.tensor(lengths)[:, None]).long()


def _hidden(student, teacher, mask):
    return hidden_loss(student, teacher, mask)


def _attention(student, teacher, mask):
    scores = [attention_scores(x, x.flip(-1), num_heads=HEADS) for x in (student, teacher)]
    return attention_loss(scores[0], scores[1], mask)


def _relations(student, teacher, mask):
    return relation_loss(student, teacher, mask, num_heads=4)


def _entity_relations(student, teacher, mask):
    return relation_loss(student, teacher, mask, num_heads=4, at_least=2)


def _change(student, teacher, mask):
    return change_loss((student, student.roll(1, -1)), (teacher, teacher.roll(1, -1)), mask)


def _weighted(student, teacher, mask):
    weights = change_weights(teacher, teacher.roll(1, -1), mask, alpha=1.0)
    return hidden_loss(student, teacher, mask, weights=weights)


POSITION_LOSSES = {
    "hidden": _hidden,
    "attention": _attention,
    "relations": _relations,
    "entity relations": _entity_relations,
    "entity-caused change": _change,
    "weighted hidden": _weighted,
    "candidates": distribution_loss,
}
every_loss = pytest.mark.parametrize("loss", POSITION_LOSSES.values(), ids=POSITION_LOSSES)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _np_scores(a: np.ndarray, b: np.ndarray, heads: int) -> list[np.ndarray]:
    size = a.shape[-1] // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    return [a[:, p] @ b[:, p].T / np.sqrt(size) for p in parts]


def _np_hidden(s: np.ndarray, t: np.ndarray) -> float:
    return float(((s - t) ** 2).mean())


def _np_attention(s: np.ndarray, t: np.ndarray) -> float:
    pairs = zip(_np_scores(s, s[:, ::-1], HEADS), _np_scores(t, t[:, ::-1], HEADS))
    return float(np.mean([((a - b) ** 2).mean() for a, b in pairs]))


def _np_relations(s: np.ndarray, t: np.ndarray) -> float:
    total = 0.0
    for a, b in zip(_np_scores(s, s, 4), _np_scores(t, t, 4)):
        p, q = _softmax(b), _softmax(a)
        total += (p * np.log(p / q)).sum(axis=-1).mean()
    return total / 4


@pytest.mark.parity
@pytest.mark.parametrize(
    ("loss", "oracle"),
    [(_hidden, _np_hidden), (_attention, _np_attention), (_relations, _np_relations)],
    ids=["hidden", "attention", "relations"],
)
def test_losses_equal_the_equations_in_numpy(loss, oracle):
    """A wrong scale or axis still trains, only worse; the oracle sees one unpadded example at a time."""
    lengths = [5, 2, 7]
    s, t = _tensors(3, 7, WIDTH, seed=1), _tensors(3, 7, WIDTH, seed=2)
    got = loss(s, t, _mask(lengths, 7))
    want = [oracle(s[i, :n].numpy(), t[i, :n].numpy()) for i, n in enumerate(lengths)]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)


@every_loss
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    padding=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_padding_and_batch_composition_change_nothing(loss, lengths, padding, seed):
    """The released TinyBERT loss moves with padding: runs of another batch size then differ for no reason."""
    s, t = _tensors(len(lengths), 6, WIDTH, seed=seed), _tensors(len(lengths), 6, WIDTH, seed=seed + 1000)
    whole = loss(s, t, _mask(lengths, 6))
    filling = torch.full((len(lengths), padding, WIDTH), 1e3, dtype=s.dtype)
    padded = loss(torch.cat([s, filling], 1), torch.cat([t, -filling], 1), _mask(lengths, 6 + padding))
    torch.testing.assert_close(padded, whole)
    alone = [loss(s[i : i + 1, :n], t[i : i + 1, :n], _mask([n], n)) for i, n in enumerate(lengths)]
    torch.testing.assert_close(torch.cat(alone), whole)
    backwards = loss(s.flip(0), t.flip(0), _mask(lengths[::-1], 6))
    torch.testing.assert_close(backwards.flip(0), whole)


@every_loss
def test_zero_when_student_is_teacher(loss):
    """A floor above zero would hide a student that has converged."""
    t = _tensors(2, 6, WIDTH, seed=3)
    torch.testing.assert_close(loss(t, t.clone(), _mask([6, 1], 6)), torch.zeros(2, dtype=t.dtype), atol=1e-12, rtol=0)


@every_loss
def test_an_example_without_real_positions_gives_zero_and_finite_gradients(loss):
    """NaN from an empty row would reach every weight through the batch mean."""
    s = _tensors(2, 4, WIDTH, seed=4).requires_grad_()
    value = loss(s, _tensors(2, 4, WIDTH, seed=5), _mask([4, 0], 4))
    value.mean().backward()
    assert value[1] == 0
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
    assert torch.all(s.grad[1] == 0)


def test_relations_take_any_width_and_head_count():
    """The reason for relations: a student narrower than its teacher needs no projection."""
    value = relation_loss(_tensors(2, 5, 8, seed=1), _tensors(2, 5, 20, seed=2), _mask([5, 3], 5), num_heads=4)
    assert value.shape == (2,)
    assert torch.all(value > 0)


def test_prediction_is_the_papers_cross_entropy():
    """Equation 10, and the released code's mean over classes as a switch."""
    s, t = _tensors(4, 5, seed=1), _tensors(4, 5, seed=2)
    p, q = _softmax(t.numpy() / 2), _softmax(s.numpy() / 2)
    want = -(p * np.log(q)).sum(axis=-1)
    np.testing.assert_allclose(prediction_loss(s, t, temperature=2.0).numpy(), want, rtol=1e-10)
    released = prediction_loss(s, t, temperature=2.0, class_mean=True)
    np.testing.assert_allclose(released.numpy(), want / 5, rtol=1e-10)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_prediction_is_stationary_at_the_teacher(problem_type):
    """The value there is an entropy, so only the gradient shows that the student has arrived."""
    t = _tensors(3, 4, seed=7)
    s = t.clone().requires_grad_()
    prediction_loss(s, t, problem_type=problem_type).mean().backward()
    assert s.grad is not None
    torch.testing.assert_close(s.grad, torch.zeros_like(s.grad), atol=1e-12, rtol=0)


def test_multi_label_prediction_sums_binary_cross_entropies():
    """A softmax over labels that may hold together would punish the second true label."""
    s, t = _tensors(2, 3, seed=1), _tensors(2, 3, seed=2)
    p, q = torch.sigmoid(t).numpy(), torch.sigmoid(s).numpy()
    want = -(p * np.log(q) + (1 - p) * np.log(1 - q)).sum(-1)
    got = prediction_loss(s, t, problem_type="multi_label_classification")
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)


def test_relations_among_entities_need_two_of_them():
    """A softmax over one entity is 1 on both sides: its zero would only dilute the mean of the others' rows."""
    s, t = _tensors(3, 3, WIDTH, seed=1), _tensors(3, 3, WIDTH, seed=2)
    value = relation_loss(s, t, _mask([3, 1, 0], 3), num_heads=4, at_least=2)
    assert value[0] > 0
    assert value[1] == value[2] == 0
    torch.testing.assert_close(value[0], relation_loss(s, t, _mask([3, 1, 0], 3), num_heads=4)[0])


def test_changed_positions_weigh_more_and_unchanged_ones_what_they_did():
    """w = 1 + alpha min(‖Δ‖ / mean ‖Δ‖, 4), by hand: one of five positions changed, its ratio 5 is cut at 4."""
    plain = torch.zeros(2, 6, WIDTH)
    told = plain.clone()
    told[0, 2] = 3.0
    told[0, 5] = 100.0  # padding
    weights = change_weights(told, plain, _mask([5, 3], 6), alpha=0.5)
    torch.testing.assert_close(weights[0, :5], torch.tensor([1.0, 1, 3, 1, 1]))
    torch.testing.assert_close(weights[1], torch.ones(6))


def test_change_compares_differences_alone():
    """A student that ignores its entities has no change, whatever its states: the loss is then all of the teacher's."""
    states = [_tensors(2, 4, WIDTH, seed=n) for n in range(3)]
    mask = _mask([4, 2], 4)
    deaf = change_loss((states[0], states[0]), (states[1], states[2]), mask)
    torch.testing.assert_close(deaf, hidden_loss(states[2], states[1], mask))
    narrow = _tensors(2, 4, 5, seed=9)
    matrix = _tensors(WIDTH, 5, seed=8)
    found = change_loss((narrow, 2 * narrow), (states[1], states[2]), mask, projection=matrix)
    torch.testing.assert_close(found, hidden_loss((narrow - 2 * narrow) @ matrix.T, states[1] - states[2], mask))


def test_candidates_are_compared_by_kl():
    """KL in the wrong direction also goes down while training."""
    s, t = _tensors(1, 2, 5, seed=1), _tensors(1, 2, 5, seed=2)
    p, q = _softmax(t.numpy()), _softmax(s.numpy())
    want = (p * np.log(p / q)).sum(-1)[0, 0]
    np.testing.assert_allclose(distribution_loss(s, t, _mask([1], 2)).numpy(), [want], rtol=1e-10)


def test_sampled_targets_are_unbiased():
    """Draws stand for the whole distribution only if their mean loss and gradient are those of all logits."""
    s, t = _tensors(1, 1, 6, seed=1).requires_grad_(), _tensors(1, 1, 6, seed=2)
    draws = torch.multinomial(t[0].softmax(-1), 200_000, True, generator=torch.Generator().manual_seed(0))[None]
    exact = prediction_loss(s[0], t[0]).mean()
    sampled = sampled_distribution_loss(s, draws, torch.ones(1, 1)).mean()
    assert float(sampled.detach()) == pytest.approx(float(exact.detach()), rel=5e-3)
    wanted, found = (torch.autograd.grad(loss, s)[0] for loss in (exact, sampled))
    torch.testing.assert_close(found, wanted, atol=5e-3, rtol=0)
    with pytest.raises(InputError, match="other candidates"):
        sampled_distribution_loss(s, torch.tensor([[[6]]]), torch.ones(1, 1))


@pytest.mark.parity
def test_released_losses_are_those_of_the_formula_bit_for_bit():
    """The released code, restated: −10000 at padded keys, scores of −100 and less become 0, means over everything."""
    s, t = (_tensors(2, 5, WIDTH, seed=n).float() for n in (1, 2))
    mask = _mask([5, 2], 5)
    scores = [attention_scores(x, x.flip(-1), num_heads=HEADS) for x in (s, t)]
    scores[0][0, 0, 1, 1] = -150.0
    shown = [x + (1.0 - mask.float())[:, None, None, :] * -10000.0 for x in scores]
    zeroed = [torch.where(x <= -1e2, torch.zeros_like(x), x) for x in shown]
    assert zeroed[0][0, 0, 1, 1] == 0
    assert torch.equal(released_attention_loss(*scores, mask), torch.nn.MSELoss()(zeroed[0], zeroed[1]))
    assert torch.equal(released_hidden_loss(s, t), torch.nn.MSELoss()(s, t))


def test_released_losses_move_with_padding_and_ours_do_not():
    """The reason for the switch: the same two sentences, padded further."""
    s, t = (_tensors(2, 5, WIDTH, seed=n) for n in (1, 2))
    wide = [torch.cat([x, _tensors(2, 4, WIDTH, seed=n)], 1) for n, x in ((3, s), (4, t))]
    scores, wider = ([attention_scores(x, x, num_heads=HEADS) for x in pair] for pair in ((s, t), wide))
    masks = _mask([5, 3], 5), _mask([5, 3], 9)
    assert not torch.isclose(released_attention_loss(*scores, masks[0]), released_attention_loss(*wider, masks[1]))
    torch.testing.assert_close(attention_loss(*scores, masks[0]), attention_loss(*wider, masks[1]))


def test_wrong_use_is_refused():
    """Each of these would broadcast or divide by zero and train silently wrong."""
    with pytest.raises(InputError, match="one shape"):
        prediction_loss(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(InputError, match="temperature"):
        prediction_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)
    with pytest.raises(InputError, match="NaN"):
        prediction_loss(torch.zeros(1, 2), torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(InputError, match="head counts"):
        attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.ones(1, 3))
    with pytest.raises(InputError, match="cannot be split"):
        relation_loss(torch.zeros(1, 2, 8), torch.zeros(1, 2, 12), torch.ones(1, 2), num_heads=3)
