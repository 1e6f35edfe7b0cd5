"""Stage `report`: one self-contained HTML page of a run, made of its manifests and nothing else.

The page asks for nothing from outside and runs no script. What a stage measured is shown by the shape of its figures
(`ernie_kg.figures`), so that a new figure in a manifest appears without a line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ernie_kg import figures as shapes
from ernie_kg import svg
from ernie_kg.comparison import Shown, runs_table, scores_with_intervals, side_by_side
from ernie_kg.style import STYLE
from kg.artifact import MANIFEST, Manifest, read_manifest, write_artifact
from kg.errors import InputError

STAGE = "report"
PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which artifacts to show, in which order."""

    artifacts: tuple[Path, ...]
    """Folders of finished stages, or of whole runs, whose stages are shown in the order they were made."""

    output: Path = Path("report")
    """Folder to write: report.html."""

    title: str = "ernie-kg run"
    """Heading of the page."""

    num_paragraphs: int = 20
    """Linked paragraphs to render for each `link` artifact."""

    seed: int = 0
    """Decides which linked paragraphs are drawn."""

    def __post_init__(self) -> None:
        if not self.artifacts:
            raise InputError("artifacts: expected at least one folder of a finished stage, got none")
        if self.num_paragraphs < 0:
            raise InputError(f"num_paragraphs: expected 0 or more, got {self.num_paragraphs}")

    map_vectors: bool = True
    """Whether to draw a map of the entity vectors where their graph is among the artifacts; takes a few seconds."""

    def inputs(self) -> dict[str, Path]:
        return {f"artifact {place}": path for place, path in enumerate(artifacts_in(self.artifacts), start=1)}


def run(config: ReportConfig) -> Path:
    """Writes `report.html`.

    Raises:
        InputError: a folder without manifest, or linked shards that do not fit their text.
    """
    shown = _open(artifacts_in(config.artifacts))
    with write_artifact(config, stage=STAGE) as writer:
        page, rendered = build_page(
            shown,
            title=config.title,
            num_paragraphs=config.num_paragraphs,
            map_vectors=config.map_vectors,
            seed=config.seed,
        )
        (writer.path / PAGE).write_text(page, encoding="utf-8")
        writer.counts["artifacts"] = len(shown)
        writer.counts["linked_paragraphs"] = rendered
        writer.headline = f"{len(shown)} artifacts on one page of {len(page.encode()) / 1024:.0f} KB"
    return config.output


def artifacts_in(folders: Sequence[Path]) -> list[Path]:
    """The folders themselves, and in place of a run's folder the artifacts in it by the time they were begun, reports
    left out.

    Raises:
        InputError: a folder that is neither.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        if (folder / MANIFEST).exists() or not folder.is_dir():
            found.append(folder)
            continue
        inside = [path for path in folder.iterdir() if (path / MANIFEST).is_file() and "." not in path.name]
        made = [read_manifest(path) for path in inside]
        made = sorted((m for m in made if m.stage != STAGE), key=lambda m: (str(m.data.get("started")), m.folder.name))
        if not made:
            raise InputError(
                f"{folder}: holds no manifest.json, so it is no finished artifact, and no artifact lies in it; run its "
                f"stage first"
            )
        found += [manifest.folder for manifest in made]
    return found


def build_page(
    shown: Sequence[Shown], *, title: str, num_paragraphs: int, map_vectors: bool, seed: int
) -> tuple[str, int]:
    """The page as text, and how many linked paragraphs it shows."""
    graphs = [item.manifest for item in shown if item.manifest.stage == "kg build"]
    sections, rendered = [], 0
    for item in shown:
        extra, figures = "", item.manifest.figures
        if item.manifest.stage == "link" and num_paragraphs:
            paragraphs, number = _paragraphs(item, graphs, num_paragraphs, seed)
            extra = f"<h3>Linked paragraphs</h3>{paragraphs}" if paragraphs else ""
            rendered += number
        if item.manifest.stage == "kg embed" and map_vectors:
            extra = _map(item, graphs, seed)
        if item.manifest.stage == "link":
            figures = _with_labels(figures, graphs)
        sections.append(_section(item, figures, extra))
    body = [
        f"<header><h1>{escape(title)}</h1>{_cards(shown)}</header>",
        f"<main>{runs_table(shown)}{_road(shown)}{scores_with_intervals(shown)}{side_by_side(shown)}",
        f"{''.join(sections)}</main>",
        "<footer>Every number on this page is read from the manifest of the artifact named beside it.</footer>",
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
    )
    return head + "\n".join(body) + "</body></html>\n", rendered


def _open(folders: Sequence[Path]) -> list[Shown]:
    manifests = []
    for folder in map(Path, folders):
        if not (folder / "manifest.json").exists():
            raise InputError(f"{folder}: holds no manifest.json, so it is no finished artifact; run its stage first")
        manifests.append(read_manifest(folder))
    names = _unique_names([manifest.folder for manifest in manifests])
    return [
        Shown(name, f"artifact-{place}", manifest)
        for place, (name, manifest) in enumerate(zip(names, manifests, strict=True), start=1)
    ]


def _unique_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many parts before it as it takes to tell them apart."""
    resolved = [folder.resolve().parts[1:] for folder in folders]
    length = 1
    while length < max(map(len, resolved)) and len({p[-length:] for p in resolved}) < len(set(resolved)):
        length += 1
    return ["/".join(parts[-length:]) for parts in resolved]


