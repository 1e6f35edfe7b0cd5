"""The stage `pretrain distill`: a pre-trained teacher and instances in, a small pre-trained student out.

TinyBERT's general stage (Jiao et al. 2020, section 3.2) for a teacher with entities: a student learns the inside of a
model that nobody has fine-tuned yet, on plain linked text, and is then fine-tuned or distilled further for a task.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, BertForPreTraining, PreTrainedModel

from ernie.collation import pad_batch
from ernie.compression import factorise_words, materialise_words, piece_map, prune_tokenizer, prune_words, seen_pieces
from ernie.configuration import ErnieConfig
from ernie.distilling import FITTED_BATCHES, InsideDistillation, Reading, parameter_groups
from ernie.entity_table import EntityTable
from ernie.heads import ErnieForPreTraining
from ernie.inputs import INPUTS
from ernie.losses.intermediate import IntermediateLosses
from ernie.losses.matching import LossConfig, Shape, explain, match_table
from ernie.students import StudentConfig, build_student, check_same_pieces, latencies, layer_map_of, size_of
from ernie.tokenization import ErnieTokenizer
from ernie.training import ExampleBatches, TrainingConfig, TrainingResult, derived_seed, train
from kg.artifact import ArtifactWriter, open_artifact, source_digest, write_artifact
from kg.errors import InputError
from kg.progress import progress
from kg.sources import resolve_source, source_path
from pretrain.answers import AnswerHeads, Answers, answers_of_teacher, masked_scores
from pretrain.checks import require_matching
from pretrain.collate import PretrainingCollate
from pretrain.dataset import Instances
from pretrain.prepare import STAGE as PREPARE
from pretrain.prepare import load_tokenizer, read_entity_rows

STAGE = "pretrain distill"
EVALUATION_BATCH = 32
NUM_TIMED = 20
MASKED_LM_HEAD = "cls.predictions.transform."
"""Begins the names of weights that a masked-LM head has and a bare encoder's folder lacks."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Which teacher, which student, on what text, and how long."""

    output: Path
    """Folder to write: the student, its tokenizer, the manifest."""
    instances: Path
    """Instances, made by `ernie-kg pretrain prepare` with the teacher's tokenizer."""
    teacher: str
    """Artifact of `pretrain run`, or the folder of a plain BERT (a path or `package:NAME/path`)."""
    vectors: Path
    """Vectors artifact the instances' rows point into."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """How large the student is, what it begins as, and whether it takes entities."""
    losses: LossConfig = field(default_factory=LossConfig)
    """What is compared. Without `masked_lm` and `denoising_entity` nothing is masked, as in TinyBERT."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=200, batch_size=16, learning_rate=2e-4, save_every=100)
    )
    """Steps, batches, rates."""
    projection_learning_rate: float = 1e-3
    """Peak rate of projections and of heads that the student is not saved with."""
    teacher_entities: Literal["given", "none", "shuffled"] = "given"
    """What entities the teacher sees; all but `given` are controls."""
    cache: Path | None = None
    """Folder that keeps draws from the teacher's answers for further runs, where `masked_lm` and `denoising_entity` are
    all that is compared; none: the teacher is asked every step."""
    num_draws: int = 12
    """Draws from each of the teacher's distributions that the cache keeps."""
    min_teacher_gain: float = 0.02
    """The teacher's held-out accuracy on masked pieces must exceed that of the commonest piece by so much; not asked of
    a teacher without a masked-LM head."""
    heldout_instances: int = 256
    """Held-out instances to measure on, drawn by the seed."""
    seed: int = 0
    """Fresh weights, order, masks, draws."""

    def inputs(self) -> dict[str, Path]:
        folder = {"student": source_path(self.student.folder)} if self.student.folder else {}
        return {
            "instances": self.instances,
            "teacher": source_path(self.teacher),
            "vectors": self.vectors,
            **folder,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Teacher and student with what both read."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: ErnieTokenizer
    train_set: Instances
    heldout: list[dict[str, Tensor]]
    phase: _Phase
    masked: bool
    teacher_has_head: bool
    kept_pieces: np.ndarray | None


class _Phase(InsideDistillation):
    """`InsideDistillation` and the comparison of the pre-training heads' answers."""

    def __init__(self, student: nn.Module, losses: IntermediateLosses, *, reading: Reading, heads: AnswerHeads) -> None:
        super().__init__(student, losses, reading=reading)
        self.heads = heads

    def forward(
        self, batch: Mapping[str, Tensor], teacher: nn.Module, answers: Answers | None = None
    ) -> dict[str, Tensor]:
        """Every term unweighted, and `loss`, their weighted sum."""
        settings = self.losses.settings
        found: dict[str, Tensor] = {}
        told: Tensor | None = None
        if self.losses.matches:
            views = self.views(batch, teacher)
            found, told, own = self.losses(views), views.teacher.hidden[-1], views.student.hidden[-1]
        else:
            own = self.student.get_submodule("bert")(**self.reading.student(batch)).last_hidden_state
        total = [found.pop("loss")] if found else []
        if settings.masked_lm or settings.denoising_entity:
            if answers is None:
                answers = answers_of_teacher(teacher, batch, self.reading, states=told)
            answered = self.heads(self.student, own, batch, answers, settings, teacher=teacher)
            found |= answered
            total += [getattr(settings, name) * value for name, value in answered.items()]
        return {"loss": torch.stack(total).sum(), **found}


def run(config: DistillConfig) -> Path:
    """Checks the teacher on held-out text, trains the student, writes a model folder that transformers loads (a plain
    BERT without any code of ours).

    Goes on from the last checkpoint when it was interrupted.

    Raises:
        InputError: instances, teacher and vectors do not belong together; a teacher near chance; a layer map, loss or
            student folder that does not fit; a cache of another teacher or seed.
    """
    _check(config)
    with write_artifact(config, stage=STAGE, resumable=True) as writer:
        pair = _prepare(config)
        _check_teacher(config, pair, writer)
        _record_sizes(pair, writer)
        writer.figures["matches"] = _explained(pair).splitlines()
        before = _heldout_terms(pair)
        result = _train(config, pair, writer.path / "checkpoints")
        _report(config, pair, result, before, writer)
        _save(pair, writer.path)
    return config.output


def explained(config: DistillConfig) -> str:
    """The match table with each term's share of the loss on held-out text. Nothing is trained or written."""
    _check(config)
    return _explained(_prepare(config))


def _explained(pair: _Pair) -> str:
    losses = pair.phase.losses
    values = _heldout_terms(pair, most=1)
    return explain(losses.matches, settings=losses.settings, values=values)


def _prepare(config: DistillConfig) -> _Pair:
    open_artifact(config.instances, stage=PREPARE)
    open_artifact(config.vectors, stage="kg embed")
    train_set, dev_set = (Instances(config.instances / split) for split in ("train", "dev"))
    folder = resolve_source(config.teacher)
    tokenizer, table = load_tokenizer(folder, {}), EntityTable.open(config.vectors)
    require_matching(
        train_set,
        tokenizer=tokenizer,
        table=table,
        entity_rows=read_entity_rows(config.vectors),
        batch_size=config.training.batch_size,
    )
    teacher, has_head = _loaded(folder)
    if isinstance(teacher, ErnieForPreTraining):
        teacher.attach_entity_table(
            table.controlled("shuffled", config.seed) if config.teacher_entities == "shuffled" else table
        )
    student, layer_map, kept = _student(config, teacher, tokenizer, train_set)
    if isinstance(student, ErnieForPreTraining):
        student.attach_entity_table(table)
    shapes = {"student": Shape.of(student.config), "teacher": Shape.of(teacher.config)}
    settings = config.losses.resolved(
        "two-stream" if shapes["student"].two_stream else "bert", teacher_knows=shapes["teacher"].two_stream
    )
    matches = match_table(settings, layer_map=layer_map, **shapes)
    if config.cache is not None and matches:
        terms = ", ".join(dict.fromkeys(match.term for match in matches))
        raise InputError(
            f"the cache keeps answers, but layers are compared too ({terms}): set their factors to 0, or give no cache"
        )
    masked = bool(settings.masked_lm or settings.denoising_entity)
    phase = _phase(config, teacher, student, IntermediateLosses(matches, settings=settings), tokenizer, kept)
    pair = _Pair(
        teacher=teacher,
        student=student,
        tokenizer=tokenizer,
        train_set=train_set,
        heldout=_heldout_batches(config, dev_set),
        phase=phase,
        masked=masked,
        teacher_has_head=has_head,
        kept_pieces=kept,
    )
    batches = _batches(config, pair)
    phase.fit_projections([batches.batch(0, i) for i in range(min(FITTED_BATCHES, len(batches)))], teacher)
    return pair


def _phase(
    config: DistillConfig,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    losses: IntermediateLosses,
    tokenizer: ErnieTokenizer,
    kept: np.ndarray | None,
) -> _Phase:
    pieces = None
    if kept is not None:
        unknown = int(np.searchsorted(kept, tokenizer.fast_tokenizer.unk_token_id))
        pieces = piece_map(kept, vocab_size=teacher.config.vocab_size, unknown=unknown)
    two_stream = Shape.of(student.config).two_stream
    sees = config.teacher_entities != "none" and Shape.of(teacher.config).two_stream
    reading = Reading(two_stream=two_stream, teacher_sees_entities=sees, pieces=pieces)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(config.seed, "projections"))
        heads = AnswerHeads(teacher, student, losses.settings, kept=kept)
        return _Phase(student, losses, reading=reading, heads=heads)


