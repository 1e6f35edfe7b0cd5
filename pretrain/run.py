"""The stage `pretrain run`: a BERT, instances and entity vectors in, a knowledge-enhanced model out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from ernie.collation import pad_batch
from ernie.conversion import FRESH_ON_BERT, ernie_from_bert
from ernie.entity_table import EntityTable
from ernie.heads import ErnieForPreTraining
from ernie.inputs import INPUTS
from ernie.tokenization import ErnieTokenizer
from ernie.training import ExampleBatches, TrainingConfig, TrainingResult, derived_seed, train
from ernie.training.optimisation import ParameterGroups, decay_groups
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError
from kg.progress import Progress, progress
from kg.sources import resolve_source, source_path
from pretrain.dataset import Instances
from pretrain.masking import MaskingRates, WordPieces, mask_batch
from pretrain.objectives import HeldOutScores, ObjectiveWeights, compute_losses, count_targets
from pretrain.prepare import STAGE as PREPARE
from pretrain.prepare import describe_entities, describe_tokenizer, load_tokenizer, read_entity_rows

STAGE = "pretrain run"
EVALUATION_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What to pre-train, on what, and how long."""

    instances: Path
    """Instances, made by `ernie-kg pretrain prepare`."""
    vectors: Path
    """Vectors artifact the instances' rows point into."""
    base: str
    """Folder of the BERT to start from, or `package:NAME/path`; its tokenizer made the instances."""
    output: Path
    """Folder to write: the model, its tokenizer, the manifest."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=200, batch_size=16, learning_rate=2e-4)
    )
    """Steps, batches, rates; learning_rate is that of the base's weights."""
    fresh_learning_rate: float = 1e-3
    """Peak rate of what starts fresh: the knowledge parts, and heads the base lacks."""
    objectives: ObjectiveWeights = field(default_factory=ObjectiveWeights)
    """Weights of the losses."""
    entity_masking: Literal["independent", "joint"] = "independent"
    """joint: an entity is hidden wherever a word piece of its mention is."""
    entity_control: Literal["true", "zero", "shuffled", "random"] = "true"
    """Vectors to train with; the others are controls that show what the true ones are worth."""
    layer_types: tuple[str, ...] | None = None
    """text, mix or fuse for every layer; none: the paper's proportions."""
    freeze_text_steps: int = 0
    """First steps in which only what starts fresh is trained."""
    dropout: float = 0.0
    """Dropout while pre-training (instances are seen about once); the saved config keeps the base's."""
    heldout_instances: int = 256
    """Held-out instances to measure on, drawn by the seed; 0 measures none."""
    seed: int = 0
    """Fresh weights, order, masking."""

    def inputs(self) -> dict[str, Path]:
        return {"instances": self.instances, "vectors": self.vectors, "base": source_path(self.base)}


def run(config: PretrainConfig) -> Path:
    """Pre-trains and writes a model folder that `AutoModel.from_pretrained` loads after `import ernie`.

    Goes on from the last checkpoint when it was interrupted. Held-out figures before and after, drawn with the same
    masks, stand in the manifest.

    Raises:
        InputError: instances, base and vectors do not belong together, or a setting is out of range.
    """
    _check(config)
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        open_artifact(config.instances, stage=PREPARE)
        open_artifact(config.vectors, stage="kg embed")
        train_set, dev_set = (Instances(config.instances / split) for split in ("train", "dev"))
        base = resolve_source(config.base)
        tokenizer = load_tokenizer(base, {})
        table = EntityTable.open(config.vectors)
        require_matching(train_set, tokenizer=tokenizer, table=table, entity_rows=read_entity_rows(config.vectors))
        model, saved_dropouts = _fresh_model(config, base, table)
        require_vocabulary(train_set, model.config.vocab_size, base)
        result = _train(model, train_set, dev_set, config, writer.path / "checkpoints")
        _save(model, tokenizer, saved_dropouts, writer)
        _report(result, train_set, dev_set, config, writer)
    return config.output


