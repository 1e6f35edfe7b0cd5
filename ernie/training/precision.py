"""Which number format the matrix products of a training run use, measured on the machine it runs on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch

from ernie.errors import InputError

GAIN_NEEDED = 1.3
"""bf16 must multiply this much faster: the casts around each product eat a smaller gain."""
PROBE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The format chosen and why.

    name: `fp32` or `bf16` (autocast: weights and optimiser stay fp32). reason: one phrase for logs and manifests.
    """

    name: Literal["fp32", "bf16"]
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.name == "bf16" else torch.float32


def choose_precision(requested: str, device: torch.device) -> Precision:
    """The format asked for, or for `auto` the one whose matrix products are faster here (takes < 0.3 s).

    A CPU without AVX-512 or AMX multiplies bf16 a hundred times slower than fp32; one with them, several times faster.

    Raises:
        InputError: `requested` is none of auto, fp32, bf16.
    """
    if requested == "fp32":
        return Precision(name="fp32", reason="as configured")
    if requested == "bf16":
        return Precision(name="bf16", reason="as configured")
    if requested != "auto":
        raise InputError(f"precision must be auto, fp32 or bf16, but is {requested!r}")
    fp32, bf16 = measure_gflops(torch.float32, device), measure_gflops(torch.bfloat16, device)
    measured = f"measured fp32 {fp32:.3g} GFLOP/s, bf16 {bf16:.3g} GFLOP/s"
    return Precision(name="bf16" if bf16 > GAIN_NEEDED * fp32 else "fp32", reason=measured)


def measure_gflops(dtype: torch.dtype, device: torch.device, *, rows: int = 256, width: int = 384) -> float:
    """Best rate of a (rows, width) x (width, width) product within `PROBE_SECONDS`; the default is the shape of a small
    encoder's layer, 1024 and 1024 come near the machine's peak."""
    left = torch.ones(rows, width, dtype=dtype, device=device)
    right = torch.ones(width, width, dtype=dtype, device=device)
    best, spent = float("inf"), 0.0
    torch.matmul(left[:8], right)
    while spent < PROBE_SECONDS:
        _wait(device)
        started = time.perf_counter()
        torch.matmul(left, right)
        _wait(device)
        taken = time.perf_counter() - started
        best, spent = min(best, taken), spent + taken
    return 2 * rows * width * width / best / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
