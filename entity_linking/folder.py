"""A linker on disk: its tables as memory-mapped arrays, opened in well under a second, and what it was told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entity_linking.alias_table import AliasTable
from entity_linking.candidates import CandidateTable, Floats
from entity_linking.certainty import Certainty
from entity_linking.coherence import Coherence
from entity_linking.context import ContextWords
from entity_linking.dear import DearModels
from entity_linking.fitting import coverage_curve, threshold_for
from entity_linking.link_config import LINKER_STAGES
from entity_linking.linker import EntityLinker
from entity_linking.matcher import AliasMatcher
from entity_linking.normalise import Flags
from entity_linking.prefixes import PrefixTable
from entity_linking.rerank import Reranker
from entity_linking.topics import Edges, Topics
from entity_linking.translation import Translation
from entity_linking.weights import LinkWeights
from kg.artifact import open_artifact
from kg.errors import InputError

SETTINGS, ENTITIES, ARRAYS, HELD_OUT = "linker.json", "entities.parquet", "arrays", "held_out.npz"


def save_linker(
    linker: EntityLinker, folder: Path, *, descriptions: Sequence[str] = (), models: DearModels | None = None
) -> None:
    """Writes a linker of an `AliasMatcher`; `open_linker` gives it back with the same links.

    descriptions: by entity row, for the dear terms. models: theirs, opened again when the linker is.
    """
    table, candidates, reranker = linker.alias_table, linker.candidates, linker.reranker
    arrays = {
        "slots": table.prefixes.slots,
        "slot_keys": table.prefixes.keys,
        "starts": table.prefixes.starts,
        "chains": table.prefixes.chains,
        "key_capitals": table.key_capitals,
        "key_flags": table.key_flags,
        "candidate_bounds": candidates.bounds.astype(np.int64),
        "candidate_entity": candidates.entity,
        "candidate_prior": candidates.prior.astype(np.float32),
        "candidate_capitals": candidates.capitals,
        "candidate_acronym": candidates.acronym,
    }
    if reranker.degree is not None:
        arrays["degree"] = reranker.degree.astype(np.float32)
    if reranker.link_log_odds is not None:
        arrays["link_log_odds"] = reranker.link_log_odds.astype(np.float32)
    if reranker.coherence is not None:
        arrays["vectors"] = reranker.coherence.vectors
    if reranker.translation is not None:
        arrays |= {f"translation_{name}": values for name, values in reranker.translation.arrays().items()}
    if reranker.context is not None:
        arrays |= {f"context_{name}": values for name, values in reranker.context.arrays().items()}
    if reranker.related is not None:
        arrays |= {f"related_{name}": values for name, values in reranker.related.arrays().items()}
    if reranker.topics is not None:
        arrays |= {f"topics_{name}": values for name, values in reranker.topics.arrays().items()}
    if reranker.edges is not None:
        arrays |= {f"edges_{name}": values for name, values in reranker.edges.arrays().items()}
    (folder / ARRAYS).mkdir()
    for name, values in arrays.items():
        np.save(folder / ARRAYS / f"{name}.npy", values)
    if linker.described is not None:
        linker.described.save(folder)
    columns = {"id": linker.entities, "label": linker.labels}
    columns |= {"description": pa.array(descriptions, pa.string())} if descriptions else {}
    pq.write_table(pa.table(columns), folder / ENTITIES)
    settings = {
        "weights": asdict(reranker.weights),
        "min_score": linker.min_score,
        "agreement": linker.agreement,
        "window": reranker.coherence.window if reranker.coherence else 0,
        "num_cut": candidates.num_cut,
        "dropped_aliases": dict(linker.dropped_aliases),
        "models": asdict(models or DearModels()),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def open_linker(folder: str | Path) -> EntityLinker:
    """The linker that `link train` wrote; its arrays stay on disk until they are touched.

    Raises:
        InputError: no such artifact, or one of another version's weights.
    """
    open_artifact(Path(folder), stage=LINKER_STAGES)
    return read_linker(Path(folder))


def read_linker(folder: Path) -> EntityLinker:
    """What `save_linker` wrote.

    Raises:
        InputError: another version's weights.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if strange := settings["weights"].keys() ^ {of.name for of in fields(LinkWeights)}:
        raise InputError(
            f"{folder}: its weights differ in {sorted(strange)} from this version's; run `link train` again"
        )
    arrays = {path.stem: np.load(path, mmap_mode="c").view(np.ndarray) for path in (folder / ARRAYS).glob("*.npy")}
    entities = pq.read_table(folder / ENTITIES)
    coherence = Coherence(arrays["vectors"], window=settings["window"]) if "vectors" in arrays else None
    words, related, topics, edges, moved = (
        _named(arrays, of) for of in ("context_", "related_", "topics_", "edges_", "translation_")
    )
    if moved:
        moved |= {"directions": arrays["vectors"], "reach": float(moved["reach"]), "window": settings["window"]}
    linker = EntityLinker(
        detector=AliasMatcher(_alias_table(arrays)),
        candidates=CandidateTable(
            bounds=arrays["candidate_bounds"],
            entity=arrays["candidate_entity"],
            prior=arrays["candidate_prior"],
            capitals=arrays["candidate_capitals"],
            acronym=arrays["candidate_acronym"],
            num_cut=settings["num_cut"],
        ),
        reranker=Reranker(
            weights=LinkWeights(**settings["weights"]),
            degree=arrays.get("degree"),
            link_log_odds=arrays.get("link_log_odds"),
            coherence=coherence,
            translation=Translation(**moved) if moved else None,
            context=ContextWords(**words) if words else None,
            related=ContextWords(**related) if related else None,
            topics=Topics(**topics) if topics else None,
            edges=Edges(**edges) if edges else None,
        ),
        entities=entities["id"].combine_chunks(),
        labels=entities["label"].combine_chunks(),
        min_score=settings["min_score"],
        agreement=settings["agreement"],
        dropped_aliases=Counter(settings["dropped_aliases"]),
        certainty=Certainty(sure) if (sure := settings.get("certainty")) else None,
    )
    models = DearModels(**settings["models"])
    if models.given():
        models.give(linker, entities["description"].to_pylist(), folder=folder)
    return linker


