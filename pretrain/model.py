"""The model as pre-training sees it: ErnieForPreTraining's parts, run once for all objectives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from ernie.heads import ErnieForPreTraining
from ernie.inputs import IGNORED
from ernie.losses.denoising_entity import entity_logits

BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "entity_ids", "entity_attention_mask")


@dataclass
class PretrainingOutput(ModelOutput):
    """logits: (num_masked, vocab_size), in the order of `labels[labels != -100]`. seq_relationship_logits: (batch, 2).
    entity_logits: (batch, num_entities, num_candidates [+ 1 "no entity", last]). replacement_logits: (batch,
    num_entities), above 0 where another entity than the mention's own seems to be shown; None without that head.
    """

    logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    entity_logits: Tensor | None = None
    replacement_logits: Tensor | None = None


class ReplacementHead(nn.Module):
    """Is the entity shown at a mention the right one? (Xiong et al. 2020, WKLM, who replace the mention's text.)

    Reads the token state at the mention and the entity state there: GELU(dense([h; e])), then one number.
    """

    def __init__(self, *, hidden_size: int, entity_size: int, initializer_range: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size + entity_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1)
        for layer in (self.dense, self.score):
            nn.init.normal_(layer.weight, std=initializer_range)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, entities: Tensor) -> Tensor:
        """(batch, num_entities, hidden_size), (batch, num_entities, entity_size) -> (batch, num_entities)."""
        return self.score(nn.functional.gelu(self.dense(torch.cat([tokens, entities], dim=-1)))).squeeze(-1)


class PretrainingModel(nn.Module):
    """An ErnieForPreTraining, and the heads that only pre-training needs."""

    def __init__(self, ernie: ErnieForPreTraining, *, replacement: bool = False) -> None:
        super().__init__()
        self.ernie = ernie
        config = ernie.config
        self.replacement = (
            ReplacementHead(
                hidden_size=config.hidden_size,
                entity_size=config.entity_size,
                initializer_range=config.initializer_range,
            )
            if replacement
            else None
        )

    def forward(
        self, *, labels: Tensor, entity_positions: Tensor, entity_candidate_ids: Tensor, **inputs: Tensor
    ) -> PretrainingOutput:
        """inputs: those of BERT_INPUTS; without entity_ids the text is read alone, and still asked about its mentions.

        Word-piece logits are computed where `labels` ask for them only: 85 % of the positions are never looked at.
        """
        heads = self.ernie.cls
        given = "entity_ids" in inputs
        outputs = self.ernie.bert(**inputs, entity_positions=entity_positions if given else None)
        hidden = outputs.last_hidden_state
        at_mentions = hidden.gather(1, entity_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        candidates = self.ernie.entity_rows(entity_candidate_ids)
        replaced = None
        if self.replacement is not None and given:
            replaced = self.replacement(at_mentions, outputs.entity_last_hidden_state)
        return PretrainingOutput(
            logits=heads.predictions(hidden[labels != IGNORED]),
            seq_relationship_logits=heads.seq_relationship(outputs.pooler_output),
            entity_logits=entity_logits(
                heads.predictions_ent(at_mentions), candidates, no_entity=self.ernie.config.no_entity_candidate
            ),
            replacement_logits=replaced,
        )

    def read(self, batch: dict[str, Tensor]) -> PretrainingOutput:
        """`forward` of a batch that may hold more than the model takes."""
        return self(**model_inputs(batch))


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model takes of a batch."""
    wanted = (*BERT_INPUTS, "labels", "entity_positions", "entity_candidate_ids")
    return {name: batch[name] for name in wanted if name in batch}
