"""Cross entropy over labelled rows: masked-language modelling, next sentence, and what else ignores labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ernie.errors import InputError
from ernie.inputs import IGNORED


def labelled_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, name: str = "labels") -> torch.Tensor:
    """Mean cross entropy over the rows whose label is not IGNORED (-100); 0 with gradient 0 when there is none.

    logits: (..., num_classes); labels: (...), values 0..num_classes-1 or IGNORED. `F.cross_entropy` takes the mean
    over nothing and returns NaN there. On the CPU a label out of range is an InputError that names it.

    Example: labelled_cross_entropy(torch.zeros(2, 4), torch.tensor([1, -100])) is log 4.
    """
    if logits.shape[:-1] != labels.shape:
        raise InputError(f"{name} has one value a row of logits: {tuple(logits.shape[:-1])}, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"{name} are integers, got {labels.dtype}")
    flat_logits, flat_labels = logits.flatten(0, -2), labels.flatten()
    if not torch.compiler.is_compiling() and labels.device.type == "cpu":
        wrong = flat_labels[(flat_labels != IGNORED) & ((flat_labels < 0) | (flat_labels >= logits.shape[-1]))]
        if wrong.numel():
            raise InputError(f"{name} lie in 0..{logits.shape[-1] - 1} or are {IGNORED} (ignored), got {int(wrong[0])}")
    count = (flat_labels != IGNORED).sum().clamp(min=1)
    if logits.dtype in (torch.float16, torch.bfloat16):
        flat_logits = flat_logits.float()
    total = F.cross_entropy(flat_logits, flat_labels, ignore_index=IGNORED, reduction="sum")
    return total / count


def masked_lm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Masked-language modelling (Devlin et al. 2019): mean cross entropy over the masked word pieces.

    logits: (num_masked, vocab_size) with labels (num_masked,), or (batch, seq_len, vocab_size) with (batch, seq_len).
    """
    return labelled_cross_entropy(logits, labels)
