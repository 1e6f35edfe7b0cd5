"""Cross entropies that ignore labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ernie.errors import InputError
from ernie.losses.denoising_entity import denoising_entity_loss, entity_logits
from ernie.losses.masked_lm import labelled_cross_entropy, masked_lm_loss


def test_the_mean_is_over_labelled_rows_only() -> None:
    """A mean over all rows would shrink the loss with the padding. Oracle: the definition, in numpy."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    labels = torch.tensor([[4, -100, 0], [-100, -100, 2]])
    rows = logits.numpy().astype(np.float64)
    chosen = [rows[0, 0] - rows[0, 0][4], rows[0, 2] - rows[0, 2][0], rows[1, 2] - rows[1, 2][2]]
    expected = np.mean([np.log(np.exp(row).sum()) for row in chosen])
    for loss in (labelled_cross_entropy, masked_lm_loss, denoising_entity_loss):
        assert loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (3, 5), (3, 0)])
def test_nothing_to_learn_is_zero_with_zero_gradient(shape: tuple[int, ...]) -> None:
    """torch's mean over nothing is NaN; one such batch ends a run."""
    logits = torch.randn(shape, requires_grad=True)
    loss = labelled_cross_entropy(logits, torch.full(shape[:-1], -100))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_logits_are_summed_in_float() -> None:
    """A softmax over a vocabulary in bf16 loses the small probabilities."""
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 2, 3, -100])
    loss = labelled_cross_entropy(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, labelled_cross_entropy(logits.bfloat16().float(), labels))


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_out_of_range_is_named(label: int) -> None:
    """-1 ignores in old code and crashes in torch with a number no one wrote."""
    with pytest.raises(InputError, match=rf"entity_labels lie in 0\.\.4 or are -100 \(ignored\), got {label}"):
        denoising_entity_loss(torch.zeros(1, 2, 5), torch.tensor([[0, label]]))
    with pytest.raises(InputError, match=r"one value a row of logits: \(1, 2\), got \(2,\)"):
        labelled_cross_entropy(torch.zeros(1, 2, 5), torch.tensor([0, 1]))


def test_entity_logits_are_dot_products() -> None:
    """Raw vectors, no scale, no bias; "no entity" is the last candidate with logit 0."""
    states, candidates = torch.randn(2, 3, 4), torch.randn(5, 4)
    logits = entity_logits(states, candidates, no_entity=True)
    assert logits.shape == (2, 3, 6)
    torch.testing.assert_close(logits[1, 2, 3], states[1, 2].dot(candidates[3]))
    assert not logits[..., 5].any()
    assert entity_logits(states, candidates, no_entity=False).shape == (2, 3, 5)
