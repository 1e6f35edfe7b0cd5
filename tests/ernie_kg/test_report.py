"""The report page: everything on it comes from manifests, nothing on it can run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ernie_kg import figures, svg
from ernie_kg.report import PAGE, ReportConfig, run
from kg.artifact import open_artifact, read_manifest, write_artifact
from kg.errors import InputError

EVIL = "<script>alert(1)</script><img src=x onerror=\"alert(2)\"> & 'quoted'"
VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    """A stage config for artifacts made in tests."""

    output: Path
    seed: int = 0
    entity_control: str = "true"

    def inputs(self) -> dict[str, Path]:
        return {}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, text, and whether every tag is closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@dataclass(kw_only=True)
class Made:
    """Contents of a made artifact."""

    stage: str
    figures: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    headline: str = "a headline"
    control: str = "true"
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        with write_artifact(MadeConfig(output=folder, entity_control=self.control), stage=self.stage) as writer:
            writer.figures = self.figures
            writer.counts.update(self.counts)
            writer.dropped.update(self.dropped)
            writer.headline = self.headline
            for name, table in self.tables.items():
                pq.write_table(table, writer.path / name)
        return folder


def _linked(documents: list[dict[str, Any]]) -> pa.Table:
    mention = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("entity", pa.string()), ("score", pa.float32())])
    schema = pa.schema(
        [("id", pa.string()), ("title", pa.string()), ("text", pa.string()), ("mentions", pa.list_(mention))]
    )
    return pa.Table.from_pylist(documents, schema=schema)


def _document(name: str, text: str, *mentions: tuple[int, int, str]) -> dict[str, Any]:
    rows = [{"start": s, "end": e, "entity": entity, "score": 0.5} for s, e, entity in mentions]
    return {"id": name, "title": name, "text": text, "mentions": rows}


def _page(tmp_path: Path, *made: Made, **settings: Any) -> tuple[str, Page]:
    folders = [item.write(tmp_path / "runs" / f"{place}") for place, item in enumerate(made)]
    output = run(ReportConfig(artifacts=tuple(folders), output=tmp_path / "report", **settings))
    html = (output / PAGE).read_text(encoding="utf-8")
    return html, Page(html)


def test_numbers_of_an_unknown_stage_appear_with_the_artifact_they_come_from(tmp_path):
    """A figure added to a stage must not wait for the report to learn its name."""
    made = Made(
        stage="brew coffee",
        figures={"temperature": 91.25, "deep": {"inner": {"cups": 12345}}, "interval": [0.1, 0.25]},
        counts={"beans": 777},
        dropped={"too_burnt": 3},
        headline="91 degrees",
    )
    _, page = _page(tmp_path, made)
    for expected in ("brew coffee", "91.25", "12,345", "0.1 – 0.25", "777", "too burnt", "91 degrees", "from 0"):
        assert expected in page.text


def test_curves_histograms_and_bars_are_drawn_from_their_shape(tmp_path):
    """The picture is chosen by the JSON value; a list that falls through would show as raw JSON."""
    made = Made(
        stage="x",
        figures={
            "curve": [{"step": s, "mlm_loss": 3 - s / 10, "dea_loss": 2, "rate": s} for s in range(5)],
            "degree_histogram": {"1": 1000, "2": 10, "10": 1},
            "score_histogram": [{"low": i / 10, "high": (i + 1) / 10, "count": i} for i in range(10)],
            "topics": {f"topic {i}": i + 1 for i in range(8)},
            "degrees": [{"from": i, "to": i, "entities": 9 - i} for i in range(4)],
            "relations": [{"relation": f"P{i}", "label": f"name {i}", "triples": i} for i in range(3)],
            "plain_rows": [{"name": "x", "a": 1, "b": 2}, {"name": "y", "a": 3, "b": 4}],
            "after": {"loss": 1.0, "accuracy": 0.5},
            "before": {"loss": 2.0, "accuracy": 0.1},
        },
    )
    html, page = _page(tmp_path, made)
    titles = [attrs["aria-label"] for attrs in page.named("svg")]
    assert titles == [
        "seconds by stage",
        "curve: loss",
        "curve: rate",
        "degree histogram",
        "score histogram",
        "topics",
        "degrees",
        "relations",
    ]
    assert html.count("<polyline") == 3
    assert len(page.named("rect")) == 1 + 3 + 10 + 8 + 4 + 3
    before_and_after = page.text[page.text.index("loss") :]
    assert before_and_after.index("after") < before_and_after.index("before")


def test_tables_are_turned_where_they_are_wide_and_lists_of_texts_keep_their_columns(tmp_path):
    """Thirteen columns run off a sheet of paper; a table of text squeezed into one cell is read by nobody."""
    formats = [{"format": name, **{f"measure {i}": i for i in range(9)}} for name in ("torch", "onnx")]
    made = Made(
        stage="x",
        figures={
            "formats": formats,
            "matches": ["term  share", "word  0.5", "row   0.5"],
            "one": [7],
            "none": [],
            "lengths": [{"up_to": 16, "instances": 3}, {"up_to": 32, "instances": 5}, {"up_to": 64, "instances": 2}],
            "coverage": [
                {"score": 0.1, "coverage": 0.9},
                {"score": 0.2, "coverage": 0.5},
                {"score": 0.3, "coverage": 0.1},
            ],
            "two_points": [{"step": 0, "accuracy": 0.1}, {"step": 9, "accuracy": 0.7}],
        },
    )
    html, page = _page(tmp_path, made)
    assert '<thead><tr><th scope="row">format</th><td>torch</td><td>onnx</td></tr></thead>' in html
    assert html.count('<th scope="row">measure ') == 9
    assert '<pre class="scroll">term  share\nword  0.5\nrow   0.5</pre>' in html
    assert "one7nonenone" in page.text
    assert [attrs["aria-label"] for attrs in page.named("svg")] == ["seconds by stage", "lengths", "coverage"]


def test_entities_of_a_ranking_get_the_names_of_their_graph(tmp_path):
    """`city%1:15:00::` is a bar nobody can read."""
    graph = Made(
        stage="kg build",
        tables={"entities.parquet": pa.table({"id": ["Q1"], "label": ["Kyiv"], "description": [""]})},
    )
    ranking = {"top_entities": [{"entity": "Q1", "links": 5}, {"entity": "Q2", "links": 3}]}
    linked = Made(stage="link", figures=ranking, tables={"shard-00000.parquet": _linked([_document("d", "x")])})
    html, _ = _page(tmp_path, graph, linked)
    assert "<title>Kyiv: 5</title>" in html
    assert "<title>Q2: 3</title>" in html


def test_markup_in_text_alias_label_and_figures_stays_text(tmp_path):
    """One unescaped value and a stranger's paragraph runs script in the reader's browser."""
    graph = Made(
        stage="kg build",
        tables={"entities.parquet": pa.table({"id": [EVIL], "label": [EVIL], "description": [EVIL]})},
        figures={
            EVIL: 1,
            "nested": {EVIL: {EVIL: EVIL}},
            "rows": [{EVIL: EVIL}],
            "many": {f"{EVIL}{i}": i for i in range(9)},
            "curve": [{"step": 1, EVIL: 2.0}],
            "list": [EVIL, EVIL, EVIL],
        },
        headline=EVIL,
        counts={EVIL: 1},
    )
    text = f"{EVIL} and {EVIL}"
    linked = Made(
        stage="link",
        tables={"shard-00000.parquet": _linked([_document(EVIL, text, (0, 8, EVIL), (10, 20, "x<b>y"))])},
    )
    html, page = _page(tmp_path, graph, linked, title=EVIL)
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>y" not in html
    assert page.text.count(EVIL) >= 8
    assert page.named("mark")[0]["title"].startswith(f"{EVIL} ({EVIL}, score 0.50)")


def test_the_page_asks_for_nothing_from_outside(tmp_path):
    """A font or script from a server breaks the page offline and tells others who reads it."""
    html, page = _page(tmp_path, Made(stage="x", figures={"c": [{"step": i, "loss": i} for i in range(3)]}))
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "img"}
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"href", "src"}:
                assert value is not None
                assert value.startswith("#")
    assert "url(" not in html
    assert "@import" not in html
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {f"#{anchor}" for anchor in anchors} == {attrs["href"] for attrs in page.named("a")}


def test_linked_paragraphs_are_the_shards_own_text_with_names_of_the_graph(tmp_path):
    """Offsets count code points: an emoji before a mention must not shift the mark."""
    graph = Made(
        stage="kg build",
        tables={"entities.parquet": pa.table({"id": ["Q1"], "label": ["Kyiv"], "description": ["a city"]})},
    )
    documents = [_document("d1", "😀 Kyiv shines", (2, 6, "Q1")), _document("d3", "Kiew, too", (0, 4, "Q1"))]
    documents += [_document("d2", "no links here")]
    linked = Made(stage="link", tables={"shard-00000.parquet": _linked(documents)})
    html, page = _page(tmp_path, graph, linked)
    assert '<mark title="Kyiv (Q1, score 0.50) — a city">Kyiv<small>0.50</small></mark> shines' in html
    assert "Kiew<small>Kyiv 0.50</small></mark>, too" in html
    assert "no links here" not in page.text
    assert open_artifact(tmp_path / "report", stage="report").counts["linked_paragraphs"] == 2


def test_as_many_paragraphs_as_asked_and_long_ones_cut(tmp_path):
    """A paragraph of 100,000 characters would bury the page."""
    documents = [_document(f"d{i}", "word " * 20_000, (0, 4, "Q1"), (90_000, 90_004, "Q1")) for i in range(30)]
    linked = Made(
        stage="link",
        tables={"shard-00000.parquet": _linked(documents[:7]), "shard-00001.parquet": _linked(documents[7:])},
    )
    html, page = _page(tmp_path, linked)
    assert len(page.named("article")) == 20
    assert len(page.named("mark")) == 20
    assert len(html) < 100_000


def test_two_runs_of_one_stage_stand_side_by_side(tmp_path):
    """Comparing runs by eye over two long sections misses the one setting that moved."""
    made = [Made(stage="finetune run", figures={"test": {"accuracy": a, "same": 1}}) for a in (0.71, 0.82)]
    html, page = _page(tmp_path, *made)
    assert "Side by side" in page.text
    table = html[html.index("Side by side") :]
    table = table[: table.index("</section>")]
    assert "test.accuracy" in table
    assert "0.71" in table
    assert "0.82" in table
    assert "same" not in table


def test_whole_runs_are_opened_and_compared_step_by_step(tmp_path):
    """A reader compares runs, not twenty folders; a report lying among them is no part of the next one."""
    for run_name, score, control in (("true", 0.8, "true"), ("null", 0.7, "random")):
        folder = tmp_path / "runs" / run_name
        Made(stage="kg embed", headline=f"vectors of {run_name}").write(folder / "vectors")
        curve = [{"step": step, "macro_f1": score * step / 3} for step in (1, 2, 3)]
        figures_of = {"dev_curve": curve, "test": {"macro_f1": score}, "test_interval_95": {"macro_f1": [0.6, 0.9]}}
        Made(stage="finetune run", figures=figures_of, headline=f"model of {run_name}", control=control).write(
            folder / "model"
        )
        Made(stage="report").write(folder / "report")
    output = run(ReportConfig(artifacts=(tmp_path / "runs/true", tmp_path / "runs/null"), output=tmp_path / "out"))
    html = (output / PAGE).read_text(encoding="utf-8")
    page = Page(html)
    table = html[html.index("Runs side by side") :]
    table = table[: table.index("</section>")]
    for expected in (">true<", ">null<", "vectors of true", "model of null"):
        assert expected in table
    assert read_manifest(output).counts["artifacts"] == 4
    titles = [attrs["aria-label"] for attrs in page.named("svg")]
    assert "test macro f1" in titles
    assert "finetune run: macro f1" in titles
    assert "null/model (random entities)" in page.text
    assert "95 % bootstrap interval" in page.text


def test_the_map_of_vectors_has_a_dot_for_each_entity_and_a_colour_for_each_type(own_data_run, tmp_path):
    folder = own_data_run[0] / "runs/own-data"
    config = ReportConfig(artifacts=(folder / "graph", folder / "vectors"), output=tmp_path / "out")
    page = Page((run(config) / PAGE).read_text(encoding="utf-8"))
    assert len(page.named("circle")) >= 150
    for kind in ("town", "river", "person", "company"):
        assert kind in page.text
    again = run(ReportConfig(artifacts=config.artifacts, output=tmp_path / "again"))
    assert (again / PAGE).read_bytes() == (tmp_path / "out" / PAGE).read_bytes()


def test_a_chance_level_is_drawn_beside_what_it_is_the_chance_of(tmp_path):
    """0.69 means little until the eye sees 0.003 beneath it."""
    curve = [
        {"step": s, "dea_accuracy": s / 9, "dea_chance": 0.01, "dea_mrr": s / 8, "dea_mrr_chance": 0.02}
        for s in range(4)
    ]
    _, page = _page(tmp_path, Made(stage="x", figures={"heldout_curve": curve}))
    titles = [attrs["aria-label"] for attrs in page.named("svg")]
    assert titles[1:] == ["heldout curve: dea accuracy", "heldout curve: dea mrr"]


def test_numbers_that_are_not_finite_are_said_and_not_drawn(tmp_path):
    """A NaN coordinate makes a browser drop the whole line without a word."""
    curve = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}]
    html, page = _page(tmp_path, Made(stage="x", figures={"curve": curve, "only": float("nan")}))
    assert "NaN" in page.text
    assert all("nan" not in str(value) and "inf" not in str(value) for value in _coordinates(page))
    assert "<circle" in html


def _coordinates(page: Page) -> list[str | None]:
    names = {"points", "cx", "cy", "x", "y", "width", "height", "x1", "x2", "y1", "y2"}
    return [value for _, attrs in page.tags for name, value in attrs.items() if name in names]


def test_a_degree_histogram_of_hundreds_of_degrees_is_binned():
    """Five hundred columns of a pixel each show nothing; no count may get lost in the bins."""
    shown = figures._columns({str(degree): degree for degree in range(1, 501)})
    assert [label for label, _ in shown][:4] == ["1", "2–3", "4–7", "8–15"]
    assert sum(count for _, count in shown) == sum(range(1, 501))


def test_ticks_enclose_the_data_in_round_steps():
    """A flat curve (high == low) must not divide by zero."""
    assert svg.nice_ticks(0, 9.3, 5) == [0, 2, 4, 6, 8, 10]
    assert svg.nice_ticks(-0.3, 0.4, 5)[0] <= -0.3
    flat = svg.nice_ticks(2.0, 2.0, 5)
    assert flat[0] <= 2.0 < flat[-1]


def test_wrong_input_is_refused_in_one_line(tmp_path):
    """A folder without manifest is an unfinished stage, not an empty one."""
    (tmp_path / "half").mkdir()
    with pytest.raises(InputError, match="no finished artifact"):
        run(ReportConfig(artifacts=(tmp_path / "half",), output=tmp_path / "out"))
    with pytest.raises(InputError, match="at least one"):
        ReportConfig(artifacts=(), output=tmp_path / "out")
    shard = {"shard-00000.parquet": _linked([_document("d", "short", (0, 99, "Q1"))])}
    folder = Made(stage="link", tables=shard).write(tmp_path / "linked")
    with pytest.raises(InputError, match="leaves the text"):
        run(ReportConfig(artifacts=(folder,), output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_report_is_an_artifact_of_its_own(tmp_path):
    """The road skips a report only while the artifacts under it are the same."""
    _page(tmp_path, Made(stage="x"))
    data = json.loads((tmp_path / "report" / "manifest.json").read_text())
    assert data["stage"] == "report"
    assert set(data["files"]) == {PAGE}
    assert list(data["inputs"]) == ["artifact 1"]
