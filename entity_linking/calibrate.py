"""The stage `link calibrate`: judged links in, a linker whose scores say how often it is right on such text out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from entity_linking.link_config import LINKER_STAGES
from kg.artifact import ArtifactWriter, open_artifact, write_artifact
from kg.errors import InputError

if TYPE_CHECKING:
    from entity_linking.candidates import Floats
    from entity_linking.certainty import Certainty
    from entity_linking.judged import JudgedLink
    from entity_linking.linker import EntityLinker
    from entity_linking.normalise import Flags, Ints

STAGE = "link calibrate"


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Which linker, and what was said of its links."""

    linker: Path
    """Linker of `link train`."""
    linked: Path
    """Artifact of `link` by this linker, of the text that the judged links stand in."""
    judged: Path
    """Table of `link sample`, its column `judgement` filled in: right, wrong, or nothing where nobody knows."""
    output: Path
    """Folder of the calibrated linker."""
    seed: int = 0
    """Recorded in the manifest; this stage draws nothing at random."""

    def inputs(self) -> dict[str, Path]:
        return {"linker": self.linker, "linked": self.linked, "judged": self.judged}


def run(config: CalibrateConfig) -> Path:
    """Learns from judged links how sure a link is, and writes the linker with it.

    The manifest says, by documents held out, how often links of the surest shares of those judged are right, before and
    after, and the calibration error of both.

    Raises:
        InputError: a folder is no such artifact, a malformed table, too few links of either kind that the linker still
            gives.
    """
    import numpy as np

    from entity_linking.certainty import certainty_elsewhere, fit_certainty, parts_of
    from entity_linking.fitting import calibration_error, coverage_curve
    from entity_linking.folder import save_held_out
    from entity_linking.judged import read_judged

    with write_artifact(config, stage=STAGE) as writer:
        links = list(read_judged(config.judged, writer.dropped))
        names, signals, right, document = _signals(config, links, writer.dropped)
        parts = parts_of(document)
        if not parts or any(len(np.unique(right[others])) < 2 for others, _ in parts):
            raise InputError(
                f"{config.judged}: expected at least two right and two wrong links that {config.linker} still gives, "
                f"in documents enough to hold some out, found {int(right.sum())} and {int((~right).sum())} in "
                f"{len(np.unique(document)):,} documents; judge more of them"
            )
        certainty = fit_certainty(signals, names, right)
        before, after = _scores(signals, names), certainty_elsewhere(signals, names, right, parts)
        writer.counts.update(judged=len(links), right=int(right.sum()), wrong=int((~right).sum()))
        writer.figures.update(
            {
                "weights": dict(certainty.weights),
                "precision": float(right.mean()),
                "calibration_error_before": calibration_error(before, right),
                "calibration_error": calibration_error(after, right),
                "curve_before": coverage_curve(before, right),
                "curve": coverage_curve(after, right),
            }
        )
        _write_linker(config.linker, writer, certainty)
        save_held_out(writer.path, after, right, np.ones_like(right))
        writer.headline = f"{len(right):,} judged links, {right.mean():.1%} right"
    return config.output


def _signals(
    config: CalibrateConfig, links: Sequence[JudgedLink], dropped: Counter[str]
) -> tuple[list[str], Floats, Flags, Ints]:
    """The signals of the judged links that the linker still gives, their names, what is right, whose document it is."""
    import numpy as np

    from entity_linking.annotate import read_linked

    wanted: dict[str, list[JudgedLink]] = {}
    for link in links:
        wanted.setdefault(link.document, []).append(link)
    linker = _linker(config)
    names: list[str] = []
    rows, right, documents = [], [], []
    for number, document in enumerate(read_linked(config.linked)):
        judged = wanted.pop(document.id, [])
        if not judged:
            continue
        places, found = _found(linker, document.text)
        names = names or list(found)
        for link in judged:
            entity, mention = places.get((link.start, link.end), ("", -1))
            if entity != link.entity:
                dropped["judged_not_linked_so"] += 1
                continue
            rows.append([found[name][mention] for name in names])
            right.append(link.right)
            documents.append(number)
    dropped["judged_in_no_document"] += sum(map(len, wanted.values()))
    return names, np.array(rows).reshape(len(rows), len(names)), np.array(right, bool), np.array(documents, np.int64)


def _linker(config: CalibrateConfig) -> EntityLinker:
    """The linker, its mentions found as they were for the linked text."""
    from entity_linking.folder import open_linker
    from entity_linking.linking import find_mentions_by

    asked = open_artifact(config.linked, stage="link").data["config"]
    linker = open_linker(config.linker)
    find_mentions_by(linker, detector=asked["detector"], ner=asked["ner"], tagger=asked["tagger"])
    return linker


def _found(linker: EntityLinker, text: str) -> tuple[dict[tuple[int, int], tuple[str, int]], dict[str, Floats]]:
    """By span: the best entity and the mention's number; and the mentions' signals by name."""
    import numpy as np

    from entity_linking.certainty import signals_of
    from entity_linking.linker import batches

    places: dict[tuple[int, int], tuple[str, int]] = {}
    parts: list[dict[str, Floats]] = []
    number = 0
    for batch in batches([text]):
        mentions, scored = linker.score(batch.texts)
        given = np.flatnonzero(scored.best >= 0)
        offset = batch.offsets[mentions.document[given]]
        entities = linker.names(scored.candidates.entity[scored.best[given]])
        columns = ((mentions.start[given] + offset).tolist(), (mentions.end[given] + offset).tolist())
        for start, end, entity, at in zip(*columns, entities, given.tolist(), strict=True):
            places[start, end] = (entity, number + at)
        parts.append(signals_of(scored))
        number += len(mentions)
    return places, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _scores(signals: Floats, names: Sequence[str]) -> Floats:
    """The linker's own scores, of whose log odds the signals hold."""
    from scipy.special import expit

    return expit(signals[:, names.index("score")])


def _write_linker(linker: Path, writer: ArtifactWriter, certainty: Certainty) -> None:
    """The linker's files, its settings with the certainty in them."""
    from entity_linking.folder import HELD_OUT, SETTINGS

    writer.copy(open_artifact(linker, stage=LINKER_STAGES), without=(HELD_OUT, SETTINGS))
    settings = json.loads((linker / SETTINGS).read_text(encoding="utf-8")) | {"certainty": dict(certainty.weights)}
    (writer.path / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
