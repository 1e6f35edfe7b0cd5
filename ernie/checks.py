"""What a caller may get wrong, refused in one line before it becomes an index error, a broadcast or a NaN.

Values are looked at on the CPU only: elsewhere a look would wait for the device. A compiled or exported graph, whose
shapes may be symbols, is spared all but the few looks that cost it nothing.
"""

from __future__ import annotations

import torch

from ernie.errors import InputError

Tensor = torch.Tensor


def check_text(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    *,
    vocab_size: int,
    hidden_size: int,
    max_length: int,
) -> tuple[int, int]:
    """One of the two, of the right shape and range. Returns (batch, seq_len)."""
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give input_ids or inputs_embeds, one of them")
    if input_ids is not None:
        if input_ids.dim() != 2:
            raise InputError(f"input_ids have shape (batch, seq_len), got {tuple(input_ids.shape)}")
        _check_integers("input_ids", input_ids)
        check_range("input_ids", input_ids, vocab_size, "a tokenizer with another vocabulary, or added tokens")
        batch, seq_len = input_ids.shape
    else:
        assert inputs_embeds is not None, "one of the two"
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != hidden_size:
            raise InputError(
                f"inputs_embeds have shape (batch, seq_len, hidden_size) = (batch, seq_len, {hidden_size}), "
                f"got {tuple(inputs_embeds.shape)}"
            )
        batch, seq_len = inputs_embeds.shape[:2]
    if not torch.compiler.is_compiling() and (batch == 0 or seq_len == 0):
        raise InputError(f"a batch has at least one text and one word piece, got shape ({batch}, {seq_len})")
    if seq_len > max_length:
        raise InputError(
            f"this model reads at most {max_length} word pieces, got {seq_len}: truncate with max_length={max_length}"
        )
    return batch, seq_len


def check_beside_text(
    shape: tuple[int, int],
    attention_mask: object,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    *,
    num_types: int,
    max_length: int,
) -> None:
    """Tensors along the word pieces. A mask of another length would be cut or broadcast without a word."""
    if torch.compiler.is_compiling():
        return
    _, seq_len = shape
    if isinstance(attention_mask, Tensor):
        whole = attention_mask.dim() == 4 and attention_mask.shape[-1] == seq_len
        if not whole and tuple(attention_mask.shape) != shape:
            raise InputError(f"attention_mask has shape (batch, seq_len) = {shape}, got {tuple(attention_mask.shape)}")
    for name, tensor, size in (
        ("token_type_ids", token_type_ids, num_types),
        ("position_ids", position_ids, max_length),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) not in (shape, (1, seq_len)):
            raise InputError(f"{name} have shape (batch, seq_len) = {shape}, got {tuple(tensor.shape)}")
        _check_integers(name, tensor)
        check_range(name, tensor, size, "ids of another model")


def check_entity_inputs(
    batch: int, ids: Tensor | None, embeds: Tensor | None, positions: Tensor | None, mask: Tensor | None
) -> None:
    """What can be said before ids become vectors."""
    if ids is not None and embeds is not None:
        raise InputError("give entity_ids or entity_embeds, not both")
    if ids is None and embeds is None:
        for name, tensor in (("entity_positions", positions), ("entity_attention_mask", mask)):
            if tensor is not None:
                raise InputError(f"{name} without entities: give entity_ids or entity_embeds too, or leave it away")
    if ids is not None:
        if ids.dim() != 2 or ids.shape[0] != batch:
            raise InputError(
                f"entity_ids have shape (batch, num_entities) = ({batch}, num_entities), got {tuple(ids.shape)}"
            )
        _check_integers("entity_ids", ids)


def check_vectors(embeds: Tensor, batch: int, width: int) -> None:
    if embeds.dim() != 3 or embeds.shape[0] != batch or embeds.shape[2] != width:
        raise InputError(
            f"entity vectors have shape (batch, num_entities, entity_size) = ({batch}, num_entities, {width}), "
            f"got {tuple(embeds.shape)}"
        )