class PretrainingCollate:
    """Pads instances and masks them: (features, epoch, rows) -> batch.

    seed: of the masks. fixed_epoch: draw every epoch's masks as this one's (held-out text is always masked alike).
    """

    def __init__(
        self,
        instances: Instances,
        *,
        seed: int,
        entity_masking: Literal["independent", "joint"] = "independent",
        rates: MaskingRates | None = None,
        fixed_epoch: int | None = None,
    ) -> None:
        described = instances.described
        self.pad_token_id = described["pad_token_id"]
        self.special_ids = np.array(described["special_ids"])
        self.words = WordPieces.of(
            vocab_size=described["vocab_size"],
            mask_token_id=described["mask_token_id"],
            special_ids=described["special_ids"],
        )
        self.seed, self.entity_masking, self.fixed_epoch = seed, entity_masking, fixed_epoch
        self.rates = rates or MaskingRates()

    def __call__(self, features: list[dict[str, np.ndarray]], epoch: int, rows: np.ndarray) -> dict[str, Tensor]:
        inputs = [{name: value for name, value in f.items() if name in INPUTS} for f in features]
        batch = pad_batch(inputs, pad_token_id=self.pad_token_id)
        lengths = np.zeros(tuple(batch["entity_ids"].shape), dtype=np.int64)
        for row, feature in enumerate(features):
            lengths[row, : len(feature["entity_lengths"])] = feature["entity_lengths"]
        return mask_batch(
            batch,
            lengths,
            rows=rows,
            seed=self.seed,
            epoch=epoch if self.fixed_epoch is None else self.fixed_epoch,
            special_ids=self.special_ids,
            words=self.words,
            rates=self.rates,
            entity_masking=self.entity_masking,
        )


def require_matching(
    instances: Instances, *, tokenizer: ErnieTokenizer, table: EntityTable, entity_rows: dict[str, int]
) -> None:
    """
    Raises:
        InputError: the instances are empty, of another vocabulary or graph, or point past the end of the table.
    """
    remedy = f"run `ernie-kg {PREPARE}`"
    if len(instances) == 0:
        raise InputError(f"{instances.folder} holds no instance; {remedy} with other settings")
    described, own = instances.described, describe_tokenizer(tokenizer)
    if described["tokenizer_digest"] != own["tokenizer_digest"]:
        raise InputError(
            f"{instances.folder} was made with another vocabulary ({described['vocab_size']:,} pieces) than the base's "
            f"({own['vocab_size']:,}); {remedy} with this base as tokenizer"
        )
    highest = int(instances.arrays["entity_ids"].max(initial=0))
    if highest >= table.num_rows or described["num_entities"] != table.num_rows - 1:
        raise InputError(
            f"{instances.folder} names entity rows up to {highest:,} of {described['num_entities']:,} entities, the "
            f"vectors have {table.num_rows - 1:,}; {remedy} with these vectors"
        )
    if described["entities_digest"] != describe_entities(entity_rows)["entities_digest"]:
        raise InputError(
            f"{instances.folder} was made with vectors of other entities, or in another order; "
            f"{remedy} with these vectors"
        )


def require_vocabulary(instances: Instances, vocab_size: int, base: Path) -> None:
    """
    Raises:
        InputError: the model has no embedding for some of the instances' word pieces.
    """
    if instances.described["vocab_size"] > vocab_size:
        raise InputError(
            f"the tokenizer of {base} has {instances.described['vocab_size']:,} word pieces, its model only "
            f"{vocab_size:,} embeddings; the folder's files are not of one model"
        )


def starts_fresh(name: str) -> bool:
    """Whether a parameter of that name is not the base's: knowledge parts and heads."""
    return any(part in name for part in FRESH_ON_BERT)


def parameter_groups(model: nn.Module, config: PretrainConfig) -> ParameterGroups:
    """Base and fresh parameters at their own rates, matrices decaying and vectors not."""
    fresh = {id(p) for name, p in model.named_parameters() if starts_fresh(name)}
    groups: ParameterGroups = []
    for group in decay_groups(model, weight_decay=config.training.weight_decay):
        for of_base, rate in ((True, config.training.learning_rate), (False, config.fresh_learning_rate)):
            members = [p for p in group["params"] if (id(p) not in fresh) == of_base]
            if members:
                groups.append({**group, "params": members, "lr": rate})
    return groups


