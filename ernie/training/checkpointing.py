"""Checkpoints that are either whole or not there.

A checkpoint is a folder `step-00000100` with `model.safetensors`, `optimizer.pt` and `state.json`. It is written under
another name, flushed to the disk and renamed; its `state.json`, written last, holds the sizes of the others.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ernie.errors import InputError
from ernie.training.processes import sliced_like

PREFIX = "step-"
UNFINISHED = ".tmp"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder gave back: weights and buffers by name, the optimiser's state_dict, the loop's own JSON state."""

    folder: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes `folder/step-…` atomically and then removes all but the newest `keep` (at least one stays).

    Raises:
        InputError: the disk is full or not writable; the half-written folder is removed, earlier ones are untouched.
    """
    target = folder / f"{PREFIX}{step:08d}"
    partial = target.with_name(target.name + UNFINISHED)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, partial / MODEL)
        torch.save(dict(optimizer), partial / OPTIMIZER)
        sizes = {name: (partial / name).stat().st_size for name in (MODEL, OPTIMIZER)}
        (partial / STATE).write_text(json.dumps({**state, "sizes": sizes}), encoding="utf-8")
        for file in (MODEL, OPTIMIZER, STATE, "."):
            _flush(partial / file)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{target}: the checkpoint of step {step} could not be written ({str(error).splitlines()[0]}); make room "
            f"and start again, the run goes on from the checkpoint before"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    _flush(folder)
    _remove_old(folder, keep)
    return target


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`; unfinished or damaged ones are passed over; None when there is none."""
    for path in sorted(_finished(folder), reverse=True):
        state = _state_if_whole(path)
        if state is not None:
            optimizer = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)
            return Checkpoint(path, load_file(path / MODEL), optimizer, state)
    return None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (a shared one once) and persistent buffers, by name; tensors are the model's own, not copies."""
    kept = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return {**dict(model.named_parameters()), **buffers}


def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies saved values into `model` in place.

    Raises:
        InputError: the names or shapes are another model's.
    """
    own = weights_of(model)
    strange = sorted(own.keys() ^ weights.keys()) + sorted(
        name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape
    )
    if strange:
        raise InputError(
            f"the checkpoint is another model's: {len(strange)} tensors differ in name or shape, first {strange[0]!r}; "
            f"delete the checkpoint folder to start anew"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(sliced_like(weights[name], tensor))


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """One safetensors file, written under another name and renamed."""
    partial = path.with_name(path.name + UNFINISHED)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, partial)
    _flush(partial)
    partial.replace(path)


def _finished(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.glob(f"{PREFIX}*") if path.is_dir() and not path.name.endswith(UNFINISHED)]


def _state_if_whole(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        sizes = state.pop("sizes")
    except (OSError, ValueError, KeyError):
        return None
    whole = all((path / name).is_file() and (path / name).stat().st_size == size for name, size in sizes.items())
    return state if whole else None


def _remove_old(folder: Path, keep: int) -> None:
    for path in sorted(_finished(folder))[: -max(1, keep)]:
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    """Asks the system to put a file's or folder's content on the disk before anything refers to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
