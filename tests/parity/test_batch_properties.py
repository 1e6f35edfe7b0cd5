"""Padding, company and order never change a real position, in value or in gradient; dEA against its definition."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie import ErnieConfig, ErnieForPreTraining, ErnieModel

pytestmark = pytest.mark.parity

WIDTH, ENTITY, VOCABULARY = 8, 6, 23
CLOSE = {"rtol": 0.0, "atol": 1e-9}


def _load_slow() -> Any:
    spec = importlib.util.spec_from_file_location("slow_ernie", Path(__file__).with_name("slow_ernie.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slow = _load_slow()


def drawn_model(model_class: type, seed: int, **settings: Any) -> Any:
    torch.manual_seed(seed)
    fields: dict[str, Any] = {"layer_types": ["text", "mix", "fuse"], "num_attention_heads": 2, **settings}
    config = ErnieConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=len(fields["layer_types"]),
        intermediate_size=12,
        max_position_embeddings=20,
        entity_size=ENTITY,
        num_entity_attention_heads=2,
        **fields,
    )
    model = model_class(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@st.composite
def examples(draw: st.DrawFn, least: int = 1, most: int = 4) -> list[dict[str, Any]]:
    """Texts of 1 to 9 pieces with none, one or many entities, two on one piece included."""
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(draw(st.integers(least, most))):
        length = draw(st.integers(1, 9))
        positions = draw(st.lists(st.integers(0, length - 1), max_size=5))
        drawn.append(
            {
                "input_ids": torch.randint(0, VOCABULARY, (length,), generator=generator),
                "token_type_ids": torch.randint(0, 2, (length,), generator=generator),
                "entity_embeds": torch.randn(len(positions), ENTITY, dtype=torch.float64, generator=generator),
                "entity_positions": torch.tensor(positions, dtype=torch.long),
            }
        )
    return drawn


def padded(drawn: list[dict[str, Any]], *, tokens: int, entities: int, seed: int) -> dict[str, torch.Tensor]:
    """One batch; what is padding is garbage, not zeros: nothing may look at it."""
    generator = torch.Generator().manual_seed(seed)
    batch, seq_len = len(drawn), max(len(e["input_ids"]) for e in drawn) + tokens
    size = max(len(e["entity_positions"]) for e in drawn) + entities
    out = {
        "input_ids": torch.randint(0, VOCABULARY, (batch, seq_len), generator=generator),
        "token_type_ids": torch.randint(0, 2, (batch, seq_len), generator=generator),
        "attention_mask": torch.zeros(batch, seq_len, dtype=torch.long),
        "entity_embeds": 100 * torch.randn(batch, size, ENTITY, dtype=torch.float64, generator=generator),
        "entity_positions": torch.randint(0, seq_len, (batch, size), generator=generator),
        "entity_attention_mask": torch.zeros(batch, size, dtype=torch.long),
    }
    for row, example in enumerate(drawn):
        length, count = len(example["input_ids"]), len(example["entity_positions"])
        out["attention_mask"][row, :length] = 1
        out["entity_attention_mask"][row, :count] = 1
        for name, value in example.items():
            out[name][row, : len(value)] = value
    return out


@settings(max_examples=40, deadline=None)
@given(
    drawn=examples(),
    tokens=st.integers(0, 5),
    entities=st.integers(0, 3),
    cls_entity=st.booleans(),
    attention=st.sampled_from(["eager", "sdpa"]),
    act=st.sampled_from(["gelu", "relu", "gelu_new"]),
    eps=st.sampled_from([1e-12, 1e-5]),
    seed=st.integers(0, 2**16),
)
def test_an_example_is_the_same_alone_and_in_any_company(
    drawn: list[dict[str, Any]],
    tokens: int,
    entities: int,
    cls_entity: bool,
    attention: str,
    act: str,
    eps: float,
    seed: int,
) -> None:
    """A leak moves scores with the batch size and with the longest neighbour; evaluation would depend on the loader.

    The gradient of an example's own states is compared too: a leak of gradients trains on padding.
    """
    model = drawn_model(
        ErnieModel,
        seed,
        cls_entity=cls_entity,
        attn_implementation=attention,
        hidden_act=act,
        layer_norm_eps=eps,
    )
    together = model(**padded(drawn, tokens=tokens, entities=entities, seed=seed))
    for row, example in enumerate(drawn):
        alone = model(**padded([example], tokens=0, entities=0, seed=seed + 1))
        length, count = len(example["input_ids"]), len(example["entity_positions"])
        pairs = [
            (together.last_hidden_state[row, :length], alone.last_hidden_state[0]),
            (together.entity_last_hidden_state[row, :count], alone.entity_last_hidden_state[0]),
            (together.pooler_output[row], alone.pooler_output[0]),
        ]
        for a, b in pairs:
            torch.testing.assert_close(a, b, **CLOSE)
        if row == seed % len(drawn):
            ours, theirs = (weighted_gradients(model, [pair[side] for pair in pairs]) for side in (0, 1))
            for a, b in zip(ours, theirs, strict=True):
                scale = max(1.0, float(b.abs().max()))
                torch.testing.assert_close(a / scale, b / scale, **CLOSE)


def weighted_gradients(model: torch.nn.Module, states: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Of a sum in which no two numbers weigh the same."""
    objective = sum((part.flatten() * torch.arange(1, part.numel() + 1)).sum() for part in states)
    return torch.autograd.grad(objective, list(model.parameters()), retain_graph=True, materialize_grads=True)


