"""Heads on ErnieModel: pre-training, and the tasks that read the pooled [CLS]."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils.generic import ModelOutput, can_return_tuple

from ernie.checks import check_candidates, check_spans, check_targets
from ernie.configuration import ErnieConfig
from ernie.errors import InputError
from ernie.inputs import IGNORED
from ernie.losses.denoising_entity import denoising_entity_loss, entity_logits
from ernie.losses.masked_lm import labelled_cross_entropy, masked_lm_loss
from ernie.modeling import ErnieModel, ErniePreTrainedModel, with_model_inputs


@dataclass
class ErnieForPreTrainingOutput(ModelOutput):
    """loss: mlm_loss + nsp_loss + dea_loss of those whose labels were given, weights 1.
    num_entity_targets: int64 scalar, how many entities dea_loss is the mean over; of none it is 0 with gradient 0.
    logits: (batch, seq_len, vocab_size); with labels, those of the masked positions only, (num_masked, vocab_size),
        in the order of `labels[labels != -100]`. Under torch.compile always of all positions.
    seq_relationship_logits: (batch, 2), 0 the true next sentence.
    entity_logits: (batch, num_entities, num_candidates [+ 1 "no entity", last]).
    """

    loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    nsp_loss: torch.Tensor | None = None
    dea_loss: torch.Tensor | None = None
    num_entity_targets: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    seq_relationship_logits: torch.Tensor | None = None
    entity_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    entity_hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    entity_attentions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class ErnieClassifierOutput(ModelOutput):
    """loss: scalar when labels were given. logits: (batch, num_labels), or (batch, seq_len, num_labels) for tokens."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    entity_hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    entity_attentions: tuple[torch.Tensor | None, ...] | None = None


class PredictionTransform(nn.Module):
    """LayerNorm(act(dense(x)))."""

    def __init__(self, *, in_size: int, out_size: int, hidden_act: str, layer_norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, out_size)
        self.act = ACT2FN[hidden_act]
        self.LayerNorm = nn.LayerNorm(out_size, eps=layer_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.act(self.dense(states)))


class MaskedLMHead(nn.Module):
    """Word-piece logits of token states; the decoder is the word embedding, transposed."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.transform = PredictionTransform(
            in_size=config.hidden_size,
            out_size=config.hidden_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> (..., vocab_size)."""
        return self.decoder(self.transform(states))


