"""The command line as a user meets it: quick help, one line for a mistake, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pytest

from ernie_kg.cli import main, with_keys
from ernie_kg.stages import STAGES, VIEWS
from kg.artifact import write_artifact
from kg.errors import InputError


def loaded_by(*words: str) -> set[str]:
    """Top-level modules that a command line loads in a fresh interpreter."""
    script = (
        "import sys\nfrom ernie_kg.cli import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(output.rsplit("LOADED", 1)[1].split())


HEAVY = {"torch", "transformers", "faiss", "spacy", "pyarrow", "numpy", "datasets", "scipy"}


def test_help_loads_no_heavy_package() -> None:
    """`import torch` takes seconds: one careless import at the top of a module makes every --help slow."""
    assert not loaded_by("--help") & HEAVY
    for command in ("kg build", "kg embed", "kg export", *VIEWS):
        assert not loaded_by(*command.split(), "--help") & HEAVY, command


def test_every_stage_of_the_table_has_config_and_run() -> None:
    """A wrong name in the table shows only when a user asks for that stage."""
    for name, stage in STAGES.items():
        config_class = stage.config_class()
        assert callable(config_class.inputs), name
        assert {"output"} <= set(config_class.__dataclass_fields__), name
        undocumented = [f.name for f in fields(config_class) if not _documented(config_class, f.name)]
        assert not undocumented, f"{name}: fields without a docstring: {undocumented}"


def test_every_view_of_the_table_has_config_and_function() -> None:
    """A place that is no key of the config makes the command refuse what its own help tells to type."""
    for name, view in VIEWS.items():
        config_class = view.config_class()
        assert callable(getattr(sys.modules[view.module], view.function)), name
        assert set(view.places) <= set(config_class.__dataclass_fields__), name
        undocumented = [f.name for f in fields(config_class) if not _documented(config_class, f.name)]
        assert not undocumented, f"{name}: fields without a docstring: {undocumented}"
    assert not set(VIEWS) & set(STAGES)
    for stage in STAGES.values():
        assert {place.removesuffix("…") for place in stage.places} <= set(stage.config_class().__dataclass_fields__)


def _documented(config_class: type, field: str) -> bool:
    import inspect
    import re

    source = inspect.getsource(config_class)
    return re.search(rf"^    {field}:.*(?:\n(?!    \w).*)*?\n    \"\"\"", source, re.MULTILINE) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bild"], "unknown command 'bild'"),
        (["kg", "bild"], "unknown command 'kg bild'; nearest: kg build"),
        (["run", "none.yaml"], "none.yaml: no such config file"),
        (["kg", "build", "--outptu", "x"], "kg build: unknown option --outptu; nearest: --output"),
        (["run", "a.yaml", "b.yaml"], "expected one YAML file, got 2"),
        (["kg", "qeury", "g", "dog"], "unknown command 'kg qeury'; nearest: kg query"),
        (["kg", "query", "g", "Bob", "Dylan"], "expected GRAPH NAME, got 'Dylan' after them; a name of several words"),
        (["kg", "query", "g"], "kg query: the following arguments are required: name"),
        (["kg", "info", "g", "--tpo", "3"], "kg info: unknown option --tpo; nearest: --top"),
        (["kg", "info", "g", "--top", "0"], "expected top of at least 1, got 0"),
        (["kg", "info", "nothing here"], "nothing here does not exist; make it with `ernie-kg kg build`"),
        (["kg", "neighbours", "v", "x", "--by", "l2"], "kg neighbours: Parser key"),
        (["kg", "export", "g", "h", "--format", "tsv"], "kg export: expected GRAPH, got 'h' after them"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("mend it"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyError("bug"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_tell_who_is_at_fault(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str], *, debug: bool) -> int:
        raise error

    monkeypatch.setattr("ernie_kg.cli.dispatch", fail)
    assert main([]) == code
    assert capsys.readouterr().err.count("\n") == 1
    if code in (1, 2):
        with pytest.raises(type(error)):
            main(["--debug"])


@pytest.mark.parametrize(
    ("words", "keyed"),
    [
        (["G", "dog"], ["--graph=G", "--name=dog"]),
        (["--k", "3", "G", "-40"], ["--k", "3", "--graph=G", "--name=-40"]),
        (["G", "--name=--x"], ["--graph=G", "--name=--x"]),
        (["--json", "G"], ["--json=true", "--graph=G"]),
        (["--json", "false", "G"], ["--json=false", "--graph=G"]),
        (["--help", "G"], ["--help", "--graph=G"]),
        (["--k"], ["--k"]),
    ],
)
def test_bare_words_get_the_keys_of_their_places(words: list[str], keyed: list[str]) -> None:
    """A value taken for a bare word would shift every one after it."""
    assert with_keys("kg query", words, ("graph", "name"), flags=("help",), switches=("json",)) == keyed


def test_a_last_place_takes_all_the_bare_words_that_are_left() -> None:
    words = ["runs/a", "--output", "out", "runs/b, c"]
    assert with_keys("report", words, ("artifacts…",), flags=()) == [
        "--output", "out", '--artifacts=["runs/a", "runs/b, c"]',
    ]  # fmt: skip


@dataclass(frozen=True)
class Saved:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two entities, the first with names that argument parsers like to interpret."""
    from kg.graph import ALIASES, ENTITIES, RELATIONS, KnowledgeGraph

    names = ["null", "1984", "{a: 1}", "[x]", "@file", "-40", "Żółw"]
    rows = [[1, "Q1", "Żółw", names, "", [], 0], [2, "Q2", "dog", ["dog"], "", [], 0]]
    aliases = [[name, 1, 1.0] for name in names]
    tables = [
        pa.table([pa.array(list(c), f.type) for c, f in zip(zip(*lines), schema)], schema=schema)
        for lines, schema in ((rows, ENTITIES), ([[0, "in", "in"]], RELATIONS), (aliases, ALIASES))
    ]
    with write_artifact(Saved(output=tmp_path / "graph"), stage="kg build") as writer:
        KnowledgeGraph(entities=tables[0], relations=tables[1], aliases=tables[2], triples=[[1, 0, 2]]).save(
            writer.path
        )
    return tmp_path / "graph"


