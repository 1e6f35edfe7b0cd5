"""A world of eight entities whose short names are shared, as artifacts on disk, and text about it with gold links."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from entity_linking.annotate import LinkConfig
from entity_linking.gold import GoldDocument
from entity_linking.records import Link
from kg.artifact import write_artifact
from kg.graph import KnowledgeGraph

# The alias "bank" means a river's or a money's; "Jordan" a country, a river or a man, whose own names are longer.
ENTITIES = [
    ("river_bank", "bank", ["bank", "river bank"], "land beside water of a river"),
    ("money_bank", "bank", ["bank", "savings bank"], "place that lends money"),
    ("jordan_country", "Jordan", ["Jordan", "Kingdom of Jordan"], "country with a king"),
    ("jordan_man", "Michael Jordan", ["Jordan", "Michael Jordan"], "man who played basketball"),
    ("river", "river", ["river"], "water that flows"),
    ("money", "money", ["money"], "what a bank lends"),
    ("king", "king", ["king"], "head of a country"),
    ("basketball", "basketball", ["basketball"], "game with a ball"),
]
TRIPLES = [(1, 0, 5), (2, 0, 6), (3, 0, 7), (4, 0, 8)]
SUBJECTS = {"bank": ("river_bank", "money_bank"), "Jordan": ("jordan_country", "jordan_man")}
PARTNER = {"river_bank": "river", "money_bank": "money", "jordan_country": "king", "jordan_man": "basketball"}


@dataclass(frozen=True)
class Made:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture(scope="session")
def bank_world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    count = len(ENTITIES)
    aliases = [(name, row) for row, (_, _, names, _) in enumerate(ENTITIES, 1) for name in names]
    shared = Counter(name for name, _ in aliases)
    graph = KnowledgeGraph(
        entities=pa.table(
            {
                "row": list(range(1, count + 1)),
                "id": [e[0] for e in ENTITIES],
                "label": [e[1] for e in ENTITIES],
                "aliases": pa.array([e[2] for e in ENTITIES], pa.list_(pa.string())),
                "description": [e[3] for e in ENTITIES],
                "types": pa.array([["thing"]] * count, pa.list_(pa.string())),
                "count": [1] * count,
            }
        ),
        relations=pa.table({"row": [0], "id": ["r"], "label": ["r"]}),
        aliases=pa.table(
            {
                "alias": [name for name, _ in aliases],
                "entity": [row for _, row in aliases],
                "prior": [1.0 / shared[name] for name, _ in aliases],
            }
        ),
        triples=np.array(TRIPLES, dtype=np.int32),
    )
    with write_artifact(Made(folder / "graph"), stage="kg build") as writer:
        graph.save(writer.path)
    with write_artifact(Made(folder / "vectors"), stage="kg embed") as writer:
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(count + 1, 16)).astype(np.float32)
        vectors[1:5] = vectors[5:9] + 0.2 * rng.normal(size=(4, 16)).astype(np.float32)
        vectors[0] = 0
        save_file({"entity_embeddings": vectors}, writer.path / "entity_embeddings.safetensors")
        (writer.path / "vocabulary.txt").write_text("".join(f"{e[0]}\n" for e in ENTITIES), encoding="utf-8")
    write_jsonl(folder / "gold.jsonl", documents(60, seed=1))
    return folder


def documents(count: int, *, seed: int) -> list[GoldDocument]:
    """Each names an ambiguous word and the partner of what it means; "kings" and "money" are there unlabelled too."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        word = ("bank", "Jordan")[int(rng.integers(2))]
        entity = SUBJECTS[word][int(rng.integers(2))]
        text = f"See the {word} and the {PARTNER[entity]} here."
        partner = 12 + len(word) + 5
        links = (
            Link(8, 8 + len(word), entity, 1.0),
            Link(partner + 0, partner + len(PARTNER[entity]), PARTNER[entity], 1.0),
        )
        made.append(GoldDocument(f"d{number}", text, links))
    return made


def write_jsonl(path: Path, gold: list[GoldDocument]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for document in gold:
            mentions = [{"start": m.start, "end": m.end, "entity": m.entity} for m in document.links]
            file.write(json.dumps({"id": document.id, "text": document.text, "mentions": mentions}) + "\n")


@pytest.fixture
def bank_documents() -> Callable[..., list[GoldDocument]]:
    return documents


@pytest.fixture
def write_gold() -> Callable[[Path, list[GoldDocument]], None]:
    return write_jsonl


NAMES = ["Oslo", "Bergen", "Norway", "fjord", "Grieg"]


@pytest.fixture
def world(tmp_path: Path) -> LinkConfig:
    """Texts of a jsonl corpus about five names of the north, as a config of `link`; each text holds an emoji."""
    count = len(NAMES)
    graph = KnowledgeGraph(
        entities=pa.table(
            {
                "row": list(range(1, count + 1)),
                "id": [name.lower() for name in NAMES],
                "label": NAMES,
                "aliases": pa.array([[name] for name in NAMES], pa.list_(pa.string())),
                "description": [f"{name} is in the north" for name in NAMES],
                "types": pa.array([["thing"]] * count, pa.list_(pa.string())),
                "count": [1] * count,
            }
        ),
        relations=pa.table({"row": [0], "id": ["in"], "label": ["in"]}),
        aliases=pa.table(
            {
                "alias": [*NAMES, "Edvard"],
                "entity": [*range(1, count + 1), 5],
                "prior": [1.0] * (count + 1),
            }
        ),
        triples=np.array([[1, 0, 3], [2, 0, 3]], dtype=np.int32),
    )
    with write_artifact(Made(tmp_path / "graph"), stage="kg build") as writer:
        graph.save(writer.path)
    with write_artifact(Made(tmp_path / "vectors"), stage="kg embed") as writer:
        vectors = np.random.default_rng(0).normal(size=(count + 1, 8)).astype(np.float32)
        save_file({"entity_embeddings": vectors}, writer.path / "entity_embeddings.safetensors")
        (writer.path / "vocabulary.txt").write_text("".join(f"{n.lower()}\n" for n in NAMES), encoding="utf-8")
    lines = [
        {
            "id": f"d{i}",
            "title": f"Text {i}",
            "text": f"é😀 {NAMES[i % 5]} and fjords near {NAMES[i * 3 % 5]}. " * (i % 4),
        }
        for i in range(23)
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return LinkConfig(
        graph=tmp_path / "graph",
        vectors=tmp_path / "vectors",
        corpus="jsonl",
        source=str(corpus),
        output=tmp_path / "linked",
        shard_documents=4,
    )
