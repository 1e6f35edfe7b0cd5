"""Vectors for entities without a triple, from what is written about them.

A text encoder's mean state of "label: description" goes through a linear map that was fitted, by ridge regression, on
entities that have both a text and a trained vector. How well the map does is measured on a tenth of those that it
never saw. Such vectors are named one by one in the artifact: nobody takes them for trained ones by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kg.errors import InputError
from kg.progress import progress

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
MOST_FITTED, LEAST_FITTED = 10_000, 20
HELD_OUT = 0.1
BATCH, MOST_PIECES = 64, 64

Encoder = Callable[[Sequence[str]], np.ndarray]
"""texts -> float32 (len(texts), width)."""


@dataclass(frozen=True, slots=True)
class LinearMap:
    """x -> x @ weights + bias, then to `length`.

    weights: (width, dim). bias: (dim,). length: mean length of the vectors it was fitted on; a regression alone
        gives vectors as much shorter as it knows less. cosine, baseline: mean cosine to the true vectors of entities
        held out, of the map and of always answering with the mean vector. num_fitted: entities behind the map.
    """

    weights: np.ndarray
    bias: np.ndarray
    length: float
    ridge: float
    cosine: float
    baseline: float
    num_fitted: int

    def __call__(self, states: np.ndarray) -> np.ndarray:
        found = states @ self.weights + self.bias
        return (found * (self.length / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12))).astype(np.float32)


def fit_map(states: np.ndarray, vectors: np.ndarray, *, seed: int) -> LinearMap:
    """The ridge regression of `vectors` (n, dim) on `states` (n, width), its penalty chosen on a held-out tenth.

    Raises:
        InputError: fewer than LEAST_FITTED entities have both.
    """
    if len(states) < LEAST_FITTED:
        raise InputError(
            f"expected at least {LEAST_FITTED} entities with a text and a trained vector, got {len(states)}; leave "
            f"`inductive` away"
        )
    order = np.random.default_rng(seed).permutation(len(states))
    cut = max(1, round(HELD_OUT * len(states)))
    held_out, rest = order[:cut], order[cut:]
    length = float(np.linalg.norm(vectors, axis=1).mean())
    tried = []
    for ridge in RIDGES:
        weights, bias = _ridge(states[rest], vectors[rest], ridge)
        tried.append((_cosine(states[held_out] @ weights + bias, vectors[held_out]), ridge))
    cosine, ridge = max(tried)
    mean = np.broadcast_to(vectors[rest].mean(0), (cut, vectors.shape[1]))
    weights, bias = _ridge(states, vectors, ridge)
    return LinearMap(weights, bias, length, ridge, cosine, _cosine(mean, vectors[held_out]), len(states))


def fill(
    table: np.ndarray, texts: Sequence[str], encode: Encoder, *, seed: int, most: int = MOST_FITTED
) -> tuple[np.ndarray, LinearMap | None]:
    """Writes a vector into each zero row of `table`, row 0 apart, that has a text; in place.

    table: float32 (num_entities + 1, dim). texts: by row, "" where nothing is written about the entity.
    most: entities the map is fitted on, at most, drawn by the seed.

    Returns: the rows written, and the map; no rows and None where every entity with a text has a vector already.
    """
    written = np.array([bool(text) for text in texts])
    trained = np.abs(table).max(axis=1) > 0
    empty = np.flatnonzero(~trained & written)
    empty = empty[empty > 0]
    if not len(empty):
        return empty, None
    known = np.flatnonzero(trained & written)
    if len(known) > most:
        known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))
    found = fit_map(encode([texts[row] for row in known.tolist()]), table[known], seed=seed)
    table[empty] = found(encode([texts[row] for row in empty.tolist()]))
    return empty, found


def text_encoder(source: Path, *, what: str = "kg embed: encoding descriptions") -> Encoder:
    """Mean of the last states over the real word pieces, of a transformers model and tokenizer in a folder.

    what: the title of its progress bar; "" shows none.

    Raises:
        InputError: the folder holds no such model.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(source))
        model = AutoModel.from_pretrained(str(source)).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: expected a folder with a text encoder and its tokenizer ({error})") from None

    def encode(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        states = np.zeros((len(texts), model.config.hidden_size), np.float32)
        with progress(what, len(texts)) if what else nullcontext() as shown, torch.inference_mode():
            for start in range(0, len(order), BATCH):
                places = order[start : start + BATCH]
                batch = tokenizer(
                    [texts[place] for place in places],
                    padding=True,
                    truncation=True,
                    max_length=MOST_PIECES,
                    return_tensors="pt",
                )
                mask = batch["attention_mask"].unsqueeze(-1)
                hidden = model(**batch).last_hidden_state
                states[places] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
                if shown is not None:
                    shown.advance(len(places))
        return states

    return encode


def _ridge(states: np.ndarray, vectors: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """argmin |(X - mean) W - (Y - mean)|^2 + ridge * scale |W|^2, scale = mean variance of X times n; and the bias."""
    x, y = states.astype(np.float64), vectors.astype(np.float64)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    scale = max(float(np.trace(gram)) / len(gram), 1e-12)
    weights = np.linalg.solve(gram + ridge * scale * np.eye(len(gram)), x.T @ y)
    return weights, y_mean - x_mean @ weights


def _cosine(found: np.ndarray, expected: np.ndarray) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(1) / lengths.clip(1e-12)).mean())
