"""A task's student: cut from its teacher, fresh or from a folder, with the word table it is to have."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

import ernie
from ernie.compression import factorise_words, piece_map, prune_tokenizer, prune_words, seen_pieces
from ernie.conversion import BERT_CLASSES
from ernie.losses.matching import Shape
from ernie.modeling import ErniePreTrainedModel
from ernie.students import StudentConfig, build_student, check_same_pieces, layer_map_of
from ernie.training.reproducibility import isolated_randomness
from finetune.task_model import TaskModel, quiet_loading
from finetune.tasks import TaskSpec
from kg.errors import InputError
from kg.sources import resolve_source

BESIDE_PLAIN = ("entity_ids", "entity_positions", "entity_embeds", "entity_attention_mask", "spans")
"""Inputs that a plain BERT does not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student and how it reads.

    task: its model, its tokenizer (the teacher's, or the pruned one), its task; a plain BERT reads [CLS] whatever its
    teacher's head reads. layer_map: for each of its layers the teacher's. pieces: teacher's word row -> its own, None
    where they are the same.
    """

    task: TaskModel
    layer_map: tuple[int, ...]
    two_stream: bool
    pieces: Tensor | None

    @property
    def model(self) -> PreTrainedModel:
        return cast("PreTrainedModel", self.task.model)


def make_student(
    config: StudentConfig, *, teacher: TaskModel, train_pieces: Sequence[np.ndarray], seed: int
) -> Student:
    """
    teacher: in eval mode. train_pieces: word rows of the training texts, which a pruned vocabulary keeps.

    Raises:
        InputError: a shape, map, folder or tokenizer that does not fit; see `ernie.students`.
    """
    if config.folder is None:
        model = build_student(teacher.model, config, seed=seed)
        layer_map = layer_map_of(config, teacher.model.config)
    else:
        model = _from_folder(resolve_source(config.folder), teacher=teacher, seed=seed)
        number = model.config.num_hidden_layers
        kind = "two-stream" if Shape.of(model.config).two_stream else "bert"
        shape = StudentConfig(kind=kind, num_layers=number, layer_map=config.layer_map)
        layer_map = layer_map_of(shape, teacher.model.config)
    tokenizer, pieces = teacher.tokenizer, None
    if config.vocabulary != "full":
        model, tokenizer, pieces = _pruned(config.vocabulary, model, teacher.tokenizer, train_pieces)
    if config.embedding_size:
        factorise_words(model, config.embedding_size)
    two_stream = Shape.of(model.config).two_stream
    spec = teacher.spec if two_stream else dataclasses.replace(teacher.spec, pooling="cls")
    task = dataclasses.replace(
        teacher, model=model, tokenizer=tokenizer, spec=spec, entities=teacher.entities if two_stream else "none"
    )
    return Student(task=task, layer_map=layer_map, two_stream=two_stream, pieces=pieces)


def text_only(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch without what only a two-stream model takes."""
    return {name: tensor for name, tensor in batch.items() if name not in BESIDE_PLAIN}


def _from_folder(folder: Path, *, teacher: TaskModel, seed: int) -> PreTrainedModel:
    """A plain BERT or an ERNIE of any width and depth, its head fresh, the task's marks added to its word table: as the
    teacher knows them, where both are of one width.

    Raises:
        InputError: no such model in the folder, or another tokenizer.
    """
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected a student's model folder")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in ("bert", ernie.ErnieConfig.model_type):
        raise InputError(f"{folder} holds a {config.model_type!r} model; a student starts from a 'bert' or 'ernie-kg'")
    own = ernie.ErnieTokenizer.from_pretrained(folder, {}).fast_tokenizer
    spec: TaskSpec = teacher.spec
    check_same_pieces(own, teacher.tokenizer.fast_tokenizer, added=spec.marker_tokens, folder=folder)
    for name in ("problem_type", "id2label", "label2id"):
        setattr(config, name, getattr(teacher.model.config, name))
    model_class: Any = type(teacher.model)
    if config.model_type == "bert":
        ours = isinstance(teacher.model, ErniePreTrainedModel)
        model_class = (
            next(bert for k, bert in BERT_CLASSES.items() if issubclass(model_class, k)) if ours else model_class
        )
    else:
        config.pooling, config.num_spans = teacher.model.config.pooling, teacher.model.config.num_spans
    with isolated_randomness(seed), quiet_loading():
        model = model_class.from_pretrained(folder, config=config, dtype=torch.float32)
        if teacher.model.config.vocab_size > model.config.vocab_size:
            known = model.config.vocab_size
            model.resize_token_embeddings(teacher.model.config.vocab_size, mean_resizing=False)
            _copy_rows(teacher.model.get_input_embeddings().weight, model.get_input_embeddings().weight, first=known)
    return model


@torch.no_grad()
def _copy_rows(source: Tensor, target: Tensor, *, first: int) -> None:
    """Rows from `first` on, of tables of one width."""
    if source.shape[1] == target.shape[1]:
        target[first:] = source[first:]


def _pruned(
    vocabulary: str, model: PreTrainedModel, tokenizer: ernie.ErnieTokenizer, train_pieces: Sequence[np.ndarray]
) -> tuple[PreTrainedModel, ernie.ErnieTokenizer, Tensor]:
    if vocabulary != "seen":
        raise InputError(f"student.vocabulary is full or seen, got {vocabulary!r}")
    fast = tokenizer.fast_tokenizer
    kept = seen_pieces(fast, train_pieces)
    own = ernie.ErnieTokenizer(prune_tokenizer(copy.deepcopy(fast), kept), tokenizer.entity_rows)
    unknown = int(own.fast_tokenizer.unk_token_id or 0)
    pieces = piece_map(kept, vocab_size=model.config.vocab_size, unknown=unknown)
    return prune_words(model, kept), own, pieces
