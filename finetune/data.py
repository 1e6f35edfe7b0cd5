"""From task examples to the model's features: marks in, links joined, text cut to length, labels to rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from finetune.metrics import UNSEEN
from finetune.tasks.schema import EntityLink, Example, Span, check_span, read_examples
from finetune.tasks.spec import TaskSpec
from kg.artifact import open_artifact
from kg.errors import InputError

if TYPE_CHECKING:
    import torch

    from entity_linking.records import LinkedDocument
    from ernie import ErnieTokenizer

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Entities = Literal["given", "none"]


def add_markers(tokenizer: ErnieTokenizer, spec: TaskSpec) -> int:
    """Makes the task's marks special pieces of the tokenizer; returns how many were new."""
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


def load_examples(folder: Path, split: Split) -> list[Example]:
    """The examples of one split of a `finetune examples` artifact.

    Raises:
        InputError: no such artifact, a bad line, or a split without any example.
    """
    open_artifact(folder, stage="finetune examples")
    examples = list(read_examples(Path(folder) / f"{split}.jsonl"))
    if not examples:
        raise InputError(
            f"{folder}/{split}.jsonl holds no examples; give `finetune examples` more text, or a larger {split} share"
        )
    return examples


def load_labels(folder: Path) -> list[str]:
    """All label names of a `finetune examples` artifact, sorted."""
    open_artifact(folder, stage="finetune examples")
    return orjson.loads((Path(folder) / "labels.json").read_bytes())


def labels_of(example: Example) -> tuple[str, ...]:
    """The example's label names, one or several."""
    if example.labels is not None:
        return example.labels
    return (example.label,) if example.label is not None else ()


def label_rows(examples: Sequence[Example]) -> dict[str, int]:
    """Label name -> row, in alphabetical order, over the labels of these (training) examples.

    Raises:
        InputError: fewer than two different labels: there is nothing to tell apart.
    """
    names = sorted({name for example in examples for name in labels_of(example)})
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

    A feature holds `input_ids`, `token_type_ids`, `entity_ids`, `entity_positions` (numpy, unpadded) and `labels`: a
    class row (`metrics.UNSEEN` for a label outside `label_to_id`), or for a multi-label task a float32 vector
    (num_labels,) beside `num_unseen_labels`. An example without an answer has no `labels`. No example is dropped: one
    that `max_length` cuts is counted under `examples_cut_by_max_length` and scored like the others.

    tokenizer: knows the marks of `spec` (`add_markers`). linked: documents by id, whose mentions inside an example's
    part of its document become links beside its own; `entities="none"` leaves all links out.
    """
    counts: Counter[str] = Counter()
    texts, spans = [], []
    for example in examples:
        links = joined_links(example, linked, counts) if entities == "given" else ()
        text, moved = mark(example, spec=spec, links=links)
        texts.append(text)
        spans.append(moved)
    features = _encode(texts, spans, examples, tokenizer, max_length, counts)
    marks = np.array(tokenizer.fast_tokenizer.convert_tokens_to_ids(spec.marker_tokens))
    for example, feature in zip(examples, features, strict=True):
        feature.update(_answer(example, spec, label_to_id, counts))
        num_marks = 2 * sum(span.role in spec.markers for span in example.spans)
        counts["examples_with_a_mark_cut_off"] += int(np.isin(feature["input_ids"], marks).sum()) < num_marks
    return features, +counts


def mark(example: Example, *, spec: TaskSpec, links: Sequence[EntityLink] = ()) -> tuple[str, list[EntityLink]]:
    """The text with the marks of its spans put in, and the links moved along.

    `Kyiv is old` with a mention [0, 4) becomes `[ENT] Kyiv [/ENT] is old`, a link [0, 4) becomes [6, 10). A link still
    covers the same characters; one with a mark strictly inside ends before that mark (its first piece, where the
    entity sits, stays). Spans of roles the task has no marks for stay unmarked.

    Raises:
        InputError: a span or link is empty or leaves the text.
    """
    for item in (*example.spans, *links):
        check_span(item.start, item.end, example.text, lambda fault: f"example {example.id!r}: span {fault}")
    insertions = _insertions(example.spans, spec)
    pieces, done = [], 0
    for position, _, token in insertions:
        pieces += [example.text[done:position], token]
        done = position
    pieces.append(example.text[done:])
    return "".join(pieces), [_moved(link, insertions) for link in links]


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

    inputs = [{name: value for name, value in f.items() if name != "num_unseen_labels"} for f in features]
    batch = pad_batch(inputs, pad_token_id=pad_token_id)
    if batch["entity_ids"].shape[1]:
        return batch
    return {name: tensor for name, tensor in batch.items() if not name.startswith("entity_")}


def lengths_of(features: Sequence[Mapping[str, Any]]) -> list[int]:
    """Number of word pieces of each."""
    return [len(feature["input_ids"]) for feature in features]


def _insertions(spans: Sequence[Span], spec: TaskSpec) -> list[tuple[int, int, str]]:
    """(position, order, token): at one position a closing mark stands before an opening one."""
    found = []
    for span in spans:
        if span.role in spec.markers:
            opening, closing = spec.markers[span.role]
            found += [(span.start, 1, f"{opening} "), (span.end, 0, f" {closing}")]
    return sorted(found)


def _moved(link: EntityLink, insertions: Sequence[tuple[int, int, str]]) -> EntityLink:
    """Marks at the link's start go before it, those at its end behind it."""
    shift = sum(len(token) for position, _, token in insertions if position <= link.start)
    inside = [position for position, _, _ in insertions if link.start < position < link.end]
    end = min(inside, default=link.end)
    return EntityLink(start=link.start + shift, end=end + shift, entity=link.entity, score=link.score)


def _encode(
    texts: list[str],
    spans: list[list[EntityLink]],
    examples: Sequence[Example],
    tokenizer: ErnieTokenizer,
    max_length: int,
    counts: Counter[str],
) -> list[dict[str, Any]]:
    from ernie import EntitySpan

    pairs = [example.text_pair or "" for example in examples]
    encodings = tokenizer.encode(
        texts,
        [[EntitySpan(start=k.start, end=k.end, entity=k.entity) for k in links] for links in spans],
        text_pairs=pairs if any(pairs) else None,
        max_length=max_length,
    )
    features = []
    for encoding in encodings:
        counts.update({f"link_{reason}": count for reason, count in encoding.dropped.items()})
        counts["examples_cut_by_max_length"] += encoding.kept is not None
        features.append(
            {
                "input_ids": encoding.input_ids,
                "token_type_ids": encoding.token_type_ids,
                "entity_ids": encoding.entity_ids,
                "entity_positions": encoding.entity_positions,
            }
        )
    return features


def _answer(example: Example, spec: TaskSpec, label_to_id: Mapping[str, int], counts: Counter[str]) -> dict[str, Any]:
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
