"""Distillation losses as tensor functions; `matching` says which layers they compare, `intermediate` adds them up.

Every function but the two `released_…` returns one value an example, shape `(batch_size,)`: the mean over its real
positions. Their mean over examples is therefore the same under extra padding, another order and another cut into
batches, and gradient accumulation changes nothing. All are 0 when student is teacher, but for the cross-entropies
(`prediction_loss`, `sampled_distribution_loss`), whose gradient is.

TinyBERT: Jiao et al., Findings of EMNLP 2020 (arXiv 1909.10351), equation numbers of that version.
MiniLMv2: Wang et al., Findings of ACL 2021 (arXiv 2012.15828), section 3.1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ernie.errors import InputError

ROUNDING = 1e-4
"""Relative size of a difference of two passes in single precision that says nothing."""

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of states: TinyBERT eq. 8 (hidden) and eq. 9 (embedding output); entity states alike.

    The released code averages over padded positions too (`released_hidden_loss`); we average over real ones.

    Args:
        student: shape (batch_size, length, teacher_width), already projected to the teacher's width.
        teacher: shape (batch_size, length, teacher_width).
        mask: shape (batch_size, length), 1 at a real position.
        weights: shape (batch_size, length), a factor on each position's error (`change_weights`).

    Returns:
        shape (batch_size,); 0 for an example without a real position.
    """
    _same_shape("hidden states", student, teacher)
    student = _full(student)
    error = (student - teacher.to(student.dtype)).square().mean(dim=-1)
    if weights is not None:
        error = error * weights.to(error.dtype)
    return _mean_where(error, mask.bool(), dim=(1,))


def change_weights(with_entities: Tensor, without: Tensor, mask: Tensor, *, alpha: float, most: float = 4.0) -> Tensor:
    """What position-wise losses are multiplied by so that knowledge does not drown in the mean over tokens.

    w_i = 1 + alpha · min(‖Δ_i‖ / mean ‖Δ‖, most), Δ = teacher's states with its entities minus those without, the mean
    over the example's real positions. Entities change few tokens: on most, Δ is nearly 0.

    with_entities, without: (batch_size, seq_len, width). Returns (batch_size, seq_len); 1 where nothing changed.
    """
    size = (with_entities - without).norm(dim=-1)
    size = size.masked_fill(size < ROUNDING * with_entities.norm(dim=-1), 0.0)
    mean = _mean_where(size, mask.bool(), dim=(1,))[:, None]
    ratio = torch.where(mean > 0, size / mean.clamp(min=torch.finfo(size.dtype).tiny), 0.0)
    return 1 + alpha * ratio.clamp(max=most)


def change_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor, *, projection: Tensor | None = None
) -> Tensor:
    """Entity-caused change: ‖W (S(x, e) − S(x, 0)) − (T(x, e) − T(x, 0))‖² / width.

    It asks what entities do to the states, so that a two-stream student cannot satisfy it from the text alone.

    student, teacher: states with entities and without, each (batch_size, seq_len, width). projection: W, (teacher
    width, student width); a bias would cancel. Returns (batch_size,).
    """
    moved = student[0] - student[1]
    return hidden_loss(moved if projection is None else moved @ projection.T, teacher[0] - teacher[1], mask)


