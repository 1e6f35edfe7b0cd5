"""The denoising entity auto-encoder (dEA): name the true entity of a mention among candidates."""

from __future__ import annotations

import torch

from ernie.losses.masked_lm import labelled_cross_entropy


def entity_logits(states: torch.Tensor, candidates: torch.Tensor, *, no_entity: bool) -> torch.Tensor:
    """Dot products of states with candidate vectors (Zhang et al. 2019, eq. 6, before the softmax).

    states: (..., entity_size); candidates: (num_candidates, entity_size). no_entity: append the zero vector "no
    entity", whose logit is always 0. Returns (..., num_candidates [+ 1]).
    """
    logits = states @ candidates.to(states.dtype).T
    if no_entity:
        logits = torch.cat([logits, logits.new_zeros(*logits.shape[:-1], 1)], dim=-1)
    return logits


def denoising_entity_loss(logits: torch.Tensor, entity_labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the aligned positions, kept, replaced and removed ones alike.

    logits: (batch, num_entities, num_candidates); entity_labels: (batch, num_entities), index of the true entity
    among the candidates, -100 ignored. A batch without any entity gives 0 with gradient 0, never NaN.
    """
    return labelled_cross_entropy(logits, entity_labels, name="entity_labels")
