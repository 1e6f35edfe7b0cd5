"""The tensors a model takes: shape, dtype, padding value and meaning, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """One tensor of a batch.

    axis: what is padded along dimension 1: word pieces (`tokens`), linked mentions (`entities`), or nothing (`none`,
        one value an example). padding: the value put there.
    """

    axis: Literal["tokens", "entities", "none"]
    dtype: torch.dtype
    padding: float
    meaning: str


IGNORED = -100
"""A label that takes no part in a loss."""

INPUTS: dict[str, ModelInput] = {
    "input_ids": ModelInput(
        axis="tokens",
        dtype=torch.long,
        padding=0,
        meaning="word-piece rows; the tokenizer's own padding id replaces 0",
    ),
    "attention_mask": ModelInput(axis="tokens", dtype=torch.long, padding=0, meaning="1 at a real word piece"),
    "token_type_ids": ModelInput(axis="tokens", dtype=torch.long, padding=0, meaning="0 first sentence, 1 second"),
    "entity_ids": ModelInput(
        axis="entities", dtype=torch.long, padding=0, meaning="rows of the entity table, row 0 is no entity"
    ),
    "entity_embeds": ModelInput(
        axis="entities",
        dtype=torch.float32,
        padding=0.0,
        meaning="(entity_size,) vectors in place of entity_ids",
    ),
    "entity_positions": ModelInput(
        axis="entities", dtype=torch.long, padding=0, meaning="index of the mention's first word piece"
    ),
    "entity_attention_mask": ModelInput(axis="entities", dtype=torch.long, padding=0, meaning="1 at a real entity"),
    "spans": ModelInput(
        axis="none",
        dtype=torch.long,
        padding=0,
        meaning="(num_spans, 2) of a task's marked spans: first word piece, and the piece behind the last",
    ),
    "labels": ModelInput(
        axis="tokens",
        dtype=torch.long,
        padding=IGNORED,
        meaning="word-piece targets of masked-language modelling",
    ),
    "next_sentence_label": ModelInput(
        axis="none", dtype=torch.long, padding=IGNORED, meaning="0 the true next sentence, 1 a random one"
    ),
    "entity_labels": ModelInput(
        axis="entities",
        dtype=torch.long,
        padding=IGNORED,
        meaning="index of the true entity among entity_candidate_ids",
    ),
}
