"""From task examples to the model's features: marks in, links joined, text cut to length, labels to rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from finetune.marking import Marked, mark, marks_cut_off, read_pieces
from finetune.metrics import UNSEEN
from finetune.sequence_metrics import OUTSIDE
from finetune.tasks.schema import WORD, EntityLink, Example, read_examples
from finetune.tasks.spec import TaskSpec
from kg.artifact import open_artifact
from kg.errors import InputError

if TYPE_CHECKING:
    import torch

    from entity_linking.records import LinkedDocument
    from ernie import Encoding, ErnieTokenizer

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Entities = Literal["given", "none"]
ENCODED = ("input_ids", "token_type_ids", "entity_ids", "entity_positions")
"""Fields of an encoding that are features."""
BESIDE_THE_MODEL = ("num_unseen_labels", "word_positions", "word_labels")
"""Features that scoring needs and the model does not take."""


def add_markers(tokenizer: ErnieTokenizer, spec: TaskSpec) -> int:
    """Makes the task's marks special pieces of the tokenizer; returns how many were new.

    Raises:
        InputError: a mark that is no special piece has no word piece in this vocabulary.
    """
    fast = tokenizer.fast_tokenizer
    plain = {word for pair in spec.markers.values() for mark in pair for word in mark.split() if word[0] not in "[{"}
    unknown = sorted(word for word in plain if fast.unk_token in fast.tokenize(word))
    if unknown:
        raise InputError(
            f"the marks {', '.join(unknown)} have no word piece in this tokenizer's vocabulary; choose another marking"
        )
    return tokenizer.fast_tokenizer.add_special_tokens(
        {"extra_special_tokens": spec.marker_tokens}, replace_extra_special_tokens=False
    )


def read_entity_rows(vectors: Path) -> dict[str, int]:
    """Entity id -> row of the vectors artifact's table: line i of its vocabulary.txt, from 1, is row i."""
    open_artifact(vectors, stage="kg embed")
    with (Path(vectors) / "vocabulary.txt").open(encoding="utf-8", newline="\n") as lines:
        return {line.rstrip("\n"): row for row, line in enumerate(lines, start=1)}


def read_linked_documents(linked: Path | None, examples: Sequence[Example]) -> dict[str, LinkedDocument] | None:
    """The linked documents these examples lie in, by id; None without a `link` artifact."""
    if linked is None:
        return None
    from entity_linking.annotate import read_linked

    wanted = {example.document for example in examples}
    return {document.id: document for document in read_linked(linked) if document.id in wanted}


EXAMPLE_STAGES = ("finetune examples", "finetune import", "finetune augment")
"""What writes a folder of task examples."""
TASK_DESCRIPTION = "task.json"
"""Beside the examples: the `task` they are for and, where their format has one of its own, the `scorer`."""


def load_examples(folder: Path, split: Split, *, may_be_empty: bool = False) -> list[Example]:
    """The examples of one split of a `finetune examples` or `finetune import` artifact.

    Raises:
        InputError: no such artifact, a bad line, or a split without any example, unless it may be empty.
    """
    open_artifact(folder, stage=EXAMPLE_STAGES)
    examples = list(read_examples(Path(folder) / f"{split}.jsonl"))
    if not examples and not may_be_empty:
        raise InputError(
            f"{folder}/{split}.jsonl holds no examples; give `finetune examples` more text, or a larger {split} share"
        )
    return examples


def load_labels(folder: Path) -> list[str]:
    """All label names of a folder of task examples, sorted."""
    open_artifact(folder, stage=EXAMPLE_STAGES)
    return orjson.loads((Path(folder) / "labels.json").read_bytes())


def described_task(folder: Path) -> dict[str, str]:
    """`task` and `scorer` of a folder of examples; empty for one of an older release, whose task the user names."""
    path = Path(folder) / TASK_DESCRIPTION
    return orjson.loads(path.read_bytes()) if path.is_file() else {}


