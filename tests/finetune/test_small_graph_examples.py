"""A user's small graph and texts, through the stage with the real linker."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finetune.builders.relations import NO_RELATION
from finetune.data import load_examples
from finetune.examples import ExamplesConfig, run
from kg.artifact import write_artifact
from kg.errors import InputError
from kg.filters import fact_rows, read_facts, without_facts
from kg.graph import KnowledgeGraph


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    """The least a stage's config offers, for an artifact the test writes itself."""

    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


def names_world(tmp_path: Path) -> ExamplesConfig:
    """A user's graph: 120 made names, each tied to the next by one of two relations, in 240 short texts."""
    rows = list(range(1, 121))
    names = [f"Kor{chr(97 + n % 26)}{chr(97 + n // 26)}an" for n in range(120)]
    made = KnowledgeGraph(
        entities=pa.table(
            {
                "row": rows,
                "id": [f"Q{n}" for n in rows],
                "label": names,
                "aliases": [[name] for name in names],
                "description": [""] * 120,
                "types": [["town" if n % 3 else "river"] for n in rows],
                "count": [1] * 120,
            }
        ),
        relations=pa.table({"row": [0, 1], "id": ["near", "feeds"], "label": ["near", "feeds"]}),
        aliases=pa.table({"alias": names, "entity": rows, "prior": [1.0] * 120}),
        triples=np.array([(n, n % 2, n + 1) for n in range(1, 120)], dtype=np.int32),
    )
    with write_artifact(MadeConfig(output=tmp_path / "graph"), stage="kg build") as writer:
        made.save(writer.path)
    texts = [
        {"id": f"d{n}", "text": f"It is said that {names[n % 119]} lies by {names[n % 119 + 1]} and {names[n // 2]}."}
        for n in range(240)
    ]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    return ExamplesConfig(
        output=tmp_path / "out",
        task="relations",
        corpus="jsonl",
        source=str(source),
        graph=tmp_path / "graph",
        dev=0.2,
        test=0.2,
    )


def test_a_small_graph_gives_relation_examples_whose_facts_are_listed(tmp_path: Path):
    """A test fact missing from facts.tsv stays in the graph, and the vectors know the answer."""
    config = names_world(tmp_path)
    folder = run(config)
    found = {split: load_examples(folder, split) for split in ("train", "dev", "test")}
    assert {e.label for e in found["train"]} == {"near", "feeds", NO_RELATION}
    pairs = {split: {frozenset(link.entity for link in e.links) for e in examples} for split, examples in found.items()}
    assert not pairs["train"] & (pairs["dev"] | pairs["test"])
    assert not pairs["dev"] & pairs["test"]
    asked = {
        (e.links[0].entity, e.label, e.links[1].entity) for e in found["dev"] + found["test"] if e.label != NO_RELATION
    }
    assert {(f.head, f.relation, f.tail) for f in read_facts(folder / "facts.tsv")} == asked
    known = KnowledgeGraph.load(config.graph)
    held_out, unknown = fact_rows(
        read_facts(folder / "facts.tsv"), entities=known.entity_vocab, relations=known.relation_vocab
    )
    assert not unknown
    assert without_facts(known.triples, held_out)[1].total() >= len(asked)


def test_a_small_graph_gives_typing_examples(tmp_path: Path):
    """The same road for a user's types."""
    folder = run(dataclasses.replace(names_world(tmp_path), task="types"))
    examples = load_examples(folder, "train")
    assert {e.label for e in examples} == {"town", "river"}
    assert all(e.text[e.spans[0].start : e.spans[0].end].startswith("Kor") for e in examples)


def test_a_corpus_without_the_graphs_names_says_so(tmp_path: Path):
    """A user's texts may name nothing the graph knows."""
    config = names_world(tmp_path)
    Path(config.source).write_text('{"text": "Nothing of that kind is mentioned."}\n')
    with pytest.raises(InputError, match="expected at least two labels for 'relations', 0 examples carry none"):
        run(config)
