"""Gold links as pairs of surroundings and description, right and wrong ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from entity_linking.cross_encoder import MATCH, surroundings
from entity_linking.encoder import entity_texts
from entity_linking.gold import read_gold
from entity_linking.linker import EntityLinker
from entity_linking.pairs import PairsConfig
from entity_linking.training import GoldBatch, gold_batches
from kg.graph import KnowledgeGraph

Pair = dict[str, str]


def pairs_of(config: PairsConfig, dropped: Counter[str]) -> Iterator[list[Pair]]:
    """For every link drawn, in random order, the pair that belongs together and those that do not."""
    linker = EntityLinker.from_artifacts(config.graph, None)
    descriptions = entity_texts(KnowledgeGraph.load(config.graph))
    documents = list(read_gold(config.gold_format, config.gold, dropped))
    batches = list(gold_batches(linker, documents, unlabelled_is_nil=False, dropped=dropped))
    found = [(batch, mention) for batch in batches for mention in learnable(batch)]
    order = np.random.default_rng(config.seed).permutation(len(found)).tolist()
    for place in islice(order, config.max_links or None):
        batch, mention = found[place]
        low, high = batch.candidates.bounds[mention : mention + 2].tolist()
        right = int(batch.target[mention])
        wrong = [row for row in batch.candidates.entity[low:high].tolist() if row != right][: config.others]
        text, name = surroundings(batch.mentions, mention), str(place)
        yield [
            {
                "id": f"{name}:{row}",
                "text": text,
                "text_pair": descriptions[row],
                "label": MATCH if row == right else "other",
            }
            for row in (right, *wrong)
        ]


def learnable(batch: GoldBatch) -> list[int]:
    """The mentions of several candidates, the right one among them."""
    candidates = batch.candidates
    hit = np.zeros(len(batch.mentions), dtype=bool)
    hit[candidates.mention[candidates.entity == batch.target[candidates.mention]]] = True
    return np.flatnonzero(hit & (np.diff(candidates.bounds) > 1)).tolist()
