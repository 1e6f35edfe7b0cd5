"""A made world: a graph of a few hundred entities, texts that speak of them, and a tiny BERT that can read them."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ONSETS = [
    "Bar",
    "Cal",
    "Dor",
    "Fen",
    "Gal",
    "Hul",
    "Jor",
    "Kel",
    "Lom",
    "Mar",
    "Nor",
    "Pel",
    "Quin",
    "Ras",
    "Sel",
    "Tor",
]
ENDINGS = {"town": "ville", "river": "water", "person": "son", "company": "corp"}
SENTENCES = {
    "flows_through": "The {h} flows through {t}.",
    "lives_in": "{h} has lived in {t} for many years.",
    "works_for": "{h} works for {t} as an engineer.",
    "based_in": "{h} is a firm with its seat in {t}.",
}
SIDES = {
    "flows_through": ("river", "town"),
    "lives_in": ("person", "town"),
    "works_for": ("person", "company"),
    "based_in": ("company", "town"),
}


@pytest.fixture(autouse=True, scope="module")
def _look_only_at_new_garbage() -> None:
    """Stages collect garbage between their steps: with torch and old tests around, a second each time."""
    gc.freeze()


def make_world(folder: Path, *, per_kind: int = 60, facts: int = 900, seed: int = 5) -> Path:
    """Writes triples.tsv, entities.jsonl and text/*.txt + text/more.jsonl; four kinds of entities, four relations."""
    rng = random.Random(seed)
    names: dict[str, list[str]] = {kind: [] for kind in ENDINGS}
    for kind, ending in ENDINGS.items():
        while len(names[kind]) < per_kind:
            name = rng.choice(ONSETS) + rng.choice(ONSETS).lower() + ending
            if name not in names[kind]:
                names[kind].append(name)
    triples: set[tuple[str, str, str]] = set()
    while len(triples) < facts:
        relation = rng.choice(sorted(SIDES))
        head, tail = SIDES[relation]
        triples.add((rng.choice(names[head]), relation, rng.choice(names[tail])))
    ordered = sorted(triples)
    rng.shuffle(ordered)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "triples.tsv").write_text("".join(f"{h}\t{r}\t{t}\n" for h, r, t in ordered), encoding="utf-8")
    with (folder / "entities.jsonl").open("w", encoding="utf-8") as file:
        for kind, members in names.items():
            for name in members:
                record = {"id": name, "label": name, "description": f"a {kind}", "types": [kind]}
                file.write(json.dumps(record) + "\n")
    texts = [" ".join(_sentence(rng, fact) for fact in rng.sample(ordered, 4)) for _ in range(240)]
    (folder / "text").mkdir(exist_ok=True)
    for number, text in enumerate(texts[:200]):
        (folder / "text" / f"doc{number:03d}.txt").write_text(text, encoding="utf-8")
    lines = [json.dumps({"id": f"line{number}", "text": text}) for number, text in enumerate(texts[200:])]
    (folder / "text" / "more.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_tiny_bert(folder: Path, texts: list[str], *, layers: int = 4, hidden: int = 48) -> Path:
    """A random BERT with a word-piece vocabulary of the texts, saved as a folder that `from_pretrained` opens."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer, set_seed

    folder.mkdir(parents=True, exist_ok=True)
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(texts, vocab_size=600, show_progress=False)
    trainer.save_model(str(folder))
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    set_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * hidden, max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def _sentence(rng: random.Random, fact: tuple[str, str, str]) -> str:
    head, relation, tail = fact
    return SENTENCES[relation].format(h=head, t=tail) + rng.choice(["", " It was a cold winter.", " Nobody minds."])


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the made world."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def tiny_bert(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny BERT."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((world / "text").glob("*.txt"))]
    return make_tiny_bert(tmp_path_factory.mktemp("bert"), texts)


def ernie_kg(*words: str, cwd: Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, one thread, as a user would type it."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ernie_kg.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout, env=variables)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`ernie_kg`, handed to tests as a fixture because a conftest is not imported by name."""
    return ernie_kg


class Warm:
    """`tests/warm.py` at work: starts commands of ours that begin at once, as processes to watch and to kill."""

    def __init__(self, folder: Path) -> None:
        self.errors = folder / "errors.txt"
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        script = Path(__file__).with_name("warm.py")  # -P: or the folders beside it would stand for our packages
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        assert self._answer() == {"ready": True}

    def start(self, words: list[str], cwd: Path, *, printed: Path | None = None, mounts: bool = False) -> int:
        """The number of the process that runs the command line. printed: where a driver's lines go. mounts: it gets
        mounts of its own, or ends with `warm.NO_MOUNTS`."""
        self.errors.write_text("")
        request: dict[str, object] = {"words": words, "cwd": str(cwd), "errors": str(self.errors), "mounts": mounts}
        return self._ask(request | ({"printed": str(printed)} if printed else {}))["pid"]

    def wait(self, pid: int) -> int:
        """Its exit code, negative for the signal that ended it."""
        return self._ask({"wait": pid})["code"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, request: dict[str, object]) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the warm process ended with {self._process.wait(10)}"
        return json.loads(line)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Started once, because what it imports takes seconds."""
    process = Warm(tmp_path_factory.mktemp("warm"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def own_data_words(tiny_bert: Path) -> list[str]:
    """`run configs/own-data.yaml` with the tiny BERT, few steps and rates that a random encoder needs."""
    overrides = {
        "instances.tokenizer": tiny_bert,
        "pretrained.base": tiny_bert,
        "vectors.dim": 16,
        "pretrained.freeze_text_steps": 0,  # a random encoder has nothing to keep
        "pretrained.training.learning_rate": 1e-3,
        "pretrained.training.max_steps": 40,
        "pretrained.training.save_every": 7,
        "model.training.learning_rate": 1e-3,
        "model.training.max_steps": 160,
        "model.training.save_every": 11,
        "student.intermediate.learning_rate": 1e-3,
        "student.intermediate.max_steps": 40,
        "student.prediction.learning_rate": 1e-3,
        "student.prediction.max_steps": 40,
    }
    road = Path(__file__).resolve().parents[1] / "configs" / "own-data.yaml"
    return ["run", str(road), *(word for key, value in overrides.items() for word in (f"--{key}", str(value)))]


@pytest.fixture(scope="session")
def own_data_run(
    world: Path, own_data_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of an undisturbed run of the road on the made world, and what the command printed."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(world, folder / "own-data")
    result = ernie_kg(*own_data_words, cwd=folder)
    return folder, result


@pytest.fixture(scope="session")
def long_faults() -> bool:
    """Whether the fault suite runs in full: `make faults` sets ERNIE_KG_FAULTS=long."""
    return os.environ.get("ERNIE_KG_FAULTS") == "long"
