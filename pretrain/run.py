"""The stage `pretrain run`: a BERT, instances and entity vectors in, a knowledge-enhanced model out."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from ernie.configuration import ErnieConfig
from ernie.conversion import FRESH_ON_BERT, ernie_from_bert
from ernie.entity_table import EntityTable
from ernie.heads import ErnieForPreTraining
from ernie.tokenization import ErnieTokenizer
from ernie.training import ExampleBatches, TrainingConfig, TrainingResult, derived_seed, train
from ernie.training.checkpointing import weights_of
from ernie.training.optimisation import ParameterGroups, decay_groups
from ernie.training.precision import measure_gflops
from ernie.training.processes import gathered
from kg.artifact import ArtifactWriter, open_artifact
from kg.errors import InputError
from kg.progress import Progress, progress
from kg.sources import resolve_source, source_path
from pretrain.checks import require_matching, require_vocabulary
from pretrain.collate import PretrainingCollate, words_of
from pretrain.dataset import Instances
from pretrain.evaluation import heldout_evaluator
from pretrain.flops import TextShape, training_flops
from pretrain.masking import EntityMasking, Masking, MaskingRates, MaskUnit, WordPieces
from pretrain.model import PretrainingModel
from pretrain.neighbours import Neighbours
from pretrain.objectives import Objectives, ObjectiveWeights
from pretrain.prepare import STAGE as PREPARE
from pretrain.prepare import load_tokenizer, read_entity_rows
from pretrain.shared_artifact import shared_artifact

STAGE = "pretrain run"
REPLACEMENT_HEAD = "replacement_head.safetensors"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What to pre-train, on what, and how long."""

    instances: Path
    """Instances, made by `ernie-kg pretrain prepare`."""
    vectors: Path
    """Vectors artifact the instances' rows point into."""
    base: str
    """Folder of the BERT or the pre-trained model of ours to start from, or `package:NAME/path`; its tokenizer made the
    instances."""
    random_weights: bool = False
    """Take of the base its shape and tokenizer only, and start from random weights."""
    output: Path
    """Folder to write: the model, its tokenizer, the manifest."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=200, batch_size=16, learning_rate=2e-4)
    )
    """Steps, batches, rates; learning_rate is that of the base's weights."""
    fresh_learning_rate: float = 1e-3
    """Peak rate of what starts fresh: the knowledge parts, and heads the base lacks."""
    layer_decay: float = 1.0
    """Factor on the base's rate for every layer further down, embeddings last; 1: one rate for all."""
    objectives: ObjectiveWeights = field(default_factory=ObjectiveWeights)
    """Weights of the losses."""
    rates: MaskingRates = field(default_factory=MaskingRates)
    """Shares of pieces and entities that are hidden, replaced or kept."""
    mask_unit: MaskUnit = "piece"
    """What is masked together: a piece, a whole word, or a whole mention (other words whole too)."""
    entity_masking: EntityMasking = "independent"
    """joint: an entity is hidden wherever a word piece of its mention is."""
    hard_negatives: int = 0
    """Nearest neighbours (faiss) of each entity of the batch that join dEA's candidates."""
    near_strangers: bool = False
    """Replace an entity by one of its neighbours, not by any other of the batch; needs hard_negatives."""
    weigh_links: bool = False
    """An entity counts in dEA by the probability of its link."""
    entity_control: Literal["true", "zero", "shuffled", "random", "shuffled_links", "absent"] = "true"
    """What knowledge to train with. The others are controls that show what it is worth: vectors of 0, exchanged among
    entities, or random; links that point to any entity of the corpus; no entities at all (set objectives.dea to 0)."""
    layer_types: tuple[str, ...] | None = None
    """text, mix or fuse for every layer; none: the paper's proportions."""
    freeze_text_steps: int = 0
    """First steps in which only what starts fresh is trained."""
    dropout: float = 0.0
    """Dropout while pre-training (instances are seen about once); the saved config keeps the base's."""
    heldout_instances: int = 256
    """Held-out instances to measure on, drawn by the seed; 0 measures none."""
    keep_best: str | None = None
    """Held-out figure by which the best weights are kept (`mlm_loss`, `dea_mrr` …; a loss is best when lowest); none:
    the last weights."""
    tracker: str = "auto"
    """Where curves go besides the manifest: tensorboard, wandb … (whatever accelerate knows), none; auto: tensorboard
    where it is installed. Files lie beside the output, in NAME.tracking."""
    seed: int = 0
    """Fresh weights, order, masking."""

    def inputs(self) -> dict[str, Path]:
        return {"instances": self.instances, "vectors": self.vectors, "base": source_path(self.base)}


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a training is put together from. fresh: whether the base's weights are another kind's (a BERT)."""

    model: PretrainingModel
    train_set: Instances
    dev_set: Instances
    words: WordPieces
    masking: Masking
    objectives: Objectives
    fresh: bool
    saved_dropouts: dict[str, Any]


def run(config: PretrainConfig) -> Path:
    """Pre-trains and writes a model folder that `AutoModel.from_pretrained` loads after `import ernie`.

    Goes on from the last checkpoint when it was interrupted. Held-out figures before and after, drawn with the same
    masks, stand in the manifest. Under `accelerate launch` or `torchrun` all processes call it and the first writes.

    Raises:
        InputError: instances, base and vectors do not belong together, or a setting is out of range.
    """
    _check(config)
    with shared_artifact(config, stage=STAGE) as writer:
        open_artifact(config.instances, stage=PREPARE)
        open_artifact(config.vectors, stage="kg embed")
        base = resolve_source(config.base)
        tokenizer = load_tokenizer(base, {})
        parts = _parts(config, base, tokenizer)
        result = _train(parts, config, writer.path / "checkpoints")
        _save(parts, tokenizer, writer)
        _report(result, parts, config, writer)
    return config.output


def _parts(config: PretrainConfig, base: Path, tokenizer: ErnieTokenizer) -> _Parts:
    train_set, dev_set = (Instances(config.instances / split) for split in ("train", "dev"))
    table, entity_rows = EntityTable.open(config.vectors), read_entity_rows(config.vectors)
    require_matching(
        train_set,
        tokenizer=tokenizer,
        table=table,
        entity_rows=entity_rows,
        batch_size=config.training.batch_size,
    )
    neighbours = None
    if config.hard_negatives:
        rows = np.unique(train_set.arrays["entity_ids"]).astype(np.int64)
        neighbours = Neighbours.find(
            rows, config.hard_negatives, vectors=config.vectors, table=table, entity_rows=entity_rows
        )
    masking = Masking(
        rates=config.rates,
        unit=config.mask_unit,
        entity_masking=config.entity_masking,
        neighbours=neighbours,
        hard_negatives=config.hard_negatives,
        near_strangers=config.near_strangers,
    )
    ernie, fresh, dropouts = _start(config, base, table)
    require_vocabulary(train_set, ernie.config.vocab_size, base)
    if config.entity_control == "shuffled_links":
        train_set, dev_set = (s.with_exchanged_entities(config.seed) for s in (train_set, dev_set))
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(config.seed, "replacement head"))
        model = PretrainingModel(ernie, replacement=config.objectives.replacement > 0)
    if model.replacement is not None and (base / REPLACEMENT_HEAD).is_file():
        model.replacement.load_state_dict(load_file(base / REPLACEMENT_HEAD))
    return _Parts(
        model, train_set, dev_set, words_of(tokenizer), masking, Objectives(config.objectives), fresh, dropouts
    )


def _start(config: PretrainConfig, base: Path, table: EntityTable) -> tuple[ErnieForPreTraining, bool, dict[str, Any]]:
    """The model to train; whether it has parts that the base lacks; the base's dropouts, which the saved config gets
    back."""
    settings: dict[str, Any] = {
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }
    original = _config_of(base)
    if isinstance(original, ErnieConfig) and original.entity_size != table.entity_size:
        raise InputError(
            f"{base} takes entity vectors of {original.entity_size} numbers, those of {config.vectors} have "
            f"{table.entity_size}; train with the vectors it was made with"
        )
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(config.seed, "fresh weights"))
        if config.random_weights:
            shape = original
            if not isinstance(original, ErnieConfig):
                shape = ErnieConfig.from_bert(
                    original, entity_size=table.entity_size, layer_types=config.layer_types, **settings
                )
            model = ErnieForPreTraining(shape)
        elif isinstance(original, ErnieConfig):
            model = ErnieForPreTraining.from_pretrained(str(base), dtype=torch.float32, **settings)
        else:
            model = ernie_from_bert(base, entity_size=table.entity_size, layer_types=config.layer_types, **settings)
    known = ("zero", "shuffled", "random")
    control = config.entity_control if config.entity_control in known else "true"
    model.attach_entity_table(table.controlled(control, config.seed))
    fresh = config.random_weights or not isinstance(original, ErnieConfig)
    return model, fresh, {name: getattr(original, name) for name in settings}


def _config_of(base: Path) -> Any:
    """
    Raises:
        InputError: the folder holds no model.
    """
    path = base / "config.json"
    if not path.is_file():
        raise InputError(f"no model at {base}: expected a folder with config.json and weights")
    if json.loads(path.read_text(encoding="utf-8")).get("model_type") == ErnieConfig.model_type:
        return ErnieConfig.from_pretrained(str(base))
    return AutoConfig.from_pretrained(str(base))


def starts_fresh(name: str) -> bool:
    """Whether a parameter of that name is not a BERT's: knowledge parts and heads."""
    return any(part in name for part in (*FRESH_ON_BERT, "replacement."))


