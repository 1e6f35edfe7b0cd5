"""torch.compile, recomputation, bf16 and transformers' own attention functions: the same numbers by other ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ernie import (
    EntityTable,
    ErnieConfig,
    ErnieForEntityTyping,
    ErnieForPreTraining,
    ErnieForTokenClassification,
    ErnieModel,
)

LABELS: dict[type, dict[str, torch.Tensor]] = {
    ErnieModel: {},
    ErnieForEntityTyping: {"labels": torch.tensor([[1.0, 0.0], [1.0, 1.0]])},
    ErnieForTokenClassification: {"labels": torch.tensor([[1, 0, -100, 1, 1, 0], [0, 1, 0, -100, -100, -100]])},
    ErnieForPreTraining: {
        "labels": torch.tensor([[-100, 7, -100, 3, -100, -100], [-100] * 6]),
        "next_sentence_label": torch.tensor([0, 1]),
        "entity_labels": torch.tensor([[0, 1], [-100, -100]]),
        "entity_candidate_ids": torch.tensor([3, 5, 2]),
    },
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def built(model_class: type, *, rows: int = 0, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = ErnieConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=9,
        entity_size=4,
        layer_types=["text", "fuse"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_trained_entity_rows=rows,
        **settings,
    )
    model = model_class(config)
    vectors = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    model.attach_entity_table(EntityTable(vectors))
    return model


def batch() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[2, 5, 7, 6, 8, 3], [2, 9, 3, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]),
        "entity_ids": torch.tensor([[3, 5], [2, 0]]),
        "entity_positions": torch.tensor([[1, 4], [1, 0]]),
    }


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of every parameter; one that nothing reads has none, or zeros."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("model_class", "attention"), [*((model_class, "sdpa") for model_class in LABELS), (ErnieForPreTraining, "eager")]
)
def test_one_graph_and_the_same_gradients(model_class: type, attention: str) -> None:
    """A graph break costs the speed one compiled for, and nothing says so; fullgraph=True does."""
    model = built(model_class, attn_implementation=attention).train()
    inputs = {**batch(), **LABELS[model_class]}
    plain = model(**inputs)
    loss = plain.last_hidden_state.square().mean() if model_class is ErnieModel else plain.loss
    loss.backward()
    wanted = gradients(model)
    model.zero_grad(set_to_none=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    out = compiled(**inputs)
    again = out.last_hidden_state.square().mean() if model_class is ErnieModel else out.loss
    again.backward()
    torch.testing.assert_close(again, loss)
    got = gradients(model)
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("rows", [0, 7])
def test_other_shapes_and_another_table_are_compiled_too(rows: int) -> None:
    """Text alone, trained rows, a swapped table: none may break the graph or answer with the old vectors."""
    model = built(ErnieModel, rows=rows).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = batch()
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    shorter = {name: value[:, : 4 if value.shape[1] == 6 else 1] for name, value in inputs.items()}
    with torch.no_grad():
        for given in (inputs, text, shorter):
            torch.testing.assert_close(compiled(**given).last_hidden_state, model(**given).last_hidden_state)
        model.attach_entity_table(EntityTable(torch.cat([torch.zeros(1, 4), torch.ones(6, 4)])))
        torch.testing.assert_close(compiled(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_layers_have_the_same_gradients_under_dropout(reentrant: bool) -> None:
    """A recomputation that draws other dropout masks trains on noise that no forward pass has seen."""
    inputs, found = {**batch(), **LABELS[ErnieForPreTraining]}, []
    for checkpointing in (False, True):
        model = built(ErnieForPreTraining).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            assert all(layer.gradient_checkpointing for layer in model.bert.encoder.layer)
        torch.manual_seed(5)
        model(**inputs).loss.backward()
        found.append(gradients(model))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("model_class", LABELS)
def test_bf16_weights_and_bf16_autocast(model_class: type) -> None:
    """float32 vectors of a table meet bf16 layers: every product has one dtype, every loss is finite."""
    inputs = {**batch(), **LABELS[model_class]}
    single = built(model_class).eval()
    half = built(model_class).to(torch.bfloat16).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = single(**inputs)
    for out, model in ((half(**inputs), half), (mixed, single)):
        if model_class is ErnieModel:
            close = {"rtol": 0.0, "atol": 0.1}
            torch.testing.assert_close(out.last_hidden_state.float(), single(**inputs).last_hidden_state, **close)
            continue
        assert out.loss.dtype == torch.float32 or model_class is ErnieForEntityTyping
        torch.testing.assert_close(out.loss.float(), single(**inputs).loss, rtol=0.05, atol=0.05)
        out.loss.backward()
        assert all(torch.isfinite(grad).all() for grad in gradients(model).values())


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_other_attention_functions_agree_with_eager(attention: str) -> None:
    """An attention function that reads the mask another way would let padding in."""
    eager, other = (built(ErnieModel, attn_implementation=name).eval() for name in ("eager", attention))
    with torch.no_grad():
        wanted, got = eager(**batch()).last_hidden_state, other(**batch()).last_hidden_state
    real = batch()["attention_mask"] == 1
    torch.testing.assert_close(got[real], wanted[real], rtol=0.0, atol=1e-5)
