"""TransE's training step compiled for the CPU by numba: the same step as `kg.transe`, without its temporaries.

A step has two halves. First every chunk of triples computes its gradients, chunks side by side on the threads, from
tables nobody writes meanwhile. Then every row that occurs sums its gradients in the order of occurrence and takes
its Adagrad step, rows side by side. So the result is the same whatever the number of threads, and equals the torch
engine's up to rounding.

The kernels are compiled at first use and kept by numba beside this file (or in the user's cache folder). They use
fast arithmetic: sums may be reordered, and a NaN is found by the loss, not by comparisons.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads

config.THREADING_LAYER = "workqueue"  # pyrefly: ignore[missing-attribute]
"""numba's own pool: comes with every wheel, survives a fork."""
MOST_THREADS = get_num_threads()
compiled = partial(njit, fastmath=True, nogil=True, cache=True, error_model="numpy")
kernel = partial(compiled, forceinline=True)
"""A part of the step. Inlined, because a part that stays a function of its own has two compiled forms: the process that
compiles calls one, those that read the cache the other, and fast arithmetic rounds them differently."""
CROSS_ENTROPY, SELF_ADVERSARIAL, MARGIN = 0, 1, 2
LOSS_CODES = {"cross_entropy": CROSS_ENTROPY, "self_adversarial": SELF_ADVERSARIAL, "margin": MARGIN}
LANES = 16  # numbers in the widest vector register: scratch rows are padded to it
UNROLLED = 4  # rows of scratch handled together
SMALLEST_SQUARE = np.float32(1e-6)
NOWHERE = np.float32(3e37)  # the distance of a negative that is none: its share of any loss is 0
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)

LOG2_E, LN_2_HIGH, LN_2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP_LOWEST, EXP_HIGHEST = np.float32(-87.0), np.float32(88.0)


def use_threads(threads: int) -> int:
    """The pool of the kernels has this size from now on, or as many as the machine has; returns which."""
    threads = max(1, min(threads, MOST_THREADS))
    set_num_threads(threads)
    return threads


# --- elementary functions over a row --------------------------------------------------------------------------


@kernel()
def exp_row(x: np.ndarray, out: np.ndarray, bits: np.ndarray) -> None:
    """out = e^x, relative error below 1e-6, for x clipped to [-87, 88]. bits: int32 scratch of the same length.

    Range reduction x = k ln 2 + r and a polynomial of degree 6 in r, in loops without calls, which the compiler
    turns into vector instructions.
    """
    for j in range(len(x)):
        value = min(max(x[j], EXP_LOWEST), EXP_HIGHEST)
        power = np.floor(value * LOG2_E + np.float32(0.5))
        rest = value - power * LN_2_HIGH - power * LN_2_LOW
        series = np.float32(1.9875691500e-4)
        series = series * rest + np.float32(1.3981999507e-3)
        series = series * rest + np.float32(8.3334519073e-3)
        series = series * rest + np.float32(4.1665795894e-2)
        series = series * rest + np.float32(1.6666665459e-1)
        series = series * rest + np.float32(5.0000001201e-1)
        out[j] = series * rest * rest + rest + ONE
        bits[j] = (np.int32(power) + np.int32(127)) << np.int32(23)
    powers = bits.view(np.float32)
    for j in range(len(x)):
        out[j] *= powers[j]


@kernel()
def log_row(x: np.ndarray, out: np.ndarray, bits: np.ndarray) -> None:
    """out = ln x for normal positive x, absolute error below 1e-6. bits: int32 scratch of the same length.

    x = 2^k m with m in [sqrt(1/2), sqrt(2)), and a polynomial in m - 1.
    """
    as_bits = x.view(np.int32)
    for j in range(len(x)):
        bits[j] = (as_bits[j] & np.int32(0x007FFFFF)) | np.int32(0x3F000000)  # mantissa in [1/2, 1)
    mantissas = bits.view(np.float32)
    for j in range(len(x)):
        power = np.float32((as_bits[j] >> np.int32(23)) - np.int32(126))
        small = mantissas[j] < np.float32(0.707106781)
        power -= ONE if small else ZERO
        m = (mantissas[j] * TWO if small else mantissas[j]) - ONE
        series = np.float32(7.0376836292e-2)
        series = series * m + np.float32(-1.1514610310e-1)
        series = series * m + np.float32(1.1676998740e-1)
        series = series * m + np.float32(-1.2420140846e-1)
        series = series * m + np.float32(1.4249322787e-1)
        series = series * m + np.float32(-1.6668057665e-1)
        series = series * m + np.float32(2.0000714765e-1)
        series = series * m + np.float32(-2.4999993993e-1)
        series = series * m + np.float32(3.3333331174e-1)
        square = m * m
        out[j] = series * m * square - square * np.float32(0.5) + m + power * (LN_2_HIGH + LN_2_LOW)


