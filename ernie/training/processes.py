"""One training on several processes: which batches are whose, sums over all, and weights in shards.

Processes and devices are accelerate's (`accelerate launch`, `torchrun`); accelerate shards weights on accelerators
only, so FSDP2 is torch's own `fully_shard`, the same on a CPU and on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, KwargsHandler, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ernie.training.optimisation import ParameterGroups


def make_accelerator(tracker: str | None = None, folder: str | None = None) -> Accelerator:
    """Precision is autocast of the loop's own: accelerate holds one mixed precision a process, and stages differ.

    Unused parameters are looked for: the last layer's entity output has no gradient, and frozen weights have none yet.
    """
    handlers: list[KwargsHandler] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    cpu = not torch.accelerator.is_available()  # else several processes of a machine without a GPU stay alone
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers, log_with=tracker, project_dir=folder)


def sum_over_processes(accelerator: Accelerator, values: Mapping[str, float]) -> dict[str, float]:
    """Each value summed over all processes, which give the same names; as they are with a single process."""
    if accelerator.num_processes == 1 or not values:
        return dict(values)
    names = sorted(values)
    summed = accelerator.reduce(
        torch.tensor([values[n] for n in names], dtype=torch.float64, device=accelerator.device)
    )
    return dict(zip(names, summed.tolist(), strict=True))


def of_first_process(value: Any) -> Any:
    """What the first process gives (any picklable value), the same in all."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def shard(model: nn.Module, groups: ParameterGroups) -> ParameterGroups:
    """Gives every process a slice of every weight, in place (FSDP2): layers one by one, then the rest.

    Layers are what the model names in `_no_split_modules`; embeddings stay with the rest, where a tied decoder is.
    Returns the groups with the parameters that have taken the place of the old ones.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kinds = {kind for part in model.modules() for kind in getattr(part, "_no_split_modules", None) or ()}
    for part in list(model.modules()):
        if type(part).__name__ in kinds and not any(True for _ in _embeddings(part)):
            fully_shard(part)
    fully_shard(model)
    new = dict(model.named_parameters())
    return [{**group, "params": [new[names[id(p)]] for p in group["params"]]} for group in groups]


def synchronise_gradients(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass sums gradients over processes; of an FSDP2 model (DDP has `no_sync`)."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)


def gathered(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors in place of slices, at any depth; every process must call it."""
    return {name: _gathered(value) for name, value in tensors.items()}


def sliced_like(value: Tensor, own: Tensor) -> Tensor:
    """This process's slice of `value` where `own` is one, else `value`; every process must call it with the same."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def slice_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole optimiser state as an optimiser over slices loads it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sliced = {
        number: {name: sliced_like(v, own) if v.shape == own.shape else v for name, v in values.items()}
        for number, values in state["state"].items()
        for own in [parameters[number]]
    }
    return {**state, "state": sliced}


def _embeddings(part: nn.Module) -> Any:
    return (module for module in part.modules() if isinstance(module, nn.Embedding))


def _gathered(value: Any) -> Any:
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {name: _gathered(part) for name, part in value.items()}
    return value