def heldout_evaluator(
    instances: Instances, *, limit: int, seed: int, entity_masking: Literal["independent", "joint"]
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that scores a model on at most `limit` held-out instances, each time the same ones masked alike."""
    chosen = np.random.Generator(np.random.Philox(derived_seed(seed, "held-out")))
    rows = np.sort(chosen.permutation(len(instances))[:limit])
    rows = rows[np.argsort(instances.lengths[rows], kind="stable")]
    collate = PretrainingCollate(
        instances, seed=derived_seed(seed, "held-out masks"), entity_masking=entity_masking, fixed_epoch=0
    )
    groups = [rows[i : i + EVALUATION_BATCH] for i in range(0, len(rows), EVALUATION_BATCH)]
    batches = [collate([instances[int(row)] for row in group], 0, group) for group in groups]

    def evaluate(model: nn.Module) -> dict[str, float]:
        scores = HeldOutScores()
        device = next(model.parameters()).device
        for batch in batches:
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            scores.add(model(**batch), batch)
        return scores.figures()

    return evaluate


def _fresh_model(config: PretrainConfig, base: Path, table: EntityTable) -> tuple[ErnieForPreTraining, dict[str, Any]]:
    """The model to train, and the base's dropouts, which the saved config gets back."""
    settings: dict[str, Any] = {
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(config.seed, "fresh weights"))
        model = ernie_from_bert(base, entity_size=table.entity_size, layer_types=config.layer_types, **settings)
    original = AutoConfig.from_pretrained(str(base))
    model.attach_entity_table(table.controlled(config.entity_control, config.seed))
    return model, {name: getattr(original, name) for name in settings}


def _train(
    model: ErnieForPreTraining,
    train_set: Instances,
    dev_set: Instances,
    config: PretrainConfig,
    checkpoints: Path,
) -> TrainingResult:
    collate = PretrainingCollate(
        train_set, seed=derived_seed(config.seed, "masks"), entity_masking=config.entity_masking
    )
    batches = ExampleBatches(
        train_set,
        lengths=train_set.lengths,
        batch_size=config.training.batch_size,
        seed=derived_seed(config.seed, "order"),
        collate=collate,
    )
    evaluate = None
    if config.heldout_instances and len(dev_set):
        evaluate = heldout_evaluator(
            dev_set, limit=config.heldout_instances, seed=config.seed, entity_masking=config.entity_masking
        )
    frozen = config.freeze_text_steps
    with progress("pre-training", config.training.max_steps) as shown:
        return train(
            model,
            batches=batches,
            compute_losses=compute_losses,
            config=config.training,
            seed=derived_seed(config.seed, "dropout"),
            checkpoint_folder=checkpoints,
            evaluate=evaluate,
            on_step=lambda step, figures: _show(shown, step, figures),
            parameter_groups=parameter_groups(model, config),
            count_targets=count_targets,
            loss_weights=config.objectives.by_name(),
            trainable_from=(lambda name: 0 if starts_fresh(name) else frozen) if frozen else None,
            evaluate_at_start=True,
        )


def _show(shown: Progress, step: int, figures: dict[str, float]) -> None:
    wanted = ("loss", "mlm", "nsp", "dea", "tokens_per_second")
    shown.advance(step - shown.done, **{name: figures[name] for name in wanted if name in figures})


def _save(
    model: ErnieForPreTraining,
    tokenizer: ErnieTokenizer,
    dropouts: dict[str, Any],
    writer: ArtifactWriter,
) -> None:
    for name, value in dropouts.items():
        setattr(model.config, name, value)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.save_pretrained(writer.path)
    tokenizer.save_pretrained(writer.path)
    shutil.rmtree(writer.path / "checkpoints")


def _report(
    result: TrainingResult,
    train_set: Instances,
    dev_set: Instances,
    config: PretrainConfig,
    writer: ArtifactWriter,
) -> None:
    seen = result.steps * config.training.batch_size * config.training.gradient_accumulation
    writer.counts.update(
        steps=result.steps,
        train_instances=len(train_set),
        heldout_instances=min(config.heldout_instances, len(dev_set)),
        batches_per_epoch=math.ceil(len(train_set) / config.training.batch_size),
    )
    evaluations = [{k: v for k, v in entry.items() if k != "step"} for entry in result.evaluations]
    writer.figures.update(
        curve=result.history,
        heldout_curve=result.evaluations,
        heldout_before=evaluations[0] if evaluations else None,
        heldout_after=evaluations[-1] if evaluations else None,
        epochs=seen / len(train_set),
        tokens_per_second=result.tokens_per_second,
        precision=result.precision.name,
        precision_reason=result.precision.reason,
        training_seconds=result.seconds,
        stopped_by=result.stopped_by,
        batch_size_used=min(config.training.batch_size, len(train_set)),
    )
    if evaluations:
        before, after = evaluations[0], evaluations[-1]
        parts = [
            f"{label} {before[key]:.2f} → {after[key]:.2f}"
            for label, key in (("MLM", "mlm_loss"), ("dEA", "dea_loss"))
            if key in before
        ]
        writer.headline = f"held-out loss {', '.join(parts)}"
    else:
        writer.headline = f"loss {result.history[-1]['loss']:.2f}, no held-out text"


def _check(config: PretrainConfig) -> None:
    if not 0 <= config.dropout < 1:
        raise InputError(f"dropout must lie in 0 … 1, but is {config.dropout}")
    if config.fresh_learning_rate <= 0:
        raise InputError(f"fresh_learning_rate must be above 0, but is {config.fresh_learning_rate}")
    if config.heldout_instances < 0 or config.freeze_text_steps < 0:
        raise InputError(
            f"heldout_instances and freeze_text_steps must be at least 0, but are {config.heldout_instances} and "
            f"{config.freeze_text_steps}"
        )
