"""Examples changed on purpose: links that tell nothing, and knowledge as plain words instead of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.tasks.schema import Example
from kg.errors import InputError

LinkControl = Literal["true", "shuffled"]
Metadata = Literal["none", "types", "descriptions"]
MAX_WORDS = 12
"""Words of a description that are read."""


def with_shuffled_links(examples: Sequence[Example], *, seed: int) -> list[Example]:
    """The examples with their links' entities exchanged by one permutation of all of them: places and numbers stay,
    each entity stays as frequent, and which text has which tells nothing."""
    entities = [link.entity for example in examples for link in example.links]
    order = np.random.default_rng([seed, 1]).permutation(len(entities)).tolist()
    drawn = iter([entities[row] for row in order])
    return [
        replace(example, links=tuple(replace(link, entity=next(drawn)) for link in example.links))
        for example in examples
    ]


def with_metadata(examples: Sequence[Example], words: Mapping[str, str]) -> list[Example]:
    """The examples with `surface: words` of their linked entities as a second text (metadata shaping, Arora et al.
    2022, with descriptions or types for the metadata); a link without words adds nothing.

    Raises:
        InputError: an example has a second text already.
    """
    shaped = []
    for example in examples:
        if example.text_pair is not None:
            raise InputError(f"example {example.id!r} has a second text; metadata would take its place")
        known: dict[str, None] = {}
        for link in example.links:
            if said := words.get(link.entity):
                known[f"{example.text[link.start : link.end]}: {said}"] = None
        shaped.append(replace(example, text_pair=" ; ".join(known)) if known else example)
    return shaped


def entity_words(graph: Path, kind: Metadata) -> dict[str, str]:
    """Entity id -> its types, or the beginning of its description (its types where it has none), from a graph artifact.

    Raises:
        InputError: the graph describes no entity in that way.
    """
    from kg.graph import KnowledgeGraph

    table = KnowledgeGraph.load(graph).entities
    columns = (table[name].to_pylist() for name in ("id", "description", "types"))
    words = {}
    for name, description, types in zip(*columns, strict=True):
        of_types = ", ".join(types or ())
        said = of_types if kind == "types" else (description or of_types)
        if said:
            words[name] = " ".join(said.split()[:MAX_WORDS])
    if not words:
        raise InputError(f"{graph}: no entity has {kind}; build the graph from a source that has them")
    return words