def check_entities(
    embeds: Tensor, positions: Tensor | None, mask: Tensor | None, attention_mask: object, seq_len: int
) -> None:
    """Shapes, and values: a NaN would reach every token, even from a masked slot; a mask of 2 would double a vector."""
    expected = tuple(embeds.shape[:2])
    for name, tensor in (("entity_positions", positions), ("entity_attention_mask", mask)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise InputError(f"{name} has shape (batch, num_entities) = {expected}, got {tuple(tensor.shape)}")
    if positions is None:
        if embeds.shape[1]:
            raise InputError("entities need entity_positions: the word piece each of them sits on")
        return
    _check_integers("entity_positions", positions)
    if _values_unseen(positions):
        return
    outside = (positions < 0) | (positions >= seq_len)
    if bool(outside.any()):
        row, slot = outside.nonzero()[0].tolist()
        raise InputError(
            f"entity_positions lie in 0..{seq_len - 1} for {seq_len} word pieces, "
            f"got {int(positions[row, slot])} at example {row}, entity {slot}"
        )
    if mask is not None and bool(((mask != 0) & (mask != 1)).any()):
        raise InputError(f"entity_attention_mask is 0 or 1, got {mask[(mask != 0) & (mask != 1)][0].item()}")
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 and attention_mask.device.type == "cpu":
        padding = attention_mask.gather(1, positions.long()) == 0
        lost = padding if mask is None else padding & (mask != 0)
        if bool(lost.any()):
            row, slot = lost.nonzero()[0].tolist()
            raise InputError(
                f"entity {slot} of example {row} sits on piece {int(positions[row, slot])}, which attention_mask calls "
                f"padding: mask the entity too, or correct its position"
            )
    if embeds.device.type == "cpu" and not bool(torch.isfinite(embeds).all()):
        row, slot = (~torch.isfinite(embeds)).any(-1).nonzero()[0].tolist()
        raise InputError(f"the vector of example {row}, entity {slot} is not finite: look at the entity table")


def check_candidates(ids: Tensor | None, vectors: Tensor | None, *, no_entity: bool) -> None:
    """Candidates of the denoising entity auto-encoder: one list for the batch, each once."""
    if ids is not None and vectors is not None:
        raise InputError("give entity_candidate_ids or entity_candidates, not both")
    if vectors is not None and vectors.dim() != 2:
        raise InputError(f"entity_candidates have shape (num_candidates, entity_size), got {tuple(vectors.shape)}")
    if ids is None:
        return
    if ids.dim() != 1:
        raise InputError(f"entity_candidate_ids have shape (num_candidates,), got {tuple(ids.shape)}")
    _check_integers("entity_candidate_ids", ids)
    if _values_unseen(ids):
        return
    if no_entity and bool((ids == 0).any()):
        raise InputError(
            "entity_candidate_ids hold row 0, but 'no entity' is added by config.no_entity_candidate: leave 0 out"
        )
    rows, counts = ids.unique(return_counts=True)
    if bool((counts > 1).any()):
        raise InputError(
            f"entity_candidate_ids hold row {int(rows[counts > 1][0])} more than once: "
            f"two equal candidates share the probability of one, give each once"
        )


def check_spans(spans: Tensor | None, batch: int, num_spans: int, seq_len: int) -> None:
    """Spans of a task head: integers, not empty, inside the text."""
    if spans is None:
        raise InputError(
            f"this head reads {num_spans} marked spans an example: give spans, (batch, {num_spans}, 2) word pieces"
        )
    if tuple(spans.shape) != (batch, num_spans, 2):
        raise InputError(f"spans have shape (batch, num_spans, 2) = {(batch, num_spans, 2)}, got {tuple(spans.shape)}")
    _check_integers("spans", spans)
    if _values_unseen(spans):
        return
    wrong = (spans[..., 0] < 0) | (spans[..., 0] >= spans[..., 1]) | (spans[..., 1] > seq_len)
    if bool(wrong.any()):
        row, slot = wrong.nonzero()[0].tolist()
        raise InputError(
            f"a span lies in 0..{seq_len} word pieces with first < behind, got "
            f"{spans[row, slot].tolist()} at example {row}, span {slot}"
        )


def check_targets(logits: Tensor, labels: Tensor, problem_type: str) -> None:
    """Float targets of the logits' shape, finite; of several labels between 0 and 1."""
    if logits.shape != labels.shape:
        raise InputError(f"labels of a {problem_type} have shape {tuple(logits.shape)}, got {tuple(labels.shape)}")
    if _values_unseen(labels):
        return
    if not bool(torch.isfinite(labels).all()):
        raise InputError(f"labels of a {problem_type} are finite numbers, got {labels[~torch.isfinite(labels)][0]}")
    if problem_type == "multi_label_classification":
        low, high = (float(bound) for bound in labels.aminmax())
        if low < 0 or high > 1:
            raise InputError(
                f"labels of a multi_label_classification lie in 0..1, got {low if low < 0 else high:g}: "
                f"one column a label, 1 where it holds"
            )


def check_range(name: str, values: Tensor, size: int, reason: str) -> None:
    """values: integers in 0..size-1."""
    if _values_unseen(values):
        return
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high >= size:
        raise InputError(f"{name} lie in 0..{size - 1}, got {low if low < 0 else high}: {reason}?")


def _check_integers(name: str, values: Tensor) -> None:
    if values.is_floating_point() or values.is_complex():
        raise InputError(f"{name} are integers, got {values.dtype}")


def _values_unseen(values: Tensor) -> bool:
    return torch.compiler.is_compiling() or values.device.type != "cpu" or values.numel() == 0
