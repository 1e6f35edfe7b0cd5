"""How this package's loops are compiled: by numba at first use, kept beside the file or in the user's cache folder."""

from __future__ import annotations

from functools import partial

from numba import njit

kernel = partial(njit, nogil=True, cache=True, error_model="numpy", boundscheck=False)
"""Plain arithmetic: the order of every sum is the one written."""
summing = partial(kernel, fastmath={"reassoc", "contract", "nsz"})
"""Sums may be reordered, so that a row is added up by vector instructions."""
