"""Against numbers the first ERNIE implementation computed, in fp64.

The file lies beside a development checkout and not in the repository; `test_slow_reference` checks the same equations
everywhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ernie import ErnieForEntityTyping, ErnieForPreTraining, ErnieForSequenceClassification
from ernie.conversion import config_from_first_release, from_first_release, to_first_release

pytestmark = pytest.mark.parity

FOLDER = Path(os.environ.get("ERNIE_KG_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
FILE = FOLDER / "ernie_reference_f64.safetensors"
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}
Golden = dict[str, Any]


@pytest.fixture(scope="module")
def golden() -> Golden:
    if not FILE.is_file():
        pytest.skip(f"no golden numbers in {FOLDER}; ERNIE_KG_GOLDEN names another folder")
    with safe_open(FILE, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    entity = {
        "entity_size": int(metadata["entity_size"]),
        "num_entity_attention_heads": int(metadata["entity_heads"]),
    }
    return {"config": config, "entity": entity, **tensors}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def group(golden: Golden, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def built(golden: Golden, model_class: type = ErnieForPreTraining, **settings: Any) -> Any:
    config = config_from_first_release(golden["config"], **golden["entity"], **settings)
    return model_class(config).double().eval()


def packed(golden: Golden, *, with_cls: bool) -> dict[str, torch.Tensor]:
    """One entity slot a token -> only the slots in use (masked in, or with a label), padded to the longest.

    with_cls: the zero-vector entity at [CLS] is packed too, for a model that does not add it itself.
    """
    vectors, mask = golden["inputs.input_ent"], golden["inputs.ent_mask"]
    labels = golden["inputs.ent_labels"]
    used = (mask == 1) | (labels != -1)
    assert used[:, 0].all(), "the first implementation always lets [CLS] in"
    used[:, 0] = with_cls
    rows = [torch.nonzero(row).flatten() for row in used]
    size = max(map(len, rows))
    batch, width = vectors.shape[0], vectors.shape[2]
    out = {
        "entity_embeds": torch.randn(batch, size, width),  # garbage where masked: it must not matter
        "entity_positions": torch.zeros(batch, size, dtype=torch.long),
        "entity_attention_mask": torch.zeros(batch, size, dtype=torch.long),
        "entity_labels": torch.full((batch, size), -100),
    }
    for row, positions in enumerate(rows):
        n = len(positions)
        real = mask[row, positions] == 1
        out["entity_embeds"][row, :n][real] = vectors[row, positions][real]
        out["entity_positions"][row, :n] = positions
        out["entity_attention_mask"][row, :n] = real.long()
        given = labels[row, positions]
        out["entity_labels"][row, :n] = torch.where(given == -1, -100, given)
    return out


def text(golden: Golden) -> dict[str, torch.Tensor]:
    return {name: golden[f"inputs.{name}"] for name in ("input_ids", "token_type_ids", "attention_mask")}


def targets(golden: Golden) -> dict[str, torch.Tensor]:
    labels = golden["inputs.masked_lm_labels"]
    return {
        "labels": torch.where(labels == -1, -100, labels),
        "next_sentence_label": golden["inputs.next_sentence_label"],
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("cls_entity", [True, False])
def test_every_layer_of_both_streams_equals_the_first_implementation(
    golden: Golden, attention: str, cls_entity: bool
) -> None:
    """A lost bias or a swapped LayerNorm trains just as happily and only scores worse; every state is compared."""
    model = built(golden, cls_entity=cls_entity)
    model.load_state_dict(from_first_release(group(golden, "state_dict.")))
    model.set_attn_implementation(attention)
    entities = packed(golden, with_cls=not cls_entity)
    entities.pop("entity_labels")
    outputs = model.bert(**text(golden), **entities, output_hidden_states=True)
    real_tokens = golden["inputs.attention_mask"] == 1
    real = entities["entity_attention_mask"] == 1
    rows = torch.arange(len(real))[:, None].expand(real.shape)[real]
    columns = entities["entity_positions"][real]
    for layer in range(len(golden["config"]["layer_types"])):
        expected = golden[f"outputs.layer_{layer}"][real_tokens]
        assert outputs.hidden_states[layer + 1][real_tokens].sub(expected).abs().max() <= 1e-10
        expected = golden[f"outputs.layer_ent_{layer}"][rows, columns]
        assert outputs.entity_hidden_states[layer + 1][real].sub(expected).abs().max() <= 1e-10
    torch.testing.assert_close(outputs.pooler_output, golden["outputs.pooled_output"], **TOLERANCE)
    expected = golden["outputs.entity_output"][rows, columns]
    torch.testing.assert_close(outputs.entity_last_hidden_state[real], expected, **TOLERANCE)


@pytest.mark.parametrize("no_entity_candidate", [True, False])
def test_logits_losses_and_gradients_equal_the_first_implementation(golden: Golden, no_entity_candidate: bool) -> None:
    """Losses alone may agree by luck of the labels; gradients of every parameter may not."""
    model = built(golden, no_entity_candidate=no_entity_candidate)
    model.load_state_dict(from_first_release(group(golden, "state_dict.")))
    entities, candidates = packed(golden, with_cls=False), golden["inputs.candidate"]
    if no_entity_candidate:  # that code keeps "no entity" in row 0 of its candidates; ours is appended
        assert not candidates[0].any()
        candidates = candidates[1:]
        labels = entities["entity_labels"]
        entities["entity_labels"] = torch.where(labels == -100, -100, labels - 1)
    out = model(**text(golden), **entities, **targets(golden), entity_candidates=candidates)

    for name, ours in (("mlm", out.mlm_loss), ("nsp", out.nsp_loss), ("ent", out.dea_loss), ("total", out.loss)):
        torch.testing.assert_close(ours, golden[f"outputs.{name}_loss"], **TOLERANCE)
    masked = golden["inputs.masked_lm_labels"] != -1
    torch.testing.assert_close(out.logits, golden["outputs.mlm_logits"][masked], **TOLERANCE)
    torch.testing.assert_close(out.seq_relationship_logits, golden["outputs.nsp_logits"], **TOLERANCE)
    expected = golden["outputs.ent_logits"]
    expected = torch.cat([expected[..., 1:], expected[..., :1]], -1) if no_entity_candidate else expected
    rows, slots = torch.nonzero(entities["entity_labels"] != -100, as_tuple=True)
    expected = expected[rows, entities["entity_positions"][rows, slots]]
    torch.testing.assert_close(out.entity_logits[rows, slots], expected, **TOLERANCE)

    out.loss.backward()
    expected_grads = group(golden, "grads.")
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert grads.keys() >= {name for name, grad in expected_grads.items() if grad.any()}
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}")


def test_logits_of_all_positions_without_labels(golden: Golden) -> None:
    """Prediction takes another path than training: all positions, not the masked ones."""
    model = built(golden)
    model.load_state_dict(from_first_release(group(golden, "state_dict.")))
    entities = packed(golden, with_cls=False)
    entities.pop("entity_labels")
    real = golden["inputs.attention_mask"] == 1
    logits = model(**text(golden), **entities).logits
    torch.testing.assert_close(logits[real], golden["outputs.mlm_logits"][real], **TOLERANCE)


@pytest.mark.parametrize(
    ("head", "model_class"), [("typing", ErnieForEntityTyping), ("seqcls", ErnieForSequenceClassification)]
)
def test_task_heads_equal_the_first_implementation(golden: Golden, head: str, model_class: type) -> None:
    """That release's typing head has no bias and another name; a converter that drops it starts a head anew."""
    labels = golden[f"heads.{head}.labels"]
    state = {k: v for k, v in group(golden, "state_dict.").items() if k.startswith("bert.")}
    state = from_first_release({**state, **group(golden, f"heads.{head}.state.")})
    model = built(golden, model_class, num_labels=golden[f"heads.{head}.logits"].shape[1])
    model.load_state_dict(state)
    entities = packed(golden, with_cls=False)
    entities.pop("entity_labels")
    out = model(**text(golden), **entities, labels=labels)
    torch.testing.assert_close(out.logits, golden[f"heads.{head}.logits"], **TOLERANCE)
    torch.testing.assert_close(out.loss, golden[f"heads.{head}.loss"], **TOLERANCE)