@settings(max_examples=25, deadline=None)
@given(drawn=examples(least=2), seed=st.integers(0, 2**16), data=st.data())
def test_order_of_texts_and_of_entities_is_no_information(
    drawn: list[dict[str, Any]], seed: int, data: st.DataObject
) -> None:
    """Entities have no position of their own; a linker that sorts otherwise must not change the answer."""
    model = drawn_model(ErnieModel, seed)
    order = data.draw(st.permutations(range(len(drawn))))
    moved = []
    for row in order:
        slots = torch.tensor(data.draw(st.permutations(range(len(drawn[row]["entity_positions"])))), dtype=torch.long)
        moved.append({n: v[slots] if n.startswith("entity") else v for n, v in drawn[row].items()} | {"slots": slots})
    slots = [example.pop("slots") for example in moved]
    with torch.no_grad():
        before = model(**padded(drawn, tokens=1, entities=1, seed=seed))
        after = model(**padded(moved, tokens=1, entities=1, seed=seed))
    for new, (old, places) in enumerate(zip(order, slots, strict=True)):
        length = len(drawn[old]["input_ids"])
        torch.testing.assert_close(
            after.last_hidden_state[new, :length], before.last_hidden_state[old, :length], **CLOSE
        )
        torch.testing.assert_close(
            after.entity_last_hidden_state[new, : len(places)], before.entity_last_hidden_state[old][places], **CLOSE
        )


@settings(max_examples=40, deadline=None)
@given(
    drawn=examples(),
    num_candidates=st.integers(1, 5),
    no_entity=st.booleans(),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_dea_is_its_definition(
    drawn: list[dict[str, Any]], num_candidates: int, no_entity: bool, seed: int, data: st.DataObject
) -> None:
    """Removed entities are asked for, padding is not; one candidate or none asked gives 0 and gradient 0, never NaN."""
    model = drawn_model(ErnieForPreTraining, seed, no_entity_candidate=no_entity, layer_types=["text", "fuse"])
    batch = padded(drawn, tokens=1, entities=1, seed=seed)
    candidates = torch.randn(num_candidates, ENTITY, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    labels, targets = torch.full(batch["entity_positions"].shape, -100), []
    for row, example in enumerate(drawn):
        asked = {}
        for slot, position in enumerate(example["entity_positions"].tolist()):
            if position not in asked and data.draw(st.booleans()):
                labels[row, slot] = asked[position] = data.draw(st.integers(0, num_candidates - 1))
                if data.draw(st.booleans()):
                    batch["entity_attention_mask"][row, slot] = 0
        targets.append(asked)
    out = model(**batch, entity_labels=labels, entity_candidates=candidates)
    hidden = model.bert(**batch).last_hidden_state
    wanted = slow.entity_loss(model.state_dict(), list(hidden), targets, candidates, no_entity=no_entity)
    torch.testing.assert_close(out.dea_loss, wanted, rtol=1e-9, atol=1e-9)
    assert out.num_entity_targets == sum(map(len, targets))
    out.loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)
    if not any(targets) or (num_candidates == 1 and not no_entity):
        assert out.dea_loss.abs() < 1e-12
        assert all(grad.abs().max() < 1e-12 for grad in grads)


def test_gradients_of_the_packed_model_equal_the_equations() -> None:
    """Values agree where a detached path would still train nothing; autograd through the equations shows it."""
    model = drawn_model(ErnieModel, 3)
    ids, positions = torch.tensor([[2, 5, 7, 6, 8, 3]]), [1, 4]
    vectors = torch.randn(1, 2, ENTITY, dtype=torch.float64)
    out = model(ids, entity_embeds=vectors, entity_positions=torch.tensor([positions]))
    tokens = out.last_hidden_state[0]
    factor = torch.randn(tokens.shape, dtype=torch.float64)
    (tokens * factor).sum().backward()
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.state_dict().items()}
    entities, mask = torch.zeros(6, ENTITY, dtype=torch.float64), torch.zeros(6)
    entities[positions] = vectors[0]
    mask[[0, *positions]] = 1
    states, _, _ = slow.encode_one(
        weights,
        layer_types=model.config.layer_types,
        num_heads=2,
        num_entity_heads=2,
        input_ids=ids[0],
        token_type_ids=torch.zeros(6, dtype=torch.long),
        entities=entities,
        entity_mask=mask,
    )
    (states[-1] * factor).sum().backward()
    for name, parameter in model.named_parameters():
        ours, theirs = parameter.grad, weights[name].grad
        if ours is None or theirs is None:
            assert ours is None or not ours.any(), name
            assert theirs is None or not theirs.any(), name
            continue
        torch.testing.assert_close(ours, theirs, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")
