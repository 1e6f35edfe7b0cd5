"""Which of torch's two attention kernels a training step on the CPU takes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

LONGEST_PLAIN = {torch.float32: 32, torch.bfloat16: 128}
"""Word pieces up to which plain matrix products and a softmax beat torch's fused kernel, forward and backward together,
at 12 heads of 32 (`benchmarks/attention.py`): in bf16 the fused backward has a cost a head and text, however short the
text. Fixed, not measured on the spot, so that a resumed run rounds as an undisturbed one does."""


def training_attention(
    batch: Mapping[str, Tensor], *, device: torch.device, dtype: torch.dtype
) -> AbstractContextManager[None]:
    """Chooses the kernel of `scaled_dot_product_attention` for a batch's forward and backward pass; without effect
    elsewhere than on the CPU.

    batch: padded texts, (batch_size, length) or of more dimensions; the longest counts. dtype: of the products.
    """
    longest = max((tensor.shape[1] for tensor in batch.values() if tensor.dim() > 1), default=0)
    if device.type != "cpu" or longest > LONGEST_PLAIN.get(dtype, 0):
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
