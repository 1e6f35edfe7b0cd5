"""Students: smaller models with their teacher's head, cut from the teacher, fresh, or from a folder; measured before
any training.

Two kinds: a two-stream ERNIE that still takes entities, and a plain BERT that takes text alone and loads into
transformers without any code of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BertModel, PreTrainedModel

from ernie.configuration import ErnieConfig
from ernie.conversion import BERT_CLASSES, bert_config, to_bert
from ernie.errors import InputError
from ernie.losses.layer_maps import kind_layer_map, uniform_layer_map
from ernie.losses.matching import Kind, Shape, check_layer_map
from ernie.modeling import ErniePreTrainedModel
from ernie.slicing import Widths, sliced
from ernie.training.reproducibility import isolated_randomness

SHAPES: dict[str, dict[str, int]] = {
    "tinybert4": {"num_layers": 4, "hidden_size": 312, "intermediate_size": 1200, "num_attention_heads": 12},
    "tinybert6": {"num_layers": 6, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "tiny4-384": {"num_layers": 4, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12},
    "mini6-384": {"num_layers": 6, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12},
    "deep6-256": {"num_layers": 6, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
    "deep12-256": {"num_layers": 12, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
}
"""TinyBERT's two, aligned widths near them, and deep thin ones."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How large a student is, and what it begins as."""

    kind: Kind = "bert"
    """bert: a plain BERT that takes text alone. two-stream: an ERNIE that still takes entities."""
    preset: str = ""
    """`tinybert4`, `tinybert6`, `tiny4-384`, `mini6-384`, `deep6-256`, `deep12-256`; the sizes below go before it."""
    num_layers: int = 0
    """0: the preset's, or half the teacher's."""
    hidden_size: int = 0
    """0, here and below: the preset's, or the teacher's."""
    intermediate_size: int = 0
    """Neurons of each intermediate layer."""
    num_attention_heads: int = 0
    """Must divide hidden_size."""
    entity_size: int = 0
    """Width of a two-stream student's entity stream; the vectors stay as wide as they are."""
    layer_map: tuple[int, ...] = ()
    """For each layer the teacher's, 1-based; none: evenly spread, and for two-stream students of one kind."""
    init: str = "slices"
    """slices: cut from the teacher by importance. fresh: drawn by the seed."""
    folder: str | None = None
    """A student's folder to begin from instead (a path or `package:NAME/path`); sizes are its own."""
    embedding_size: int = 0
    """Rank of the word table: it is trained as two factors, and exported so to ONNX; 0: full."""
    vocabulary: str = "full"
    """full: the teacher's word pieces. seen: those of the training text, and all single characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """parameters: of the model alone, without entity table. bytes: theirs in memory. flops: of one forward pass."""

    parameters: int
    bytes: int
    flops: int


def build_student(teacher: PreTrainedModel, config: StudentConfig, *, seed: int) -> PreTrainedModel:
    """A student with its teacher's head, in eval mode.

    teacher: an ERNIE with a head of `ernie.heads`, or a plain BERT with one of transformers'. What slices leave open
    (nothing, where the teacher has all parts) and fresh weights are drawn by `seed`.

    Raises:
        InputError: an unknown preset, widths that cannot be cut or built, a map that does not fit.
    """
    layer_map = layer_map_of(config, teacher.config)
    student_config = config_of_student(teacher.config, config, layer_map)
    with isolated_randomness(seed):
        student = _class_of_student(teacher, config.kind)(student_config)
    if config.init == "slices":
        _load_slices(student, teacher, config.kind, layer_map)
    elif config.init != "fresh":
        raise InputError(f"student.init is slices or fresh, got {config.init!r}")
    return cast("PreTrainedModel", student.eval())


def layer_map_of(config: StudentConfig, teacher: Any) -> tuple[int, ...]:
    """g(1) … g(M) of a student of this teacher's config.

    Raises:
        InputError: more layers than the teacher has, or a given map that does not fit.
    """
    shape = Shape.of(teacher)
    number = config.num_layers or _preset(config).get("num_layers") or len(config.layer_map)
    number = number or max(1, len(shape.kinds) // 2)
    if not config.layer_map:
        if config.kind == "two-stream":
            return kind_layer_map(number, shape.kinds)
        return uniform_layer_map(number, len(shape.kinds))
    student = Shape(kinds=("text",) * number, width=shape.width, heads=shape.heads)
    check_layer_map(config.layer_map, student=student, teacher=shape)
    return config.layer_map


def config_of_student(teacher: Any, config: StudentConfig, layer_map: Sequence[int]) -> Any:
    """BertConfig or ErnieConfig of the student; fields that are no sizes are the teacher's.

    Raises:
        InputError: an unknown preset, heads that do not divide a width, a two-stream student of a plain BERT.
    """
    preset = _preset(config)
    sizes = {
        name: getattr(config, name) or preset.get(name) or getattr(teacher, name)
        for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    }
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise InputError(
            f"student.num_attention_heads {sizes['num_attention_heads']} must divide its hidden_size "
            f"{sizes['hidden_size']}"
        )
    sizes["num_hidden_layers"] = len(layer_map)
    if config.kind == "bert":
        plain = bert_config(teacher) if isinstance(teacher, ErnieConfig) else type(teacher).from_dict(teacher.to_dict())
        return _with(plain, sizes)
    if not isinstance(teacher, ErnieConfig):
        raise InputError("a two-stream student needs a teacher with an entity stream, this one is a plain BERT")
    kinds = teacher.layer_types or []
    sizes |= {"layer_types": [kinds[g - 1] for g in layer_map]}
    if config.entity_size and config.entity_size != teacher.entity_size:
        sizes |= {
            "entity_size": config.entity_size,
            "entity_input_size": teacher.entity_input_size or teacher.entity_size,
        }
    fields: dict[str, Any] = {**teacher.to_dict(), **sizes}
    return ErnieConfig.from_dict({name: value for name, value in fields.items() if name != "architectures"})


def check_same_pieces(student: Any, teacher: Any, *, added: Sequence[str], folder: object) -> None:
    """Refuses a tokenizer whose rows differ from the teacher's: position by position the losses would compare
    different words.

    student, teacher: fast tokenizers. added: marks that one of them may lack.
    """
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


def size_of(model: nn.Module, *, num_pieces: int, num_entities: int = 0) -> Size:
    """Counts a model: parameters, their bytes, and the multiplications and additions of one text of `num_pieces`.

    num_entities: for a two-stream model, how many entities the text has.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    inputs: dict[str, Tensor] = {"input_ids": torch.ones(1, num_pieces, dtype=torch.long, device=device)}
    if num_entities:
        width = cast("ErniePreTrainedModel", model).entity_input.width
        inputs["entity_embeds"] = torch.zeros(1, num_entities, width, device=device)
        inputs["entity_positions"] = torch.zeros(1, num_entities, dtype=torch.long, device=device)
    if getattr(model.config, "pooling", "cls") != "cls":  # pyrefly: ignore[missing-attribute]
        inputs["spans"] = torch.tensor([[[0, 1]] * model.config.num_spans], device=device)  # pyrefly: ignore
    was_training = model.training
    model.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
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


