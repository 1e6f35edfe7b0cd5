"""The linker's reasons as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from entity_linking.linker import EntityLinker
from entity_linking.records import ExplainedMention
from kg.tables import plain, table


def linker_at(linker: Path | None, graph: Path | None, vectors: Path | None) -> EntityLinker:
    """A trained linker, or one of default weights of a graph."""
    if linker is not None:
        return EntityLinker.from_pretrained(linker)
    assert graph is not None, "checked when the config was made"
    return EntityLinker.from_artifacts(graph, vectors)


def explained_text(explained: Sequence[ExplainedMention], *, candidates: int) -> str:
    """Every mention with its best candidates and what each term adds to their logits."""
    if not explained:
        return "no alias of the graph stands in this text"
    return "\n\n".join(_explained(mention, candidates) for mention in explained)


def _explained(mention: ExplainedMention, most: int) -> str:
    where = f"{mention.mention.start}–{mention.mention.end}"
    outcome = f"-> {mention.link.entity} ({mention.link.score:.3f})" if mention.link else "-> no link"
    names = list(mention.candidates[0].contributions) if mention.candidates else []
    rows = [
        (c.entity_id, c.label, f"{c.score:.3f}", *(f"{c.contributions[name]:+.2f}" for name in names))
        for c in mention.candidates[:most]
    ]
    nil = ", ".join(f"{name} {value:+.2f}" for name, value in mention.nil_contributions.items())
    rows.append(("none of them", "", f"{mention.nil_score:.3f}", *("" for _ in names)))
    heads = ["entity", "label", "score", *names]
    shown = table(heads, rows, right=range(2, len(heads)), widest=40)
    return f"{plain(mention.surface)} ({where}) {plain(outcome)}\n{shown}\nnone of them: {nil}"