@pytest.mark.parametrize("name", ["null", "1984", "{a: 1}", "[x]", "@file", "-40", "Żółw", "Q1"])
def test_a_name_is_taken_as_it_was_typed(name: str, graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML would make a number of 1984 and nothing of null."""
    assert main(["kg", "query", str(graph), name]) == 0
    assert "id           Q1\n" in capsys.readouterr().out


def test_a_view_prints_and_writes_nothing(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(graph.parent.rglob("*"))
    assert main(["kg", "info", "--json", str(graph)]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["triples"] == 1
    assert main(["kg", "info", str(graph), "--top", "3"]) == 0
    assert capsys.readouterr().out.startswith("graph ")
    assert main(["kg", "query", str(graph), "nobody"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ernie-kg: no entity has the name or the id 'nobody'\n"
    assert sorted(graph.parent.rglob("*")) == before


def test_export_takes_its_graph_as_a_bare_word(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = graph.parent / "out"
    assert main(["kg", "export", str(graph), "--dry-run", "--format", "tsv", "--output", str(output)]) == 0
    assert not output.exists()
    assert main(["kg", "export", "--format", "tsv", str(graph), "--output", str(output)]) == 0
    assert "2 entities, 1 triples as entities.jsonl, relations.tsv, triples.tsv" in capsys.readouterr().out
    assert (output / "triples.tsv").read_text() == "Q1\tin\tQ2\n"


def test_an_error_cannot_drive_the_terminal(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kg", "info", "no\x1b[31m\x9bfolder"]) == 2
    assert not set(capsys.readouterr().err) & set("\x1b\x9b")


def test_a_closed_pipe_and_a_narrow_encoding_are_no_fault(graph: Path) -> None:
    """`ernie-kg kg info … | head -1` is an everyday command."""
    command = [sys.executable, "-m", "ernie_kg.cli", "kg", "query", str(graph), "Q1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()
    narrow = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=narrow, check=True)
    assert rb"\u017b\xf3\u0142w" in done.stdout
