"""A task's model folder: the classifier and its tokenizer as `save_pretrained` writes them, and `task.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from torch import nn
from transformers import AutoConfig, BertConfig, BertForSequenceClassification, BertForTokenClassification

import ernie
from ernie.modeling import ErniePreTrainedModel
from ernie.training.reproducibility import isolated_randomness
from finetune.data import Entities, add_markers
from finetune.tasks import TASKS, TaskSpec
from kg.artifact import open_artifact, read_manifest
from kg.errors import InputError

STAGES = ("finetune run", "finetune distill")
TASK_FILE = "task.json"
TASK_FIELDS = (
    "task",
    "problem_type",
    "primary_metric",
    "markers",
    "span_types",
    "pooling",
    "scorer",
    "argmax_fallback",
    "max_length",
    "entities",
)
"""What `save_task_model` writes into it, and `read_task` needs."""
MARKS_BEGIN_AS = {"HD": "#", "E1": "#", "SUBJ": "#", "TL": "$", "E2": "$", "OBJ": "$", "ENT": "*", "E": "*"}
"""What a mark's name begins with (`[HD]`, `[/SUBJ-PERSON]`) -> the word piece whose vector it begins with (the first
ERNIE code marked relations by # and $ themselves)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """A fine-tuned model and what is needed to use it.

    model: an ERNIE, or a student's plain BERT, which takes text alone. label_to_id: label name -> row of the logits.
    max_length: word pieces it was trained with. entities: whether it was given linked entities.
    """

    model: Any
    tokenizer: ernie.ErnieTokenizer
    spec: TaskSpec
    label_to_id: dict[str, int]
    max_length: int
    entities: Entities


def build_classifier(
    folder: Path,
    *,
    spec: TaskSpec,
    tokenizer: ernie.ErnieTokenizer,
    label_to_id: Mapping[str, int],
    entity_size: int,
    seed: int,
    text_layers: bool = False,
) -> ErniePreTrainedModel:
    """A classifier with fresh head on a pretrained encoder; the task's marks are added to tokenizer and embeddings.

    folder: a pretrained ERNIE, or a plain BERT, whose knowledge layers then start fresh; text_layers: it
    gets none. seed: of all that starts fresh; torch's global generator is left as it was.

    Raises:
        InputError: no model folder, a model of another kind, or one whose head was trained for other labels.
    """
    config = _config(folder, spec, label_to_id, entity_size, text_layers)
    add_markers(tokenizer, spec)
    model_class = getattr(ernie, spec.model_class_name)
    with isolated_randomness(seed), quiet_loading():
        model = model_class.from_pretrained(folder, config=config, dtype=torch.float32)
        if len(tokenizer.fast_tokenizer) > model.config.vocab_size:
            model.resize_token_embeddings(len(tokenizer.fast_tokenizer), mean_resizing=False)
            _begin_marks(model, tokenizer, spec)
    return model


def check_model_folder(folder: Path) -> None:
    """Refuses a folder that is no Hugging Face model folder."""
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (Path(folder) / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: no {' and no '.join(missing)}; expected a model folder, make one with `ernie-kg pretrain run`"
        )


def save_task_model(
    folder: Path,
    *,
    model: ErniePreTrainedModel,
    tokenizer: ernie.ErnieTokenizer,
    spec: TaskSpec,
    max_length: int,
    entities: Entities,
) -> None:
    """Writes config, weights, tokenizer files and task.json; labels are in the config's id2label."""
    with quiet_loading():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    task = {
        "task": spec.name,
        "problem_type": spec.problem_type,
        "primary_metric": spec.primary_metric,
        "markers": spec.markers,
        "span_types": spec.span_types,
        "pooling": spec.pooling,
        "scorer": spec.scorer,
        "argmax_fallback": spec.argmax_fallback,
        "max_length": max_length,
        "entities": entities,
    }
    (Path(folder) / TASK_FILE).write_bytes(orjson.dumps(task, option=orjson.OPT_INDENT_2))


def load_task_model(folder: Path, entity_rows: Mapping[str, int]) -> TaskModel:
    """Reads what `save_task_model` wrote in an artifact of `finetune run`, or a student of `finetune distill`.

    entity_rows: as `data.read_entity_rows` gives them; empty for use without entities. Attach an entity table to the
    model before giving it entities.
    """
    stage = read_manifest(folder).stage if (Path(folder) / "manifest.json").exists() else STAGES[0]
    open_artifact(folder, stage=stage if stage in STAGES else STAGES[0])
    spec, max_length, entities = read_task(folder)
    plain = is_plain_bert(folder)
    of_plain = BertForTokenClassification if spec.of_tokens else BertForSequenceClassification
    model_class = of_plain if plain else getattr(ernie, spec.model_class_name)
    with quiet_loading():
        model = model_class.from_pretrained(folder, dtype=torch.float32)
    return TaskModel(
        model=model,
        tokenizer=ernie.ErnieTokenizer.from_pretrained(folder, entity_rows),
        spec=spec,
        label_to_id={str(name): int(row) for row, name in (model.config.id2label or {}).items()},
        max_length=max_length,
        entities="none" if plain else entities,
    )


