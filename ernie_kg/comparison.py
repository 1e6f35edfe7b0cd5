"""Several runs on one page: a table of what each reached, their curves in one picture, their scores with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ernie_kg import figures as shapes
from ernie_kg import svg
from kg.artifact import Manifest

CURVES = {
    "kg embed": ("validation_curve", ("mrr",)),
    "pretrain run": ("heldout_curve", ("mlm_loss", "dea_loss", "dea_accuracy", "dea_hidden_accuracy")),
    "finetune run": ("dev_curve", ("macro_f1", "accuracy", "loose_micro_f1")),
    "finetune distill": ("dev_curve", ("macro_f1", "accuracy", "loose_micro_f1")),
}
"""What is drawn over the steps when several artifacts come from one stage: the figure, and measures in it."""
INTERVAL = "_interval_95"


@dataclass(frozen=True, slots=True)
class Shown:
    """An artifact on the page. name: what it is called there, unique. anchor: its section's id."""

    name: str
    anchor: str
    manifest: Manifest

    @property
    def run(self) -> Path:
        return self.manifest.folder.resolve().parent

    @property
    def legend(self) -> str:
        """Its name, and what takes its entities' place where it is a control."""
        control = self.manifest.data.get("config", {}).get("entity_control", "true")
        return self.name if control == "true" else f"{self.name} ({control} entities)"


def runs_table(shown: Sequence[Shown]) -> str:
    """A row for each step, a column for each run, with headline and time; empty for a single run."""
    runs = list(dict.fromkeys(item.run for item in shown))
    if len(runs) < 2:
        return ""
    cells = {(item.manifest.folder.name, item.run): item for item in shown}
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["step", *_told_apart(runs)])
    rows = "".join(
        f'<tr><th scope="row">{escape(step)}</th>'
        + "".join(f"<td>{_reached(cells.get((step, run)))}</td>" for run in runs)
        + "</tr>"
        for step in dict.fromkeys(item.manifest.folder.name for item in shown)
    )
    table = f'<div class="scroll runs"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<section><h2>Runs side by side</h2>{table}</section>"


def side_by_side(shown: Sequence[Shown]) -> str:
    """For every stage that several artifacts come from: their curves, their intervals, and the measures that differ."""
    kinds = Counter(item.manifest.stage for item in shown)
    parts = []
    for stage in (stage for stage, number in kinds.items() if number > 1):
        members = [item for item in shown if item.manifest.stage == stage]
        found = _curves(stage, members) + _differences(members)
        if found:
            parts.append(f"<h3>{escape(stage)}</h3>{found}")
    return f"<section><h2>Side by side</h2>{''.join(parts)}</section>" if parts else ""


def scores_with_intervals(shown: Sequence[Shown]) -> str:
    """Every score that has an interval, of all artifacts in one picture: whether two differ is seen, not guessed."""
    by_metric: dict[str, list[tuple[str, float, tuple[float, float]]]] = {}
    for item in shown:
        figures = item.manifest.figures
        for name, intervals in figures.items():
            of = figures.get(name.removesuffix(INTERVAL))
            if not name.endswith(INTERVAL) or not isinstance(intervals, Mapping) or not isinstance(of, Mapping):
                continue
            for metric, interval in intervals.items():
                if shapes.is_range(interval) and shapes.is_number(of.get(metric)):
                    rows = by_metric.setdefault(f"{name.removesuffix(INTERVAL)} {metric}", [])
                    rows.append((item.legend, of[metric], tuple(interval)))
    charts = [
        shapes.figure(
            svg.interval_chart(rows, title=shapes.readable(metric)),
            caption=f"{shapes.readable(metric)}, with its 95 % bootstrap interval",
            source=", ".join(name for name, *_ in rows),
        )
        for metric, rows in by_metric.items()
    ]
    return f"<section><h2>Scores</h2>{''.join(charts)}</section>" if charts else ""


def _reached(item: Shown | None) -> str:
    if item is None:
        return "–"
    seconds = svg.number(round(item.manifest.data["seconds"], 1))
    return f'<a href="#{item.anchor}">{escape(str(item.manifest.data["headline"]))}</a> <small>{seconds} s</small>'


def _told_apart(runs: Sequence[Path]) -> list[str]:
    """Each run by the last parts of its path that tell it from the others."""
    length = 1
    while len({run.parts[-length:] for run in runs}) < len(runs):
        length += 1
    return ["/".join(run.parts[-length:]) for run in runs]


def _curves(stage: str, members: Sequence[Shown]) -> str:
    """One chart a measure, one line an artifact."""
    figure, measures = CURVES.get(stage, ("", ()))
    charts = []
    for measure in measures:
        series = {item.legend: _points(item.manifest.figures.get(figure), measure) for item in members}
        series = {name: points for name, points in series.items() if points}
        if len(series) > 1:
            drawn = svg.line_chart(series, title=f"{stage}: {shapes.readable(measure)}", x_label="step")
            charts.append(f'<div class="chart"><p>{escape(shapes.readable(measure))}</p>{drawn}</div>')
    source = ", ".join(item.name for item in members)
    shown = f'<div class="charts">{"".join(charts)}</div>'
    return shapes.figure(shown, caption=shapes.readable(figure), source=source) if charts else ""


def _points(rows: Any, measure: str) -> list[tuple[float, float]]:
    if not isinstance(rows, list):
        return []
    return [(row.get("step", row.get("epoch", 0)), row[measure]) for row in rows if shapes.is_number(row.get(measure))]


def _differences(members: Sequence[Shown]) -> str:
    """Their counts and figures in columns, those that two of them disagree about."""
    measured = [dict(shapes.flatten({**m.manifest.counts, **m.manifest.figures})) for m in members]
    names = [name for name in dict.fromkeys(n for m in measured for n in m) if _differs(name, measured)]
    rows = [
        {"measure": shapes.readable(name), **{item.legend: m.get(name) for item, m in zip(members, measured)}}
        for name in names
    ]
    return shapes.row_table(rows) if rows else ""


def _differs(name: str, measured: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two artifacts have the measure and disagree; what only one has stands in its own section."""
    values = [m[name] for m in measured if m.get(name) is not None]
    return any(value != values[0] for value in values[1:])