# --- distances ------------------------------------------------------------------------------------------------


@kernel()
def _distances(queries, candidates, squared, out):
    """out (k, m) = distance of every query (k, width) to every candidate (m, width); k even, m too."""
    width = queries.shape[1]
    for i in range(0, len(queries), 2):
        for j in range(0, len(candidates), 2):
            a, b, c, d = ZERO, ZERO, ZERO, ZERO
            if squared:
                for x in range(width):
                    p, q, r, s = queries[i, x], queries[i + 1, x], candidates[j, x], candidates[j + 1, x]
                    a += (p - r) * (p - r)
                    b += (p - s) * (p - s)
                    c += (q - r) * (q - r)
                    d += (q - s) * (q - s)
            else:
                for x in range(width):
                    p, q, r, s = queries[i, x], queries[i + 1, x], candidates[j, x], candidates[j + 1, x]
                    a += abs(p - r)
                    b += abs(p - s)
                    c += abs(q - r)
                    d += abs(q - s)
            out[i, j], out[i, j + 1], out[i + 1, j], out[i + 1, j + 1] = a, b, c, d
    if squared:
        for i in range(len(queries)):
            for j in range(len(candidates)):
                out[i, j] = np.sqrt(max(out[i, j], SMALLEST_SQUARE))


@kernel()
def _pull(rows, others, weights, squared, out):
    """out_i = sum_j w_ij (r_i - o_j), or w_ij sign(r_i - o_j): the gradient of sum w * distance by `rows`.

    rows, out: (k, width), k even. others: (m, width), m a multiple of UNROLLED. weights: (k, m).
    """
    width = rows.shape[1]
    for i in range(0, len(rows), 2):
        first, second = ZERO, ZERO
        if squared:
            for j in range(len(others)):
                first += weights[i, j]
                second += weights[i + 1, j]
        for x in range(width):
            out[i, x] = rows[i, x] * first
            out[i + 1, x] = rows[i + 1, x] * second
        for j in range(0, len(others), UNROLLED):
            a, b, c, d = weights[i, j], weights[i, j + 1], weights[i, j + 2], weights[i, j + 3]
            e, f, g, h = weights[i + 1, j], weights[i + 1, j + 1], weights[i + 1, j + 2], weights[i + 1, j + 3]
            if squared:
                for x in range(width):
                    p, q, r, s = others[j, x], others[j + 1, x], others[j + 2, x], others[j + 3, x]
                    out[i, x] -= a * p + b * q + c * r + d * s
                    out[i + 1, x] -= e * p + f * q + g * r + h * s
            else:
                for x in range(width):
                    p, q, r, s = others[j, x], others[j + 1, x], others[j + 2, x], others[j + 3, x]
                    t, u = rows[i, x], rows[i + 1, x]
                    out[i, x] += (
                        (a if t > p else -a) + (b if t > q else -b) + (c if t > r else -c) + (d if t > s else -d)
                    )
                    out[i + 1, x] += (
                        (e if u > p else -e) + (f if u > q else -f) + (g if u > r else -g) + (h if u > s else -h)
                    )


# --- losses: a row of negatives of one query ------------------------------------------------------------------


@kernel()
def _loss_row(near, far, num_negatives, code, margin, temperature, scratch, bits, slopes):
    """Loss of one query and its slopes: returns (loss, dL/d near) and writes dL/d far into `slopes`.

    near: distance of the true entity. far: distances of its negatives, NOWHERE where there is none to count.
    num_negatives: how many were drawn. scratch, bits: (3, len(far)) float32, (len(far),) int32. Equations: `kg.losses`.
    """
    lowest = NOWHERE
    for j in range(len(far)):
        lowest = min(lowest, far[j])
    if code == CROSS_ENTROPY:
        return _cross_entropy_row(near, far, min(lowest, near), scratch[0], bits, slopes)
    if code == SELF_ADVERSARIAL:
        return _self_adversarial_row(near, far, lowest, margin, temperature, scratch, bits, slopes)
    return _margin_row(near, far, ONE / np.float32(num_negatives), margin, slopes)


