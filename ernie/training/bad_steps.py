"""Steps that must not be taken: a loss or gradient that is not finite, or one far above those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

RECENT = 50
"""Losses that a new one is compared with."""
FEWEST = 20
"""Below this many there is nothing to compare with."""


def not_finite(figures: Mapping[str, float]) -> str | None:
    """What is wrong with a step, in words, or None.

    >>> not_finite({"loss": 1.0, "grad_norm": float("inf")})
    'grad_norm is inf'
    """
    strange = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    return ", ".join(strange) or None


def spike(loss: float, recent: list[float], factor: float) -> str | None:
    """What is wrong with a loss above `factor` times the median of the recent ones, or None; factor 0 asks nothing.

    >>> spike(9.0, [2.0] * 20, 3.0)
    'loss is 9, 4.5 times the median of the last 20 steps'
    """
    if not factor or len(recent) < FEWEST:
        return None
    usual = median(recent)
    if usual <= 0 or loss <= factor * usual:
        return None
    return f"loss is {loss:.4g}, {loss / usual:.3g} times the median of the last {len(recent)} steps"
