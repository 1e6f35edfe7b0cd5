"""What pre-training minimises, and how each part is measured on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ernie.inputs import IGNORED
from kg.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A loss that the pre-training model computes.

    label: the batch's tensor of targets, -100 where there is none. loss: from the model's output. scores:
    (output, batch) -> sums over the targets by name; divided by the number of targets they are held-out figures.
    """

    label: str
    loss: Callable[[Any], Tensor]
    scores: Callable[[Any, Mapping[str, Tensor]], dict[str, float]]

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Targets in a batch."""
        return int((batch[self.label] != IGNORED).sum()) if self.label in batch else 0


def mlm_scores(output: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """accuracy: the true piece has the highest logit."""
    labels = batch["labels"]
    return {"accuracy": float((output.logits.argmax(-1) == labels[labels != IGNORED]).sum())}


def nsp_scores(output: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    labels = batch["next_sentence_label"]
    right = output.seq_relationship_logits.argmax(-1) == labels
    return {"accuracy": float(right[labels != IGNORED].sum())}


def dea_scores(output: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """accuracy and mrr of the true entity among the candidates and "no entity", and what guessing would reach.

    Equal logits share their places: the mean of 1/rank over the tied places, so that vectors which tell
    nothing score exactly chance. `hidden_…` are the same over mentions whose entity the model was not shown.
    """
    labels = batch["entity_labels"]
    real = labels != IGNORED
    logits, targets = output.entity_logits[real], labels[real]
    true = logits.gather(1, targets[:, None])
    above, tied = (logits > true).sum(1), (logits == true).sum(1)
    harmonic = torch.cat([torch.zeros(1), (1.0 / torch.arange(1, logits.shape[1] + 1)).cumsum(0)]).to(logits)
    reciprocal = (harmonic[above + tied] - harmonic[above]) / tied
    right = (above == 0) / tied
    hidden = batch["entity_attention_mask"][real] == 0
    number = logits.shape[1]
    return {
        "accuracy": float(right.sum()),
        "mrr": float(reciprocal.sum()),
        "chance": len(targets) / number,
        "mrr_chance": len(targets) * float(harmonic[-1]) / number,
        "hidden_accuracy": float(right[hidden].sum()),
        "hidden_mrr": float(reciprocal[hidden].sum()),
        "hidden_chance": int(hidden.sum()) / number,
        "hidden": int(hidden.sum()),
    }


OBJECTIVES: dict[str, Objective] = {
    "mlm": Objective(label="labels", loss=lambda output: output.mlm_loss, scores=mlm_scores),
    "nsp": Objective(label="next_sentence_label", loss=lambda output: output.nsp_loss, scores=nsp_scores),
    "dea": Objective(label="entity_labels", loss=lambda output: output.dea_loss, scores=dea_scores),
}
"""Masked words, next sentence, denoised entities (Zhang et al. 2019, 3.4)."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveWeights:
    """Weight of each loss in the sum; 0 leaves it out."""

    mlm: float = 1.0
    """Masked-language modelling."""
    nsp: float = 1.0
    """Next-sentence prediction."""
    dea: float = 1.0
    """Denoising entity auto-encoder."""

    def __post_init__(self) -> None:
        weights = self.by_name()
        if min(weights.values()) < 0 or not any(weights.values()):
            raise InputError(f"objective weights must be at least 0 and one of them above, but are {weights}")

    def by_name(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in OBJECTIVES}


def compute_losses(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every objective's loss by name from one pass, and `loss`, their plain sum (the loop weighs them)."""
    output = model(**batch)
    losses = {name: objective.loss(output) for name, objective in OBJECTIVES.items()}
    return {**losses, "loss": torch.stack(list(losses.values())).sum()}


def count_targets(batch: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(objective.count(batch)) for name, objective in OBJECTIVES.items()}


class HeldOutScores:
    """Sums of losses and scores over batches, and at the end their means: `mlm_loss`, `dea_accuracy`, …"""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = dict.fromkeys(OBJECTIVES, 0)

    def add(self, output: Any, batch: Mapping[str, Tensor]) -> None:
        for name, objective in OBJECTIVES.items():
            count = objective.count(batch)
            if count == 0:
                continue
            self._counts[name] += count
            figures = {"loss": float(objective.loss(output)) * count, **objective.scores(output, batch)}
            for figure, value in figures.items():
                key = f"{name}_{figure}"
                self._sums[key] = self._sums.get(key, 0.0) + value

    def figures(self) -> dict[str, float]:
        """Means over the targets; an objective without any target on held-out text has no figure."""
        hidden = self._sums.get("dea_hidden", 0.0)
        figures = {}
        for key, value in self._sums.items():
            if key == "dea_hidden":
                continue
            among_hidden = key.startswith("dea_hidden_")
            count = hidden if among_hidden else self._counts[key.partition("_")[0]]
            if count:
                figures[key] = value / count
        return figures
