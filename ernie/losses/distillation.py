"""Distillation losses as tensor functions, and the module that adds them up over layer pairs.

Every function returns one value an example, shape `(batch_size,)`: the mean over its real positions. Their
mean over examples is therefore the same under extra padding, another order and another cut into batches, and
gradient accumulation changes nothing.

TinyBERT: Jiao et al., Findings of EMNLP 2020 (arXiv 1909.10351), equation numbers of that version.
MiniLMv2: Wang et al., Findings of ACL 2021 (arXiv 2012.15828), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ernie.errors import InputError

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of token states: TinyBERT eq. 8 (hidden) and eq. 9 (embedding output).

    The released code averages over padded positions too; we average over real ones.

    Args:
        student: shape (batch_size, seq_len, teacher_width), already projected to the teacher's width.
        teacher: shape (batch_size, seq_len, teacher_width).
        mask: shape (batch_size, seq_len), 1 at a real position.

    Returns:
        shape (batch_size,); 0 for an example without a real position.
    """
    _same_shape("hidden states", student, teacher)
    error = (student - teacher.to(student.dtype)).square().mean(dim=-1)
    return _mean_where(error, mask.bool(), dim=(1,))


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


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, *, num_heads: int) -> Tensor:
    """KL divergence of self-attention relations, KL(R_teacher || R_student) (MiniLMv2 section 3.1).

    R = softmax(A Aᵀ / √d_r) for A among queries, keys or values, split anew into `num_heads` relation heads,
    so that student and teacher may differ in width and in attention heads.

    Args:
        student: shape (batch_size, seq_len, student_width), all heads side by side.
        teacher: shape (batch_size, seq_len, teacher_width).
        mask: shape (batch_size, seq_len); other positions are neither rows nor keys of a relation.
        num_heads: relation heads; must divide both widths.

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
    student = student_logits / temperature
    teacher = teacher_logits.to(student.dtype) / temperature
    if problem_type == "regression":
        terms = (student_logits - teacher_logits.to(student.dtype)).square()
    elif problem_type == "multi_label_classification":
        terms = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")
    else:
        terms = -teacher.softmax(dim=-1) * student.log_softmax(dim=-1)
    return terms.mean(dim=-1) if class_mean else terms.sum(dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What one forward pass shows of its inside, by layer; entry 0 of `hidden` is the embedding output.

    hidden: num_layers + 1 tensors (batch_size, seq_len, width).
    queries, keys, values: num_layers tensors (batch_size, seq_len, width), heads side by side.
    """

    hidden: Sequence[Tensor]
    queries: Sequence[Tensor]
    keys: Sequence[Tensor]
    values: Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class LayerLossWeights:
    """Factor λ of each term (the paper sets all it uses to 1); 0 leaves the term out."""

    embedding: float = 1.0
    """Embedding outputs, TinyBERT eq. 9."""
    hidden: float = 1.0
    """Hidden states, TinyBERT eq. 8."""
    attention: float = 0.0
    """Raw scores, TinyBERT eq. 7: needs equal head counts."""
    relation: float = 1.0
    """Q-Q, K-K and V-V relations, MiniLMv2: any head count."""


