"""A task model in use: text in, typed mentions or labels out.

from finetune.pipeline import pipeline
types = pipeline("runs/quickstart/topic-model", vectors="runs/quickstart/vectors", linker="runs/linker")
types("Kyiv is the capital of Ukraine.")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data import encode_examples, read_entity_rows
from finetune.evaluation import predict_logits, prediction_records
from finetune.task_model import TaskModel, load_task_model, trained_entity_table
from finetune.tasks.checks import check_examples
from finetune.tasks.schema import WORD, EntityLink, Example, Span
from kg.errors import InputError

if TYPE_CHECKING:
    from entity_linking.linker import EntityLinker
    from entity_linking.records import LinkedDocument

CHUNK = 1024
"""Examples encoded together and run by length, so that little is padded."""
MAX_PAIRS = 30
"""Pairs of mentions of one text that are asked for a relation, at most."""


class TaskPipeline:
    """A fine-tuned model, its entity table, and (where given) the linker that finds entities in plain text."""

    def __init__(self, task: TaskModel, *, linker: EntityLinker | None = None, batch_size: int = 64) -> None:
        self.task, self.linker, self.batch_size = task, linker, batch_size
        self.names = sorted(task.label_to_id, key=task.label_to_id.__getitem__)
        self.counts: Counter[str] = Counter()
        """What was cut or left out so far, by reason (`data.encode_examples`)."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        vectors: str | Path | None = None,
        linker: str | Path | None = None,
        graph: str | Path | None = None,
        batch_size: int = 64,
    ) -> TaskPipeline:
        """model: artifact of `finetune run` or `finetune distill`. vectors: artifact of `kg embed`; without it no
        entity is given to the model. linker: artifact of `link train`; or graph: links untrained over that graph.

        Raises:
            InputError: a folder is no such artifact, or both linker and graph are given.
        """
        rows = read_entity_rows(Path(vectors)) if vectors is not None else {}
        task = load_task_model(Path(model), rows)
        if vectors is None:
            task = replace(task, entities="none")
        elif task.entities == "given":
            task.model.attach_entity_table(trained_entity_table(Path(model), Path(vectors)))
        return cls(task, linker=open_linker(linker, graph, vectors), batch_size=batch_size)

    def __call__(self, texts: str | Sequence[str]) -> list[Any]:
        """Plain text in. Entity typing: a list of mentions, `{"start", "end", "text", "entity", "predicted", …}`;
        relations: a list of pairs, with `head` and `tail`; else one answer a text. One string gives one such list (or
        answer), several strings a list of them.

        Mentions are what the linker finds: typing and relations need one.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        roles = self.task.spec.roles
        if roles and self.linker is None:
            raise InputError(f"{self.task.spec.name} asks about mentions; give a linker, or examples with their spans")
        examples = [example for number, text in enumerate(texts) for example in self.asked(str(number), text)]
        found: list[list[dict[str, Any]]] = [[] for _ in texts]
        for example, record in zip(examples, self.predict(examples), strict=True):
            found[int(example.id.partition(":")[0])].append({**_described(example), **_without(record, "id", "gold")})
        return found if roles else [answers[0] for answers in found]

    def asked(self, name: str, text: str) -> list[Example]:
        """The examples a plain text makes: one a mention for typing, one an ordered pair for relations, else itself;
        ids are `name`, or `name:NUMBER`."""
        whole = self.linked(Example(id=name, text=text))
        roles = self.task.spec.roles
        if self.task.spec.of_tokens:
            return [replace(whole, spans=words_of(text))]
        if not roles:
            return [whole]
        groups = islice(permutations(whole.links, len(roles)), MAX_PAIRS) if len(roles) > 1 else zip(whole.links)
        return [
            replace(whole, id=f"{name}:{number}", spans=tuple(_span(k, role) for k, role in zip(links, roles)))
            for number, links in enumerate(groups)
        ]

    def linked(self, example: Example) -> Example:
        """The example with the linker's links beside its own; as it is without a linker."""
        return next(self._linked([example])) if self.linker is not None else example

    def predict(
        self, examples: Iterable[Example], *, linked: Mapping[str, LinkedDocument] | None = None, relink: bool = False
    ) -> Iterator[dict[str, Any]]:
        """One record an example, in their order, as they come (`evaluation.prediction_records`); memory holds
        `CHUNK` of them.

        linked: documents whose links join the examples' own. relink: links are made by the linker.
        """
        stream = iter(examples)
        while chunk := list(islice(stream, CHUNK)):
            shown = list(self._linked(chunk)) if relink and self.linker is not None else chunk
            _, logits = self.answer(shown, linked=linked)
            yield from prediction_records(chunk, logits, names=self.names, spec=self.task.spec)

    def answer(
        self, examples: Sequence[Example], *, linked: Mapping[str, LinkedDocument] | None = None
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Features and logits (`evaluation.predict_logits`) of examples that are in memory.

        A typing or relation example without any span is read unmarked.

        Raises:
            InputError: an example has some of the spans its task marks and not all, or overlapping ones.
        """
        check_examples(self.task.spec, [e for e in examples if e.spans], "prediction")
        features, counts = encode_examples(
            examples,
            spec=self.task.spec,
            tokenizer=self.task.tokenizer,
            label_to_id=self.task.label_to_id,
            max_length=self.task.max_length,
            linked=linked,
            entities=self.task.entities,
        )
        self.counts += counts
        pad = self.task.tokenizer.pad_token_id
        return features, predict_logits(self.task.model, features, batch_size=self.batch_size, pad_token_id=pad)

    def _linked(self, examples: Sequence[Example]) -> Iterator[Example]:
        assert self.linker is not None, "asked for only with a linker"
        found = self.linker.link_batch([example.text for example in examples])
        for example, links in zip(examples, found, strict=True):
            new = [EntityLink(start=k.start, end=k.end, entity=k.entity, score=k.score) for k in links]
            free = [k for k in new if not any(k.start < own.end and own.start < k.end for own in example.links)]
            yield replace(example, links=tuple(sorted((*example.links, *free), key=lambda k: (k.start, k.end))))


def pipeline(model: str | Path, **settings: Any) -> TaskPipeline:
    """A task model ready for text; settings as in `TaskPipeline.from_pretrained`."""
    return TaskPipeline.from_pretrained(model, **settings)


def open_linker(linker: str | Path | None, graph: str | Path | None, vectors: str | Path | None) -> EntityLinker | None:
    """The linker of an artifact, or an untrained one over a graph; None without either."""
    if linker is not None and graph is not None:
        raise InputError("links come from a linker or from a graph, not from both")
    if linker is None and graph is None:
        return None
    from entity_linking.linker import EntityLinker

    if linker is not None:
        return EntityLinker.from_pretrained(linker)
    assert graph is not None, "one of the two is given"
    return EntityLinker.from_artifacts(Path(graph), Path(vectors) if vectors is not None else None)


def words_of(text: str) -> tuple[Span, ...]:
    """Words between white space, as spans to be tagged."""
    spans, place = [], 0
    for word in text.split():
        start = text.index(word, place)
        place = start + len(word)
        spans.append(Span(start=start, end=place, role=WORD))
    return tuple(spans)


def _span(link: EntityLink, role: str) -> Span:
    return Span(start=link.start, end=link.end, role=role)


def _described(example: Example) -> dict[str, Any]:
    """What an answer is about: a mention's own place, or head and tail."""
    spans = [span for span in example.spans if span.role != WORD]
    places = [
        {
            "start": span.start,
            "end": span.end,
            "text": example.text[span.start : span.end],
            "entity": next((k.entity for k in example.links if (k.start, k.end) == (span.start, span.end)), None),
        }
        for span in spans
    ]
    if len(places) == 1:
        return places[0]
    return {span.role: place for span, place in zip(spans, places, strict=True)}


def _without(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in names}
