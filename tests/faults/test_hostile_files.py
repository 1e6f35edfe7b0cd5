"""Files from strangers: YAML that explodes, labels without end, pickles, archives; each is refused or harmless."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import resource
import shutil
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from ernie_kg.yaml_file import read_yaml
from kg.build import BuildConfig, run
from kg.errors import InputError
from kg.graph import KnowledgeGraph

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kg", "entity_linking", "ernie", "pretrain", "finetune", "ernie_kg", "scripts")
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "unfold to more than 100,000 values"),
        ("a: &a [*a]\n", "inside its own value"),
        ("a: " + "[" * 3000 + "]" * 3000, "levels"),
        ("a: " + "[" * 60 + "]" * 60, "over 50 levels"),
        ("output: x\nstages: {}\noutput: y\n", "'output' is given twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("a: 2026-99-99\n", "not valid YAML"),
        ("x" * (1 << 20) + "yy", "at most 1,048,576 bytes"),
        ("", "expected a mapping"),
    ],
    ids=["laughs", "circle", "deep", "too-deep", "twice", "object", "date", "large", "empty"],
)
def test_yaml_that_explodes_is_one_line_at_once(tmp_path: Path, text: str, message: str) -> None:
    """Twelve lines of aliases are 10¹² values to whoever walks them: the process would eat all memory and be killed."""
    (tmp_path / "c.yaml").write_text(text)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "c.yaml")
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "half a gigabyte more"


def test_an_honest_alias_still_works(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("base: &base {a: 1}\nuse: {<<: *base, b: 2}\n")
    assert read_yaml(tmp_path / "c.yaml")["use"] == {"a": 1, "b": 2}


def test_endless_labels_are_cut_counted_and_shown_short(tmp_path: Path) -> None:
    """A label of millions of lines would fill every table and page it is shown on."""
    endless = "line\n" * 2_000_000
    (tmp_path / "kg").mkdir()
    (tmp_path / "kg/triples.tsv").write_text("a\tr\tb\nb\tr\tc\n")
    record = {"id": "a", "label": endless, "aliases": [endless, "short"], "description": endless}
    (tmp_path / "kg/entities.jsonl").write_text(json.dumps(record) + "\n")
    folder = run(BuildConfig(reader="tsv", source=str(tmp_path / "kg"), output=tmp_path / "graph"))
    graph = KnowledgeGraph.load(folder)
    assert max(len(label) for label in graph.labels) <= 1_000
    assert max(len(text) for text in graph.entities["description"].to_pylist()) <= 100_000
    assert max(len(alias) for alias in graph.aliases["alias"].to_pylist()) <= 1_000
    dropped = json.loads((folder / "manifest.json").read_text())["dropped"]
    assert sum(count for reason, count in dropped.items() if "long" in reason or "cut" in reason) >= 2, dropped


@pytest.mark.parametrize("packed", ["zip", "tar", "tar.gz"])
def test_an_archive_is_read_as_bytes_and_never_unpacked(tmp_path: Path, packed: str) -> None:
    """A member named `../../.bashrc` is only dangerous to whoever extracts members: no reader of ours does."""
    source = tmp_path / "in" / f"triples.tsv.{packed}"
    source.parent.mkdir()
    content = b"a\tr\tb\n"
    if packed == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("../../escaped.tsv", content)
    else:
        with tarfile.open(source, "w:gz" if packed.endswith("gz") else "w") as archive:
            member = tarfile.TarInfo("../../escaped.tsv")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    before = {path for path in tmp_path.parent.rglob("*") if "escaped" in path.name}
    with pytest.raises(InputError, match=re.escape(str(source))):
        run(BuildConfig(reader="tsv", source=str(source), output=tmp_path / "graph"))
    assert {path for path in tmp_path.parent.rglob("*") if "escaped" in path.name} == before
    assert not (tmp_path / "graph").exists()


def test_an_unreadable_input_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Another user's file. Root reads everything, so a child gives up its rights, once all is imported."""
    from ernie_kg.cli import main

    with tempfile.TemporaryDirectory() as name:
        folder, readable, source = Path(name), Path(name) / "readable.tsv", Path(name) / "secret.tsv"
        folder.chmod(0o777)
        for path in (readable, source):
            path.write_text("a\tr\tb\n")
        source.chmod(0)
        build = ["kg", "build", "--reader", "tsv", "--output", str(folder / "graph"), "--source"]
        assert main([*build, str(readable)]) == 0
        shutil.rmtree(folder / "graph")
        child = os.fork()
        if child == 0:
            if os.geteuid() == 0:
                os.seteuid(65_534)
            os._exit(main([*build, str(source)]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert re.search(r"ernie-kg: .*Permission denied.*secret.tsv", capfd.readouterr().err)
        assert not (folder / "graph").exists()


def _calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _keywords(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}


def test_no_code_of_ours_unpickles_extracts_or_evaluates() -> None:
    """One `torch.load` without weights_only runs whatever a downloaded checkpoint says."""
    faults = []
    for path in sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for name, call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            keywords, last = _keywords(call), name.rpartition(".")[2]
            bad = (
                (name == "torch.load" and keywords.get("weights_only") != "True")
                or name
                in {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "shelve.open"}
                or (name in {"np.load", "numpy.load"} and keywords.get("allow_pickle", "False") != "False")
                or (name.startswith("yaml.") and last in {"load", "unsafe_load", "full_load"})
                or name in {"eval", "exec", "os.system"}
                or last in {"extractall", "extract", "unpack_archive"}
                or keywords.get("shell") == "True"
                or keywords.get("trust_remote_code") == "True"
            )
            if bad:
                faults.append(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)[:80]}")
    assert faults == []
