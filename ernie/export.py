"""A classifier as ONNX, in fp32 and int8, and predictors with one interface for torch and onnxruntime.

Needs the extra `export`: onnx, onnxruntime and onnxscript are imported when a function is called.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ernie.errors import InputError
from ernie.inputs import INPUTS

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ENTITY_INPUTS = ("entity_embeds", "entity_positions", "entity_attention_mask")
SPAN_INPUTS = ("spans",)
OUTPUT = "logits"
QUANTISED = ("MatMul", "Gather", "Transpose")
"""Operators with weights, or between such. Not Attention: onnxruntime takes the standard one for its own."""
SLOWER = ("SkipLayerNormFusion",)
"""What onnxruntime does to a graph that costs time: its sum and normalisation in one is five times as slow as both."""


class Predictor(Protocol):
    """A model reduced to its answers."""

    input_names: tuple[str, ...]

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """batch: padded inputs (`ernie.inputs.INPUTS`), others than `input_names` ignored. Returns float32 logits
        (batch_size, num_labels) on the CPU."""
        ...


class TorchPredictor:
    """A torch classifier in eval mode, without gradients.

    input_names: what it takes of a batch; two-stream models get entity vectors, not rows.
    """

    def __init__(self, model: nn.Module, *, input_names: Sequence[str] = TEXT_INPUTS) -> None:
        self.model = model.eval()
        self.input_names = tuple(input_names)

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        device = next(self.model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in _chosen(batch, self.input_names).items()}
        return self.model(**inputs).logits.float().cpu()


class OrtPredictor:
    """An ONNX file run by onnxruntime on the CPU.

    num_threads: threads inside an operator; 0 takes torch's number, so that comparisons are fair.

    Raises:
        InputError: onnxruntime is missing, or the file is none it can read.
    """

    def __init__(self, path: str | Path, *, num_threads: int = 0) -> None:
        ort = _require("onnxruntime")
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; `ernie-kg export` writes model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        try:
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(SLOWER)
            )
        except Exception as error:  # onnxruntime raises classes of its C++ module, all unlike one another
            raise InputError(f"{path}: onnxruntime cannot read it ({error}); run `ernie-kg export` again") from error
        self.input_names = tuple(entry.name for entry in self.session.get_inputs())

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        feeds = {name: tensor.cpu().numpy() for name, tensor in _chosen(batch, self.input_names).items()}
        return torch.from_numpy(np.asarray(self.session.run([OUTPUT], feeds)[0], dtype=np.float32))


def export_onnx(model: nn.Module, path: str | Path, *, batch: Mapping[str, Tensor], opset: int = 23) -> Path:
    """Writes one ONNX file whose batch size, text length and number of entities are free.

    batch: a real batch of at least two examples of two pieces (and two entity slots), traced through. Inputs are
        those of `TEXT_INPUTS`, of `ENTITY_INPUTS` where the batch has entity vectors, of `SPAN_INPUTS` where it has
        the spans that a head reads.
    opset: ONNX operator set; from 23 on attention is one operator, before it a dozen, and slower (docs/results.md).

    Raises:
        InputError: onnx or onnxscript is missing.
    """
    for name in ("onnx", "onnxscript"):
        _require(name)
    names = input_names_of(batch)
    inputs = _chosen(batch, names)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Logits(model.eval()),
            (),
            kwargs={"inputs": inputs},
            dynamo=True,
            opset_version=opset,
            dynamic_shapes={"inputs": _free_dimensions(names, getattr(model, "config", None))},
            input_names=list(names),
            output_names=[OUTPUT],
            verbose=False,
        )
        assert program is not None, "the dynamo exporter returns a program"
        program.save(str(path))
    return Path(path)


def quantize_int8(source: str | Path, target: str | Path) -> Path:
    """Writes `source` with int8 weights (word table included), one scale a channel, activations quantised on the fly.

    Weights are signed and use 7 of their 8 bits: processors without VNNI instructions add two products in 16 bits,
    which 255 · 127 · 2 overflows without a word and 255 · 64 · 2 does not. An answer depends a little on what else is
    in the batch: the scale of the activations is the batch's.

    Raises:
        InputError: onnx or onnxruntime is missing.
    """
    onnx = _require("onnx")
    quantization = _require("onnxruntime.quantization")
    model = onnx.load(str(source))
    # The quantiser transposes Gemm weights, leaves their old shapes among these hints, then refuses its own work.
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        clean = Path(folder) / "model.onnx"
        onnx.save(model, str(clean))
        quantization.quantize_dynamic(
            str(clean),
            str(target),
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=list(QUANTISED),
        )
    return Path(target)


def input_names_of(batch: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The inputs an exported model takes of such a batch."""
    return TEXT_INPUTS + (ENTITY_INPUTS if "entity_embeds" in batch else ()) + (SPAN_INPUTS if "spans" in batch else ())


class _Logits(nn.Module):
    """A classifier as a function of named tensors alone, which the exporter reads names from."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**inputs).logits


def _free_dimensions(names: Sequence[str], config: Any) -> dict[str, dict[int, Any]]:
    longest = getattr(config, "max_position_embeddings", None)
    free = {
        "tokens": torch.export.Dim("length", max=longest),
        "entities": torch.export.Dim("entities", min=0),
    }
    batch = torch.export.Dim("batch")
    return {name: {0: batch, **({1: free[axis]} if (axis := INPUTS[name].axis) in free else {})} for name in names}


def _chosen(batch: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    missing = [name for name in names if name not in batch]
    if missing:
        raise InputError(f"the model takes {', '.join(names)}; the batch lacks {', '.join(missing)}")
    return {name: batch[name] for name in names}


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"{module.partition('.')[0]} is not installed, export needs it; `pip install ernie-kg[export]`"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps exporter and quantiser from warning about other people's operators; errors still show."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