class EntityHead(nn.Module):
    """Token states into the space of the entity vectors.

    The paper's eq. 6 has a linear map here; the first implementation, which we follow, a dense layer with activation
    and LayerNorm.
    """

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.transform = PredictionTransform(
            in_size=config.hidden_size,
            out_size=config.entity_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> (..., entity_size)."""
        return self.transform(states)


class PreTrainingHeads(nn.Module):
    """Masked words, next sentence, denoised entities; names as in the first release."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__()
        self.predictions = MaskedLMHead(config)
        self.predictions_ent = EntityHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class ErnieForPreTraining(ErniePreTrainedModel):
    """MLM + NSP + dEA on one encoder."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__(config)
        self.bert = ErnieModel(config)
        self.cls = PreTrainingHeads(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @with_model_inputs
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        entity_positions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        next_sentence_label: torch.Tensor | None = None,
        entity_labels: torch.Tensor | None = None,
        entity_candidate_ids: torch.Tensor | None = None,
        entity_candidates: torch.Tensor | None = None,
        **inputs: Any,
    ) -> ErnieForPreTrainingOutput:
        """inputs: those of ErnieModel.

        labels (batch, seq_len), next_sentence_label (batch,), entity_labels (batch, num_entities): -100 ignored.
        entity_labels index the candidates, given as table rows entity_candidate_ids (num_candidates,) without row 0,
        or as vectors entity_candidates (num_candidates, entity_size), projected where entities are. An entity that
        was removed for denoising (entity_ids 0, masked) keeps its position and its label.
        """
        given = inputs.get("entity_ids") is not None or inputs.get("entity_embeds") is not None
        # Positions alone ask a text, without its entities, which entity is there.
        outputs = self.bert(input_ids, entity_positions=entity_positions if given else None, **inputs)
        hidden, order_logits = outputs.last_hidden_state, self.cls.seq_relationship(outputs.pooler_output)
        result = ErnieForPreTrainingOutput(
            seq_relationship_logits=order_logits,
            hidden_states=outputs.hidden_states,
            entity_hidden_states=outputs.entity_hidden_states,
            attentions=outputs.attentions,
            entity_attentions=outputs.entity_attentions,
        )
        result.logits, result.mlm_loss = self._masked_lm(hidden, labels)
        if next_sentence_label is not None:
            result.nsp_loss = labelled_cross_entropy(order_logits, next_sentence_label, name="next_sentence_label")
        candidates = self._candidates(entity_candidate_ids, entity_candidates)
        if candidates is not None:
            result.entity_logits = self._entity_logits(hidden, entity_positions, candidates)
        if entity_labels is not None:
            if result.entity_logits is None:
                raise InputError("entity_labels need entity_candidate_ids or entity_candidates to choose among")
            result.dea_loss = denoising_entity_loss(result.entity_logits, entity_labels)
            result.num_entity_targets = (entity_labels != IGNORED).sum()
        parts = [part for part in (result.mlm_loss, result.nsp_loss, result.dea_loss) if part is not None]
        result.loss = torch.stack(parts).sum() if parts else None
        return result

    def _masked_lm(self, hidden: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of all positions; with labels, of the masked ones only (half the time of a small model's step)."""
        if labels is None:
            return self.cls.predictions(hidden), None
        if labels.shape != hidden.shape[:2]:
            raise InputError(
                f"labels have shape (batch, seq_len) = {tuple(hidden.shape[:2])}, got {tuple(labels.shape)}"
            )
        if torch.compiler.is_compiling():  # the number of masked positions would be a shape no graph knows
            logits = self.cls.predictions(hidden)
            return logits, masked_lm_loss(logits, labels)
        masked = labels != IGNORED
        logits = self.cls.predictions(hidden[masked])
        return logits, masked_lm_loss(logits, labels[masked])

    def _candidates(self, ids: torch.Tensor | None, vectors: torch.Tensor | None) -> torch.Tensor | None:
        """Candidate vectors (num_candidates, entity_size), None when none were given."""
        check_candidates(ids, vectors, no_entity=self.config.no_entity_candidate)
        if ids is None:
            return None if vectors is None else self.entity_input(vectors.to(self.device))
        return self.entity_rows(ids)

    def _entity_logits(
        self, hidden: torch.Tensor, positions: torch.Tensor | None, candidates: torch.Tensor
    ) -> torch.Tensor:
        """(batch, num_entities, num_candidates [+ 1]) of the token states at the entities' positions."""
        if positions is None:
            positions = hidden.new_zeros((hidden.shape[0], 0), dtype=torch.long)
        index = positions.long().unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        states = self.cls.predictions_ent(hidden.gather(1, index))
        return entity_logits(states, candidates, no_entity=self.config.no_entity_candidate)


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """The loss of `problem_type`, mean over the batch.

    | problem_type | logits | labels | loss |
    |---|---|---|---|
    | single_label_classification | (batch, num_labels) | (batch,) int, -100 ignored | cross entropy |
    | multi_label_classification | (batch, num_labels) | (batch, num_labels) of 0 and 1 | binary cross entropy |
    | regression | (batch, 1) | (batch,) or (batch, 1) numbers | squared error |
    | regression | (batch, n) | (batch, n) numbers | squared error |
    """
    if problem_type == "single_label_classification":
        if labels.is_floating_point() or labels.dim() != 1:
            raise InputError(
                f"labels of a single_label_classification are integers of shape (batch,), got {labels.dtype} "
                f"{tuple(labels.shape)}: several labels a text are config.problem_type='multi_label_classification', "
                f"numbers 'regression'"
            )
        return labelled_cross_entropy(logits, labels)
    if problem_type == "regression" and labels.dim() == 1 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    check_targets(logits, labels, problem_type)
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    assert problem_type == "regression", "checked when the model was built"
    return F.mse_loss(logits, labels.to(logits.dtype))


PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def _check_head(config: ErnieConfig) -> None:
    if config.problem_type is not None and config.problem_type not in PROBLEM_TYPES:
        raise InputError(f"problem_type is one of {', '.join(PROBLEM_TYPES)}, got {config.problem_type!r}")
    if not config.num_labels:
        raise InputError(f"a task head needs num_labels of at least 1, got {config.num_labels}")
    if config.num_labels == 1 and config.problem_type in (None, "single_label_classification"):
        raise InputError("one label is no choice, its loss is 0 whatever the answer: num_labels of at least 2, got 1")


class SpanPooler(nn.Module):
    """tanh(dense(the states of an example's spans, side by side)): (batch, hidden_size).

    pooling: `start` reads each span's first word piece (Soares et al. 2019, "entity start"), `mean` all its pieces.
    """

    def __init__(self, *, hidden_size: int, num_spans: int, pooling: str) -> None:
        super().__init__()
        self.pooling, self.num_spans = pooling, num_spans
        self.dense = nn.Linear(num_spans * hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor, spans: torch.Tensor | None) -> torch.Tensor:
        """hidden: (batch, seq_len, hidden_size). spans: (batch, num_spans, 2), see `ernie.inputs`."""
        check_spans(spans, hidden.shape[0], self.num_spans, hidden.shape[1])
        assert spans is not None, "refused by check_spans"
        first, behind = spans[..., 0], spans[..., 1]
        if self.pooling == "start":
            states = hidden.gather(1, first.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        else:
            place = torch.arange(hidden.shape[1], device=hidden.device)
            inside = (place >= first.unsqueeze(-1)) & (place < behind.unsqueeze(-1))
            states = inside.to(hidden.dtype) @ hidden / (behind - first).unsqueeze(-1).to(hidden.dtype)
        return torch.tanh(self.dense(states.flatten(1)))


class PooledClassifier(ErniePreTrainedModel):
    """Linear(dropout(pooled [CLS], or the states of marked spans where config.pooling says so)).

    config.num_labels outputs; config.problem_type chooses the loss.
    """

    @staticmethod
    def problem_type_of(config: ErnieConfig) -> str:
        """The problem type of a config that names none."""
        return "single_label_classification"

    def __init__(self, config: ErnieConfig) -> None:
        if config.problem_type is None:
            config = copy.deepcopy(config)  # the caller's may build a model of another kind
            config.problem_type = self.problem_type_of(config)  # pyrefly: ignore[bad-assignment]
        _check_head(config)
        super().__init__(config)
        self.bert = ErnieModel(config)
        self.span_pooler = None
        if config.pooling != "cls":
            self.span_pooler = SpanPooler(
                hidden_size=config.hidden_size, num_spans=config.num_spans, pooling=config.pooling
            )
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 0))
        self.post_init()

    @with_model_inputs
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        spans: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **inputs: Any,
    ) -> ErnieClassifierOutput:
        """inputs: those of ErnieModel. spans: (batch, num_spans, 2), for config.pooling `start` and `mean`; a `cls`
        head does not look at them. labels: see `classification_loss`."""
        outputs = self.bert(input_ids, **inputs)
        if self.span_pooler is None:
            pooled = outputs.pooler_output
        else:
            pooled = self.span_pooler(outputs.last_hidden_state, spans)
        logits = self.classifier(self.dropout(pooled))
        problem_type = str(self.config.problem_type)
        return ErnieClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, problem_type),
            logits=logits,
            hidden_states=outputs.hidden_states,
            entity_hidden_states=outputs.entity_hidden_states,
            attentions=outputs.attentions,
            entity_attentions=outputs.entity_attentions,
        )