def is_plain_bert(folder: Path) -> bool:
    """Whether a model folder holds a text-only BERT."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json; expected a model folder of `finetune distill` or `finetune run`")
    return orjson.loads(path.read_bytes()).get("model_type") == "bert"


def trained_entity_table(folder: Path, vectors: Path) -> ernie.EntityTable:
    """The vectors as the model of an artifact of `finetune run` (or the teacher of a student) saw them, its control
    applied."""
    manifest = read_manifest(folder)
    trained = manifest.figures.get("trained_entities") or manifest.data["config"]
    return ernie.EntityTable.open(vectors).controlled(trained["entity_control"], trained["seed"])


def read_task(folder: Path) -> tuple[TaskSpec, int, Entities]:
    """The task of a model folder, the length it was trained with, and whether it was given entities."""
    task: dict[str, Any] = orjson.loads((Path(folder) / TASK_FILE).read_bytes())
    if missing := [name for name in TASK_FIELDS if name not in task]:
        raise InputError(
            f"{folder}/{TASK_FILE} lacks {', '.join(missing)}: another version wrote it; train the model again with "
            f"`finetune run`"
        )
    if task["task"] not in TASKS:
        raise InputError(f"{folder}/{TASK_FILE}: unknown task {task['task']!r}; there are {sorted(TASKS)}")
    labels = orjson.loads((Path(folder) / "config.json").read_bytes()).get("id2label") or {}
    spec = dataclasses.replace(
        TASKS[task["task"]],
        problem_type=task["problem_type"],
        primary_metric=task["primary_metric"],
        markers={role: tuple(pair) for role, pair in task["markers"].items()},
        span_types=tuple(task["span_types"]),
        pooling=task["pooling"],
        scorer=task["scorer"],
        argmax_fallback=task["argmax_fallback"],
        label_names=tuple(labels[row] for row in sorted(labels, key=int)),
    )
    return spec, task["max_length"], task["entities"]


@torch.no_grad()
def _begin_marks(model: ErniePreTrainedModel, tokenizer: ernie.ErnieTokenizer, spec: TaskSpec) -> None:
    """Adds to each fresh mark the vector of a known piece: a mark of known scale, apart from its twin by the noise."""
    table = cast("nn.Embedding", model.get_input_embeddings()).weight
    vocabulary = tokenizer.fast_tokenizer.get_vocab()
    for mark in spec.marker_tokens:
        piece = MARKS_BEGIN_AS.get(mark.strip("[/]").partition("-")[0])
        if piece in vocabulary:
            table[vocabulary[mark]] += table[vocabulary[piece]]


def _config(
    folder: Path, spec: TaskSpec, label_to_id: Mapping[str, int], entity_size: int, text_layers: bool
) -> ernie.ErnieConfig:
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected a model folder, make one with `ernie-kg pretrain run`")
    config = AutoConfig.from_pretrained(folder)
    if isinstance(config, BertConfig):
        text = ["text"] * config.num_hidden_layers if text_layers else None
        config = ernie.ErnieConfig.from_bert(config, entity_size=entity_size, layer_types=text)
    if not isinstance(config, ernie.ErnieConfig):
        raise InputError(f"{folder} holds a {config.model_type!r} model; expected ernie-kg or bert")
    _check_head(folder, config, label_to_id)
    config.id2label = {row: name for name, row in label_to_id.items()}
    config.label2id = dict(label_to_id)
    if not spec.of_tokens:
        config.problem_type = spec.problem_type  # pyrefly: ignore[bad-assignment]
    config.pooling, config.num_spans = spec.pooling, len(spec.roles)
    return config


def _check_head(folder: Path, config: ernie.ErnieConfig, label_to_id: Mapping[str, int]) -> None:
    """A head that was trained for other labels would be read as one for these, row by row."""
    heads = {spec.model_class_name for spec in TASKS.values()}
    if not heads & set(config.architectures or ()):
        return
    known = {name: row for row, name in (config.id2label or {}).items()}
    if known == dict(label_to_id):
        return
    odd = sorted(known.keys() ^ label_to_id.keys())
    raise InputError(
        f"{folder}: the model's head was trained for {len(known)} labels, these examples have {len(label_to_id)}, "
        f"different ones are {', '.join(map(repr, odd[:3])) or 'in another order'}; start from the pretrained model"
    )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keeps transformers from reporting the head that starts fresh, which is what is meant, and from its own bars."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