def _preset(config: StudentConfig) -> Mapping[str, int]:
    if config.preset and config.preset not in SHAPES:
        near = difflib.get_close_matches(config.preset, SHAPES, n=1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise InputError(f"student.preset is one of {', '.join(SHAPES)}, got {config.preset!r}{hint}")
    return SHAPES.get(config.preset, {})


def _with(config: Any, sizes: Mapping[str, Any]) -> Any:
    for name, value in sizes.items():
        setattr(config, name, value)
    return config


def _class_of_student(teacher: PreTrainedModel, kind: Kind) -> type[Any]:
    if kind == "two-stream" or not isinstance(teacher, ErniePreTrainedModel):
        return type(teacher)
    return next((bert for ours, bert in BERT_CLASSES.items() if isinstance(teacher, ours)), BertModel)


def _widths(config: Any, *, two_stream: bool) -> Widths:
    entity = {"entity": config.entity_size, "entity_heads": config.num_entity_attention_heads} if two_stream else {}
    return Widths(
        hidden=config.hidden_size, heads=config.num_attention_heads, neurons=config.intermediate_size, **entity
    )


def _load_slices(student: nn.Module, teacher: PreTrainedModel, kind: Kind, layer_map: Sequence[int]) -> None:
    """Fills the student. The constant part of the teacher's fusion reaches every token, with or without entities: it
    goes into a plain BERT's bias (`to_bert`), so that only the knowledge from entities is missing there."""
    two_stream = kind == "two-stream"
    state: Mapping[str, Tensor] = teacher.state_dict()
    if not two_stream and isinstance(teacher, ErniePreTrainedModel):
        state = to_bert(state)
    own = cast("PreTrainedModel", student).config
    old, new = (_widths(config, two_stream=two_stream) for config in (teacher.config, own))
    slices = sliced(state, layer_map, old=old, new=new)
    names = set(student.state_dict())
    missing, surplus = student.load_state_dict({k: v for k, v in slices.items() if k in names}, strict=False)
    assert not missing, f"slices fill the whole student, but {missing[:3]} are missing"
    assert not surplus, "filtered above"
    cast("PreTrainedModel", student).tie_weights()
