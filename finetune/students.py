"""Plain BERT students: made from a teacher's token side or from a folder, measured before any training, read back.

A student takes text only: no linker, no vectors, no code of ours (`transformers.AutoModelForSequenceClassification`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertForSequenceClassification
from transformers import PreTrainedTokenizerBase as Tokenizer

from ernie import ErnieTokenizer
from ernie.losses.distillation import uniform_layer_map
from ernie.modeling import ErniePreTrainedModel
from ernie.training.reproducibility import isolated_randomness
from finetune.task_model import quiet_loading
from finetune.tasks import TaskSpec
from kg.errors import InputError

SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "classifier_dropout",
    "problem_type",
    "id2label",
    "label2id",
)
"""Config fields that a student of the teacher's width takes over."""

ENTITY_INPUTS = ("entity_ids", "entity_positions", "entity_embeds", "entity_attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """parameters: of the model alone, without entity table. bytes: theirs in memory. flops: of one forward pass."""

    parameters: int
    bytes: int
    flops: int


def student_of(teacher: ErniePreTrainedModel, *, num_layers: int) -> BertForSequenceClassification:
    """A BERT of the teacher's width whose layer m starts as the token side of the teacher's layer g(m).

    g is the map the losses use (`uniform_layer_map`: the last layer of each block). The constant part of the
    teacher's fusion, `dense_ent.bias`, which reaches every token with or without entities, goes into the student's
    bias, so that without linked entities only the knowledge from entities is missing.
    """
    layer_map = uniform_layer_map(num_layers, teacher.config.num_hidden_layers)
    shared = {name: getattr(teacher.config, name) for name in SHARED_FIELDS}
    with isolated_randomness(0):  # every weight is overwritten below
        student = BertForSequenceClassification(BertConfig(**shared, num_hidden_layers=num_layers))
    student.load_state_dict(teacher_slices(teacher.state_dict(), layer_map))
    return student


def teacher_slices(weights: Mapping[str, Tensor], layer_map: Sequence[int]) -> dict[str, Tensor]:
    """A plain BERT's tensors from a two-stream classifier's: layer g(m) under the name of layer m.

    `bert.encoder.layer.5.output.dense.bias` with g(3) = 6 becomes `bert.encoder.layer.2.output.dense.bias`; names
    of the entity side (`…_ent…`) are left out.
    """
    layers = "bert.encoder.layer."
    token_side = {name: tensor for name, tensor in weights.items() if "_ent." not in name}
    slices = {name: tensor for name, tensor in token_side.items() if not name.startswith(layers)}
    for m, g in enumerate(layer_map):
        old, new = f"{layers}{g - 1}.", f"{layers}{m}."
        slices |= {new + name.removeprefix(old): tensor for name, tensor in token_side.items() if name.startswith(old)}
        fused = weights.get(f"{old}intermediate.dense_ent.bias")
        if fused is not None:
            bias = f"{new}intermediate.dense.bias"
            slices[bias] = slices[bias] + fused
    return slices


def student_from_folder(
    folder: Path, *, teacher: ErniePreTrainedModel, tokenizer: ErnieTokenizer, spec: TaskSpec, seed: int
) -> BertForSequenceClassification:
    """A plain BERT of any width and depth, its head fresh, the task's marks added to its word table.

    tokenizer: the teacher's; the folder's must cut text into the same pieces with the same rows.

    Raises:
        InputError: no plain BERT in the folder, or another tokenizer.
    """
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected a plain BERT's model folder")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "bert":
        raise InputError(f"{folder} holds a {config.model_type!r} model; a student starts from a plain 'bert'")
    own = ErnieTokenizer.from_pretrained(folder, {}).fast_tokenizer
    check_same_pieces(own, tokenizer.fast_tokenizer, added=spec.marker_tokens, folder=folder)
    for name in ("problem_type", "id2label", "label2id"):
        setattr(config, name, getattr(teacher.config, name))
    with isolated_randomness(seed), quiet_loading():
        student = BertForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
        if teacher.config.vocab_size > student.config.vocab_size:
            student.resize_token_embeddings(teacher.config.vocab_size, mean_resizing=False)
    return student


def check_same_pieces(student: Tokenizer, teacher: Tokenizer, *, added: Sequence[str], folder: Path) -> None:
    """Refuses a tokenizer whose rows differ from the teacher's: position by position the losses would compare
    different words."""
    expected = {piece: row for piece, row in teacher.get_vocab().items() if piece not in added}
    own = {piece: row for piece, row in student.get_vocab().items() if piece not in added}
    if own != expected:
        odd = sorted(own.items() ^ expected.items())[0][0]
        raise InputError(
            f"{folder}: its tokenizer differs from the teacher's, first at piece {odd!r} ({len(own):,} pieces against "
            f"{len(expected):,}); distil into a student with the teacher's own tokenizer"
        )
    texts = ["Kyiv's Ångström, naïve café", "ÉCOLE 42"]
    if [student.tokenize(text) for text in texts] != [teacher.tokenize(text) for text in texts]:
        raise InputError(f"{folder}: its tokenizer treats case or accents otherwise than the teacher's; use the same")


def text_only(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch without what only a teacher with entities takes."""
    return {name: tensor for name, tensor in batch.items() if name not in ENTITY_INPUTS}


def size_of(model: nn.Module, *, num_pieces: int) -> Size:
    """Counts a model: parameters, their bytes, and the multiplications and additions of one text of `num_pieces`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.ones(1, num_pieces, dtype=torch.long, device=next(model.parameters()).device)
    was_training = model.training
    model.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids)
    model.train(was_training)
    parameters = list(model.parameters())
    return Size(
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        flops=counter.get_total_flops(),
    )


@torch.inference_mode()
def latencies(models: Mapping[str, tuple[Any, Sequence[Mapping[str, Tensor]]]]) -> dict[str, float]:
    """Median milliseconds of each model's call, the models taking turns example by example, so that another load on
    the machine falls on all alike.

    models: name -> (callable model, its batches, as many for every model); `labels` are not given to it. A torch
        model is called with keywords in eval mode, any other callable with the batch.
    """
    import time

    times: dict[str, list[float]] = {name: [] for name in models}
    rounds = min(len(batches) for _, batches in models.values())
    for row in [0, *range(rounds)]:
        for name, (model, batches) in models.items():
            inputs = {key: tensor for key, tensor in batches[row].items() if key != "labels"}
            started = time.perf_counter()
            _ = model.eval()(**inputs) if isinstance(model, nn.Module) else model(inputs)
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: round(sorted(found[1:])[len(found[1:]) // 2], 3) for name, found in times.items()}
