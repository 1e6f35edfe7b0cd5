"""Every code block of README and docs is run, page by page, in a folder that holds what the page speaks of."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import page_blocks
import page_props
import pytest
from page_shell import Shell

from ernie_kg.cli import main

pytestmark = [pytest.mark.slow]
Run = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def made(own_data_run: Run, tiny_bert: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What several pages speak of, made once: the finished run of the made world, its linker and a typing model, and
    graphs of a small Wikidata dump and of two kinds of banks, with vectors."""
    folder = tmp_path_factory.mktemp("made")
    own = own_data_run[0] / "runs/own-data"
    shutil.copytree(own, folder / "own")
    shutil.copytree(tiny_bert, folder / "bert")
    page_props.write_dump(folder)
    wiki, dump = folder / "wiki", str(folder / "latest-all.json.gz")
    ours("kg build", reader="wikidata_json", source=dump, output=wiki / "graph")
    ours("kg embed", graph=wiki / "graph", dim=16, epochs=2, output=wiki / "vectors")
    ours("link train", graph=own / "graph", vectors=own / "vectors", output=folder / "linker")
    page_props.write_banks(folder)
    bank = folder / "bank"
    ours("kg build", reader="tsv", source=folder / "banks", output=bank / "graph")
    ours("kg embed", graph=bank / "graph", dim=16, epochs=20, output=bank / "vectors")
    ours("link train", graph=bank / "graph", vectors=bank / "vectors", output=bank / "linker")
    _write_typed_mentions(world, folder / "typed.jsonl")
    examples = {"task": "entity_typing", "train": folder / "typed.jsonl", "output": folder / "typed"}
    ours("finetune import", format="jsonl", **examples)
    few = {"training.max_steps": 4, "training.batch_size": 4}
    model = {"examples": folder / "typed", "model": own / "pretrained", "vectors": own / "vectors", **few}
    ours("finetune run", task="entity_typing", output=folder / "typing-model", **model)
    return folder


def ours(command: str, **options: object) -> None:
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    assert main([*command.split(), *words]) == 0, command


def _write_typed_mentions(world: Path, path: Path) -> None:
    records = [json.loads(line) for line in (world / "entities.jsonl").read_text().splitlines()]
    with path.open("w") as file:
        for number, record in enumerate(records[::4]):
            name = record["id"]
            span = {"start": 0, "end": len(name), "role": "mention"}
            link = {"start": 0, "end": len(name), "entity": name, "score": 1.0}
            line = {"id": str(number), "text": f"{name} is here.", "spans": [span], "links": [link]}
            file.write(json.dumps({**line, "labels": record["types"]}) + "\n")


@pytest.mark.parametrize("page", page_blocks.SHOWN, ids=lambda page: str(page.relative_to(page_blocks.ROOT)))
def test_a_page_does_what_it_says(
    page: Path,
    made: Path,
    world: Path,
    own_data_words: list[str],
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tutorial whose third command fails loses the reader at the second."""
    name = str(page.relative_to(page_blocks.ROOT))
    page_props.lay_out(name, tmp_path, made, world)
    monkeypatch.chdir(tmp_path)
    shell = Shell(name, tmp_path, own_data_words, tiny_bert, monkeypatch)
    shown = [block for block in page_blocks.blocks(page) if block.language != "text" and not block.not_run]
    for block in shown:
        shell.run(block)
    assert shell.ran >= len(shown)


def test_every_block_says_what_it_is() -> None:
    """A block without a language, or one of commands that calls itself text, would never be run."""
    for block in page_blocks.ALL:
        assert block.language in page_blocks.LANGUAGES, f"{block.name}: {block.language!r}"
        if block.language == "text":
            assert "ernie-kg " not in block.text, block.name


def test_nothing_is_left_out_without_a_reason_on_its_page() -> None:
    """The list of what is not run; a block that joins it says in its page's source why."""
    assert [(block.name, block.not_run) for block in page_blocks.ALL if block.not_run] == []
