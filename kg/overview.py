"""`kg info`: a graph's figures as tables for people, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kg.artifact import Manifest, open_artifact
from kg.graph import STAGE, KnowledgeGraph
from kg.info import (
    MIRRORED,
    ambiguous_alias_share,
    components,
    degree_histogram,
    degree_table,
    degrees,
    entities_per_type,
    relation_audit,
    split_sizes,
    triples_per_relation,
)
from kg.records import readable
from kg.tables import UNSHOWABLE, and_more, bar, pairs, table


def overview_figures(folder: Path, *, top: int) -> dict[str, Any]:
    """Everything `kg info` says of a graph artifact, as JSON values; lists hold at most `top` entries.

    Raises:
        InputError: the folder is no graph artifact.
    """
    manifest = open_artifact(folder, stage=STAGE)
    graph = KnowledgeGraph.load(folder)
    of_entity = degrees(graph)[1:]
    relations = triples_per_relation(graph)
    return {
        "graph": str(folder),
        **_origin(manifest),
        "counts": {
            "entities": graph.num_entities,
            "relations": graph.num_relations,
            "triples": graph.num_triples,
            "aliases": graph.aliases.num_rows,
        },
        "split_sizes": split_sizes(graph),
        "degree": {
            "mean": float(of_entity.mean()) if len(of_entity) else 0.0,
            "median": float(np.median(of_entity)) if len(of_entity) else 0.0,
            "highest": int(of_entity.max(initial=0)),
        },
        "isolated_entities": int((of_entity == 0).sum()),
        "components": components(graph, top=top),
        "ambiguous_alias_share": ambiguous_alias_share(graph),
        "triples_per_relation": relations[:top],
        "highest_degrees": degree_table(graph, top=top),
        "degree_histogram": degree_histogram(graph),
        "types": entities_per_type(graph, top=top),
        "relation_audit": relation_audit(graph, top=top),
        "dropped": manifest.dropped,
    }


def overview_json(folder: Path, *, top: int) -> str:
    """`overview_figures` as one JSON object; what a terminal would obey stands escaped."""
    text = json.dumps(overview_figures(folder, top=top), indent=1, ensure_ascii=False)
    return "\n".join(UNSHOWABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))


def overview(folder: Path, *, top: int) -> str:
    """`overview_figures` as plain tables, sections apart by an empty line."""
    found = overview_figures(folder, top=top)
    return "\n\n".join([_head(found), *_sections(found)])


def _origin(manifest: Manifest) -> dict[str, Any]:
    settings = manifest.data.get("config", {})
    source = manifest.data.get("inputs", {}).get("source", {}).get("path") or settings.get("source", "")
    return {
        "reader": settings.get("reader", ""),
        "source": source,
        "built": manifest.data.get("started", ""),
        "version": manifest.data.get("version", ""),
        "digest": manifest.digest,
    }


def _head(found: dict[str, Any]) -> str:
    counts, degree, parts = found["counts"], found["degree"], found["components"]
    rows: list[tuple[str, object]] = [
        ("graph", found["graph"]),
        ("read from", f"{found['source']} ({found['reader']})"),
        ("built", f"{found['built']} by ernie-kg {found['version']}"),
        ("entities", f"{counts['entities']:,}"),
        ("relations", f"{counts['relations']:,}"),
        ("triples", f"{counts['triples']:,}"),
    ]
    if found["split_sizes"]:
        rows.append(("published split", ", ".join(f"{name} {n:,}" for name, n in found["split_sizes"].items())))
    rows += [
        ("aliases", f"{counts['aliases']:,}, {_percent(found['ambiguous_alias_share'])} of them of several entities"),
        ("degree", f"mean {degree['mean']:.1f}, median {degree['median']:g}, highest {degree['highest']:,}"),
        ("without a triple", f"{found['isolated_entities']:,} entities"),
        ("components", f"{parts['number']:,}, the largest holds {_percent(parts['largest_share'])} of the entities"),
    ]
    return pairs(rows)


def _sections(found: dict[str, Any]) -> Iterator[str]:
    triples, relations = found["counts"]["triples"], found["counts"]["relations"]
    yield _section(
        "Relations, the most frequent first",
        ("triples", "share", "relation", "label"),
        [
            (
                f"{r['triples']:,}",
                _percent(r["triples"] / max(triples, 1)),
                r["relation"],
                _other(r["label"], r["relation"]),
            )
            for r in found["triples_per_relation"]
        ],
        right=(0, 1),
        hidden=relations - len(found["triples_per_relation"]),
    )
    yield _section(
        "Entities of highest degree",
        ("degree", "as head", "as tail", "label", "id"),
        [
            (f"{e['degree']:,}", f"{e['as_head']:,}", f"{e['as_tail']:,}", e["label"], e["id"])
            for e in found["highest_degrees"]
        ],
        right=(0, 1, 2),
    )
    yield _degree_plot(found["degree_histogram"])
    if found["components"]["number"] > 1:
        sizes = found["components"]["largest"]
        hidden = found["components"]["number"] - len(sizes)
        text = ", ".join(f"{size:,}" for size in sizes)
        yield f"Components, by entities\n\n{text}{f', {and_more(hidden)}' if hidden else ''}"
    if found["types"]:
        yield _section(
            "Types, the most frequent first",
            ("entities", "type"),
            [(f"{t['entities']:,}", t["type"]) for t in found["types"]],
            right=(0,),
        )
    yield _audit(found["relation_audit"])
    if found["dropped"]:
        yield _section(
            "Left out while building",
            ("count", "reason"),
            [(f"{count:,}", reason) for reason, count in sorted(found["dropped"].items(), key=lambda item: -item[1])],
            right=(0,),
        )


def _section(title: str, heads: tuple[str, ...], rows: list[tuple], *, right: tuple[int, ...], hidden: int = 0) -> str:
    rest = f"\n{and_more(hidden)}" if hidden > 0 else ""
    return f"{title}\n\n{table(heads, rows, right=right, widest=80)}{rest}"


def _degree_plot(bins: list[dict[str, int]]) -> str:
    largest = max((line["entities"] for line in bins), default=0)
    rows = [
        (
            f"{line['from']:,}" if line["from"] == line["to"] else f"{line['from']:,} to {line['to']:,}",
            f"{line['entities']:,}",
            bar(line["entities"], largest),
        )
        for line in bins
    ]
    return _section("Entities by degree", ("degree", "entities", ""), rows, right=(0, 1))


def _audit(found: list[dict[str, Any]]) -> str:
    title = f"Relations that say the same twice (above {_percent(MIRRORED)} of their triples)"
    if not found:
        return f"{title}\n\nnone: no symmetric, inverse or duplicate relations"
    rows = [
        (p["kind"], f"{p['shared']:,}", _percent(p["share"]), _percent(p["share_of_other"]), p["relation"], p["other"])
        for p in found
    ]
    return _section(title, ("kind", "shared", "share", "of other", "relation", "other"), rows, right=(1, 2, 3))


def _other(label: str, identifier: str) -> str:
    """The label where it says more than the id."""
    return "" if label in (identifier, readable(identifier)) else label


def _percent(share: float) -> str:
    """A share in percent; what is neither none nor all never rounds to it."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{share:.1%}".replace("%", " %")
