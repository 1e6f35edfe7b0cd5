"""What pre-training minimises, and how each part is measured on training and held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie.inputs import IGNORED
from kg.errors import InputError
from pretrain.model import model_inputs

Batch = Mapping[str, Tensor]
Sums = dict[str, tuple[float, float]]
"""Figure -> (sum over its targets, number of its targets)."""


class Measured(NamedTuple):
    """loss: mean over the targets, with gradient; 0 without any. sums: figures of the same pass."""

    loss: Tensor
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A loss of the pre-training model.

    label: the batch's tensor of targets, -100 where there is none. count: targets, by which the loss is a mean.
    measure: (model output, batch) -> loss and figures.
    """

    label: str
    count: Callable[[Batch], float]
    measure: Callable[[Any, Batch], Measured]


def _labelled(name: str) -> Callable[[Batch], float]:
    return lambda batch: float((batch[name] != IGNORED).sum()) if name in batch else 0.0


def _wide(logits: Tensor) -> Tensor:
    """Half precision as float32; a softmax over thousands needs it."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def measure_mlm(output: Any, batch: Batch) -> Measured:
    """accuracy: the true piece has the highest logit (a k-th where it shares it with k - 1 others, as bf16's do);
    `mention_…`: the same where the piece belongs to a mention."""
    masked = batch["labels"] != IGNORED
    targets, of_mention = batch["labels"][masked], batch["mention_pieces"][masked]
    losses = F.cross_entropy(_wide(output.logits), targets, reduction="none")
    right = _highest(output.logits.detach(), targets)
    mentions = float(of_mention.sum())
    sums = {
        "mlm_accuracy": (float(right.sum()), len(targets)),
        "mlm_mention_loss": (float(losses.detach()[of_mention].double().sum()), mentions),
        "mlm_mention_accuracy": (float(right[of_mention].sum()), mentions),
    }
    return Measured(losses.sum() / max(1, len(targets)), sums)


def _highest(logits: Tensor, targets: Tensor) -> Tensor:
    """(rows, classes), (rows,) -> (rows,): 1, or a k-th of a tie, where the target has the highest logit.

    A maximum over a vocabulary and a count of the few ties take a small part of `argmax`'s time.
    """
    best = logits.amax(-1, keepdim=True)
    hits = (logits.gather(1, targets.unsqueeze(1)) == best).squeeze(1)
    right = torch.zeros(len(logits), device=logits.device)
    right[hits] = 1.0 / (logits[hits] == best[hits]).sum(-1).float()
    return right


def measure_nsp(output: Any, batch: Batch) -> Measured:
    labels = batch["next_sentence_label"]
    asked = labels != IGNORED
    count = int(asked.sum())
    logits = output.seq_relationship_logits
    loss = F.cross_entropy(_wide(logits), labels, ignore_index=IGNORED, reduction="sum") / max(1, count)
    return Measured(loss, {"nsp_accuracy": (float((logits.argmax(-1) == labels)[asked].sum()), count)})


def measure_dea(output: Any, batch: Batch) -> Measured:
    """Mean cross entropy over mentions, each with its weight; accuracy and MRR of the true entity among the candidates
    and "no entity", and what guessing would reach.

    Equal logits share their places: the mean of 1/rank over the tied places, so that vectors which tell
    nothing score exactly chance. `dea_hidden_…` are the same over mentions whose entity the model was not shown.
    """
    real = batch["entity_labels"] != IGNORED
    logits, targets, weights = output.entity_logits[real], batch["entity_labels"][real], batch["entity_weights"][real]
    losses = F.cross_entropy(_wide(logits), targets, reduction="none")
    weights = weights.to(losses.dtype)
    loss = (losses * weights).sum() / weights.sum().clamp(min=1e-12)
    right, reciprocal = _places(logits.detach(), targets)
    count, number = len(targets), logits.shape[1]
    harmonic = sum(1.0 / place for place in range(1, number + 1))
    shown = batch.get("entity_attention_mask")
    hidden = torch.ones_like(targets, dtype=torch.bool) if shown is None else shown[real] == 0
    num_hidden = int(hidden.sum())
    return Measured(
        loss,
        {
            "dea_accuracy": (float(right.sum()), count),
            "dea_mrr": (float(reciprocal.sum()), count),
            "dea_chance": (count / max(1, number), count),
            "dea_mrr_chance": (count * harmonic / max(1, number), count),
            "dea_hidden_accuracy": (float(right[hidden].sum()), num_hidden),
            "dea_hidden_mrr": (float(reciprocal[hidden].sum()), num_hidden),
            "dea_hidden_chance": (num_hidden / max(1, number), num_hidden),
        },
    )


def _places(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each target stands first, and the inverse of its place, ties shared; both (num_targets,)."""
    true = logits.gather(1, targets[:, None])
    above, tied = (logits > true).sum(1), (logits == true).sum(1)
    places = torch.arange(1, logits.shape[1] + 1, dtype=torch.float64, device=logits.device)
    harmonic = torch.cat([places.new_zeros(1), (1.0 / places).cumsum(0)])
    return (above == 0) / tied.double(), (harmonic[above + tied] - harmonic[above]) / tied


def measure_replacement(output: Any, batch: Batch) -> Measured:
    """Binary cross entropy; accuracy, and the shares that name the replaced (`recall`) and the true ones rightly."""
    labels = batch["replacement_labels"]
    asked = labels != IGNORED
    logits = _wide(output.replacement_logits[asked])
    targets = labels[asked].to(logits.dtype)
    count = len(targets)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(1, count)
    right, replaced = ((logits.detach() > 0) == (targets > 0)).float(), targets > 0
    return Measured(
        loss,
        {
            "replacement_accuracy": (float(right.sum()), count),
            "replacement_recall": (float(right[replaced].sum()), float(replaced.sum())),
            "replacement_specificity": (float(right[~replaced].sum()), float((~replaced).sum())),
        },
    )


def _entity_weight(batch: Batch) -> float:
    """Mentions, each with its weight."""
    if "entity_labels" not in batch:
        return 0.0
    return float(batch["entity_weights"][batch["entity_labels"] != IGNORED].double().sum())


OBJECTIVES: dict[str, Objective] = {
    "mlm": Objective(label="labels", count=_labelled("labels"), measure=measure_mlm),
    "nsp": Objective(label="next_sentence_label", count=_labelled("next_sentence_label"), measure=measure_nsp),
    "dea": Objective(label="entity_labels", count=_entity_weight, measure=measure_dea),
    "replacement": Objective(
        label="replacement_labels", count=_labelled("replacement_labels"), measure=measure_replacement
    ),
}
"""Masked words, next sentence, denoised entities (Zhang et al. 2019, 3.4), replaced entities (Xiong et al. 2020)."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveWeights:
    """Weight of each loss in the sum; 0 leaves it out of training."""

    mlm: float = 1.0
    """Masked-language modelling."""
    nsp: float = 1.0
    """Next-sentence prediction."""
    dea: float = 1.0
    """Denoising entity auto-encoder."""
    replacement: float = 0.0
    """Is the entity shown at a mention the right one?"""

    def __post_init__(self) -> None:
        weights = self.by_name()
        if min(weights.values()) < 0 or not any(weights.values()):
            raise InputError(f"objective weights must be at least 0 and one of them above, but are {weights}")

    def by_name(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in OBJECTIVES}


class Objectives:
    """The objectives of one training.

    weights: those of weight 0 are measured all the same, except `replacement`, whose head is then missing.
    """

    def __init__(self, weights: ObjectiveWeights) -> None:
        self.weights = weights.by_name()
        self.table = {n: o for n, o in OBJECTIVES.items() if n != "replacement" or self.weights[n] > 0}

    def count(self, batch: Batch) -> dict[str, float]:
        """Targets by objective."""
        return {name: objective.count(batch) for name, objective in self.table.items()}

    def measure(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Sums]:
        """Losses by name and `loss`, their plain sum (the loop weighs them); and the figures, all from one pass."""
        output = model(**model_inputs(batch))
        measured = {name: objective.measure(output, batch) for name, objective in self.table.items()}
        losses = {name: one.loss for name, one in measured.items()}
        sums = {name: value for one in measured.values() for name, value in one.sums.items()}
        return {**losses, "loss": torch.stack(list(losses.values())).sum()}, sums


class HeldOutScores:
    """Sums of losses and figures over batches, and at the end their means: `mlm_loss`, `dea_accuracy`, …"""

    def __init__(self, objectives: Objectives) -> None:
        self.objectives = objectives
        self._sums: dict[str, list[float]] = {}

    def add(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        losses, sums = self.objectives.measure(model, batch)
        for name, count in self.objectives.count(batch).items():
            if count:
                sums[f"{name}_loss"] = (float(losses[name]) * count, count)
        for name, (total, count) in sums.items():
            kept = self._sums.setdefault(name, [0.0, 0.0])
            kept[0], kept[1] = kept[0] + total, kept[1] + count

    def figures(self) -> dict[str, float]:
        """Means over the targets; what had no target on held-out text has no figure."""
        return {name: total / count for name, (total, count) in self._sums.items() if count}
