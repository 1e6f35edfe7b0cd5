"""How a task model learns: rates by depth, weighted classes, and the shared loop."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie.training import ExampleBatches, TrainingResult, train
from ernie.training.optimisation import ParameterGroups
from finetune.data import collate, lengths_of
from finetune.evaluation import evaluate
from finetune.metrics import UNSEEN
from kg.progress import progress

if TYPE_CHECKING:
    from finetune.prepared import Task
    from finetune.run import FinetuneConfig

LAYER = re.compile(r"\.encoder\.layer\.(\d+)\.")
ENTITY_PARTS = ("_ent.", ".entities.")


def fit(config: FinetuneConfig, task: Task, *, seed: int, checkpoints: Path) -> TrainingResult:
    """Trains the task's model in place; it ends with the weights that dev liked best."""
    features = task.features["train"]
    batches = ExampleBatches(
        features,
        lengths=lengths_of(features),
        batch_size=config.training.batch_size,
        seed=seed,
        collate=lambda chosen, epoch, rows: collate(chosen, pad_token_id=task.pad_token_id),
    )

    def score_dev(model: nn.Module) -> dict[str, float]:
        settings = {"spec": task.spec, "batch_size": config.eval_batch_size, "pad_token_id": task.pad_token_id}
        return evaluate(model, task.features["dev"], **settings).metrics

    with progress(f"fine-tuning {task.spec.name}", config.training.max_steps) as shown:

        def on_step(step: int, losses: dict[str, float]) -> None:
            shown.advance(step - shown.done, loss=losses["loss"])

        return train(
            task.model,
            batches=batches,
            compute_losses=losses_of(config, task),
            config=config.training,
            seed=seed,
            checkpoint_folder=checkpoints,
            evaluate=score_dev,
            on_step=on_step,
            parameter_groups=parameter_groups(
                task.model,
                learning_rate=config.training.learning_rate,
                weight_decay=config.training.weight_decay,
                layer_decay=config.layer_decay,
                head_learning_rate=config.head_learning_rate,
                entity_learning_rate=config.entity_learning_rate,
            ),
            keep_best=task.spec.primary_metric,
            patience=config.patience,
        )


def losses_of(config: FinetuneConfig, task: Task) -> Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]:
    """The model's own loss, or cross entropy with balanced classes."""
    if config.class_weights == "none":
        return lambda model, batch: {"loss": model(**batch).loss}
    weights = balanced_weights(task.features["train"], num_labels=len(task.label_to_id))

    def compute(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        return {"loss": weighted_cross_entropy(logits, batch["labels"], weights.to(logits.device))}

    return compute


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy in which a label counts as much as its weight says.

    logits: (..., num_labels). labels: (...), -100 ignored. weights: (num_labels,). 0 where every label is ignored.
    """
    flat, wanted = logits.flatten(0, -2).float(), labels.flatten()
    total = F.cross_entropy(flat, wanted, weight=weights, ignore_index=UNSEEN, reduction="sum")
    counted = weights[wanted[wanted != UNSEEN]].sum()
    return total / counted.clamp(min=torch.finfo(counted.dtype).tiny)


def balanced_weights(features: Sequence[Mapping[str, Any]], *, num_labels: int) -> Tensor:
    """float32 (num_labels,): each class weighs the same in sum, the mean over examples is 1 (scikit-learn's rule)."""
    rows = np.concatenate([np.atleast_1d(feature["labels"]) for feature in features])
    counts = np.bincount(rows[rows != UNSEEN], minlength=num_labels)
    return torch.from_numpy((counts.sum() / (num_labels * np.maximum(counts, 1))).astype(np.float32))


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_learning_rate: float = 0.0,
    entity_learning_rate: float = 0.0,
) -> ParameterGroups:
    """Groups by rate and decay: a layer trains at `layer_decay` times the rate of the one above it.

    The last layer has `learning_rate`, the embeddings the least. head_learning_rate: of all above the encoder;
    entity_learning_rate: of the knowledge layers' entity side, whatever its depth; 0 takes `learning_rate`. Biases and
    LayerNorms (one-dimensional) do not decay.
    """
    named = list(model.named_parameters())
    top = max((int(m[1]) for name, _ in named if (m := LAYER.search(name))), default=-1)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        layer = LAYER.search(name)
        if any(part in name for part in ENTITY_PARTS) and entity_learning_rate:
            rate = entity_learning_rate
        elif layer is not None:
            rate = learning_rate * layer_decay ** (top - int(layer[1]))
        elif ".embeddings." in name:
            rate = learning_rate * layer_decay ** (top + 1)
        else:
            rate = head_learning_rate or learning_rate
        groups.setdefault((rate, weight_decay if parameter.ndim >= 2 else 0.0), []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]