@kernel()
def _cross_entropy_row(near, far, lowest, scratch, bits, slopes):
    for j in range(len(far)):
        scratch[j] = lowest - far[j]
    exp_row(scratch, slopes, bits)
    own = np.exp(lowest - near)
    total = own
    for j in range(len(far)):
        total += slopes[j]
    share = -ONE / total
    for j in range(len(far)):
        slopes[j] *= share
    return np.log(total) + near - lowest, ONE - own / total


@kernel()
def _self_adversarial_row(near, far, lowest, margin, temperature, scratch, bits, slopes):
    """One exponential a negative for its weight, one for its sigmoid, one logarithm for the loss."""
    short = np.exp(-abs(near - margin))
    value = max(near - margin, ZERO) + np.log(ONE + short)
    slope = ONE / (ONE + short) if near > margin else short / (ONE + short)
    if lowest == NOWHERE:
        slopes[:] = ZERO
        return value, slope
    first, second, third = scratch[0], scratch[1], scratch[2]
    for j in range(len(far)):
        first[j] = temperature * (lowest - far[j])
    exp_row(first, slopes, bits)  # unnormalised weights
    total = ZERO
    for j in range(len(far)):
        total += slopes[j]
        first[j] = margin - far[j]
    exp_row(first, second, bits)  # odds e^(margin - far)
    for j in range(len(far)):
        first[j] = ONE + second[j]
    share = ONE / total
    for j in range(len(far)):
        slopes[j] *= share
        second[j] = second[j] / first[j]  # sigmoid(margin - far)
    log_row(first, third, bits)
    for j in range(len(far)):
        value += slopes[j] * third[j]
        slopes[j] *= -second[j]
    return value, slope


@kernel()
def _margin_row(near, far, share, margin, slopes):
    value, active = ZERO, ZERO
    for j in range(len(far)):
        hinge = max(margin + near - far[j], ZERO)
        slopes[j] = -share if hinge > ZERO else ZERO
        value += hinge
        active -= slopes[j]
    return value * share, active


# --- known answers --------------------------------------------------------------------------------------------


@kernel()
def _hide_true(far, asked, negatives, offset, questions, starts, heads, following):
    """Sets far[i, j] to NOWHERE where negative j answers the question of query i.

    asked: (k,) question numbers. negatives: (m,) entity rows. offset: 0, or the number of rows for the head side.
    questions, starts: the questions each row answers, as `KnownQueries` lists them.
    heads, following: int32 scratch: a hash table over `asked` (length a power of two) and its chains.
    """
    heads[:] = -1
    last = len(heads) - 1
    for i in range(len(asked)):
        slot = (asked[i] * 0x9E3779B1 >> 15) & last
        following[i] = heads[slot]
        heads[slot] = i
    for j in range(len(negatives)):
        row = negatives[j] + offset
        for entry in range(starts[row], starts[row + 1]):
            question = questions[entry]
            i = heads[(question * 0x9E3779B1 >> 15) & last]
            while i >= 0:
                if asked[i] == question:
                    far[i, j] = NOWHERE
                i = following[i]


# --- one chunk, both sides ------------------------------------------------------------------------------------


@kernel()
def _gather(table, rows, out):
    for i in range(len(rows)):
        for x in range(table.shape[1]):
            out[i, x] = table[rows[i], x]


@kernel()
def _padded(count, step):
    return (count + step - 1) // step * step