def parameter_groups(model: PretrainingModel, config: PretrainConfig, *, fresh: bool) -> ParameterGroups:
    """Matrices decaying and vectors not, each parameter with its peak rate.

    fresh: knowledge parts and heads have their own rate; in a model of ours that goes on, only the replacement head.
    """
    rates = {}
    for name, parameter in model.named_parameters():
        is_new = starts_fresh(name) if fresh else name.startswith("replacement.")
        rates[id(parameter)] = (
            config.fresh_learning_rate
            if is_new
            else config.training.learning_rate * config.layer_decay ** _layers_above(name, model.ernie.config)
        )
    groups: ParameterGroups = []
    for group in decay_groups(model, weight_decay=config.training.weight_decay):
        for rate in sorted({rates[id(p)] for p in group["params"]}):
            members = [p for p in group["params"] if rates[id(p)] == rate]
            groups.append({**group, "params": members, "lr": rate})
    return groups


def _layers_above(name: str, config: ErnieConfig) -> int:
    """How many layers lie above a parameter: 0 for those of the last layer and the heads, most for embeddings."""
    if "embeddings." in name:
        return config.num_hidden_layers
    _, found, rest = name.partition("encoder.layer.")
    return config.num_hidden_layers - 1 - int(rest.partition(".")[0]) if found else 0


