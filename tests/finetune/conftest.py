"""A world small enough to train in: a vocabulary of whole words, a two-layer model, vectors of a few entities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import BertTokenizer

import ernie
from finetune.data import SPLITS
from finetune.tasks.schema import Example, write_examples
from kg.artifact import write_artifact

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), ".", ",", "*"]
ENTITY_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    """The least a stage's config offers, for artifacts that a test writes itself."""

    output: Path
    seed: int = 0
    content: dict = field(default_factory=dict)

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ERNIE and its tokenizer, every word a sequence of letters."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = ernie.ErnieConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        entity_size=ENTITY_SIZE,
        num_entity_attention_heads=2,
        layer_types=["mix", "fuse"],
        initializer_range=0.1,
    )
    ernie.ErnieForPreTraining(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(pretrained: Path) -> ernie.ErnieTokenizer:
    return ernie.ErnieTokenizer.from_pretrained(pretrained, {"Q1": 1, "Q2": 2})


@pytest.fixture
def make_vectors(tmp_path: Path) -> Callable[[dict[str, Sequence[float]]], Path]:
    """Writes a vectors artifact of the given entities."""

    def make(vectors: dict[str, Sequence[float]]) -> Path:
        table = np.array([[0.0] * ENTITY_SIZE, *vectors.values()], dtype=np.float32)
        with write_artifact(MadeConfig(output=tmp_path / "vectors"), stage="kg embed") as writer:
            save_file({"entity_embeddings": table}, writer.path / "entity_embeddings.safetensors")
            (writer.path / "vocabulary.txt").write_text("".join(f"{name}\n" for name in vectors), encoding="utf-8")
        return tmp_path / "vectors"

    return make


@pytest.fixture
def make_examples(tmp_path: Path) -> Callable[..., Path]:
    """Writes an examples artifact of the given splits; facts: lines of its facts.tsv."""

    def make(*, facts: str = "", **splits: Sequence[Example]) -> Path:
        with write_artifact(MadeConfig(output=tmp_path / "examples"), stage="finetune examples") as writer:
            for split in SPLITS:
                write_examples(writer.path / f"{split}.jsonl", splits[split])
            (writer.path / "labels.json").write_text("[]", encoding="utf-8")
            (writer.path / "facts.tsv").write_text(facts, encoding="utf-8")
        return tmp_path / "examples"

    return make