class LayerLosses(nn.Module):
    """The intermediate losses over pairs of layers (TinyBERT eq. 6 and 11, rows m = 0 … M).

    Projections to a wider teacher belong to this module, one for the embeddings (W_e) and one for each
    student layer (W_h), and never to the exported student. Equal widths need none: the paper projects there
    too, which only adds freedom to a student that starts from the teacher's slices.

    layer_map: for each student layer m = 1 … M the teacher layer g(m), 1-based; 0 are the embeddings.
    relation_heads: heads the queries, keys and values are split into for the relations.
    num_heads: attention heads, read only by the raw-score loss.
    """

    def __init__(
        self,
        *,
        student_width: int,
        teacher_width: int,
        layer_map: Sequence[int],
        weights: LayerLossWeights,
        relation_heads: int,
        num_heads: tuple[int, int],
    ) -> None:
        super().__init__()
        if weights.relation and (student_width % relation_heads or teacher_width % relation_heads):
            raise InputError(
                f"relation_heads {relation_heads} must divide the student's width {student_width} and the "
                f"teacher's {teacher_width}; {math.gcd(student_width, teacher_width)} and its divisors do"
            )
        if weights.attention and num_heads[0] != num_heads[1]:
            raise InputError(
                f"attention loss expects equal head counts, but the student has {num_heads[0]} and the "
                f"teacher {num_heads[1]}; set the attention weight to 0 and use the relation loss"
            )
        self.layer_map = tuple(layer_map)
        self.weights = weights
        self.relation_heads = relation_heads
        self.num_heads = num_heads[0]
        self.projections = nn.ModuleList(
            nn.Identity() if student_width == teacher_width else nn.Linear(student_width, teacher_width)
            for _ in range(len(self.layer_map) + 1)
        )

    def forward(self, student: Features, teacher: Features, mask: Tensor) -> dict[str, Tensor]:
        """Terms of non-zero weight, each a scalar, unweighted; `loss` is their weighted sum.

        mask: shape (batch_size, seq_len), 1 at a real word piece.
        """
        terms = {
            "embedding": lambda: self._hidden(0, student.hidden[0], teacher.hidden[0], mask),
            "hidden": lambda: self._over_layers(self._hidden_pair, student, teacher, mask),
            "attention": lambda: self._over_layers(self._attention_pair, student, teacher, mask),
            "relation": lambda: self._over_layers(self._relation_pair, student, teacher, mask),
        }
        weights = {name: getattr(self.weights, name) for name in terms}
        values = {name: term().mean() for name, term in terms.items() if weights[name]}
        return {"loss": _weighted_sum(values, weights), **values}

    def _over_layers(self, loss_of_pair, student: Features, teacher: Features, mask: Tensor) -> Tensor:
        pairs = enumerate(self.layer_map, start=1)
        return torch.stack([loss_of_pair(m, g, student, teacher, mask) for m, g in pairs]).sum(dim=0)

    def _hidden(self, m: int, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return hidden_loss(self.projections[m](student), teacher, mask)

    def _hidden_pair(self, m: int, g: int, student: Features, teacher: Features, mask: Tensor) -> Tensor:
        return self._hidden(m, student.hidden[m], teacher.hidden[g], mask)

    def _attention_pair(self, m: int, g: int, student: Features, teacher: Features, mask: Tensor) -> Tensor:
        scores = [
            attention_scores(side.queries[row - 1], side.keys[row - 1], num_heads=self.num_heads)
            for side, row in ((student, m), (teacher, g))
        ]
        return attention_loss(scores[0], scores[1], mask)

    def _relation_pair(self, m: int, g: int, student: Features, teacher: Features, mask: Tensor) -> Tensor:
        of_both = [
            (student.queries[m - 1], teacher.queries[g - 1]),
            (student.keys[m - 1], teacher.keys[g - 1]),
            (student.values[m - 1], teacher.values[g - 1]),
        ]
        return torch.stack([relation_loss(s, t, mask, num_heads=self.relation_heads) for s, t in of_both]).sum(0)


def uniform_layer_map(num_student_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """g(m): the last teacher layer of each of M equal blocks, 1-based (TinyBERT's map when M divides N).

    >>> uniform_layer_map(3, 6), uniform_layer_map(4, 6)
    ((2, 4, 6), (1, 3, 4, 6))
    """
    if not 1 <= num_student_layers <= num_teacher_layers:
        raise InputError(
            f"a student of {num_student_layers} layers cannot be mapped on a teacher of "
            f"{num_teacher_layers}; choose 1 to {num_teacher_layers} layers"
        )
    return tuple(m * num_teacher_layers // num_student_layers for m in range(1, num_student_layers + 1))


def _weighted_sum(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    if not values:
        raise InputError("every intermediate loss has weight 0; give at least one a positive weight")
    return torch.stack([weights[name] * value for name, value in values.items()]).sum()


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


def record_features(encoder: nn.Module, inputs: Mapping[str, Tensor], *, layers: Sequence[int]) -> Features:
    """One forward pass of a BERT-shaped encoder (`transformers.BertModel`, `ErnieModel`), its inside kept.

    layers: the layers, 1-based, whose queries, keys and values are wanted; the others' entries are empty tensors.
    Gradients flow unless the caller forbids them.
    """
    stack: Any = encoder.get_submodule("encoder.layer")
    kept = {name: [torch.empty(0)] * len(stack) for name in ("query", "key", "value")}
    handles = []
    for row in {layer - 1 for layer in layers}:
        for name, outputs in kept.items():
            part = stack[row].attention.self.get_submodule(name)
            handles.append(part.register_forward_hook(_keeper(outputs, row)))
    try:
        hidden = encoder(**inputs, output_hidden_states=True).hidden_states
    finally:
        for handle in handles:
            handle.remove()
    return Features(hidden=hidden, queries=kept["query"], keys=kept["key"], values=kept["value"])


def _keeper(outputs: list[Tensor], row: int) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        outputs[row] = output

    return keep
