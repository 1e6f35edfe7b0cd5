"""Vectors of an older graph as the start of a newer one's: what has the same id keeps its place.

A new entity starts where its neighbours expect it: the mean of h + r over its triples as a tail and of t - r over
those as a head, as far as those neighbours and relations have vectors. A new relation starts at the mean of t - h
over its triples.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from kg.artifact import open_artifact
from kg.errors import InputError
from kg.transe import TransE


def start_from(
    model: TransE, folder: Path, triples: np.ndarray, *, entity_ids: list[str], relation_ids: list[str]
) -> Counter[str]:
    """Overwrites rows of `model`'s tables, in place, with what an older vectors artifact says of them.

    triples: int (n, 3), training triples of the new graph. entity_ids, relation_ids: names by row, entities from
        row 1. Rows that neither the artifact nor a neighbour says anything of keep their random start.

    A model with reciprocal relations keeps its random start for the inverse ones.

    Returns: how many `entities_copied`, `entities_from_neighbours`, `entities_fresh`, and the same of relations.

    Raises:
        InputError: no vectors artifact, or one of another width.
    """
    entities, relations = model.entities.numpy(), model.relations.numpy()
    old_entities, old_relations = _tables(folder, entities.shape[1])
    known = _copy(entities[1:], entity_ids, old_entities)
    known_entities = np.concatenate([[False], known])
    known_relations = _copy(relations[: len(relation_ids)], relation_ids, old_relations)
    heads, kinds, tails = np.asarray(triples).T
    both = known_entities[heads] & known_entities[tails] & ~known_relations[kinds]
    learnt = _means(relations, kinds[both], entities[tails[both]] - entities[heads[both]])
    usable = known_relations | learnt
    as_tail = known_entities[heads] & usable[kinds] & ~known_entities[tails]
    as_head = known_entities[tails] & usable[kinds] & ~known_entities[heads]
    rows = np.concatenate([tails[as_tail], heads[as_head]])
    places = [
        entities[heads[as_tail]] + relations[kinds[as_tail]],
        entities[tails[as_head]] - relations[kinds[as_head]],
    ]
    placed = _means(entities, rows, np.concatenate(places))
    counts = {
        "entities_copied": int(known_entities.sum()),
        "entities_from_neighbours": int(placed.sum()),
        "entities_fresh": len(entity_ids) - int(known_entities.sum() + placed.sum()),
        "relations_copied": int(known_relations.sum()),
        "relations_from_triples": int(learnt.sum()),
        "relations_fresh": len(relation_ids) - int(known_relations.sum() + learnt.sum()),
    }
    return Counter(counts)


def _tables(folder: Path, dim: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Vectors by id, of entities and relations that were trained."""
    open_artifact(folder, stage="kg embed")
    tables = []
    for kind, names in (("entity", "vocabulary.txt"), ("relation", "relations.txt")):
        table = load_file(folder / f"{kind}_embeddings.safetensors")[f"{kind}_embeddings"]
        if table.shape[1] != dim:
            raise InputError(f"{folder}: its vectors have {table.shape[1]} numbers, dim is {dim}; set dim to the same")
        ids = (folder / names).read_text(encoding="utf-8").split("\n")[:-1]
        rows = table[1:] if kind == "entity" else table
        tables.append({name: row for name, row in zip(ids, rows, strict=True) if row.any()})
    return tables[0], tables[1]


def _copy(rows: np.ndarray, ids: list[str], old: dict[str, np.ndarray]) -> np.ndarray:
    """Writes the old vectors into `rows`; returns which rows had one."""
    found = np.zeros(len(ids), bool)
    for place, name in enumerate(ids):
        if (vector := old.get(name)) is not None:
            rows[place], found[place] = vector, True
    return found


def _means(table: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Writes the mean of the vectors of each row into the table; returns a mask of the rows written."""
    unique, place, counts = np.unique(rows, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(unique), table.shape[1]).index_add_(
        0, torch.from_numpy(place), torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    )
    table[unique] = sums.numpy() / counts[:, None]
    written = np.zeros(len(table), bool)
    written[unique] = True
    return written