def attention_scores(query: Tensor, key: Tensor, *, num_heads: int) -> Tensor:
    """Raw attention scores A = Q Kᵀ / √d_k before any mask or softmax (TinyBERT eq. 1).

    query, key: shape (batch_size, seq_len, width). Returns shape (batch_size, num_heads, seq_len, seq_len).
    """
    return _relation(query, key, num_heads)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of raw scores over heads and pairs of real positions (TinyBERT eq. 7).

    The released code sets masked scores to 0 but leaves them in the denominator, so that its loss shrinks
    with padding, and counts the rows of padded queries; here both are left out.

    Args:
        student, teacher: unmasked scores, shape (batch_size, num_heads, seq_len, seq_len).
        mask: shape (batch_size, seq_len).

    Returns:
        shape (batch_size,).

    Raises:
        InputError: another number of heads; use `relation_loss`, which takes any.
    """
    if student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"attention loss expects equal head counts, but the student has {student.shape[1]} and the "
            f"teacher {teacher.shape[1]}; use the relation loss, which takes any head count"
        )
    _same_shape("attention scores", student, teacher)
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None, :])[:, None].expand(student.shape)
    return _mean_where((student - teacher.to(student.dtype)).square(), pairs, dim=(1, 2, 3))


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, *, num_heads: int, at_least: int = 1) -> Tensor:
    """KL divergence of self-attention relations, KL(R_teacher || R_student) (MiniLMv2 section 3.1).

    R = softmax(A Aᵀ / √d_r) for A among queries, keys or values, split anew into `num_heads` relation heads,
    so that student and teacher may differ in width and in attention heads.

    Args:
        student: shape (batch_size, seq_len, student_width), all heads side by side.
        teacher: shape (batch_size, seq_len, teacher_width).
        mask: shape (batch_size, seq_len); other positions are neither rows nor keys of a relation.
        num_heads: relation heads; must divide both widths.
        at_least: examples with fewer real positions give 0; 2 among entities, where a softmax over one is always 1.

    Returns:
        shape (batch_size,): mean over heads and real rows.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise InputError(
            f"relation loss expects the same positions, but the student has (batch_size, seq_len) "
            f"{tuple(student.shape[:2])} and the teacher {tuple(teacher.shape[:2])}; "
            f"feed both the same word pieces"
        )
    real = mask.bool()
    real = real & (real.sum(dim=1, keepdim=True) >= at_least)
    keys = real[:, None, None, :]
    log_s = _masked_log_softmax(_relation(student, student, num_heads), keys)
    log_t = _masked_log_softmax(_relation(teacher, teacher, num_heads).to(log_s.dtype), keys)
    divergence = (log_t.exp() * (log_t - log_s)).masked_fill(~keys, 0.0).sum(dim=-1)
    return _mean_where(divergence, real[:, None, :].expand(divergence.shape), dim=(1, 2))


def prediction_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    problem_type: ProblemType = "single_label_classification",
    temperature: float = 1.0,
    class_mean: bool = False,
) -> Tensor:
    """Soft cross-entropy CE(z_T / t, z_S / t) against the teacher's distribution (TinyBERT eq. 10).

    As in the paper there is no factor t². At student = teacher the value is the teacher's entropy and its
    gradient 0. Several labels at once: a binary cross-entropy a label, summed. Regression: squared error to
    the teacher's value (the released code takes the gold label there and leaves the teacher unused).

    Args:
        student_logits, teacher_logits: shape (batch_size, num_labels).
        temperature: t > 0; the paper finds 1 best.
        class_mean: divide by num_labels, as the released code does by averaging over batch and classes.

    Returns:
        shape (batch_size,).

    Raises:
        InputError: other shapes, a temperature that is not positive, teacher logits that are not finite.
    """
    _same_shape("logits", student_logits, teacher_logits)
    if not temperature > 0:
        raise InputError(f"temperature must be positive, but is {temperature}; the paper uses 1")
    if not torch.isfinite(teacher_logits).all():
        raise InputError("the teacher's logits hold NaN or infinity; a student would learn nothing from them")
    student_logits = _full(student_logits)
    teacher_logits = teacher_logits.to(student_logits.dtype)
    student, teacher = student_logits / temperature, teacher_logits / temperature
    if problem_type == "regression":
        terms = (student_logits - teacher_logits).square()
    elif problem_type == "multi_label_classification":
        terms = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")
    else:
        terms = -teacher.softmax(dim=-1) * student.log_softmax(dim=-1)
    return terms.mean(dim=-1) if class_mean else terms.sum(dim=-1)


