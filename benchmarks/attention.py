"""torch's fused attention kernel on the CPU beside plain matrix products, forward and backward, by length.

    python benchmarks/attention.py [--threads 1] [--heads 12] [--width 32]

Every length has 2,048 word pieces in all and a key mask. One JSON line a length and format, `plain_over_fused` above 1
where the plain form is quicker; `ernie.training.attention.LONGEST_PLAIN` rests on it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ernie.training.attention import plain_attention

LENGTHS, PIECES, ROUNDS = (16, 32, 64, 128, 192, 256, 384, 512), 2048, 5
Attention = Callable[..., Tensor]
WAYS: dict[str, Attention] = {"fused": torch.nn.functional.scaled_dot_product_attention, "plain": plain_attention}


def step(attend: Attention, length: int, heads: int, width: int, dtype: torch.dtype) -> Callable[[], float]:
    """Forward and backward of one layer's attention; gives the seconds they took."""
    size = (PIECES // length, heads, length, width)
    inputs = [torch.randn(size, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = torch.ones(size[0], 1, 1, length, dtype=torch.bool).expand(-1, 1, length, -1)

    def run() -> float:
        started = time.perf_counter()
        output = attend(*inputs, attn_mask=mask)
        output.backward(torch.ones_like(output))
        return time.perf_counter() - started

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for dtype in (torch.float32, torch.bfloat16):
        for length in LENGTHS:
            ways = {name: step(attend, length, given.heads, given.width, dtype) for name, attend in WAYS.items()}
            times = dict.fromkeys(ways, float("inf"))
            for _ in range(ROUNDS):
                for name, run in ways.items():
                    times[name] = min(times[name], run())
            row = {f"{name}_ms": round(1000 * seconds, 2) for name, seconds in times.items()}
            ratio = round(times["fused"] / times["plain"], 2)
            print(json.dumps({"dtype": str(dtype), "length": length, **row, "plain_over_fused": ratio}), flush=True)


if __name__ == "__main__":
    main()
