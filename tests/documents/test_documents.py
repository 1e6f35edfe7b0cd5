"""The site is whole, licences are listed, notebooks run; what pages show is run by `test_pages_run.py`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_blocks import ROOT

Run = tuple[Path, subprocess.CompletedProcess[str]]


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


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def sandbox(own_data_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copytree(own_data_run[0], folder, dirs_exist_ok=True)
    return folder


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
