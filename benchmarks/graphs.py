"""The table of what the knowledge-graph stage must reach beside what it reaches, from the other benchmarks in one run.

python benchmarks/graphs.py --fb15k237 FOLDER --wn18rr FOLDER --peers pykeen=VENV/bin/python pbg=VENV/bin/python

FOLDER holds train.tsv, valid.tsv, test.tsv. The JSON lines of `embedding.py`, `peers.py`, `wall_time.py` and
`readers.py` are printed as they come, then the table, in Markdown. What is not given is left out: without `--peers` no
ratios, without pykeen among them no wall time. About a quarter of an hour with everything; `--only` takes parts of it.
The file is not called `kg.py`, since that would shadow the package for every benchmark beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROADS = HERE.parent / "configs" / "kg"
Line = dict[str, Any]


class Goal(NamedTuple):
    """A row of the table. least: whether more is better."""

    what: str
    target: float
    reached: float
    least: bool = True

    def row(self) -> str:
        good = self.reached >= self.target if self.least else self.reached <= self.target
        sign = "≥" if self.least else "≤"
        return f"| {self.what} | {sign} {self.target:g} | {self.reached:.4g} | {'yes' if good else 'not reached'} |"


class Published(NamedTuple):
    """What a published split asks for: MRR and hits@10 within so many seconds of training."""

    mrr: float
    hits: float
    seconds: float


PARTS = ("readers", "training", "peers", "wall_time")
PUBLISHED = {"fb15k237": Published(0.305, 0.492, 150.0), "wn18rr": Published(0.220, 0.520, 100.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PUBLISHED:
        parser.add_argument(f"--{name}", type=Path, help="folder of its triples")
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON", help="as of peers.py")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each peer's training")
    parser.add_argument("--readers", nargs="*", default=["wikidata_json", "rdf", "wordnet"], help="as of readers.py")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the table")
    parser.add_argument("--threads", type=int, default=2, help="of the peers and of ours beside them")
    arguments = parser.parse_args()
    goals: list[Goal] = []
    if "readers" in arguments.only:
        goals += reading(arguments.readers, arguments.fb15k237)
    for name, published in PUBLISHED.items():
        if (triples := getattr(arguments, name)) is None:
            continue
        given = ("--triples", triples, "--threads", arguments.threads)
        if "training" in arguments.only:
            goals += training(name, triples, published)
        if "peers" in arguments.only and arguments.peers:
            goals += speed(name, *given, "--seconds", arguments.seconds, "--peers", *arguments.peers)
        if "wall_time" in arguments.only and (python := pythons(arguments.peers).get("pykeen")):
            goals += wall_time(name, *given, "--seconds", 4 * arguments.seconds, "--python", python)
    print("\n| what | target | reached | |\n|---|--:|--:|---|")
    print("\n".join(goal.row() for goal in goals))


def reading(readers: list[str], fb15k237: Path | None) -> Iterator[Goal]:
    if fb15k237 is not None:
        (line,) = printed("readers.py", "--only", "tsv", "--source", fb15k237)
        yield Goal("fb15k237: seconds of kg build", 3.0, line["build_seconds"], least=False)
    if not readers:
        return
    speeds = {"wikidata_json": 120.0, "rdf": 100.0}
    for line in printed("readers.py", "--only", *readers):
        if line["reader"] in speeds:
            yield Goal(f"{line['reader']}: MB/s read", speeds[line["reader"]], line["read_mb_per_second"])
        if line["reader"] == "wordnet":
            yield Goal("wordnet: seconds of kg build", 20.0, line["build_seconds"], least=False)
        yield Goal(
            f"{line['reader']}: MB at most in kg build", line["allowed_memory_mb"], line["peak_memory_mb"], least=False
        )


def training(name: str, triples: Path, published: Published) -> Iterator[Goal]:
    (line,) = printed("embedding.py", ROADS / f"{name}.yaml", "--source", triples)
    yield Goal(f"{name}: test MRR", published.mrr, line["mrr"])
    yield Goal(f"{name}: test hits@10", published.hits, line["hits@10"])
    yield Goal(f"{name}: seconds of training", published.seconds, line["training_seconds"], least=False)
    yield Goal(f"{name}: MB at most in kg embed", line["allowed_memory_mb"], line["peak_memory_mb"], least=False)
    yield Goal(f"{name}: seconds of ranking the test", 30.0, line["test_seconds"], least=False)


def speed(name: str, *words: Any) -> Iterator[Goal]:
    asked = {"pykeen": 30.0}
    for line in printed("peers.py", *words):
        if (peer := line.get("times_as_fast_as")) is not None:
            best = max(of for system, of in line.items() if system.startswith("ours"))
            yield Goal(f"{name}: times as many triples/s as {peer}", asked.get(peer, 2.0), best)


def wall_time(name: str, *words: Any) -> Iterator[Goal]:
    for line in printed("wall_time.py", ROADS / f"{name}.yaml", *words):
        if "times_as_fast" in line:
            yield Goal(f"{name}: times as quick to the MRR of pykeen, {line['against']}", 30.0, line["times_as_fast"])
        if (times := line.get("extrapolated_times_as_fast")) is not None:
            yield Goal(f"{name}: times as quick to the published MRR, pykeen's time extrapolated", 30.0, times)


def pythons(peers: list[str]) -> dict[str, str]:
    return dict(peer.split("=", 1) for peer in peers)


def printed(script: str, *words: Any) -> list[Line]:
    """The JSON lines of a benchmark, which are shown as well."""
    command = [sys.executable, str(HERE / script), *map(str, words)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None, "its output was asked for"
        for text in child.stdout:
            print(text, end="", flush=True)
            lines.append(json.loads(text))
    if child.returncode:
        raise SystemExit(f"{script} ended with code {child.returncode}")
    return lines


if __name__ == "__main__":
    main()