def labels_of(example: Example) -> tuple[str, ...]:
    """The example's label names, one or several; of tagged words every tag."""
    words = tuple(span.type for span in example.spans if span.role == WORD and span.type is not None)
    if words:
        return words
    if example.labels is not None:
        return example.labels
    return (example.label,) if example.label is not None else ()


def label_rows(examples: Sequence[Example]) -> dict[str, int]:
    """Label name -> row, in alphabetical order, over the labels of these (training) examples; the tag `O` of words
    comes first. A regression has the one label `value`.

    Raises:
        InputError: fewer than two different labels: there is nothing to tell apart.
    """
    if examples and all(example.value is not None for example in examples):
        return {"value": 0}
    found_names = {name for example in examples for name in labels_of(example)}
    names = sorted(found_names, key=lambda name: (name != OUTSIDE, name))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise InputError(
            f"training needs at least two different labels, {len(examples):,} examples carry {found}; "
            "lower the minimum per label, or give more text"
        )
    return {name: row for row, name in enumerate(names)}


def encode_examples(
    examples: Sequence[Example],
    *,
    spec: TaskSpec,
    tokenizer: ErnieTokenizer,
    label_to_id: Mapping[str, int],
    max_length: int,
    linked: Mapping[str, LinkedDocument] | None,
    entities: Entities,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One feature dictionary an example, in their order, and what was cut or left out, by reason.

    A feature holds `input_ids`, `token_type_ids`, `entity_ids`, `entity_positions` (numpy, unpadded), `spans` where the
    head reads them (`marking.read_pieces`), and `labels`: a class row (`metrics.UNSEEN` for a label outside
    `label_to_id`), a float for a regression, or for a multi-label task a float32 vector (num_labels,) beside
    `num_unseen_labels`. Tagged words have labels of their pieces, `word_positions` and `word_labels`. An example
    without an answer has no `labels`. No example is dropped: one that `max_length` cuts is counted under
    `examples_cut_by_max_length` and scored like the others.

    tokenizer: knows the marks of `spec` (`add_markers`). linked: documents by id, whose mentions inside an example's
    part of its document become links beside its own; `entities="none"` leaves all links out.
    """
    counts: Counter[str] = Counter()
    marked = []
    for example in examples:
        links = joined_links(example, linked, counts) if entities == "given" else ()
        marked.append(mark(example, spec=spec, links=links))
    encodings = _encode(marked, examples, tokenizer, max_length)
    features = []
    for example, text, encoding in zip(examples, marked, encodings, strict=True):
        counts.update({f"link_{reason}": count for reason, count in encoding.dropped.items()})
        counts["examples_cut_by_max_length"] += encoding.kept is not None
        counts["examples_with_a_mark_cut_off"] += marks_cut_off(text, encoding)
        feature = {name: getattr(encoding, name) for name in ENCODED}
        if spec.pooling != "cls":
            feature["spans"] = read_pieces(text, encoding, spec)
        if spec.of_tokens:
            feature.update(_words(text, example, encoding, label_to_id, counts))
        else:
            feature.update(_answer(example, spec, label_to_id, counts))
        features.append(feature)
    return features, +counts


def with_joined_links(
    examples: Sequence[Example], linked: Mapping[str, LinkedDocument] | None, counts: Counter[str]
) -> list[Example]:
    """The examples with the links of their documents among their own (`joined_links`)."""
    return [replace(example, links=joined_links(example, linked, counts)) for example in examples]


def joined_links(
    example: Example, linked: Mapping[str, LinkedDocument] | None, counts: Counter[str]
) -> tuple[EntityLink, ...]:
    """The example's own links and, where none of those overlaps, its document's mentions that lie inside its text.

    Counts `document_not_linked` where the example names a document that `linked` lacks.
    """
    if linked is None or example.document is None:
        return example.links
    document = linked.get(example.document)
    if document is None:
        counts["document_not_linked"] += 1
        return example.links
    first = example.offset or 0
    if document.text[first : first + len(example.text)] != example.text:
        raise InputError(
            f"example {example.id!r}: its text is not that of document {example.document!r} at offset {first}; "
            "the linked shards come from another text, link the one the examples were made of"
        )
    found = [
        EntityLink(start=k.start - first, end=k.end - first, entity=k.entity, score=k.score)
        for k in document.mentions
        if k.start >= first and k.end <= first + len(example.text)
    ]
    free = [f for f in found if not any(f.start < own.end and own.start < f.end for own in example.links)]
    return tuple(sorted((*example.links, *free), key=lambda link: (link.start, link.end)))


def collate(features: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> dict[str, torch.Tensor]:
    """A padded batch (`ernie.pad_batch`); `labels`, where given, are class rows or multi-hot floats.

    A batch without any entity has no entity inputs, so that a model without an entity table takes it too.
    """
    from ernie import pad_batch

    inputs = [{name: value for name, value in f.items() if name not in BESIDE_THE_MODEL} for f in features]
    batch = pad_batch(inputs, pad_token_id=pad_token_id)
    if batch["entity_ids"].shape[1]:
        return batch
    return {name: tensor for name, tensor in batch.items() if not name.startswith("entity_")}


def lengths_of(features: Sequence[Mapping[str, Any]]) -> list[int]:
    """Number of word pieces of each."""
    return [len(feature["input_ids"]) for feature in features]


def _encode(
    marked: Sequence[Marked], examples: Sequence[Example], tokenizer: ErnieTokenizer, max_length: int
) -> list[Encoding]:
    from ernie import EntitySpan

    # None where there is no second text: each is encoded by itself, whatever stands beside it in the batch.
    pairs: list[Any] = [example.text_pair or None for example in examples]
    return tokenizer.encode(
        [text.text for text in marked],
        [[EntitySpan(start=k.start, end=k.end, entity=k.entity) for k in text.links] for text in marked],
        text_pairs=pairs,
        max_length=max_length,
    )


def _words(
    marked: Marked, example: Example, encoding: Encoding, label_to_id: Mapping[str, int], counts: Counter[str]
) -> dict[str, Any]:
    """The first piece of every word (-1 where it was cut off), its tag's row, and the rows as labels of the pieces."""
    words = [span for span in marked.spans if span.role == WORD]
    found = [next((p for c in range(w.start, w.end) if (p := encoding.piece_at(c)) is not None), -1) for w in words]
    positions = np.array(found, dtype=np.int64)
    counts["words_cut_by_max_length"] += int((positions < 0).sum())
    tags = [span.type for span in example.spans if span.role == WORD]
    if any(tag is None for tag in tags):
        return {"word_positions": positions}
    counts["label_unseen_in_training"] += sum(tag not in label_to_id for tag in tags)
    rows = np.array([label_to_id.get(str(tag), UNSEEN) for tag in tags], dtype=np.int64)
    labels = np.full(len(encoding.input_ids), UNSEEN, dtype=np.int64)
    labels[positions[positions >= 0]] = rows[positions >= 0]
    return {"word_positions": positions, "word_labels": rows, "labels": labels}


def _answer(example: Example, spec: TaskSpec, label_to_id: Mapping[str, int], counts: Counter[str]) -> dict[str, Any]:
    if spec.problem_type == "regression":
        return {} if example.value is None else {"labels": np.float32(example.value)}
    names = labels_of(example)
    unseen = [name for name in names if name not in label_to_id]
    counts.update("label_unseen_in_training" for _ in unseen)
    if spec.multi_label:
        if example.labels is None:
            return {}
        hot = np.zeros(len(label_to_id), dtype=np.float32)
        hot[[label_to_id[name] for name in names if name in label_to_id]] = 1
        return {"labels": hot, "num_unseen_labels": len(unseen)}
    if example.label is None:
        return {}
    return {"labels": label_to_id.get(example.label, UNSEEN)}
