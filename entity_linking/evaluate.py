"""`link evaluate`: a linker against gold links, end to end and on the gold's own spans."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from entity_linking.candidates import Floats
from entity_linking.evaluation import in_kb_scores
from entity_linking.fitting import calibration_error, coverage_curve
from entity_linking.gold import GoldDocument
from entity_linking.linker import EntityLinker
from entity_linking.mentions import GivenSpans
from entity_linking.records import Link

AT = (1, 5, 20)
RESAMPLES = 1000
DOCUMENTS_AT_ONCE = 200


def evaluate(linker: EntityLinker, documents: Sequence[GoldDocument], *, seed: int = 0) -> dict[str, Any]:
    """Figures by name, all in [0, 1] but counts; the intervals are of 95 %, resampled over documents.

    End to end, micro "InKB" (a gold link to an entity the graph lacks is left out, and so is a link on its span):
    precision, recall, f1. On gold spans: accuracy (of links the graph can give), accuracy_ambiguous (of those with
    several candidates), candidate_recall@k, nil_precision (of the gold spans left unlinked, those that the graph
    indeed lacks), calibration_error, and precision at coverage. megabytes_per_second, dear_terms: what linking end to
    end costs.
    """
    entities = frozenset(linker.entities.to_pylist()[1:])
    started, before = time.perf_counter(), linker.costs()
    counts = np.array([_in_kb(linker, document, entities) for document in documents]).reshape(-1, 3)
    seconds, cost = time.perf_counter() - started, linker.costs() - before
    spans = _on_spans(linker, documents, entities)
    total = counts.sum(0)
    precision, recall, f1 = _micro(total)
    known, ambiguous = spans["known"], spans["known"] & (spans["size"] > 1)
    right = spans["rank"] == 0
    unlinked = ~spans["linked"]
    return {
        "documents": len(documents),
        "gold_links": int(total[0]),
        "links": int(total[1]),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "f1_interval": _interval(counts, seed),
        "accuracy": _mean(right[known]),
        "accuracy_ambiguous": _mean(right[ambiguous]),
        "ambiguous": int(ambiguous.sum()),
        **{f"candidate_recall@{k}": _mean((spans["rank"] < k)[known]) for k in AT},
        "nil_precision": _mean(~known[unlinked]),
        "calibration_error": calibration_error(spans["score"], right & known),
        "curve": coverage_curve(spans["score"], right & known),
        "megabytes_per_second": sum(len(document.text.encode()) for document in documents) / 1e6 / max(seconds, 1e-9),
        "dear_terms": dict(cost),
    }


def _in_kb(linker: EntityLinker, document: GoldDocument, entities: frozenset[str]) -> tuple[int, int, int]:
    found = in_kb_scores([document.links], [linker.link(document.text)], entities=entities)
    return found.num_gold, found.num_links, found.num_correct


def _on_spans(
    linker: EntityLinker, documents: Sequence[GoldDocument], entities: frozenset[str]
) -> dict[str, npt.NDArray[Any]]:
    """By gold span: whether the graph has its entity, its candidates, the rank of the right one, the best score."""
    rows: list[tuple[bool, int, float, float, bool]] = []
    for low in range(0, len(documents), DOCUMENTS_AT_ONCE):
        group = documents[low : low + DOCUMENTS_AT_ONCE]
        spans = [[(link.start, link.end) for link in document.links] for document in group]
        mentions = GivenSpans(linker.alias_table, spans).detect([document.text for document in group])
        scored = linker.reranker.score(mentions, linker.candidates_of(mentions))
        bounds, best = scored.candidates.bounds, np.append(scored.score, 0.0)[scored.best]
        place = zip(mentions.document.tolist(), mentions.start.tolist(), mentions.end.tolist(), strict=True)
        found = {at: i for i, at in enumerate(place)}
        for number, document in enumerate(group):
            for link in document.links:
                i = found.get((number, link.start, link.end))
                known = link.entity in entities
                if i is None:
                    rows.append((known, 0, np.inf, 0.0, False))
                    continue
                part = slice(int(bounds[i]), int(bounds[i + 1]))
                names = linker.names(scored.candidates.entity[part])
                rank = _rank(names, scored.score[part], link)
                rows.append((known, len(names), rank, float(best[i]), bool(best[i] >= linker.min_score)))
    columns = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    kinds = (bool, np.int64, np.float64, np.float64, bool)
    names = ("known", "size", "rank", "score", "linked")
    return {name: np.array(column, dtype=kind) for name, column, kind in zip(names, columns, kinds, strict=True)}


def _rank(names: list[str], scores: Floats, gold: Link) -> float:
    """Place of the gold entity among the candidates, from 0; infinite where it is none of them."""
    if gold.entity not in names:
        return np.inf
    order = np.argsort(-scores, kind="stable")
    return float(np.flatnonzero(order == names.index(gold.entity))[0])


def _micro(total: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    gold, given, correct = (int(number) for number in total)
    return correct / max(given, 1), correct / max(gold, 1), 2 * correct / max(gold + given, 1)


def _interval(counts: npt.NDArray[np.int64], seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, max(len(counts), 1), (RESAMPLES, len(counts)))
    f1 = [_micro(counts[of].sum(0))[2] for of in drawn] if len(counts) else [0.0]
    return [float(np.quantile(f1, 0.025)), float(np.quantile(f1, 0.975))]


def _mean(flags: npt.NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else 0.0


def shown(figures: dict[str, Any], dropped: Counter[str]) -> str:
    """The figures as tables."""
    from kg.tables import pairs, table

    low, high = figures["f1_interval"]
    lines = [
        ("documents", f"{figures['documents']:,}"),
        ("gold links of the graph", f"{figures['gold_links']:,}"),
        ("links given", f"{figures['links']:,}"),
        ("precision, recall, F1", " ".join(f"{figures[name]:.3f}" for name in ("precision", "recall", "f1"))),
        ("95 % interval of F1", f"{low:.3f} to {high:.3f}"),
        ("accuracy on gold spans", f"{figures['accuracy']:.3f}"),
        (f"of {figures['ambiguous']:,} ambiguous ones", f"{figures['accuracy_ambiguous']:.3f}"),
        *((f"candidate recall@{k}", f"{figures[f'candidate_recall@{k}']:.3f}") for k in AT),
        ("NIL precision", f"{figures['nil_precision']:.3f}"),
        ("expected calibration error", f"{figures['calibration_error']:.3f}"),
        ("megabytes a second, document by document", f"{figures['megabytes_per_second']:.3f}"),
        *((name.replace("_", " "), f"{number:,}") for name, number in figures["dear_terms"].items()),
        *((reason, f"{number:,}") for reason, number in sorted(dropped.items()) if number),
    ]
    curve = [(f"{p['coverage']:.0%}", f"{p['precision']:.3f}", f"{p['score']:.3f}") for p in figures["curve"]]
    return f"{pairs(lines)}\n\n{table(['coverage', 'precision', 'score'], curve, right=(0, 1, 2))}"