def _train(parts: _Parts, config: PretrainConfig, checkpoints: Path) -> TrainingResult:
    train_set, objectives = parts.train_set, parts.objectives
    text_only = config.entity_control == "absent"
    collate = PretrainingCollate(
        train_set,
        words=parts.words,
        seed=derived_seed(config.seed, "masks"),
        masking=parts.masking,
        weigh_links=config.weigh_links,
        text_only=text_only,
    )
    batches = ExampleBatches(
        train_set,
        lengths=train_set.lengths,
        batch_size=config.training.batch_size,
        seed=derived_seed(config.seed, "order"),
        collate=collate,
        whole_batch=True,
    )
    evaluate = None
    if config.heldout_instances and len(parts.dev_set):
        evaluate = heldout_evaluator(
            parts.dev_set,
            words=parts.words,
            objectives=objectives,
            masking=parts.masking,
            limit=config.heldout_instances,
            seed=config.seed,
            text_only=text_only,
        )
    if config.keep_best and evaluate is None:
        raise InputError(
            f"keep_best {config.keep_best} needs held-out instances; there are none, or heldout_instances is 0"
        )
    frozen = config.freeze_text_steps
    tracker = _tracker(config.tracker)
    with progress("pre-training", config.training.max_steps) as shown:
        return train(
            parts.model,
            batches=batches,
            compute_losses=objectives.measure,
            config=config.training,
            seed=derived_seed(config.seed, "dropout"),
            checkpoint_folder=checkpoints,
            evaluate=evaluate,
            on_step=lambda step, figures: _show(shown, step, figures),
            parameter_groups=parameter_groups(parts.model, config, fresh=parts.fresh),
            count_targets=objectives.count,
            loss_weights=objectives.weights,
            trainable_from=(lambda name: 0 if starts_fresh(name) else frozen) if frozen else None,
            evaluate_at_start=True,
            keep_best=config.keep_best,
            best_is_lowest=(config.keep_best or "").endswith("loss"),
            tracker=tracker,
            tracking_folder=config.output.with_name(config.output.name + ".tracking") if tracker else None,
        )


def _tracker(name: str) -> str | None:
    """
    Raises:
        InputError: accelerate knows no such tracker, or its package is not installed.
    """
    if name == "none":
        return None
    if name == "auto":
        return "tensorboard" if importlib.util.find_spec("tensorboard") else None
    known = sorted(str(kind) for kind in LOGGER_TYPE_TO_CLASS)
    if name not in known:
        raise InputError(f"tracker must be auto, none or one of {', '.join(known)}, but is {name!r}")
    if importlib.util.find_spec("comet_ml" if name == "comet_ml" else name) is None:
        raise InputError(
            f"tracker {name}: its Python package is not installed; `pip install {name}`, or set it to none"
        )
    return name


def _show(shown: Progress, step: int, figures: dict[str, float]) -> None:
    wanted = ("loss", "mlm", "nsp", "dea", "replacement", "tokens_per_second")
    shown.advance(step - shown.done, **{name: figures[name] for name in wanted if name in figures})