@kernel()
def _chunk(
    entities, relations, triples, negatives, weights, known, settings, by_row, by_relation
):  # fmt: skip
    """Gradients of one chunk on both sides; returns its loss.

    triples: (k, 3). negatives: (2, m). weights: (k, 2), or (0, 2) for ones.
    known: questions, starts. settings: (loss code, margin, temperature, squared, reciprocal, filtered).
    by_row: (2k + 2m, dim), gradients of heads, tails, negatives of side 0, negatives of side 1.
    by_relation: (k, dim), or with reciprocal relations (2k, dim): forward, then inverse.
    """
    questions, starts = known
    code, margin, temperature, squared, reciprocal, filtered = settings
    k, m, dim = len(triples), negatives.shape[1], entities.shape[1]
    width, columns, lines = _padded(dim, LANES), _padded(m, UNROLLED), _padded(k, UNROLLED)
    num_relations = len(relations) // 2 if reciprocal else len(relations)
    slots = 8
    while slots < 4 * k:
        slots *= 2
    ends = np.zeros((2, lines, width), np.float32)
    queries, translations = np.zeros((lines, width), np.float32), np.zeros((k, width), np.float32)
    candidates, pulled = np.zeros((columns, width), np.float32), np.empty((columns, width), np.float32)
    towards, away = np.empty((k, width), np.float32), np.empty((lines, width), np.float32)
    far, slopes = np.empty((lines, columns), np.float32), np.zeros((lines, columns), np.float32)
    turned = np.empty((columns, lines), np.float32)
    scratch, bits = np.empty((3, columns), np.float32), np.empty(columns, np.int32)
    asked, heads, following = np.empty(k, np.int64), np.empty(slots, np.int32), np.empty(k, np.int32)
    _gather(entities, triples[:, 0], ends[0])
    _gather(entities, triples[:, 2], ends[1])
    by_row[: 2 * k] = ZERO
    by_relation[:] = ZERO
    loss = 0.0
    for side in range(2):
        inverse = side == 1 and reciprocal
        sign = -ONE if side == 1 and not reciprocal else ONE
        _gather(relations, triples[:, 1] + (num_relations if inverse else 0), translations)
        for i in range(k):
            for x in range(width):
                queries[i, x] = ends[side, i, x] + sign * translations[i, x]
        targets = ends[1 - side]
        _gather(entities, negatives[side], candidates)
        _distances(queries, candidates, squared, far)
        far[:, m:] = NOWHERE
        if filtered:
            offset = side * len(entities)
            for i in range(k):
                entity = triples[i, 0] if side == 0 else triples[i, 2] + offset
                asked[i] = entity * num_relations + triples[i, 1]
            _hide_true(far, asked, negatives[side], offset, questions, starts, heads, following)
        for i in range(k):
            near = ZERO
            for x in range(width):
                difference = queries[i, x] - targets[i, x]
                near += difference * difference if squared else abs(difference)
            if squared:
                near = np.sqrt(max(near, SMALLEST_SQUARE))
            value, slope = _loss_row(near, far[i], m, code, margin, temperature, scratch, bits, slopes[i])
            weight = weights[i, side] if len(weights) else ONE
            loss += weight * value
            slope *= weight / near if squared else weight
            for j in range(columns):
                slopes[i, j] *= weight / far[i, j] if squared else weight
            for x in range(width):
                difference = queries[i, x] - targets[i, x]
                towards[i, x] = slope * (difference if squared else np.sign(difference))
        _pull(queries, candidates, slopes, squared, away)
        query, target, relation = side * k, (1 - side) * k, k if inverse else 0
        for i in range(k):
            for x in range(dim):
                both = towards[i, x] + away[i, x]
                by_row[query + i, x] += both
                by_row[target + i, x] -= towards[i, x]
                by_relation[relation + i, x] += sign * both
        for j in range(columns):
            for i in range(lines):
                turned[j, i] = slopes[i, j]
        _pull(candidates, queries, turned, squared, pulled)
        start = 2 * k + side * m
        for j in range(m):
            for x in range(dim):
                by_row[start + j, x] = pulled[j, x]
    return loss


# --- the step -------------------------------------------------------------------------------------------------


@kernel()
def _adagrad_shard(table, state, rows, gradients, learning_rate, shard, num_shards, first, mark, stamp):
    """Sums the gradients of each row of a shard (row % num_shards) in order of occurrence and takes its step.

    rows: (n,), repeats allowed. gradients: (n, dim), overwritten. first, mark: a place a row of the table; `mark`
    equals `stamp` once `first` holds the row's first occurrence in this step.
    """
    dim = table.shape[1]
    for k in range(len(rows)):
        row = rows[k]
        if row % num_shards != shard:
            continue
        if mark[row] != stamp:
            mark[row] = stamp
            first[row] = k
            continue
        place = first[row]
        for x in range(dim):
            gradients[place, x] += gradients[k, x]
    for k in range(len(rows)):
        row = rows[k]
        if row % num_shards != shard or first[row] != k:
            continue
        total = ZERO
        for x in range(dim):
            total += gradients[k, x] * gradients[k, x]
        state[row] += total / np.float32(dim)
        rate = learning_rate / (np.sqrt(state[row]) + np.float32(1e-10))
        for x in range(dim):
            table[row, x] -= rate * gradients[k, x]


