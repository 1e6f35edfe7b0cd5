"""ONNX files against the torch model they come from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from ernie.configuration import ErnieConfig
from ernie.errors import InputError
from ernie.export import OrtPredictor, TorchPredictor, export_onnx, input_names_of, quantize_int8
from ernie.heads import ErnieForEntityTyping

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "initializer_range": 0.2,
}


def _batch(size: int, length: int, *, entities: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length)[None] < length - torch.arange(size)[:, None] % max(length - 1, 1)).long()
    batch = {
        "input_ids": torch.randint(1, 60, (size, length), generator=draw) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros(size, length, dtype=torch.long),
    }
    if entities is not None:
        batch["entity_embeds"] = torch.randn(size, entities, 4, generator=draw)
        batch["entity_positions"] = torch.zeros(size, entities, dtype=torch.long)
        batch["entity_attention_mask"] = torch.ones(size, entities, dtype=torch.long)
    return batch


@pytest.fixture(scope="module")
def plain() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SHAPE, num_hidden_layers=1)).eval()


@pytest.fixture(scope="module")
def plain_onnx(plain: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(plain, tmp_path_factory.mktemp("onnx") / "model.onnx", batch=_batch(3, 7))


@pytest.mark.parity
@pytest.mark.parametrize(("size", "length"), [(3, 7), (1, 1), (1, 40), (9, 5)])
def test_onnx_answers_as_torch_at_any_batch_size_and_length(plain, plain_onnx, size, length):
    """A dimension frozen while tracing passes every test of the traced shape and fails at the first user."""
    batch = _batch(size, length)
    torch.testing.assert_close(OrtPredictor(plain_onnx)(batch), TorchPredictor(plain)(batch), atol=1e-5, rtol=1e-5)


def test_onnx_reads_the_attention_mask(plain, plain_onnx):
    """A mask folded into a constant gives right answers for unpadded texts only."""
    predictor = OrtPredictor(plain_onnx)
    alone = _batch(1, 6)
    padded = {name: torch.nn.functional.pad(tensor, (0, 5)) for name, tensor in alone.items()}
    torch.testing.assert_close(predictor(padded), predictor(alone), atol=1e-5, rtol=1e-5)


def test_int8_is_smaller_and_near(plain, plain_onnx, tmp_path):
    """Eight-bit weights overflow without VNNI (cosine 0.83 here); an unquantised word table saves nothing."""
    int8 = quantize_int8(plain_onnx, tmp_path / "int8.onnx")
    batch = _batch(4, 9)
    exact, rough = OrtPredictor(plain_onnx)(batch), OrtPredictor(int8)(batch)
    assert not torch.equal(exact, rough)
    assert float(torch.cosine_similarity(rough.flatten(), exact.flatten(), dim=0)) > 0.99
    import onnx

    tables = [entry for entry in onnx.load(str(int8)).graph.initializer if len(entry.dims) == 2]
    kinds = {entry.data_type for entry in tables}
    assert onnx.TensorProto.INT8 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    words = [onnx.numpy_helper.to_array(entry) for entry in tables if entry.data_type == onnx.TensorProto.INT8]
    assert max(np.abs(table.astype(int)).max() for table in words) <= 64


@pytest.mark.slow
@pytest.mark.parity
def test_a_two_stream_model_takes_any_number_of_entities_and_its_heads_spans(tmp_path):
    """Texts without any linked entity are common and an axis of length 0 is what exporters get wrong; a span made$
    a constant answers for the traced one alone."""
    torch.manual_seed(0)
    config = ErnieConfig(
        **SHAPE,
        num_hidden_layers=2,
        entity_size=4,
        num_entity_attention_heads=2,
        layer_types=["mix", "fuse"],
        problem_type="single_label_classification",
        pooling="mean",
        num_spans=1,
    )
    model = ErnieForEntityTyping(config).eval()
    sample = {**_batch(3, 7, entities=2), "spans": torch.tensor([[[0, 2]], [[1, 2]], [[0, 1]]])}
    predictor = OrtPredictor(export_onnx(model, tmp_path / "model.onnx", batch=sample))
    reference = TorchPredictor(model, input_names=input_names_of(sample))
    for size, length, entities in [(3, 7, 2), (2, 5, 0), (1, 9, 4)]:
        spans = torch.tensor([[[0, 1 + row]] for row in range(size)])
        batch = {**_batch(size, length, entities=entities, seed=length), "spans": spans}
        torch.testing.assert_close(predictor(batch), reference(batch), atol=1e-5, rtol=1e-5)


def test_predictors_name_what_a_batch_lacks(plain, plain_onnx, tmp_path):
    """onnxruntime's own message lists C++ internals."""
    batch = _batch(1, 3)
    del batch["attention_mask"]
    for predictor in (OrtPredictor(plain_onnx), TorchPredictor(plain)):
        with pytest.raises(InputError, match="lacks attention_mask"):
            predictor(batch)
    (tmp_path / "broken.onnx").write_bytes(plain_onnx.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read it"):
        OrtPredictor(tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="no such file"):
        OrtPredictor(tmp_path / "none.onnx")


@pytest.mark.parametrize("module", ["onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(plain, plain_onnx, tmp_path, monkeypatch, module):
    """The base install has no onnx; a bare ImportError does not say what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{module} is not installed.*ernie-kg\[export\]"):
        if module == "onnxruntime":
            OrtPredictor(plain_onnx)
        else:
            export_onnx(plain, tmp_path / "x.onnx", batch=_batch(2, 3))