def test_conversion_comes_back_as_it_went(golden: Golden) -> None:
    """A key lost on the way out would be missed only by a user of the old code."""
    state = group(golden, "state_dict.")
    model = built(golden)
    model.load_state_dict(from_first_release(state))
    back = to_first_release(model.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def slow_ernie() -> ModuleType:
    path = Path(__file__).with_name("slow_ernie.py")
    spec = importlib.util.spec_from_file_location("slow_ernie", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_slow_reference_itself_equals_the_first_implementation(golden: Golden) -> None:
    """The oracle that every user's test run relies on must not be wrong together with the model."""
    slow = slow_ernie()
    config = config_from_first_release(golden["config"], **golden["entity"])
    weights = {k.removeprefix("bert."): v for k, v in group(golden, "state_dict.").items()}
    for row, length in enumerate(golden["inputs.attention_mask"].sum(1).tolist()):
        tokens, _, pooled = slow.encode_one(
            weights,
            layer_types=config.layer_types,
            num_heads=config.num_attention_heads,
            num_entity_heads=config.num_entity_attention_heads,
            input_ids=golden["inputs.input_ids"][row, :length],
            token_type_ids=golden["inputs.token_type_ids"][row, :length],
            entities=golden["inputs.input_ent"][row, :length],
            entity_mask=golden["inputs.ent_mask"][row, :length],
        )
        for layer, states in enumerate(tokens):
            torch.testing.assert_close(states, golden[f"outputs.layer_{layer}"][row, :length], **TOLERANCE)
        torch.testing.assert_close(pooled, golden["outputs.pooled_output"][row], **TOLERANCE)