def load_teacher(folder: Path) -> ErnieForPreTraining | BertForPreTraining:
    """An ERNIE or a plain BERT with its pre-training heads, frozen, in eval mode, fp32.

    Raises:
        InputError: neither of the two lies in the folder.
    """
    return _loaded(folder)[0]


def _loaded(folder: Path) -> tuple[ErnieForPreTraining | BertForPreTraining, bool]:
    """`load_teacher`'s model, and whether the folder holds its masked-LM head: a sentence encoder's does not."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected an artifact of `pretrain run`, or a BERT's folder")
    classes: dict[str, Any] = {"bert": BertForPreTraining, ErnieConfig.model_type: ErnieForPreTraining}
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in classes:
        raise InputError(f"{folder} holds a {kind!r} model; a teacher is an 'ernie-kg' or a 'bert'")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of heads that the folder lacks; they are judged before they teach
        model, report = classes[kind].from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    has_head = not any(name.startswith(MASKED_LM_HEAD) for name in report["missing_keys"])
    return model.eval().requires_grad_(False), has_head


def _student(
    config: DistillConfig, teacher: PreTrainedModel, tokenizer: ErnieTokenizer, train_set: Instances
) -> tuple[PreTrainedModel, tuple[int, ...], np.ndarray | None]:
    """The student, its layer map, and the pieces it keeps where its vocabulary is pruned."""
    shape = config.student
    if shape.folder is None:
        student = build_student(teacher, shape, seed=config.seed)
    else:
        folder = resolve_source(shape.folder)
        check_same_pieces(load_tokenizer(folder, {}).fast_tokenizer, tokenizer.fast_tokenizer, added=(), folder=folder)
        student = cast("PreTrainedModel", load_teacher(folder).requires_grad_(True))
        kind = "two-stream" if Shape.of(student.config).two_stream else "bert"
        shape = StudentConfig(kind=kind, num_layers=student.config.num_hidden_layers, layer_map=shape.layer_map)
    layer_map, kept = layer_map_of(shape, teacher.config), None
    if config.student.vocabulary == "seen":
        kept = seen_pieces(tokenizer.fast_tokenizer, (train_set[row]["input_ids"] for row in range(len(train_set))))
        student = prune_words(student, kept)
    elif config.student.vocabulary != "full":
        raise InputError(f"student.vocabulary is full or seen, got {config.student.vocabulary!r}")
    if config.student.embedding_size:
        factorise_words(student, config.student.embedding_size)
    return student, layer_map, kept


def _plain_collate(pad_token_id: int) -> Callable[[list[Any], int, np.ndarray], dict[str, Tensor]]:
    """Instances as they are: nothing masked."""

    def collate(features: list[Any], epoch: int, rows: np.ndarray) -> dict[str, Tensor]:
        inputs = [{k: v for k, v in f.items() if k in INPUTS and k != "next_sentence_label"} for f in features]
        return pad_batch(inputs, pad_token_id=pad_token_id)

    return collate


def _batches(config: DistillConfig, pair: _Pair) -> ExampleBatches:
    described = pair.train_set.described
    collate: Any = _plain_collate(described["pad_token_id"])
    if pair.masked:
        collate = PretrainingCollate(pair.train_set, seed=derived_seed(config.seed, "masks"))
    return ExampleBatches(
        pair.train_set,
        lengths=pair.train_set.lengths,
        batch_size=config.training.batch_size,
        seed=derived_seed(config.seed, "order"),
        collate=collate,
    )


def _heldout_batches(config: DistillConfig, dev_set: Instances) -> list[dict[str, Tensor]]:
    """Held-out instances, always the same ones masked alike: both models are judged on them."""
    if len(dev_set) == 0:
        raise InputError(f"{dev_set.folder} holds no held-out instance to judge the teacher by; prepare with more text")
    chosen = np.random.Generator(np.random.Philox(derived_seed(config.seed, "held-out")))
    rows = np.sort(chosen.permutation(len(dev_set))[: config.heldout_instances])
    rows = rows[np.argsort(dev_set.lengths[rows], kind="stable")]
    collate = PretrainingCollate(dev_set, seed=derived_seed(config.seed, "held-out masks"), fixed_epoch=0)
    groups = [rows[i : i + EVALUATION_BATCH] for i in range(0, len(rows), EVALUATION_BATCH)]
    return [collate([dev_set[int(row)] for row in group], 0, group) for group in groups]


def _check_teacher(config: DistillConfig, pair: _Pair, writer: ArtifactWriter) -> None:
    """Prints the teacher's held-out scores and refuses one that knows no more than the commonest piece.

    A teacher without a masked-LM head can say nothing of masked pieces: it is refused where its answers are compared,
    and taken on trust where its inside alone is.
    """
    if not pair.teacher_has_head:
        _without_head(config, pair)
        return
    found = masked_scores(pair.teacher, pair.heldout, pair.phase.reading.teacher)
    labels = torch.cat([batch["labels"][batch["labels"] >= 0] for batch in pair.heldout])
    chance = float(labels.bincount().max()) / len(labels) if len(labels) else 0.0
    writer.figures["heldout"] = {"teacher": found, "always the commonest piece": chance}
    accuracy = found["mlm_accuracy"]
    note = f"the teacher's held-out masked-piece accuracy is {accuracy:.3f}, the commonest piece's {chance:.3f}"
    _say(note)
    if accuracy < chance + config.min_teacher_gain:
        raise InputError(
            f"{note}: near chance, its heads are untrained; pre-train it longer, or lower min_teacher_gain (now "
            f"{config.min_teacher_gain}) to learn its inside all the same"
        )


def _without_head(config: DistillConfig, pair: _Pair) -> None:
    if pair.masked:
        raise InputError(
            f"{config.teacher} has no masked-LM head, so its answers for masked pieces would be noise; set "
            "losses.masked_lm and losses.denoising_entity to 0, or give a teacher that was pre-trained with such a head"
        )
    _say("the teacher has no masked-LM head to judge it by; its layers teach, its answers are not compared")


def _say(note: str) -> None:
    print(f"  {note}", file=sys.stderr, flush=True)


def _record_sizes(pair: _Pair, writer: ArtifactWriter) -> None:
    """Parameters, bytes, FLOPs and latency of both encoders, printed before any training."""
    pieces = int(pair.train_set.described["max_length"])
    encoders = {
        name: model.get_submodule("bert") for name, model in (("teacher", pair.teacher), ("student", pair.student))
    }
    sizes = {name: size_of(encoder, num_pieces=pieces) for name, encoder in encoders.items()}
    one = [{name: tensor[:1] for name, tensor in batch.items()} for batch in pair.heldout[:NUM_TIMED]]
    reading = pair.phase.reading
    times = latencies(
        {
            "teacher": (encoders["teacher"], [reading.teacher(batch) for batch in one]),
            "student": (encoders["student"], [reading.student(batch) for batch in one]),
        }
    )
    for name, size in sizes.items():
        print(
            f"  {name}: {size.parameters:,} parameters, {size.bytes / 2**20:.1f} MiB, "
            f"{size.flops / 1e9:.2f} GFLOPs for {pieces} pieces, {times[name]:.1f} ms a text",
            file=sys.stderr,
            flush=True,
        )
    writer.figures["size"] = {
        name: {"parameters": size.parameters, "bytes": size.bytes, f"flops_of_{pieces}_pieces": size.flops}
        for name, size in sizes.items()
    }
    writer.figures["milliseconds_a_text"] = times
    writer.figures["times_fewer_parameters"] = round(sizes["teacher"].parameters / sizes["student"].parameters, 3)


@torch.no_grad()
def _heldout_terms(pair: _Pair, *, most: int = 8) -> dict[str, float]:
    """The terms on held-out text, unweighted, means over batches."""
    pair.student.eval()
    found: dict[str, list[float]] = {}
    for batch in pair.heldout[:most]:
        for name, value in pair.phase(batch, pair.teacher).items():
            found.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _train(config: DistillConfig, pair: _Pair, checkpoints: Path) -> TrainingResult:
    batches: Any = _batches(config, pair)
    if config.cache is not None:
        from pretrain.answers import CachedBatches, draw_answers

        key = {
            "teacher": source_digest(resolve_source(config.teacher)),
            "instances": source_digest(config.instances),
            "teacher_entities": config.teacher_entities,
            "seed": config.seed,
            "batch_size": config.training.batch_size,
            "num_draws": config.num_draws,
        }
        steps = config.training.max_steps * config.training.gradient_accumulation
        caches = draw_answers(
            pair.teacher,
            batches,
            pair.phase.reading,
            folder=config.cache,
            key=key,
            num_batches=steps,
            num_rows=len(pair.train_set),
        )
        batches = CachedBatches(batches, caches, num_rows=len(pair.train_set))
    rate = config.projection_learning_rate
    with progress("distilling", config.training.max_steps) as shown:
        return train(
            pair.phase,
            batches=batches,
            compute_losses=lambda phase, batch: phase(*_split(batch, pair.teacher)),
            config=config.training,
            seed=derived_seed(config.seed, "dropout"),
            checkpoint_folder=checkpoints,
            on_step=lambda step, figures: shown.advance(step - shown.done, loss=figures["loss"]),
            parameter_groups=parameter_groups(
                pair.phase,
                weight_decay=config.training.weight_decay,
                own_rate=lambda name: None if name.startswith("student.") else rate,
            ),
        )


def _split(batch: dict[str, Tensor], teacher: nn.Module) -> tuple[dict[str, Tensor], nn.Module, Answers | None]:
    """A batch's inputs and the answers that a cache put into it."""
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("drawn_")}
    return inputs, teacher, Answers.from_batch(batch)