class ErnieForEntityTyping(PooledClassifier):
    """Types of a marked mention; several may hold at once unless config.problem_type says otherwise."""

    @staticmethod
    def problem_type_of(config: ErnieConfig) -> str:
        return "multi_label_classification"


class ErnieForRelationClassification(PooledClassifier):
    """The relation between two marked mentions."""


class ErnieForSequenceClassification(PooledClassifier):
    """A label, labels or a number for a text or a pair of texts; with one label a number, as in transformers."""

    @staticmethod
    def problem_type_of(config: ErnieConfig) -> str:
        return "regression" if config.num_labels == 1 else "single_label_classification"


class ErnieForTokenClassification(ErniePreTrainedModel):
    """One label a word piece: labels (batch, seq_len), -100 ignored."""

    def __init__(self, config: ErnieConfig) -> None:
        _check_head(config)
        super().__init__(config)
        self.bert = ErnieModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 0))
        self.post_init()

    @with_model_inputs
    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor | None = None, *, labels: torch.Tensor | None = None, **inputs: Any
    ) -> ErnieClassifierOutput:
        """inputs: those of ErnieModel."""
        outputs = self.bert(input_ids, **inputs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        return ErnieClassifierOutput(
            loss=None if labels is None else labelled_cross_entropy(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            entity_hidden_states=outputs.entity_hidden_states,
            attentions=outputs.attentions,
            entity_attentions=outputs.entity_attentions,
        )


def _classifier_dropout(config: ErnieConfig) -> nn.Dropout:
    given = config.classifier_dropout
    return nn.Dropout(config.hidden_dropout_prob if given is None else given)