@compiled(parallel=True)
def run_steps(tables, states, marks, batches, negatives, weights, known, settings, learning_rate, stamp, num_shards):
    """Optimiser steps one after the other; returns the loss summed over all queries.

    tables, states: (entities, relations) and their Adagrad accumulators, changed in place.
    marks: first and mark of the entities, first and mark of the relations: int32, a place a row.
    stamp: number of the first step, above any before.
    batches: (steps, batch, 3) int64. negatives: (steps, 2 * chunks, m) int64, side 0 first.
    weights: (steps, batch, 2) float32, or (steps, 0, 2). known, settings: see `_chunk`. num_shards: threads.
    """
    entities, relations = tables
    num_steps, batch, _ = batches.shape
    blocks, m = negatives.shape[1:]
    chunks, dim = blocks // 2, entities.shape[1]
    k = batch // chunks
    per_chunk = 2 * k + 2 * m
    num_relations = len(relations) // 2 if settings[4] else len(relations)
    per_relation = 2 * k if settings[4] else k
    by_row, rows = np.empty((chunks * per_chunk, dim), np.float32), np.empty(chunks * per_chunk, np.int64)
    by_relation = np.empty((chunks * per_relation, dim), np.float32)
    relation_rows = np.empty(chunks * per_relation, np.int64)
    losses = np.empty(chunks, np.float64)
    total = 0.0
    for step in range(num_steps):
        for c in prange(chunks):
            triples = batches[step, c * k : (c + 1) * k]
            drawn = np.empty((2, m), np.int64)
            drawn[0], drawn[1] = negatives[step, c], negatives[step, chunks + c]
            at, relation_at = c * per_chunk, c * per_relation
            rows[at : at + k], rows[at + k : at + 2 * k] = triples[:, 0], triples[:, 2]
            rows[at + 2 * k : at + 2 * k + m], rows[at + 2 * k + m : at + per_chunk] = drawn[0], drawn[1]
            relation_rows[relation_at : relation_at + k] = triples[:, 1]
            if settings[4]:
                relation_rows[relation_at + k : relation_at + 2 * k] = triples[:, 1] + num_relations
            losses[c] = _chunk(
                entities,
                relations,
                triples,
                drawn,
                weights[step, c * k : (c + 1) * k],
                known,
                settings,
                by_row[at : at + per_chunk],
                by_relation[relation_at : relation_at + per_relation],
            )
        for c in range(chunks):
            total += losses[c]
        for shard in prange(num_shards):
            _adagrad_shard(
                entities, states[0], rows, by_row, learning_rate, shard, num_shards, marks[0], marks[1], stamp + step
            )
            _adagrad_shard(
                relations,
                states[1],
                relation_rows,
                by_relation,
                learning_rate,
                shard,
                num_shards,
                marks[2],
                marks[3],
                stamp + step,
            )
    return total


def compile_ahead() -> None:
    """Has a process of its own compile the step, where no compiled one lies in numba's cache: compiling takes more
    memory than training does, and never gives it back."""
    folder = Path(run_steps.stats.cache_path)  # pyrefly: ignore[missing-attribute]
    kept = folder.glob(f"{Path(__file__).stem}.{run_steps.__name__}-*.nbi")
    if any(path.stat().st_mtime > Path(__file__).stat().st_mtime for path in kept):
        return
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import compile_here; compile_here()"
    subprocess.run([sys.executable, "-c", code], check=True)


def compile_here() -> None:
    """Takes one step on made tables of the types that every training has, so that numba compiles and keeps it."""
    tables = np.zeros((3, 1), np.float32), np.zeros((1, 1), np.float32)
    states = np.zeros(3, np.float32), np.zeros(1, np.float32)
    marks = np.zeros(3, np.int32), np.zeros(3, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32)
    batches, negatives = np.array([[[1, 0, 2]]]), np.array([[[2], [1]]])
    known = np.zeros(0, np.int64), np.zeros(1, np.int64)
    settings = CROSS_ENTROPY, ONE, ONE, True, False, False
    weights = np.zeros((1, 0, 2), np.float32)
    run_steps(tables, states, marks, batches, negatives, weights, known, settings, ONE, 1, 1)
