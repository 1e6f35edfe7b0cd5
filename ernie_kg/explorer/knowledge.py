"""The graph, its vectors and its linker as answers in plain JSON values."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from entity_linking.linker import EntityLinker
from ernie_kg.explorer.run_folder import RunFolder
from kg.errors import InputError
from kg.graph import FIRST_ENTITY_ROW, KnowledgeGraph
from kg.neighbours import Vectors, nearest_by_cosine, nearest_by_translation
from kg.query import find

MAX_NEIGHBOURS = 24
MAX_NEAREST = 10
MAX_CANDIDATES = 8
SHOWN = 300
"""Code points of a label or a description."""


class Knowledge:
    """Loaded once; every method answers from memory."""

    def __init__(self, run: RunFolder) -> None:
        self.graph = KnowledgeGraph.load(run.graph.folder)
        self.vectors_folder: Path | None = run.vectors.folder if run.vectors else None
        self.vectors = Vectors.load(self.vectors_folder) if self.vectors_folder else None
        self.linker = (
            EntityLinker.from_pretrained(run.linker.folder)
            if run.linker
            else EntityLinker.from_artifacts(run.graph.folder, self.vectors_folder)
        )
        order = np.argsort(self.graph.triples[:, 0], kind="stable"), np.argsort(self.graph.triples[:, 2], kind="stable")
        self._by_head, self._by_tail = order
        self._heads, self._tails = self.graph.triples[order[0], 0], self.graph.triples[order[1], 2]

    def links(self, text: str) -> list[dict[str, Any]]:
        """Every mention with its candidates, the likeliest first, each with its terms and what they add."""
        return [
            {
                "start": found.mention.start,
                "end": found.mention.end,
                "surface": found.surface,
                "entity": found.link.entity if found.link else None,
                "score": found.link.score if found.link else None,
                "nil": found.nil_score,
                "candidates": [
                    {
                        **self._named(candidate.entity_id),
                        "score": candidate.score,
                        "terms": candidate.terms,
                        "contributions": candidate.contributions,
                    }
                    for candidate in found.candidates[:MAX_CANDIDATES]
                ],
                "more": max(0, len(found.candidates) - MAX_CANDIDATES),
            }
            for found in self.linker.explain(text)
        ]

    def entity(self, name: str) -> dict[str, Any]:
        """An entity by id or name, with at most `MAX_NEIGHBOURS` of the triples around it, every relation among them.

        Raises:
            InputError: no entity is called so; the nearest names are given.
        """
        row = find(self.graph, name)[0].row
        triples = self._around(row)
        shown = _mixed(triples)
        rows = [row, *dict.fromkeys(int(end) for triple in shown for end in triple[[0, 2]] if end != row)]
        record = self.graph.entities.slice(row - FIRST_ENTITY_ROW, 1).to_pylist()[0]
        return {
            **self._node(row),
            "types": [_short(text) for text in record["types"][:8]],
            "aliases": [_short(text) for text in record["aliases"][:12]],
            "triples": len(triples),
            "nodes": [self._node(other) for other in rows],
            "edges": [
                {"head": self._id(head), "relation": self._relation(relation), "tail": self._id(tail)}
                for head, relation, tail in shown.tolist()
            ],
        }

    def nearest(self, name: str) -> dict[str, Any]:
        """The nearest entities by vector, by cosine and by translation; `reason` where there are none."""
        row = find(self.graph, name)[0].row
        if self.vectors is None or self.vectors_folder is None:
            return {"cosine": [], "translation": [], "reason": "this run has no vectors"}
        if not self.vectors.entities[row].any():
            return {"cosine": [], "translation": [], "reason": "this entity has no vector: no triple of it was trained"}
        linked = set(self._around(row)[:, [0, 2]].ravel().tolist())
        answers = {}
        for way, found in (
            ("cosine", nearest_by_cosine(self.vectors_folder, self.vectors.entities, self.graph, row, MAX_NEAREST)),
            ("translation", self._translated(row)),
        ):
            answers[way] = [
                {
                    **self._node(near.row),
                    "score": float(near.score),
                    "linked": near.row in linked,
                    "relation": self._relation(near.relation) if near.relation >= 0 else None,
                    "outward": near.outward,
                }
                for near in found
            ]
        return answers

    def _translated(self, row: int):
        assert self.vectors is not None, "asked only where there are vectors"
        tables = self.vectors.entities, self.vectors.relations
        return nearest_by_translation(*tables, row, MAX_NEAREST, norm=self.vectors.norm)

    def _around(self, row: int) -> np.ndarray:
        """The triples that an entity stands in, (n, 3)."""
        places = [
            order[np.searchsorted(ends, row, "left") : np.searchsorted(ends, row, "right")]
            for order, ends in ((self._by_head, self._heads), (self._by_tail, self._tails))
        ]
        return self.graph.triples[np.unique(np.concatenate(places))]

    def _named(self, identifier: str) -> dict[str, Any]:
        return self._node(self.graph.entity_vocab.row(identifier))

    def _node(self, row: int) -> dict[str, Any]:
        place = row - FIRST_ENTITY_ROW
        label, description = (self.graph.entities[name][place].as_py() for name in ("label", "description"))
        return {"id": self._id(row), "label": _short(label), "description": _short(description)}

    def _id(self, row: int) -> str:
        return self.graph.entities["id"][row - FIRST_ENTITY_ROW].as_py()

    def _relation(self, row: int) -> str:
        return _short(self.graph.relations["label"][row].as_py())


def _mixed(triples: np.ndarray) -> np.ndarray:
    """At most `MAX_NEIGHBOURS` triples, taken from the relations in turn, so that a common one hides no rare one."""
    groups = [triples[triples[:, 1] == relation] for relation in np.unique(triples[:, 1])]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    chosen = list(itertools.islice((triple for triple in turns if triple is not None), MAX_NEIGHBOURS))
    return np.array(chosen, dtype=triples.dtype).reshape(-1, 3)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def checked_text(text: str, *, limit: int) -> str:
    """Refuses a text that is empty or too long for a page.

    Raises:
        InputError: see above.
    """
    if not text.strip():
        raise InputError("expected some text, got none")
    if len(text) > limit:
        raise InputError(f"expected at most {limit:,} characters, got {len(text):,}; `ernie-kg link` takes corpora")
    return text