def save_held_out(folder: Path, score: Floats, correct: Flags, agreed: Flags) -> None:
    """The scores of links in held-out documents, whether they were right, and whether all signals agreed on them."""
    np.savez(folder / HELD_OUT, score=score.astype(np.float32), correct=correct, agreed=agreed)


def expected_precision(folder: Path, *, agreement: bool) -> list[dict[str, Any]]:
    """Precision by coverage on a linker's held-out documents, `agreement` as in `EntityLinker`; [] without any."""
    if not (folder / HELD_OUT).is_file():
        return []
    held_out = np.load(folder / HELD_OUT)
    given = held_out["agreed"] | (not agreement)
    return coverage_curve(held_out["score"].astype(np.float64), held_out["correct"], given)


def score_for_precision(folder: Path, precision: float) -> float:
    """The least score from which on the linker's links in held-out documents were right with this precision.

    Raises:
        InputError: the linker was not trained on gold links, or no score reaches the precision.
    """
    if not (folder / HELD_OUT).is_file():
        raise InputError(f"{folder}: was trained without gold links, so nobody knows its precision; give a min_score")
    held_out = np.load(folder / HELD_OUT)
    found = threshold_for(held_out["score"].astype(np.float64), held_out["correct"], precision=precision)
    if found is None:
        raise InputError(
            f"{folder}: no score reaches a precision of {precision} on held-out documents; ask for less, or train on "
            f"more gold links"
        )
    return found


def _named(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Arrays of one part, by the names of its constructor's arguments."""
    return {name.removeprefix(prefix): of for name, of in arrays.items() if name.startswith(prefix)}


def _alias_table(arrays: dict[str, np.ndarray]) -> AliasTable:
    prefixes = PrefixTable(arrays["slots"], arrays["slot_keys"], arrays["starts"], arrays["chains"])
    return AliasTable(prefixes=prefixes, key_capitals=arrays["key_capitals"], key_flags=arrays["key_flags"])
