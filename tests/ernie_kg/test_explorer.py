"""The explorer's answers over a run of the made world, what it refuses, and that it gives no file away."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_kg.explorer.run_folder import find_run
from kg.errors import InputError

fastapi = pytest.importorskip("fastapi", reason="the extra `explorer` is not installed")
pytestmark = pytest.mark.slow
STATIC = Path(__file__).resolve().parents[2] / "ernie_kg/explorer/static"
Run = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def client(own_data_run: Run) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    from ernie_kg.explorer.app import make_app

    app = make_app(find_run(own_data_run[0] / "runs/own-data"), rate=10_000)
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def fact(own_data_run: Run) -> tuple[str, str, str]:
    line = (own_data_run[0] / "own-data/triples.tsv").read_text().splitlines()[0]
    head, relation, tail = line.split("\t")
    return head, relation, tail


def linked(client: Any, text: str) -> list[dict[str, Any]]:
    answer = client.post("/api/link", json={"text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()["mentions"]


def test_links_carry_their_candidates_and_terms_in_code_points(client: Any, fact: tuple[str, str, str]) -> None:
    """An emoji is one code point and two UTF-16 units: a page that counts units marks the wrong letters."""
    text = f"🦊 {fact[0]} knows {fact[2]}."
    mentions = linked(client, text)
    assert [text[m["start"] : m["end"]] for m in mentions] == [fact[0], fact[2]]
    for mention in mentions:
        best = mention["candidates"][0]
        assert mention["entity"] == best["id"] == mention["surface"]
        assert best["contributions"].keys() == best["terms"].keys()
        assert 0 < mention["score"] <= 1


def test_the_graph_around_an_entity_holds_its_facts(client: Any, own_data_run: Run, fact: tuple[str, str, str]) -> None:
    lines = [line.split("\t") for line in (own_data_run[0] / "own-data/triples.tsv").read_text().splitlines()]
    around = {tuple(line) for line in lines if fact[0] in (line[0], line[2])}
    entity = client.get("/api/entity", params={"name": fact[0]}).json()
    shown = {(edge["head"], edge["relation"].replace(" ", "_"), edge["tail"]) for edge in entity["edges"]}
    assert shown <= around
    assert len(shown) == min(len(around), 24)
    assert entity["triples"] == len(around)
    assert {relation for _, relation, _ in shown} == {relation for _, relation, _ in around}
    assert {node["id"] for node in entity["nodes"]} == {end for h, _, t in shown for end in (h, t)}


def test_the_nearest_are_those_of_the_command(client: Any, fact: tuple[str, str, str]) -> None:
    found = client.get("/api/nearest", params={"name": fact[0]}).json()
    cosines = [near["score"] for near in found["cosine"]]
    assert cosines == sorted(cosines, reverse=True)
    distances = [near["score"] for near in found["translation"]]
    assert distances == sorted(distances)
    assert fact[0] not in [near["id"] for near in found["cosine"] + found["translation"]]
    assert all(near["relation"] for near in found["translation"])


def test_teacher_and_students_answer_as_the_predict_stage(client: Any, own_data_run: Run) -> None:
    """The page must not show another model than the one that was measured: the same texts, the same answers."""
    road = own_data_run[0] / "runs/own-data"
    from finetune.predict import PredictConfig, run

    examples = [json.loads(line) for line in (road / "relations/test.jsonl").open()][:6]
    (road.parent / "few.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    expected = {}
    for name, given in (("student", {}), ("model", {"vectors": road / "vectors"})):
        config = PredictConfig(
            model=road / name, texts=road.parent / "few.jsonl", output=road.parent / f"few-{name}", **given
        )
        lines = (run(config) / "predictions.jsonl").open()
        expected[name] = [(row["predicted"], row["probability"]) for row in map(json.loads, lines)]
    for place, example in enumerate(examples):
        spans = [{key: span[key] for key in ("start", "end", "role")} for span in example["spans"]]
        links = [{key: link[key] for key in ("start", "end", "entity")} for link in example["links"]]
        question = {"text": example["text"], "model": "model", "spans": spans, "links": links}
        answer = client.post("/api/predict", json=question)
        assert answer.status_code == 200, answer.text
        rows = {(row["model"], row["how"]): row for row in answer.json()["rows"]}
        assert {how for _, how in rows} >= {"with knowledge", "without knowledge", "text alone"}
        for name, row in (
            ("student", rows["student", "text alone"]),
            ("model", rows["teacher", "with knowledge"]),
        ):
            label, probability = expected[name][place]
            assert row["labels"][0]["label"] == label
            assert row["labels"][0]["probability"] == pytest.approx(probability, abs=2e-5)
            assert row["milliseconds"] > 0
        assert rows["teacher", "with knowledge"]["labels"] != rows["teacher", "without knowledge"]["labels"]


@pytest.mark.parametrize(
    ("method", "address", "options", "status"),
    [
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", "/static/page.js", {}, 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}, 404),
        ("GET", "/openapi.json", {}, 404),
        ("GET", "/", {"headers": {"host": "evil.example"}}, 403),
        ("GET", "/api/about", {"headers": {"origin": "http://evil.example"}}, 403),
        ("OPTIONS", "/api/link", {"headers": {"access-control-request-method": "POST"}}, 405),
        ("DELETE", "/api/about", {}, 405),
        ("POST", "/api/link", {"content": b'{"text":"a"}', "headers": {"content-type": "text/plain"}}, 415),
        ("POST", "/api/link", {"json": {"text": "x" * 300_000}}, 413),
        ("POST", "/api/link", {"json": {"text": "x" * 30_000}}, 422),
        ("POST", "/api/link", {"json": {"text": "   "}}, 400),
        ("POST", "/api/link", {"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ("POST", "/api/link", {"json": {"text": 7}}, 422),
        ("GET", "/api/entity?name=nobody-of-that-name", {}, 400),
        ("POST", "/api/predict", {"json": {"text": "a", "model": "../../x"}}, 400),
        ("POST", "/api/predict", {"json": {"text": "a", "model": "model"}}, 400),
        (
            "POST",
            "/api/predict",
            {"json": {"text": "a b", "model": "model", "spans": [
                {"start": 0, "end": 900, "role": "head"}, {"start": 2, "end": 3, "role": "tail"}]}},
            400,
        ),
    ],
)  # fmt: skip
def test_what_it_refuses(client: Any, method: str, address: str, options: dict[str, Any], status: int) -> None:
    answer = client.request(method, address, **options)
    assert answer.status_code == status, answer.text
    assert "root:" not in answer.text
    assert not [name for name in answer.headers if name.startswith("access-control-allow")]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_body_larger_than_its_header_says_is_refused(client: Any) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    answer = client.post("/api/link", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_more_requests_than_the_rate_are_turned_away(own_data_run: Run) -> None:
    from fastapi.testclient import TestClient

    from ernie_kg.explorer.app import make_app

    app = make_app(find_run(own_data_run[0] / "runs/own-data"), rate=5)
    with TestClient(app, base_url="http://localhost:8000") as client:
        codes = [client.get("/api/about").status_code for _ in range(40)]
    assert codes[:10] == [200] * 10
    assert codes.count(429) >= 20


def test_the_page_parses_no_markup_and_loads_nothing_from_outside() -> None:
    """One innerHTML, and an alias of the graph runs script in the reader's browser."""
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", script
    )
    for file in STATIC.iterdir():
        outside = set(re.findall(r"(?:https?:)?//[\w.-]+", file.read_text(encoding="utf-8")))
        assert outside <= {"http://www.w3.org"}, file.name
    assert not re.search(r"\son\w+=|<script>|style=", (STATIC / "index.html").read_text(encoding="utf-8"))


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_run(tmp_path / "none")
    with pytest.raises(InputError, match="holds no graph"):
        find_run(tmp_path)
