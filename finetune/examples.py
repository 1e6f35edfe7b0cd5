"""The stage `finetune examples`: a graph and a corpus in, labelled task examples out, in splits that share nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import orjson

from entity_linking.corpus import read_corpus
from finetune.builders import drafts as steps
from finetune.builders.drafts import Draft
from finetune.builders.relations import NO_RELATION, relation_drafts
from finetune.builders.topics import topic_drafts
from finetune.builders.types import type_drafts
from finetune.data import SPLITS, TASK_DESCRIPTION, labels_of
from finetune.tasks.schema import write_examples
from kg.artifact import ArtifactWriter, write_artifact
from kg.errors import InputError
from kg.progress import track
from kg.sources import source_path

STAGE = "finetune examples"


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Which examples to make, of what, and how they are split."""

    output: Path
    """Folder to write."""
    task: Literal["topics", "relations", "types"]
    """topics: the editors' topic of a paragraph's title. relations: the graph's relation of two names in one sentence.
    types: the graph's types of a mentioned entity."""
    source: str
    """The corpus: a path, or `package:NAME/path`."""
    corpus: str = "wikipedia"
    """Format of the corpus, a key of entity_linking.corpus.CORPORA."""
    graph: Path | None = None
    """Graph artifact; `relations` and `types` need one."""
    dev: float = 0.1
    """Share of documents for choosing a checkpoint."""
    test: float = 0.1
    """Share of documents for the final score; the same shares and seed keep them out of pretraining."""
    max_characters: int = 400
    """Longer text is cut to so many characters round its marked mentions."""
    min_per_label: int = 5
    """A label with fewer examples is left out."""
    max_per_label: int = 2000
    """At most so many examples of a label (single-label tasks); 0 is no limit."""
    max_per_fact: int = 10
    """At most so many examples of one entity pair (relations); 0 is no limit."""
    window_sentences: int = 1
    """Both names of a relation stand within so many neighbouring sentences."""
    no_relation_ratio: float = 0.25
    """Examples of unrelated pairs, as a share of the related ones, in every split; 0 is none."""
    multi_label: bool = False
    """types: all types of an entity; otherwise entities with one type only."""
    max_documents: int = 0
    """Read only so many documents; 0 is all."""
    seed: int = 0
    """Decides the split of documents and every drawing."""

    def inputs(self) -> dict[str, Path]:
        graph = {"graph": self.graph} if self.graph is not None else {}
        return {"source": source_path(self.source), **graph}


def run(config: ExamplesConfig) -> Path:
    """Writes train.jsonl, dev.jsonl, test.jsonl, labels.json, task.json and facts.tsv.

    facts.tsv holds the facts dev and test ask for (`head<TAB>relation<TAB>tail`), to be left out of the graph before
    its entities are embedded; it is empty for tasks that ask for no fact.

    Raises:
        InputError: a graph is needed and none is given; a share or limit is out of range; fewer than two labels
            or a split without examples is left.
    """
    _check(config)
    with write_artifact(config, stage=STAGE) as writer:
        drafts = build(config, writer.dropped)
        check_usable(drafts, writer.dropped, config)
        _write(drafts, BUILDERS[config.task].task, writer)
    return config.output


def build(config: ExamplesConfig, dropped: Counter[str]) -> list[Draft]:
    """The drafts of a config: built, capped, kept apart, rare labels left out."""
    drafts = list(BUILDERS[config.task].drafts(config, dropped))
    related = [draft for draft in drafts if draft.example.label != NO_RELATION]
    related = steps.capped(
        related, _fact, config.max_per_fact, seed=config.seed, dropped=dropped, reason="over_max_per_fact"
    )
    related = steps.capped(
        related,
        steps.single_label,
        config.max_per_label,
        seed=config.seed,
        dropped=dropped,
        reason="over_max_per_label",
    )
    unrelated = [draft for draft in drafts if draft.example.label == NO_RELATION]
    drawn = _drawn_per_split(unrelated, related, config)
    if len(drawn) < len(unrelated):
        dropped["no_relation_not_drawn"] += len(unrelated) - len(drawn)
    apart = steps.without_leaks([*related, *drawn], dropped)
    kept = steps.without_rare_labels(apart, config.min_per_label, dropped)
    assert not steps.shared_keys(kept), "a key stands in two splits after without_leaks"
    return kept


def check_usable(drafts: Sequence[Draft], dropped: Counter[str], config: ExamplesConfig) -> None:
    """Refuses examples nothing can be learned from, or measured on."""
    left_out = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common()) or "nothing"
    labels = {name for draft in drafts for name in labels_of(draft.example)}
    if len(labels) < 2:
        found = f"only {next(iter(labels))!r}" if labels else "none"
        raise InputError(
            f"{STAGE}: expected at least two labels for {config.task!r}, {len(drafts):,} examples carry {found} "
            f"(left out: {left_out}); give more text, or lower min_per_label"
        )
    empty = [split for split in SPLITS if not any(draft.split == split for draft in drafts)]
    if empty:
        raise InputError(
            f"{STAGE}: no examples in {' and '.join(empty)} of {len(drafts):,} (left out: {left_out}); "
            "give more documents, larger shares dev and test, or another seed"
        )


