"""The distillation losses against NumPy, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie.errors import InputError
from ernie.losses.distillation import (
    Features,
    LayerLosses,
    LayerLossWeights,
    attention_loss,
    attention_scores,
    hidden_loss,
    prediction_loss,
    relation_loss,
    uniform_layer_map,
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


POSITION_LOSSES = {"hidden": _hidden, "attention": _attention, "relations": _relations}
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
    assert torch.all(loss(t, t.clone(), _mask([6, 1], 6)) == 0)


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


def _features(width: int, layers: int, seed: int) -> Features:
    return Features(
        hidden=[_tensors(2, 6, width, seed=seed + i).float() for i in range(layers + 1)],
        queries=[_tensors(2, 6, width, seed=seed + 20 + i).float() for i in range(layers)],
        keys=[_tensors(2, 6, width, seed=seed + 40 + i).float() for i in range(layers)],
        values=[_tensors(2, 6, width, seed=seed + 60 + i).float() for i in range(layers)],
    )


def test_layer_losses_are_zero_at_the_teacher_itself():
    """The sum over pairs must compare layer g(m) with layer m, not its neighbour."""
    teacher = _features(WIDTH, 3, seed=0)
    losses = LayerLosses(
        student_width=WIDTH,
        teacher_width=WIDTH,
        layer_map=(1, 2, 3),
        weights=LayerLossWeights(attention=1.0),
        relation_heads=4,
        num_heads=(HEADS, HEADS),
    )(teacher, teacher, _mask([6, 3], 6))
    assert set(losses) == {"loss", "embedding", "hidden", "attention", "relation"}
    assert all(value == 0 for value in losses.values())


def test_layer_losses_project_a_narrow_student_and_train_the_projection():
    """A projection outside the optimiser would leave the student to fit a random map."""
    module = LayerLosses(
        student_width=8,
        teacher_width=12,
        layer_map=uniform_layer_map(2, 4),
        weights=LayerLossWeights(),
        relation_heads=4,
        num_heads=(2, 3),
    )
    student, teacher, mask = _features(8, 2, seed=1), _features(12, 4, seed=2), _mask([6, 3], 6)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    history = []
    for _ in range(10):
        losses = module(student, teacher, mask)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append(float((losses["hidden"] + losses["embedding"]).detach()))
    assert len(module.projections) == 3
    assert history[-1] < history[0]
    torch.testing.assert_close(losses["loss"], losses["embedding"] + losses["hidden"] + losses["relation"])


@pytest.mark.parametrize(("student", "teacher", "want"), [(3, 6, (2, 4, 6)), (4, 12, (3, 6, 9, 12)), (1, 5, (5,))])
def test_uniform_map_takes_the_last_layer_of_each_block(student, teacher, want):
    """The paper's g(m) = 3m for 4 of 12; taking block starts costs points and shows nowhere."""
    assert uniform_layer_map(student, teacher) == want


def test_wrong_use_is_refused():
    """Each of these would broadcast or divide by zero and train silently wrong."""
    with pytest.raises(InputError, match="4 layers cannot be mapped"):
        uniform_layer_map(4, 3)
    with pytest.raises(InputError, match="one shape"):
        prediction_loss(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(InputError, match="temperature"):
        prediction_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)
    with pytest.raises(InputError, match="NaN"):
        prediction_loss(torch.zeros(1, 2), torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(InputError, match="head counts"):
        attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.ones(1, 3))
    with pytest.raises(InputError, match="divide"):
        LayerLosses(
            student_width=8,
            teacher_width=12,
            layer_map=(1,),
            weights=LayerLossWeights(),
            relation_heads=3,
            num_heads=(2, 3),
        )
    with pytest.raises(InputError, match="weight 0"):
        LayerLosses(
            student_width=8,
            teacher_width=8,
            layer_map=(1,),
            weights=LayerLossWeights(embedding=0, hidden=0, relation=0),
            relation_heads=2,
            num_heads=(2, 2),
        )(_features(8, 1, 0), _features(8, 1, 0), _mask([6, 6], 6))
