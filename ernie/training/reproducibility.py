"""Randomness that depends on where a draw stands, not on how many draws came before it.

Every stream is keyed by numbers (seed, step, row …). A run that stops and goes on, or evaluates more often, or uses
another number of workers, draws the same values; no generator state has to be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*keys: int | str) -> int:
    """A seed in 0 … 2^63 - 1 from any keys; different keys give unrelated seeds, on every machine the same.

    >>> derived_seed(0, "dropout", 3) == derived_seed(0, "dropout", 3)
    True
    >>> derived_seed(5) == derived_seed(-5)
    False
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def keyed_generator(*keys: int | str) -> np.random.Generator:
    """A NumPy generator (Philox, counter-based) for the stream that `keys` name."""
    return np.random.Generator(np.random.Philox(key=derived_seed(*keys)))


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Inside the block torch's global generators start from `seed`; afterwards they are as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