def _from_topics(config: ExamplesConfig, dropped: Counter[str]) -> Iterator[Draft]:
    return topic_drafts(
        _documents(config, dropped),
        dev=config.dev,
        test=config.test,
        seed=config.seed,
        max_characters=config.max_characters,
        dropped=dropped,
    )


def _from_relations(config: ExamplesConfig, dropped: Counter[str]) -> Iterator[Draft]:
    graph, linker = _graph_and_linker(config)
    return relation_drafts(
        _documents(config, dropped),
        graph=graph,
        linker=linker,
        window_sentences=config.window_sentences,
        max_characters=config.max_characters,
        dev=config.dev,
        test=config.test,
        seed=config.seed,
        dropped=dropped,
    )


def _from_types(config: ExamplesConfig, dropped: Counter[str]) -> Iterator[Draft]:
    graph, linker = _graph_and_linker(config)
    return type_drafts(
        _documents(config, dropped),
        graph=graph,
        linker=linker,
        multi_label=config.multi_label,
        max_characters=config.max_characters,
        dev=config.dev,
        test=config.test,
        seed=config.seed,
        dropped=dropped,
    )


class Builder(NamedTuple):
    """A way of making examples: the task of `finetune.tasks.TASKS` they are for, and what yields their drafts."""

    task: str
    drafts: Callable[[ExamplesConfig, Counter[str]], Iterator[Draft]]


BUILDERS = {
    "topics": Builder("entity_typing", _from_topics),
    "relations": Builder("relation_classification", _from_relations),
    "types": Builder("entity_typing", _from_types),
}
"""By the config's `task`; each yields drafts and counts what it leaves out."""


def _documents(config: ExamplesConfig, dropped: Counter[str]):
    documents = read_corpus(config.corpus, config.source, dropped)
    for number, document in enumerate(track(documents, f"making {config.task} examples")):
        if config.max_documents and number >= config.max_documents:
            return
        yield document


def _graph_and_linker(config: ExamplesConfig):
    from entity_linking.linker import EntityLinker
    from kg.graph import KnowledgeGraph

    assert config.graph is not None, "_check refuses a task without its graph"
    return KnowledgeGraph.load(config.graph), EntityLinker.from_artifacts(config.graph, None)


def _drawn_per_split(unrelated: Sequence[Draft], related: Sequence[Draft], config: ExamplesConfig) -> list[Draft]:
    """So many unrelated pairs of each split that they are `no_relation_ratio` of its related ones."""
    wanted = {
        split: round(config.no_relation_ratio * sum(draft.split == split for draft in related)) for split in SPLITS
    }
    kept = []
    for split in SPLITS:
        order = sorted(
            (draft for draft in unrelated if draft.split == split),
            key=lambda draft: steps.stable_order(draft.example.id, seed=config.seed),
        )
        kept += order[: wanted[split]]
    return kept


def _fact(draft: Draft) -> str | None:
    return f"{draft.fact.head}\t{draft.fact.relation}\t{draft.fact.tail}" if draft.fact else None


def _write(drafts: Sequence[Draft], task: str, writer: ArtifactWriter) -> None:
    for split in SPLITS:
        chosen = [draft.example for draft in drafts if draft.split == split]
        writer.counts[split] = write_examples(writer.path / f"{split}.jsonl", chosen)
    per_label = Counter(name for draft in drafts for name in labels_of(draft.example))
    (writer.path / "labels.json").write_bytes(orjson.dumps(sorted(per_label), option=orjson.OPT_INDENT_2))
    (writer.path / TASK_DESCRIPTION).write_bytes(orjson.dumps({"task": task}))
    facts = {draft.fact for draft in drafts if draft.fact is not None and draft.split != "train"}
    lines = sorted(f"{fact.head}\t{fact.relation}\t{fact.tail}\n" for fact in facts)
    (writer.path / "facts.tsv").write_text("".join(lines), encoding="utf-8")
    writer.counts.update(labels=len(per_label), facts=len(facts))
    writer.figures["examples_per_label"] = dict(per_label.most_common())
    writer.figures["examples_per_label_test"] = dict(
        Counter(name for d in drafts if d.split == "test" for name in labels_of(d.example)).most_common()
    )
    writer.headline = f"{len(drafts):,} examples of {len(per_label)} labels"


def _check(config: ExamplesConfig) -> None:
    if config.graph is None and config.task != "topics":
        raise InputError(f"{STAGE}: the task {config.task!r} needs `graph`, an artifact of `ernie-kg kg build`")
    low = {"max_characters": 20, "min_per_label": 1, "window_sentences": 1, "no_relation_ratio": 0}
    for name, least in low.items():
        if getattr(config, name) < least:
            raise InputError(f"{STAGE}: {name} is {getattr(config, name)}, expected at least {least}")
