"""What README and docs show is run, or at least understood, by the program they are about."""

from __future__ import annotations

import ast
import contextlib
import csv
import gzip
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ernie_kg.cli import main, with_keys
from ernie_kg.config import check_options
from ernie_kg.stages import STAGES, VIEWS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.name not in ("api.md", "reference.md")
)
RUN = ("tutorials/wikidata", "tutorials/biomedical", "tutorials/products", "tutorials/own-labels", "tutorials/deploy")
RUN += ("howto/explore", "howto/resume")
"""Pages whose blocks are run in order, in a folder that holds the finished run of the made world."""
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
Run = tuple[Path, subprocess.CompletedProcess[str]]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the page, the line it begins at, its language ("" for none), its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Lines that begin with one of our commands, as words; comments are cut off, lines that end in \\ joined."""
        lines = self.text.replace("\\\n", " ").split("\n")
        ours = [re.sub(r"^\.venv/bin/", "", line.strip()) for line in lines]
        return [
            shlex.split(line, comments=True) for line in ours if re.match(r"(ernie-kg|make) [a-z]", line)
        ]  # fmt: skip


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        fence = re.match(r"^(\s*)```(\w*)\s*$", line)
        if fence and opened is None:
            opened, lines = (number, fence[2], fence[1]), []
        elif fence and opened is not None:
            found.append(Block(page, opened[0], opened[1], "\n".join(lines)))
            opened = None
        elif opened is not None:
            lines.append(line.removeprefix(opened[2]))
    assert opened is None, f"{page}: the block of line {opened and opened[0]} is never closed"
    return found


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_every_block_is_understood(block: Block) -> None:
    """A renamed option, key or class makes a page wrong without a sound."""
    if block.language == "python":
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
    elif block.language == "json":
        for line in filter(None, block.text.split("\n")):
            json.loads(line)
    elif block.language == "yaml":
        assert isinstance(yaml.safe_load(block.text), dict)
    else:
        for words in block.commands:
            _understood(words)


def _understood(words: list[str]) -> None:
    if words[0] == "make":
        assert words[1] in TARGETS, f"make {words[1]}"
        return
    words = words[1:]
    words = words[: next((place for place, word in enumerate(words) if word in (">", "|", "&&", ";")), len(words))]
    if words[0] in ("run", "--help", "--version"):
        assert words[0] != "run" or words[1].endswith(".yaml"), words
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in {**STAGES, **VIEWS} else words[0]
    of = STAGES.get(name) or VIEWS[name]
    rest = words[len(name.split()) :]
    keyed = with_keys(name, rest, of.places, flags=("dry-run", "help", "explain", "debug"))
    check_options(of.config_class(), [w for w in keyed if w != "--debug"], command=name, flags=("explain",))


@pytest.fixture(scope="module")
def sandbox(own_data_run: Run, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and the files that the tutorials name."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(own_data_run[0], folder, dirs_exist_ok=True)
    _write_dump(folder / "latest-all.json.gz")
    (folder / "ontology.obo").write_text(OBO)
    lines = [{"id": "1", "title": "t", "text": "Programmed cell death, or apoptosis, is a cell process."}]
    (folder / "abstracts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "also_called", "brand", "category", "sold"])
        writer.writerow(["P1", "Alpina 3 kettle", "Alpina kettle|Alpina 3", "Alpina", "kettle", "120"])
        writer.writerow(["P2", "Bergen toaster", "", "Bergen", "toaster", "80"])
        writer.writerow(["P3", "Alpina 5 kettle", "Alpina 5", "Alpina", "kettle", "15"])
        writer.writerow(["P4", "Bergen kettle", "", "Bergen", "kettle", "40"])
    return folder


OBO = "format-version: 1.2\n" + "".join(
    f"\n[Term]\nid: GO:{number}\nname: {name}\n{extra}"
    for number, name, extra in (
        (1, "biological process", ""),
        (2, "cell process", "is_a: GO:1 ! biological process\n"),
        (3, "cell death", "is_a: GO:2 ! cell process\n"),
        (4, "apoptosis", 'synonym: "programmed cell death" EXACT []\nis_a: GO:3 ! cell death\n'),
        (5, "necrosis", "is_a: GO:3 ! cell death\n"),
    )
)


def _write_dump(path: Path) -> None:
    names = {1: "Kyiv", 2: "Ukraine", 3: "Lviv", 4: "Dnipro", 5: "Europe", 6: "city"}
    facts = [(1, "P17", 2), (3, "P17", 2), (4, "P17", 2), (2, "P30", 5), (1, "P31", 6), (3, "P31", 6), (2, "P36", 1)]
    items = [
        {
            "type": "item",
            "id": f"Q{number}",
            "labels": {"en": {"language": "en", "value": name}},
            "claims": {
                relation: [
                    {
                        "mainsnak": {
                            "snaktype": "value", "property": relation,
                            "datavalue": {
                                "type": "wikibase-entityid", "value": {"entity-type": "item", "id": f"Q{tail}"}
                            },
                        },
                        "type": "statement", "rank": "normal",
                    }
                ]
                for head, relation, tail in facts
                if head == number
            },
        }
        for number, name in names.items()
    ]  # fmt: skip
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_says(
    page: str, sandbox: Path, own_data_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A tutorial whose third command fails loses the reader at the second."""
    names: dict[str, object] = {}
    ran = 0
    with _inside(sandbox):
        for block in blocks(ROOT / "docs" / f"{page}.md"):
            if block.language == "python":
                exec(compile(block.text, block.name, "exec"), names)
                ran += 1
            for words in block.commands:
                words = own_data_words if words[1:2] == ["run"] else words[1:]
                assert main(words) == 0, f"{block.name}: {words}\n{capsys.readouterr().err[-2000:]}"
                ran += 1
    assert ran >= 1


def test_the_pages_that_are_run_exist_and_show_something() -> None:
    for page in RUN:
        shown = blocks(ROOT / "docs" / f"{page}.md")
        assert any(block.language == "python" or block.commands for block in shown), page


def test_every_page_stands_in_the_site_and_the_site_is_whole(tmp_path: Path) -> None:
    """A page outside the navigation is found by nobody; a broken link shows in a strict build alone."""
    mkdocs = pytest.importorskip("mkdocs.config", reason="mkdocs is not installed")
    if not (ROOT / "docs/api.md").exists():
        subprocess.run([sys.executable, str(ROOT / "scripts/write_api.py")], check=True, capture_output=True)
    from mkdocs.commands.build import build

    config = mkdocs.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build(config)
    assert (tmp_path / "site/tutorials/wikidata/index.html").exists()


def test_the_list_of_licences_is_that_of_the_pinned_packages() -> None:
    """A package added without a look at its licence."""
    lines = (ROOT / "docs/licences.md").read_text(encoding="utf-8").splitlines()
    listed = {line.split(" | ")[0].removeprefix("| ").lower() for line in lines if line.startswith("| ")}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==")[0].strip() for line in pins if "==" in line and not line.startswith("#")]
    from importlib import metadata

    here = {name for name in pinned if _installed(metadata, name)}
    assert {name.lower() for name in here} <= listed, "run `make audit`"


def _installed(metadata, name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells in order, on a small run; none of them uses what only a notebook's own program has."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    with _inside(sandbox):
        for number, cell in enumerate(content["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    assert capsys.readouterr().out.strip()


def test_there_are_three_notebooks_without_stored_output() -> None:
    """Stored output goes stale, and may hold what nobody meant to publish."""
    assert len(NOTEBOOKS) >= 3
    for notebook in NOTEBOOKS:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        assert code
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), notebook.name
