"""Features into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ernie import INPUTS, InputError, pad_batch


def feature(length: int, entities: int, **more: Any) -> dict[str, Any]:
    return {
        "input_ids": np.arange(1, length + 1),
        "token_type_ids": np.zeros(length, dtype=np.int32),
        "entity_ids": np.arange(1, entities + 1, dtype=np.int32),
        "entity_positions": np.arange(entities),
        **more,
    }


def test_both_axes_are_padded_with_the_tables_values() -> None:
    """A label padded with 0 instead of -100 would train on padding, unseen."""
    features = [
        feature(4, 1, labels=np.array([-100, 7, -100, -100]), entity_labels=[0], next_sentence_label=1),
        feature(2, 3, labels=np.array([-100, 8]), entity_labels=[1, 2, -100], next_sentence_label=0),
    ]
    batch = pad_batch(features, pad_token_id=99)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [1, 2, 99, 99]]
    assert batch["attention_mask"].tolist() == [[1] * 4, [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 7, -100, -100], [-100, 8, -100, -100]]
    assert batch["entity_ids"].tolist() == [[1, 0, 0], [1, 2, 3]]
    assert batch["entity_attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["entity_labels"].tolist() == [[0, -100, -100], [1, 2, -100]]
    assert batch["next_sentence_label"].tolist() == [1, 0]
    assert all(batch[name].dtype == INPUTS[name].dtype for name in batch)


def test_a_removed_entity_keeps_its_slot_and_loses_its_mask() -> None:
    """Denoising asks for an entity the model may not see: masked, yet with position and label."""
    removed = feature(3, 2, entity_labels=[0, 1])
    removed["entity_ids"] = np.array([5, 0])
    batch = pad_batch([removed], pad_token_id=0)
    assert batch["entity_attention_mask"].tolist() == [[1, 0]]
    assert batch["entity_labels"].tolist() == [[0, 1]]


def test_a_batch_without_entities_has_an_empty_axis() -> None:
    """Ordinary text; the model takes (batch, 0)."""
    batch = pad_batch([feature(2, 0), feature(3, 0)], pad_token_id=0)
    assert batch["entity_ids"].shape == batch["entity_attention_mask"].shape == (2, 0)
    plain = pad_batch([{"input_ids": [1, 2]}], pad_token_id=0)
    assert set(plain) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 0], torch.tensor([3, 0])),
        ([0.5, 2.0], torch.tensor([0.5, 2.0])),
        ([np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0])], torch.tensor([[1.0, 0, 1], [0, 0, 1]])),
    ],
)
def test_an_examples_own_label_is_stacked(labels: list[Any], expected: torch.Tensor) -> None:
    """Classes, scores and label sets share the name `labels` with word-piece targets."""
    batch = pad_batch([feature(4, 1, labels=labels[0]), feature(2, 0, labels=labels[1])], pad_token_id=0)
    assert batch["labels"].dtype == expected.dtype
    assert torch.equal(batch["labels"], expected)


def test_vectors_in_place_of_ids() -> None:
    """entity_embeds have a width of their own behind the padded axis."""
    features = [
        {"input_ids": [1, 2], "entity_embeds": np.ones((n, 3)), "entity_positions": np.zeros(n, dtype=int)}
        for n in (1, 2)
    ]
    batch = pad_batch(features, pad_token_id=0)
    assert batch["entity_embeds"].shape == (2, 2, 3)
    assert batch["entity_embeds"].sum((1, 2)).tolist() == [3, 6]
    assert batch["entity_attention_mask"].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([], "at least one example"),
        ([{"input_ids": [1], "entity_id": [1]}], "got 'entity_id', did you mean entity_ids"),
        ([feature(2, 1), {"input_ids": [1]}], "example 1 has"),
        ([{**feature(2, 1), "entity_positions": [0, 1]}], "example 0: inputs along entities differ in length"),
        ([{**feature(2, 1), "token_type_ids": [0]}], "example 0: inputs along tokens differ in length"),
        ([feature(2, 0, labels=np.ones(2)), feature(2, 0, labels=np.ones(3))], "labels of a batch have one shape"),
    ],
)
def test_features_that_do_not_fit_are_named(features: list[dict[str, Any]], words: str) -> None:
    """A dropped or shifted input would reach the model as silence."""
    with pytest.raises(InputError, match=words):
        pad_batch(features, pad_token_id=0)
