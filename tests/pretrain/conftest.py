"""A small world: a 2-layer BERT, a corpus of made sentences with links, vectors that say who is who."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForPreTraining, BertTokenizer

from kg.artifact import write_artifact
from kg.index import VectorIndex

NAMES = [f"{first} {last}" for first in ("anna", "boris", "clara", "dmitri") for last in ("kern", "lund", "moss")]
VERBS = ["met", "wrote to", "painted", "followed"]
WORDS = sorted({word for text in [*NAMES, *VERBS] for word in text.split()} | {"then", "slowly", "in", "may", ".", "!"})


MENTION = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("entity", pa.string()), ("score", pa.float32())])
LINKED = pa.schema(
    [("id", pa.string()), ("title", pa.string()), ("text", pa.string()), ("mentions", pa.list_(MENTION))]
)
"""A linked shard, as the architecture page describes it."""


@dataclass(frozen=True)
class Made:
    output: Path

    def inputs(self) -> Mapping[str, Path]:
        return {}


@dataclass(frozen=True)
class World:
    """Folders of made inputs."""

    base: Path
    linked: Path
    vectors: Path


def write_base(folder: Path, words: Sequence[str] = WORDS, *, vocab_size: int | None = None) -> Path:
    """A BERT of 2 layers, 16 wide, over `words`."""
    folder.mkdir(parents=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    BertTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    config = BertConfig(
        vocab_size=vocab_size or len(pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.1,
    )
    torch.manual_seed(0)
    BertForPreTraining(config).save_pretrained(str(folder))
    return folder


def write_linked(folder: Path, *shards: Sequence[Mapping[str, object]]) -> Path:
    """shards: the documents of each."""
    with write_artifact(Made(folder), stage="link") as writer:
        for number, documents in enumerate(shards):
            table = pa.Table.from_pylist([dict(d) for d in documents], schema=LINKED)
            pq.write_table(table, writer.path / f"shard-{number:05d}.parquet")
    return folder


def write_vectors(
    folder: Path, names: Sequence[str] = NAMES, *, rows: int | None = None, width: int = 8, indexed: bool = False
) -> Path:
    """rows: vectors besides row 0, as many as names unless told. indexed: with the faiss index that a stage writes."""
    with write_artifact(Made(folder), stage="kg embed") as writer:
        (writer.path / "vocabulary.txt").write_text("".join(f"E:{name}\n" for name in names))
        generator = torch.Generator().manual_seed(1)
        vectors = torch.randn((rows or len(names)) + 1, width, generator=generator)
        vectors[0] = 0
        save_file({"entity_embeddings": vectors}, writer.path / "entity_embeddings.safetensors")
        if indexed:
            VectorIndex.build(vectors[1:].numpy(), [f"E:{name}" for name in names], metric="cosine").save(writer.path)
    return folder


def linked(name: str, sentences: Sequence[str]) -> dict[str, object]:
    """A document whose every known name is a link."""
    text = " ".join(sentences)
    mentions = [
        {"start": at, "end": at + len(who), "entity": f"E:{who}", "score": 0.9}
        for who in NAMES
        for at in range(len(text))
        if text.startswith(who, at)
    ]
    mentions.sort(key=lambda mention: mention["start"])
    return {"id": name, "title": name, "text": text, "mentions": mentions}


def made_document(number: int, sentences: int = 6) -> dict[str, object]:
    chance = random.Random(number)
    lines = [
        f"Then {chance.choice(NAMES)} {chance.choice(VERBS)} {chance.choice(NAMES)}{chance.choice('.!')}"
        for _ in range(sentences)
    ]
    return linked(f"document {number}", lines)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(
        write_base(folder / "base"),
        write_linked(folder / "linked", [made_document(n) for n in range(60)]),
        write_vectors(folder / "vectors"),
    )


@pytest.fixture(scope="session")
def make() -> Mapping[str, Callable[..., object]]:
    """The writers, for tests that need a world of their own (test files are not importable from each other)."""
    return {
        "base": write_base,
        "linked": write_linked,
        "vectors": write_vectors,
        "indexed": functools.partial(write_vectors, indexed=True),
        "document": linked,
        "made": made_document,
        "words": lambda: list(WORDS),
        "names": lambda: list(NAMES),
    }
