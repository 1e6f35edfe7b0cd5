"""Entity vectors frozen, trained or projected: what gets a gradient, what is saved, what may be swapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ernie import EntityTable, ErnieConfig, ErnieForPreTraining, InputError


def built(seed: int = 0, **settings: Any) -> ErnieForPreTraining:
    torch.manual_seed(seed)
    fields: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 10,
        "entity_size": 4,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **settings,
    }
    return ErnieForPreTraining(ErnieConfig(**fields)).eval()


def table(width: int, num_rows: int = 7, seed: int = 1) -> EntityTable:
    vectors = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed))
    vectors[0] = 0
    return EntityTable(vectors)


def batch() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[2, 5, 7, 6, 8, 3], [2, 9, 3, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]),
        "entity_ids": torch.tensor([[3, 5], [0, 0]]),
        "entity_positions": torch.tensor([[1, 4], [0, 0]]),
    }


def training() -> dict[str, torch.Tensor]:
    return {
        **batch(),
        "entity_labels": torch.tensor([[0, 1], [-100, -100]]),
        "entity_candidate_ids": torch.tensor([3, 5, 6]),
    }


def test_the_table_is_frozen_by_default_and_may_be_swapped() -> None:
    """A graph that grew must not ask for training code: the answer changes with the vectors, no weight does."""
    model = built()
    assert not list(model.entity_input.parameters())
    answers = []
    for seed in (1, 2, 1):
        model.attach_entity_table(table(4, seed=seed))
        answers.append(model(**batch()).logits)
    assert torch.equal(answers[0], answers[2])
    assert not torch.allclose(answers[0], answers[1])
    model.attach_entity_table(table(4, num_rows=50, seed=3))
    assert model.entity_table is not None
    assert model.entity_table.num_rows == 50


def test_trained_rows_begin_as_the_table_and_are_saved(tmp_path: Path) -> None:
    """They are weights: trained, saved, loaded. Row 0 is "no entity" and stays zeros whatever is asked of it."""
    frozen, trained = built(), built(num_trained_entity_rows=7)
    trained.load_state_dict(frozen.state_dict(), strict=False)
    for model in (frozen, trained):
        model.attach_entity_table(table(4))
    torch.testing.assert_close(trained(**batch()).logits, frozen(**batch()).logits)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    trained(**training()).loss.backward()
    rows = trained.entity_input.rows
    assert rows is not None
    assert rows.weight.grad is not None
    touched = rows.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, False, False, True, False, True, True], "inputs 3 and 5, candidates 3, 5, 6"
    optimizer.step()
    assert not rows.weight[0].any()
    trained.save_pretrained(tmp_path)
    loaded = ErnieForPreTraining.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**batch()).logits, trained(**batch()).logits)
    with pytest.raises(InputError, match="trains 7 entity rows, the table has 9"):
        trained.attach_entity_table(table(4, num_rows=9))
    with pytest.raises(InputError, match=r"entity row 7 is not among the trained rows 0\.\.6"):
        trained(**{**batch(), "entity_ids": torch.tensor([[3, 7], [0, 0]])})


def test_a_projection_takes_vectors_of_another_width(tmp_path: Path) -> None:
    """A published table is 50 or 200 wide and the checkpoint 100: one trained map between them, candidates included."""
    model = built(entity_input_size=6)
    model.attach_entity_table(table(6))
    by_ids = model(**training())
    vectors = dict(training())
    candidates = table(6).rows(vectors.pop("entity_candidate_ids"))
    embeds = table(6).rows(vectors.pop("entity_ids"))
    mask = torch.tensor([[1, 1], [0, 0]])
    by_vectors = model(**vectors, entity_embeds=embeds, entity_attention_mask=mask, entity_candidates=candidates)
    torch.testing.assert_close(by_ids.loss, by_vectors.loss)
    torch.testing.assert_close(by_ids.entity_logits, by_vectors.entity_logits)
    by_ids.loss.backward()
    projection = model.entity_input.projection
    assert projection is not None
    assert projection.weight.grad is not None
    assert projection.weight.grad.any()
    assert not model.entity_rows(torch.tensor([0])).any(), "no entity stays the zero vector"
    with pytest.raises(InputError, match=r"width 6, the table's are 4 wide: .* entity_input_size=4"):
        model.attach_entity_table(table(4))
    with pytest.raises(InputError, match=r"= \(2, num_entities, 6\), got \(2, 2, 4\)"):
        model(**vectors, entity_embeds=embeds[..., :4])
    model.save_pretrained(tmp_path)
    assert "bert.entities.projection.weight" in load_file(tmp_path / "model.safetensors")


def test_a_folder_or_a_file_is_a_table(tmp_path: Path) -> None:
    """One line between a vectors folder and a model."""
    vectors = torch.randn(5, 4)
    vectors[0] = 0
    save_file({"entity_embeddings": vectors}, tmp_path / "entity_embeddings.safetensors")
    model = built()
    model.attach_entity_table(tmp_path)
    assert torch.equal(model.entity_rows(torch.tensor([2])), vectors[[2]])
    model.attach_entity_table(str(tmp_path / "entity_embeddings.safetensors"))
    assert torch.equal(model.entity_rows(torch.tensor([3])), vectors[[3]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_trained_entity_rows": 1}, "num_trained_entity_rows is 0 .* got 1"),
        ({"entity_input_size": 0}, "entity_input_size is a whole number of at least 1, got 0"),
        ({"entity_size": 0}, "entity_size is a whole number of at least 1, got 0"),
        ({"intermediate_size": -3}, "intermediate_size is a whole number of at least 1, got -3"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is a number above 0 .* got 0.0"),
        ({"hidden_act": "geluu"}, "got 'geluu', did you mean gelu"),
    ],
)
def test_impossible_sizes_are_named(settings: dict[str, Any], words: str) -> None:
    """What torch says of a negative size names neither the field nor the value."""
    with pytest.raises(InputError, match=words):
        built(**settings)
