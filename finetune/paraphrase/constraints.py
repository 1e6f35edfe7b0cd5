"""What decoding must not do: repeat itself, lose a mention or a number, stop too early."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.paraphrase.vocabulary import BOS, EOS, PAD, UNK

Required = Sequence[tuple[int, ...]]
"""Runs of ids that must stand in a row's output, each as often as it is listed."""
FORBIDDEN = float("-inf")


def forbid_specials(log_probs: Tensor, *, may_end: bool) -> None:
    """PAD, UNK and BOS are never written, EOS only when `may_end`; in place, (rows, num_ids)."""
    log_probs[:, [PAD, UNK, BOS]] = FORBIDDEN
    if not may_end:
        log_probs[:, EOS] = FORBIDDEN


def forbid_repeats(log_probs: Tensor, prefixes: Tensor, n: int) -> None:
    """Forbids each id that would complete an n-gram the row has already; in place.

    log_probs: (rows, num_ids). prefixes: (rows, length), what has been written. n: 0 forbids nothing.
    """
    length = prefixes.shape[1]
    if n < 1 or length < n:
        return
    if n == 1:
        log_probs.scatter_(1, prefixes, FORBIDDEN)
        return
    windows = prefixes.unfold(1, n, 1)  # (rows, length - n + 1, n)
    seen = (windows[:, :, :-1] == prefixes[:, None, length - n + 1 :]).all(-1)
    rows, places = seen.nonzero(as_tuple=True)
    log_probs[rows, windows[rows, places, -1]] = FORBIDDEN


def require(log_probs: Tensor, prefixes: Tensor, required: Sequence[Required], room: int) -> None:
    """Makes a row finish what it must say; in place.

    A row that has begun a required run may only go on with it; it may not end while runs are outstanding; and when
    what is outstanding fills the room left, it must begin with the next.

    required: by row. room: how many ids may still be written, EOS not counted. A row whose runs no longer fit is left
    to break its constraint, which `find_runs` then tells.
    """
    for row, runs in enumerate(required):
        if not runs:
            continue
        outstanding, begun = _outstanding(prefixes[row].tolist(), runs)
        if not outstanding:
            continue
        log_probs[row, EOS] = FORBIDDEN
        needed = sum(map(len, outstanding))
        if begun is not None:
            _only(log_probs[row], begun[0][begun[1]])
        elif needed >= room:
            _only(log_probs[row], outstanding[0][0])


def find_runs(ids: Sequence[int], required: Required) -> list[tuple[int, int] | None]:
    """Where each required run stands, as (start, end) places that do not overlap; None for one that does not.

    Longer runs choose first, so that "New York" is not taken for the "York" that is asked for beside it.
    """
    found: list[tuple[int, int] | None] = [None] * len(required)
    taken = [False] * len(ids)
    for number in sorted(range(len(required)), key=lambda number: -len(required[number])):
        run = list(required[number])
        for start in range(len(ids) - len(run) + 1):
            end = start + len(run)
            if list(ids[start:end]) == run and not any(taken[start:end]):
                found[number] = (start, end)
                taken[start:end] = [True] * len(run)
                break
    return found


def _outstanding(
    ids: Sequence[int], required: Required
) -> tuple[list[tuple[int, ...]], tuple[tuple[int, ...], int] | None]:
    """Required runs not yet written, and the one that the last ids begin, with how many of its ids stand there."""
    places = find_runs(ids, required)
    outstanding = [run for run, place in zip(required, places, strict=True) if place is None]
    last = max((place[1] for place in places if place is not None), default=0)
    free = list(ids[last:])
    best: tuple[tuple[int, ...], int] | None = None
    for run in outstanding:
        for size in range(min(len(run) - 1, len(free)), 0, -1):
            if free[-size:] == list(run[:size]) and (best is None or size > best[1]):
                best = (run, size)
                break
    return outstanding, best


def _only(log_probs: Tensor, chosen: int) -> None:
    """The row may write `chosen` alone; its own log-probability stays what it was, if it was allowed."""
    kept = log_probs[chosen].clamp_min(torch.finfo(log_probs.dtype).min / 2).clone()
    log_probs.fill_(FORBIDDEN)
    log_probs[chosen] = kept
