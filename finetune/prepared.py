"""A task made ready: examples read and checked, labels numbered, features encoded; and its model for one seed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ernie
from ernie.modeling import ErniePreTrainedModel
from finetune.controls import entity_words, with_metadata, with_shuffled_links
from finetune.data import (
    SPLITS,
    Split,
    add_markers,
    described_task,
    encode_examples,
    label_rows,
    load_examples,
    read_entity_rows,
    read_linked_documents,
    with_joined_links,
)
from finetune.scorers import SCORERS
from finetune.task_model import build_classifier, check_model_folder
from finetune.tasks import TASKS, TaskSpec, for_examples, with_labels, with_marking, with_pooling
from finetune.tasks.checks import check_examples
from finetune.tasks.schema import Example
from kg.errors import InputError
from kg.sources import resolve_source

if TYPE_CHECKING:
    from finetune.run import FinetuneConfig

NO_TABLE_SIZE = 100
"""Width of an entity vector where no vectors are given; nothing is read through it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What all seeds share. features, examples: by split; `test` may be empty. dropped: by split and reason."""

    spec: TaskSpec
    label_to_id: dict[str, int]
    features: Mapping[Split, list[dict[str, Any]]]
    examples: Mapping[Split, list[Example]]
    counts: Counter[str]
    dropped: Counter[str]

    @property
    def scored_split(self) -> Split:
        """Where the final figures come from: test, or dev where there is no test."""
        return "test" if self.examples["test"] else "dev"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What training and scoring of one seed share."""

    spec: TaskSpec
    model: ErniePreTrainedModel
    tokenizer: ernie.ErnieTokenizer
    label_to_id: dict[str, int]
    features: Mapping[Split, list[dict[str, Any]]]
    examples: Mapping[Split, list[Example]]
    scored_split: Split

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def names(self) -> list[str]:
        """Label names by row."""
        return sorted(self.label_to_id, key=self.label_to_id.__getitem__)


def prepare(config: FinetuneConfig) -> Prepared:
    """
    Raises:
        InputError: an unknown task, marking or scorer, bad or empty examples, fewer than two labels.
    """
    examples = _examples(config)
    spec = task_spec(config, examples["train"])
    for split in SPLITS:
        check_examples(spec, examples[split], f"{config.examples}/{split}.jsonl")
        if examples[split] and for_examples(spec, examples[split]).problem_type != spec.problem_type:
            raise InputError(f"{config.examples}: {split} carries another kind of label than train; give all the same")
    label_to_id = label_rows(examples["train"])
    spec = with_labels(spec, list(label_to_id))
    tokenizer = _tokenizer(config)
    add_markers(tokenizer, spec)
    counts, dropped = Counter({"labels": len(label_to_id)}), Counter()
    features = {}
    for split in SPLITS:
        found, reasons = _features(config, examples[split], spec, tokenizer, label_to_id)
        features[split] = found
        counts.update({split: len(found), f"{split}_links": sum(len(feature["entity_ids"]) for feature in found)})
        dropped.update({f"{split}_{reason}": count for reason, count in reasons.items()})
    return Prepared(
        spec=spec, label_to_id=label_to_id, features=features, examples=examples, counts=counts, dropped=dropped
    )


def task_spec(config: FinetuneConfig, train: Sequence[Example]) -> TaskSpec:
    """The task of a config, with the answers its training examples carry, its marks, pooling and scorer."""
    described = described_task(config.examples)
    name = config.task or described.get("task", "")
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown; there are {', '.join(sorted(TASKS))}")
    spec = with_marking(for_examples(TASKS[name], train), config.marking, train)
    spec = dataclasses.replace(with_pooling(spec, config.pooling), argmax_fallback=config.argmax_fallback)
    scorer = config.scorer or described.get("scorer", "")
    if not scorer:
        return spec
    if scorer not in SCORERS:
        raise InputError(f"scorer {scorer!r} is unknown; there are {', '.join(SCORERS)}")
    if SCORERS[scorer].problem_type != spec.problem_type:
        raise InputError(
            f"scorer {scorer!r} scores a {SCORERS[scorer].problem_type}, these examples make a {spec.problem_type}"
        )
    return dataclasses.replace(spec, scorer=scorer, primary_metric=SCORERS[scorer].primary)


def build(config: FinetuneConfig, prepared: Prepared, seed: int) -> Task:
    """A fresh model for one seed, its entity table attached."""
    tokenizer = _tokenizer(config)
    table = None
    if config.vectors is not None:
        table = ernie.EntityTable.open(config.vectors).controlled(config.entity_control, config.seed)
    model = build_classifier(
        resolve_source(config.model),
        spec=prepared.spec,
        tokenizer=tokenizer,
        label_to_id=prepared.label_to_id,
        entity_size=table.entity_size if table is not None else NO_TABLE_SIZE,
        seed=seed,
        text_layers=config.entities == "none",
    )
    if table is not None and config.entities == "given":
        model.attach_entity_table(table)
    return Task(
        spec=prepared.spec,
        model=model,
        tokenizer=tokenizer,
        label_to_id=prepared.label_to_id,
        features=prepared.features,
        examples=prepared.examples,
        scored_split=prepared.scored_split,
    )


def _tokenizer(config: FinetuneConfig) -> ernie.ErnieTokenizer:
    folder = resolve_source(config.model)
    check_model_folder(folder)
    rows = read_entity_rows(config.vectors) if config.vectors is not None else {}
    return ernie.ErnieTokenizer.from_pretrained(folder, rows)


def _features(
    config: FinetuneConfig,
    examples: Sequence[Example],
    spec: TaskSpec,
    tokenizer: ernie.ErnieTokenizer,
    label_to_id: Mapping[str, int],
) -> tuple[list[dict[str, Any]], Counter[str]]:
    counts: Counter[str] = Counter()
    shown = with_joined_links(examples, read_linked_documents(config.linked, examples), counts)
    if config.link_control == "shuffled":
        shown = with_shuffled_links(shown, seed=config.seed)
    if config.metadata != "none":
        assert config.graph is not None, "the config refuses metadata without a graph"
        shown = with_metadata(shown, entity_words(config.graph, config.metadata))
    features, cut = encode_examples(
        shown,
        spec=spec,
        tokenizer=tokenizer,
        label_to_id=label_to_id,
        max_length=config.max_length,
        linked=None,
        entities=config.entities,
    )
    return features, counts + cut


def _examples(config: FinetuneConfig) -> dict[Split, list[Example]]:
    """The test set may be missing (a public one often is): dev then gives the final figures."""
    limits: dict[Split, int] = {"train": config.max_train, "dev": config.max_dev, "test": 0}
    return {
        split: _drawn(load_examples(Path(config.examples), split, may_be_empty=split == "test"), limit, config.seed)
        for split, limit in limits.items()
    }


def _drawn(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """`limit` of the examples (0: all), drawn without replacement, in their order."""
    if limit <= 0 or limit >= len(examples):
        return list(examples)
    rows = np.random.default_rng(seed).permutation(len(examples))[:limit]
    return [examples[row] for row in sorted(rows)]