def _save(parts: _Parts, tokenizer: ErnieTokenizer, writer: ArtifactWriter) -> None:
    """The model folder, written by the first process; all gather what is in slices."""
    whole = gathered(weights_of(parts.model))
    if not PartialState().is_main_process:
        return
    model = parts.model.ernie
    for name, value in parts.saved_dropouts.items():
        setattr(model.config, name, value)
    named = {n.removeprefix("ernie."): t.detach() for n, t in whole.items() if n.startswith("ernie.")}
    for target, source in model.all_tied_weights_keys.items():
        named[target] = named[source]
    model.save_pretrained(writer.path, state_dict=named)
    tokenizer.save_pretrained(writer.path)
    if parts.model.replacement is not None:
        prefix = "replacement."
        head = {n.removeprefix(prefix): t.detach().contiguous() for n, t in whole.items() if n.startswith(prefix)}
        save_file(head, writer.path / REPLACEMENT_HEAD)
    shutil.rmtree(writer.path / "checkpoints")


def _report(result: TrainingResult, parts: _Parts, config: PretrainConfig, writer: ArtifactWriter) -> None:
    train_set = parts.train_set
    seen = result.steps * config.training.batch_size * config.training.gradient_accumulation
    writer.counts.update(
        steps=result.steps,
        skipped_steps=result.skipped_steps,
        train_instances=len(train_set),
        heldout_instances=min(config.heldout_instances, len(parts.dev_set)),
        batches_per_epoch=math.ceil(len(train_set) / config.training.batch_size),
    )
    evaluations = [{k: v for k, v in entry.items() if k != "step"} for entry in result.evaluations]
    writer.figures.update(
        curve=result.history,
        heldout_curve=result.evaluations,
        heldout_before=evaluations[0] if evaluations else None,
        heldout_after=evaluations[-1] if evaluations else None,
        best_step=result.best_step,
        epochs=seen / len(train_set),
        tokens_per_second=result.tokens_per_second,
        loading_share=result.loading_share,
        **_utilisation(result, parts),
        precision=result.precision.name,
        precision_reason=result.precision.reason,
        training_seconds=result.seconds,
        stopped_by=result.stopped_by,
    )
    if evaluations:
        before, after = evaluations[0], evaluations[-1]
        compared = [
            f"{label} {before[key]:.2f} → {after[key]:.2f}"
            for label, key in (("MLM", "mlm_loss"), ("dEA", "dea_loss"))
            if key in before
        ]
        writer.headline = f"held-out loss {', '.join(compared)}"
    else:
        losses = [entry["loss"] for entry in result.history]
        writer.headline = f"loss {losses[-1]:.2f}, no held-out text" if losses else "every step was skipped"


def _utilisation(result: TrainingResult, parts: _Parts) -> dict[str, float]:
    """Model FLOPs a second over the measured peak of matrix products (MFU), padding and recomputation not counted."""
    lengths = parts.train_set.lengths.astype(np.float64)
    mentions = parts.train_set.num_entities.astype(np.float64)
    shape = TextShape(
        pieces=float(lengths.mean()),
        squared_pieces=float((lengths**2).mean()),
        masked=float(lengths.mean()) * parts.masking.rates.pieces,
        entities=float(mentions.mean()),
        squared_entities=float((mentions**2).mean()),
        candidates=0.0,
    )
    instances_per_second = result.tokens_per_second / max(1.0, shape.pieces)
    achieved = training_flops(parts.model.ernie.config, shape) * instances_per_second / 1e9
    device = next(parts.model.parameters()).device
    peak = measure_gflops(result.precision.dtype, device, rows=1024, width=1024)
    return {"gflops_per_second": achieved, "peak_gflops_per_second": peak, "mfu": achieved / peak}


def _check(config: PretrainConfig) -> None:
    if not 0 <= config.dropout < 1:
        raise InputError(f"dropout must lie in 0 … 1, but is {config.dropout}")
    for name in ("fresh_learning_rate", "layer_decay"):
        if not getattr(config, name) > 0:
            raise InputError(f"{name} must be above 0, but is {getattr(config, name)}")
    for name in ("heldout_instances", "freeze_text_steps", "hard_negatives"):
        if getattr(config, name) < 0:
            raise InputError(f"{name} must be at least 0, but is {getattr(config, name)}")
    if config.near_strangers and not config.hard_negatives:
        raise InputError("near_strangers takes an entity's neighbours; set hard_negatives to how many")
    if config.entity_control == "absent" and (config.objectives.dea or config.objectives.replacement):
        raise InputError("entity_control absent reads text alone; set objectives.dea and objectives.replacement to 0")
    _tracker(config.tracker)
