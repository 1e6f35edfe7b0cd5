"""Attention for training on the CPU: plain matrix products where torch's fused kernel is slower."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

LONGEST_PLAIN = {torch.float32: 16, torch.bfloat16: 256}
"""Word pieces up to which matrix products and a softmax beat torch's fused kernel, forward and backward together, at 12
heads of 32 (`benchmarks/attention.py`): in bf16 the fused backward has a cost a head and text, however short the text.
Fixed, not measured on the spot, so that a resumed run rounds as an undisturbed one does."""


def training_attention(
    batch: Mapping[str, Tensor], *, device: torch.device, dtype: torch.dtype
) -> AbstractContextManager[Any]:
    """Chooses how `scaled_dot_product_attention` is computed in a batch's forward and backward pass, in any model;
    without effect elsewhere than on the CPU.

    batch: padded texts, (batch_size, length) or of more dimensions; the longest counts. dtype: of the products.
    """
    longest = max((tensor.shape[1] for tensor in batch.values() if tensor.dim() > 1), default=0)
    if device.type != "cpu" or longest > LONGEST_PLAIN.get(dtype, 0):
        return nullcontext()
    return _PlainWherePossible()


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query key^T * scale + mask) value, the softmax in fp32; all probabilities in memory.

    query: (…, heads, queries, width). key, value: (…, heads, keys, width). attn_mask: added to scores, or bool: True
    where a query sees a key. is_causal: the i-th query sees the first i keys alone, without attn_mask. A query that
    sees no key attends to all alike.
    """
    if is_causal:
        assert attn_mask is None, "torch takes one or the other"
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    probabilities = torch.softmax(scores, dim=-1, dtype=wide).to(value.dtype)
    return torch.dropout(probabilities, dropout_p, train=dropout_p > 0.0) @ value


class _PlainWherePossible(TorchFunctionMode):
    """Answers `scaled_dot_product_attention` by `plain_attention` where a gradient is wanted and heads are not
    grouped."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        attends = func is torch.nn.functional.scaled_dot_product_attention and torch.is_grad_enabled()
        if attends and not given.get("enable_gqa", False):
            given.pop("enable_gqa", None)
            return plain_attention(*args, **given)
        return func(*args, **given)