def _report(
    config: DistillConfig, pair: _Pair, result: TrainingResult, before: dict[str, float], writer: ArtifactWriter
) -> None:
    after = _heldout_terms(pair)
    seen = result.steps * config.training.batch_size * config.training.gradient_accumulation
    writer.counts.update(steps=result.steps, train_instances=len(pair.train_set))
    if pair.teacher_has_head:
        writer.figures["heldout"]["student"] = masked_scores(pair.student, pair.heldout, pair.phase.reading.student)
    writer.figures |= {
        "curve": result.history,
        "heldout_before": before,
        "heldout_after": after,
        "epochs": seen / len(pair.train_set),
        "tokens_per_second": result.tokens_per_second,
        "precision": result.precision.name,
        "training_seconds": result.seconds,
        "stopped_by": result.stopped_by,
    }
    writer.headline = (
        f"held-out loss {before['loss']:.3f} → {after['loss']:.3f}, "
        f"{writer.figures['times_fewer_parameters']:.1f} × smaller"
    )


def _save(pair: _Pair, folder: Path) -> None:
    materialise_words(pair.student)
    pair.student.save_pretrained(folder)
    tokenizer = pair.tokenizer.fast_tokenizer
    if pair.kept_pieces is not None:
        tokenizer = prune_tokenizer(tokenizer, pair.kept_pieces)
    tokenizer.save_pretrained(str(folder))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _check(config: DistillConfig) -> None:
    if config.num_draws < 1 or config.heldout_instances < 1:
        raise InputError(
            f"num_draws and heldout_instances must be at least 1, but are {config.num_draws} and "
            f"{config.heldout_instances}"
        )
    if config.projection_learning_rate <= 0:
        raise InputError(f"projection_learning_rate must be above 0, but is {config.projection_learning_rate}")
