"""Vectors from descriptions: learnt on what is known, measured on what was held out, never mixed with trained ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from transformers import BertConfig, BertModel, BertTokenizer

from kg.artifact import open_artifact, write_artifact
from kg.embed import EmbedConfig, run
from kg.errors import InputError
from kg.graph import ENTITIES, RELATIONS, KnowledgeGraph
from kg.index import VectorIndex
from kg.inductive import fill, fit_map, text_encoder

WORDS = [f"w{number}" for number in range(12)]


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    output: Path

    def inputs(self):
        return {}


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", *WORDS]) + "\n")
    BertTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=6 + len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(str(folder))
    return folder


def made_world(count=300, dim=8, noise=0.05, seed=0):
    """States, and vectors that follow from them by a fixed linear map and a little noise."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count, 12)).astype(np.float32)
    vectors = states @ rng.normal(size=(12, dim)) + 0.3 + noise * rng.normal(size=(count, dim))
    return states, vectors.astype(np.float32)


def test_a_linear_world_is_learnt_and_noise_is_not():
    """A cosine measured on what the map was fitted on says nothing; on noise it would still shine."""
    states, vectors = made_world()
    found = fit_map(states, vectors, seed=0)
    assert found.cosine > 0.99 > 0.6 > found.baseline
    fresh, _ = made_world(seed=0, count=400)
    np.testing.assert_allclose(np.linalg.norm(found(fresh), axis=1), np.linalg.norm(vectors, axis=1).mean(), rtol=1e-5)
    random = np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    assert abs(fit_map(states, random, seed=0).cosine) < 0.25
    with pytest.raises(InputError, match="at least 20 entities"):
        fit_map(states[:19], vectors[:19], seed=0)


def test_only_empty_rows_with_a_text_are_written():
    """A trained vector overwritten by a guess, or the padding row filled, goes unseen."""
    states, vectors = made_world()
    table = np.concatenate([np.zeros((1, 8), np.float32), vectors])
    true, empty = table.copy(), [5, 9, 77]
    table[empty] = 0
    texts = ["padding", *map(str, range(len(states)))]
    texts[9] = ""
    rows, found = fill(table, texts, lambda asked: states[[int(text) for text in asked]], seed=0)
    assert rows.tolist() == [5, 77]
    assert not table[[0, 9]].any()
    others = [row for row in range(len(table)) if row not in empty]
    np.testing.assert_array_equal(table[others], true[others])
    cosine = (
        (table[rows] * true[rows]).sum(1) / np.linalg.norm(table[rows], axis=1) / np.linalg.norm(true[rows], axis=1)
    )
    assert cosine.min() > 0.95
    again, nothing = fill(true, texts, lambda asked: states, seed=0)
    assert (len(again), nothing) == (0, None)
    assert found is not None


def test_states_do_not_depend_on_their_batch(encoder_folder):
    """Padding that leaks into a mean moves every vector a little, by whom it shares a batch with."""
    encode = text_encoder(encoder_folder)
    texts = ["w1", "w1 w2 w3 w4 w5 w6", "w3 : w2"]
    together = encode(texts)
    for text, state in zip(texts, together, strict=True):
        np.testing.assert_allclose(encode([text])[0], state, atol=1e-5)
    with pytest.raises(InputError, match="expected a folder with a text encoder"):
        text_encoder(encoder_folder / "nowhere")


def test_the_artifact_names_the_rows_that_came_from_text(encoder_folder, tmp_path):
    """A vector made of words, found in the index or in the figures, passes for knowledge."""
    count = 60
    entities = [
        {
            "row": r, "id": f"e{r}", "label": WORDS[r % 12], "aliases": [], "types": [], "count": 0,
            "description": f"w{r % 7} w{r % 5}" if r != count else "",
        }
        for r in range(1, count + 1)
    ]  # fmt: skip
    graph = KnowledgeGraph(
        entities=pa.Table.from_pylist(entities, schema=ENTITIES),
        relations=pa.Table.from_pylist([{"row": 0, "id": "r", "label": "r"}], RELATIONS),
        aliases=pa.table({"alias": ["a"], "entity": [1], "prior": [1.0]}),
        triples=np.array([(i, 0, i + 1) for i in range(1, count - 3)]),
    )
    with write_artifact(MadeConfig(output=tmp_path / "graph"), stage="kg build") as writer:
        graph.save(writer.path)
    settings = {"graph": tmp_path / "graph", "dim": 8, "epochs": 2, "batch_size": 16, "chunk_size": 8, "threads": 1}
    config = EmbedConfig(output=tmp_path / "v", inductive=str(encoder_folder), **settings)
    plain = EmbedConfig(output=tmp_path / "plain", **settings)
    manifests = [open_artifact(run(c), stage="kg embed") for c in (config, plain)]
    table, without = (
        load_file(c.output / "entity_embeddings.safetensors")["entity_embeddings"] for c in (config, plain)
    )
    listed = pq.read_table(config.output / "inductive_entities.parquet").to_pylist()
    assert listed == [{"row": 58, "id": "e58"}, {"row": 59, "id": "e59"}]
    assert manifests[0].counts["inductive_entities"] == 2
    assert table[[58, 59]].any(1).all()
    assert not table[[0, 60]].any()
    np.testing.assert_array_equal(table[1:58], without[1:58])
    assert "e58" not in VectorIndex.load(config.output).ids
    assert {"cosine", "baseline_cosine", "num_fitted"} <= manifests[0].figures["inductive"].keys()
    assert manifests[0].figures["mrr"] == manifests[1].figures["mrr"]
