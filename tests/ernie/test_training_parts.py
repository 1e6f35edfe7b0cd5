"""Order of batches, schedule, decay groups, precision, keyed randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ernie.errors import InputError
from ernie.training import ExampleBatches, attention, choose_precision, derived_seed, keyed_generator
from ernie.training import precision as precision_module
from ernie.training.batches import bucketed_order
from ernie.training.optimisation import decay_groups, learning_rate_factor


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=400), batch_size=st.integers(1, 17))
def test_every_row_comes_once_an_epoch(lengths, batch_size):
    """A row lost to a ragged last batch is never missed by anyone looking at the loss."""
    batches = bucketed_order(np.array(lengths), batch_size, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert max(map(len, batches)) <= batch_size


def test_buckets_save_padding_and_epochs_differ():
    lengths = np.random.default_rng(1).integers(5, 128, 3000)
    batches = ExampleBatches(range(3000), lengths=lengths, batch_size=16, seed=0, collate=lambda e, p, r: {})
    rows = [batches.rows(0, i) for i in range(len(batches))]
    padded = sum(lengths[r].max() * len(r) for r in rows)
    assert padded < 1.05 * lengths.sum()
    assert not np.array_equal(np.concatenate(rows), np.concatenate([batches.rows(1, i) for i in range(188)]))
    first = [lengths[r].mean() for r in rows]
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.2, "batches must not come sorted by length"


def test_fewer_examples_than_a_batch_make_one_batch():
    batches = ExampleBatches(
        range(3), lengths=[1, 2, 3], batch_size=8, seed=0, collate=lambda e, p, r: {"e": torch.tensor(e)}
    )
    assert len(batches) == 1
    assert sorted(batches.batch(4, 0)["e"].tolist()) == [0, 1, 2]


def test_an_empty_data_set_is_refused():
    with pytest.raises(InputError, match="empty"):
        ExampleBatches([], lengths=[], batch_size=8, seed=0, collate=lambda e, p, r: {})


def test_schedule_rises_to_one_and_falls_towards_zero():
    factors = [learning_rate_factor(s, max_steps=100, warmup_ratio=0.1) for s in range(100)]
    assert factors[9] == factors[10] == 1.0
    assert np.allclose(np.diff(factors[:10]), 0.1)
    assert np.allclose(np.diff(factors[10:]), -1 / 90)
    assert min(factors) > 0


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_schedule_without_or_with_only_warm_up_is_finite(ratio):
    factors = [learning_rate_factor(s, max_steps=3, warmup_ratio=ratio) for s in range(3)]
    assert all(0 < f <= 1 for f in factors)


def test_biases_and_every_layer_norm_are_spared_decay():
    """A decayed LayerNorm gain drifts to zero, which shows only as slightly worse scores."""
    layer = nn.ModuleDict({"dense": nn.Linear(3, 3), "LayerNorm_ent": nn.LayerNorm(3), "word": nn.Embedding(5, 3)})
    decayed, spared = decay_groups(layer, weight_decay=0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    named = {id(p): name for name, p in layer.named_parameters()}
    assert {named[id(p)] for p in decayed["params"]} == {"dense.weight", "word.weight"}
    assert {named[id(p)] for p in spared["params"]} == {
        "dense.bias",
        "LayerNorm_ent.weight",
        "LayerNorm_ent.bias",
    }


@pytest.mark.parametrize(("bf16", "expected"), [(50.0, "fp32"), (110.0, "fp32"), (300.0, "bf16")])
def test_auto_precision_takes_bf16_only_where_it_multiplies_faster(monkeypatch, bf16, expected):
    rates = {torch.float32: 100.0, torch.bfloat16: bf16}
    monkeypatch.setattr(precision_module, "measure_gflops", lambda dtype, device: rates[dtype])
    chosen = choose_precision("auto", torch.device("cpu"))
    assert chosen.name == expected
    assert "100 GFLOP/s" in chosen.reason


def test_precision_is_measured_and_wrong_names_are_refused():
    assert choose_precision("auto", torch.device("cpu")).name in {"fp32", "bf16"}
    assert choose_precision("bf16", torch.device("cpu")).dtype == torch.bfloat16
    with pytest.raises(InputError, match="fp16"):
        choose_precision("fp16", torch.device("cpu"))


def test_streams_are_named_by_their_keys():
    """`hash`-like seeds that fold -5 onto 5, or (1, 23) onto (12, 3), make two streams one."""
    seeds = {derived_seed(*k) for k in [(5,), (-5,), (1, 23), (12, 3), ("5",), (1, "a"), (1, "b")]}
    assert len(seeds) == 7
    assert keyed_generator(1, "x").random() == keyed_generator(1, "x").random()
    assert keyed_generator(1, "x").random() != keyed_generator(2, "x").random()


@pytest.mark.parametrize(
    ("dtype", "length", "plain"),
    [
        (torch.bfloat16, 256, True),
        (torch.bfloat16, 257, False),
        (torch.float32, 16, True),
        (torch.float32, 17, False),
        (torch.float16, 8, False),
    ],
)
def test_short_texts_take_plain_attention_while_a_gradient_is_wanted(monkeypatch, dtype, length, plain):
    batch = {"input_ids": torch.ones(2, length), "token_type_ids": torch.ones(2, 4), "labels": torch.ones(2)}
    seen = []
    monkeypatch.setattr(
        attention, "plain_attention", lambda q, k, v, **given: seen.append(sorted(given)) or torch.zeros_like(q)
    )
    states = torch.ones(1, 2, 3, 4)

    def attend(**given):
        return nn.functional.scaled_dot_product_attention(states, states, states, **given)

    with attention.training_attention(batch, device=torch.device("cpu"), dtype=dtype):
        attend(attn_mask=None, dropout_p=0.0, scale=0.5, is_causal=False)
        assert seen == ([["attn_mask", "dropout_p", "is_causal", "scale"]] if plain else [])
        assert attend(enable_gqa=True).any(), "torch's own"
        with torch.no_grad():
            assert attend().any(), "a teacher keeps torch's own"
    assert attend().any(), "the choice ends with the step"
    with attention.training_attention(batch, device=torch.device("cuda"), dtype=dtype):
        assert attend().any()
    assert len(seen) == plain


@pytest.mark.parametrize("mask", ["none", "bool", "added", "causal"])
def test_plain_attention_is_torchs_with_its_gradients(mask):
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 8, 4, dtype=torch.float64, generator=draw, requires_grad=True) for _ in range(3)]
    seen = (torch.arange(8) < torch.tensor([[8], [5]]))[:, None, None, :]
    added = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e9)
    given = {"attn_mask": {"bool": seen, "added": added}.get(mask), "is_causal": mask == "causal", "scale": 0.3}
    ours, theirs = (
        torch.autograd.grad((function(*inputs, **given) ** 3).sum(), inputs)
        for function in (attention.plain_attention, nn.functional.scaled_dot_product_attention)
    )
    for own, other in zip(ours, theirs, strict=True):
        assert own.abs().max() > 0.01
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_plain_attention_drops_out():
    states = torch.ones(4, 2, 8, 4)
    torch.manual_seed(0)
    dropped = attention.plain_attention(states, states, states, dropout_p=0.5)
    assert dropped.std() > 0.1
    assert dropped.mean() == pytest.approx(1.0, abs=0.2)
