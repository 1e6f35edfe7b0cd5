"""The packed model against the equations, one slot a token, on drawn shapes. Runs everywhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie import ErnieConfig, ErnieModel

pytestmark = pytest.mark.parity

LAYOUTS = (["text", "mix", "fuse"], ["mix"], ["fuse", "text", "fuse"], ["text"], ["mix", "mix"])


def _load_slow():
    spec = importlib.util.spec_from_file_location("slow_ernie", Path(__file__).with_name("slow_ernie.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slow = _load_slow()


@st.composite
def shapes(draw: st.DrawFn) -> dict:
    """A layout, and for each example its length and the word pieces that carry an entity (none, one, many)."""
    cls_entity = draw(st.booleans())
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    positions = [
        draw(st.sets(st.integers(1 if cls_entity else 0, length - 1), max_size=length))
        if length > 1 or not cls_entity
        else set()
        for length in lengths
    ]
    return {
        "layer_types": draw(st.sampled_from(LAYOUTS)),
        "heads": draw(st.sampled_from([1, 2])),
        "entity_heads": draw(st.sampled_from([1, 3])),
        "cls_entity": cls_entity,
        "lengths": lengths,
        "positions": [draw(st.permutations(sorted(p))) for p in positions],
        "padding": draw(st.integers(0, 3)),
        "attention": draw(st.sampled_from(["eager", "sdpa"])),
        "seed": draw(st.integers(0, 2**16)),
    }


def drawn_model(shape: dict) -> ErnieModel:
    torch.manual_seed(shape["seed"])
    config = ErnieConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=len(shape["layer_types"]),
        num_attention_heads=shape["heads"],
        intermediate_size=12,
        max_position_embeddings=16,
        entity_size=6,
        num_entity_attention_heads=shape["entity_heads"],
        layer_types=shape["layer_types"],
        cls_entity=shape["cls_entity"],
        attn_implementation=shape["attention"],
    )
    model = ErnieModel(config).double().eval()
    with torch.no_grad():  # off the initial zeros and ones, so that a lost bias or LayerNorm shows
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@settings(max_examples=60, deadline=None)
@given(shape=shapes())
def test_packed_equals_one_slot_a_token(shape: dict) -> None:
    """Packing is exact algebra; a wrong row offset or mask would only cost accuracy, silently."""
    model = drawn_model(shape)
    lengths, positions = shape["lengths"], shape["positions"]
    batch, seq_len = len(lengths), max(lengths) + shape["padding"]
    size = max(len(p) for p in positions) + shape["padding"]
    inputs = {
        "input_ids": torch.randint(0, 23, (batch, seq_len)),
        "token_type_ids": torch.randint(0, 2, (batch, seq_len)),
        "attention_mask": (torch.arange(seq_len) < torch.tensor(lengths)[:, None]).long(),
        "entity_embeds": torch.randn(batch, size, 6, dtype=torch.float64),
        "entity_positions": torch.zeros(batch, size, dtype=torch.long),
        "entity_attention_mask": torch.zeros(batch, size, dtype=torch.long),
    }
    for row, places in enumerate(positions):
        inputs["entity_positions"][row, : len(places)] = torch.tensor(places, dtype=torch.long)
        inputs["entity_attention_mask"][row, : len(places)] = 1
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)

    for row, (length, places) in enumerate(zip(lengths, positions, strict=True)):
        entities, mask = torch.zeros(length, 6, dtype=torch.float64), torch.zeros(length)
        entities[places] = inputs["entity_embeds"][row, : len(places)]
        mask[places] = 1
        mask[0] = max(float(mask[0]), float(shape["cls_entity"]))
        tokens, slots, pooled = slow.encode_one(
            model.state_dict(),
            layer_types=shape["layer_types"],
            num_heads=shape["heads"],
            num_entity_heads=shape["entity_heads"],
            input_ids=inputs["input_ids"][row, :length],
            token_type_ids=inputs["token_type_ids"][row, :length],
            entities=entities,
            entity_mask=mask,
        )
        close = {"rtol": 0.0, "atol": 1e-10}
        for layer, (token, slot) in enumerate(zip(tokens, slots, strict=True), start=1):
            torch.testing.assert_close(out.hidden_states[layer][row, :length], token, **close)
            ours = out.entity_hidden_states[layer][row, : len(places)]
            torch.testing.assert_close(ours, slot[places], **close)
        torch.testing.assert_close(out.pooler_output[row], pooled, **close)


def _mixing_model() -> ErnieModel:
    shape = {"layer_types": ["text", "mix"], "heads": 2, "entity_heads": 1, "cls_entity": True}
    return drawn_model({**shape, "attention": "sdpa", "seed": 3})


def test_two_entities_on_one_piece_both_add_to_it() -> None:
    """The rule for what one slot a token cannot say: where a mix layer reads raw vectors, two on one piece act on the
    tokens as their sum does. An assignment in place of an addition would drop one of them unseen."""
    model = _mixing_model()
    ids = torch.randint(0, 23, (1, 5))
    first, second = torch.randn(2, 6, dtype=torch.float64)
    two = model(ids, entity_embeds=torch.stack([first, second])[None], entity_positions=torch.tensor([[2, 2]]))
    summed = model(ids, entity_embeds=(first + second)[None, None], entity_positions=torch.tensor([[2]]))
    alone = model(ids, entity_embeds=first[None, None], entity_positions=torch.tensor([[2]]))
    torch.testing.assert_close(two.last_hidden_state, summed.last_hidden_state, rtol=0.0, atol=1e-12)
    assert (two.last_hidden_state - alone.last_hidden_state).abs().max() > 1e-4


def test_an_entity_on_cls_joins_the_zero_vector_there() -> None:
    """[CLS] has an entity of its own; one more on the same piece must neither replace it nor be lost."""
    model = _mixing_model()
    ids, vector = torch.randint(0, 23, (1, 4)), torch.randn(1, 1, 6, dtype=torch.float64)
    with_entity = model(ids, entity_embeds=vector, entity_positions=torch.zeros(1, 1, dtype=torch.long))
    assert with_entity.entity_last_hidden_state.shape == (1, 1, 6)
    assert (with_entity.last_hidden_state - model(ids).last_hidden_state).abs().max() > 1e-4