def _cards(shown: Sequence[Shown]) -> str:
    seconds = sum(item.manifest.data["seconds"] for item in shown)
    peak = max(item.manifest.data["peak_memory_bytes"] for item in shown)
    versions = sorted({str(item.manifest.data["version"]) for item in shown})
    started = min(str(item.manifest.data["started"]) for item in shown)
    cards = {
        "stages": str(len(shown)),
        "time, all stages": duration(seconds),
        "peak memory": mebibytes(peak),
        "begun": started.replace("T", " ").replace("Z", " UTC"),
        "ernie-kg": ", ".join(versions),
    }
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in cards.items())
    return f'<dl class="cards">{items}</dl>'


def _road(shown: Sequence[Shown]) -> str:
    """The table a reader looks at first: stage, artifact, time, memory, headline."""
    rows = "".join(
        f"<tr><td>{escape(item.manifest.stage)}</td>"
        f'<td><a href="#{item.anchor}">{escape(item.name)}</a></td>'
        f'<td class="number">{duration(item.manifest.data["seconds"])}</td>'
        f'<td class="number">{mebibytes(item.manifest.data["peak_memory_bytes"])}</td>'
        f"<td>{escape(str(item.manifest.data['headline']))}</td></tr>"
        for item in shown
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("stage", "artifact", "time", "memory", "headline"))
    table = f'<div class="scroll road"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    times = [(item.name, float(item.manifest.data["seconds"])) for item in shown]
    chart = svg.bar_chart(times, title="seconds by stage", limit=len(times))
    figure = f'<figure class="narrow">{chart}<figcaption>seconds of each artifact</figcaption></figure>'
    return f"<section><h2>The road</h2>{table}{figure}</section>"


def _section(item: Shown, figures: Mapping[str, Any], extra: str) -> str:
    data = item.manifest.data
    made = [
        f"<code>{escape(str(item.manifest.folder))}</code>",
        f"digest <code>{escape(str(data['digest'])[:12])}</code>",
        f"seed {escape(str(data.get('seed')))}",
        f"begun {escape(str(data['started']))}",
        f"{duration(data['seconds'])}",
        mebibytes(sum(entry["bytes"] for entry in data["files"].values())) + " on disk",
    ]
    heading = f"{escape(item.name)} <small>{escape(item.manifest.stage)}</small>"
    parts = [
        f'<section class="artifact" id="{item.anchor}"><h2>{heading}</h2>',
        f'<p class="headline">{escape(str(data["headline"]))}</p>',
        f'<p class="source">{" · ".join(made)}</p>',
        '<div class="pairs">',
        shapes.pair_table(item.manifest.counts, source=item.name, caption="counts") if item.manifest.counts else "",
        shapes.pair_table(item.manifest.dropped, source=item.name, caption="left out, by reason")
        if item.manifest.dropped
        else "",
        "</div>",
        shapes.render_figures(figures, source=item.name),
        extra,
        _settings(item),
        "</section>",
    ]
    return "".join(parts)


def _settings(item: Shown) -> str:
    data = item.manifest.data
    settings = dict(shapes.flatten(data.get("config", {})))
    inputs = {name: entry["path"] for name, entry in data.get("inputs", {}).items()}
    tables = shapes.pair_table(settings, source=item.name, caption="settings")
    tables += shapes.pair_table(inputs, source=item.name, caption="read from") if inputs else ""
    return f"<details><summary>settings and inputs</summary>{tables}</details>"


def _map(item: Shown, graphs: Sequence[Manifest], seed: int) -> str:
    from ernie_kg.vector_map import vector_map

    drawn, caption = vector_map(item.manifest, graphs, seed=seed)
    return shapes.figure(drawn, caption=caption, source=item.name) if drawn else ""


def _with_labels(figures: Mapping[str, Any], graphs: Sequence[Manifest]) -> dict[str, Any]:
    """Rows {entity, …} with the entity's label, where its graph is among the artifacts."""
    from ernie_kg.paragraphs import entity_names

    named = {
        name: [dict(row) for row in value]
        for name, value in figures.items()
        if isinstance(value, list) and value and all(isinstance(row, Mapping) and "entity" in row for row in value)
    }
    wanted = {str(row["entity"]) for rows in named.values() for row in rows}
    found = {key: name for graph in graphs for key, name in entity_names(graph.folder, wanted).items()}
    for row in (row for rows in named.values() for row in rows if row["entity"] in found):
        row["label"] = found[row["entity"]].label
    return {**figures, **named}


def _paragraphs(item: Shown, graphs: Sequence[Manifest], number: int, seed: int) -> tuple[str, int]:
    """Rendered paragraphs of a `link` artifact; entities have names where its graph is among the artifacts."""
    from ernie_kg.paragraphs import entity_names, linked_entities, render_paragraphs

    folder = item.manifest.folder
    wanted = linked_entities(folder, number=number, seed=seed)
    names = {key: name for graph in graphs for key, name in entity_names(graph.folder, wanted).items()}
    return render_paragraphs(folder, names=names, number=number, seed=seed)


def duration(seconds: float) -> str:
    """`75.2` -> `1 min 15 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def mebibytes(number: float) -> str:
    """`3 * 2**20` -> `3 MiB`."""
    size = number / 2**20
    return f"{size / 1024:.2f} GiB" if size >= 1024 else f"{size:.0f} MiB" if size >= 10 else f"{size:.1f} MiB"