def distribution_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) over candidates at each real target: denoised entities, masked word pieces.

    student_logits, teacher_logits: (batch_size, num_targets, num_candidates). mask: (batch_size, num_targets).
    Returns (batch_size,), the mean over an example's targets, 0 without any.
    """
    _same_shape("candidates' logits", student_logits, teacher_logits)
    log_s = _full(student_logits).log_softmax(dim=-1)
    log_t = teacher_logits.to(log_s.dtype).log_softmax(dim=-1)
    return _mean_where((log_t.exp() * (log_t - log_s)).sum(dim=-1), mask.bool(), dim=(1,))


def sampled_distribution_loss(student_logits: Tensor, draws: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy against a sample of the teacher's distribution: −mean over draws of log q(draw).

    Its expectation over draws is the full soft cross-entropy (unlike that over the teacher's top candidates, which
    hides the tail: arXiv 2503.16870), so a cache of a dozen draws a target stands for all logits.

    student_logits: (batch_size, num_targets, num_candidates). draws: int64 (batch_size, num_targets, num_draws), rows
    of candidates. mask: (batch_size, num_targets). Returns (batch_size,).
    """
    if draws.numel() and not 0 <= int(draws.min()) <= int(draws.max()) < student_logits.shape[-1]:
        raise InputError(
            f"draws name candidates {int(draws.min())}..{int(draws.max())}, the student's logits have "
            f"{student_logits.shape[-1]}; the cache was made for other candidates"
        )
    found = _full(student_logits).log_softmax(dim=-1).gather(-1, draws)
    return _mean_where(-found.mean(dim=-1), mask.bool(), dim=(1,))


def released_hidden_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """TinyBERT's released loss on states: a plain mean over batch, positions and width, padding included. A scalar."""
    _same_shape("hidden states", student, teacher)
    return F.mse_loss(student, teacher.to(student.dtype))


def released_attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """TinyBERT's released loss on raw scores. A scalar.

    −10000 is added at padded keys, every score of −100 or less becomes 0 on both sides, and the mean runs over all
    pairs: padded keys shrink the loss, padded queries count, and a true score that low is lost.

    student, teacher: unmasked scores (batch_size, num_heads, seq_len, seq_len). mask: (batch_size, seq_len).
    """
    _same_shape("attention scores", student, teacher)
    added = (1.0 - mask[:, None, None, :].to(student.dtype)) * -10000.0
    sides = [scores + added for scores in (student, teacher.to(student.dtype))]
    kept = [torch.where(side <= -1e2, torch.zeros_like(side), side) for side in sides]
    return F.mse_loss(kept[0], kept[1])


def _relation(left: Tensor, right: Tensor, num_heads: int) -> Tensor:
    """left rightᵀ / √d_r by head: (batch_size, num_heads, seq_len, seq_len) of two (batch_size, seq_len, width)."""
    width = left.shape[-1]
    if width % num_heads:
        raise InputError(f"a width of {width} cannot be split into {num_heads} heads; choose a divisor of {width}")
    heads = [x.unflatten(-1, (num_heads, width // num_heads)).transpose(1, 2) for x in (left, right)]
    return heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(width // num_heads)


def _masked_log_softmax(scores: Tensor, keys: Tensor) -> Tensor:
    """Log-softmax over real keys; a row without any stays finite and is dropped by the caller."""
    return scores.masked_fill(~keys, torch.finfo(scores.dtype).min).log_softmax(dim=-1)


def _mean_where(values: Tensor, real: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Mean of `values` over `dim` where `real`; 0 where nothing is."""
    kept = values.masked_fill(~real, 0.0)
    return kept.sum(dim=dim) / real.sum(dim=dim).clamp(min=1)


def _same_shape(what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise InputError(
            f"{what} of student and teacher must have one shape, but are {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}; broadcasting would train silently wrong"
        )


def _full(values: Tensor) -> Tensor:
    """At least single precision: under autocast logits come in bf16, three digits of which are no loss."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
