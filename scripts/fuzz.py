"""Coverage-guided fuzzing (atheris) of what reads strangers' bytes: every reader, the config loader, the matcher.

    python scripts/fuzz.py --seconds 60            # each target in turn, a JSON line each
    python scripts/fuzz.py --seconds 60 --target obo

A target passes while it answers or raises InputError; anything else ends it, and the bytes that did it are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SEEDS: dict[str, tuple[str, bytes]] = {
    "tsv": ("triples.tsv", b"head\trelation\ttail\na\tr\tb\nb\tr\tc d\n"),
    "wikidata_json": (
        "dump.json",
        b'[\n{"type":"item","id":"Q1","labels":{"en":{"language":"en","value":"one"}},"claims":{}}\n]\n',
    ),
    "rdf": ("graph.nt", b'<http://a> <http://r> <http://b> .\n<http://a> <http://l> "x"@en .\n'),
    "obo": ("o.obo", b"format-version: 1.2\n\n[Term]\nid: A:1\nname: one\nis_a: A:2 ! two\n"),
    "networkx": ("g.json", b'{"directed":true,"nodes":[{"id":"a"}],"edges":[{"source":"a","target":"a"}]}'),
    "config": ("road.yaml", b"output: runs/x\nstages:\n  graph: {stage: kg build, reader: tsv, source: x}\n"),
    "matcher": ("text", b"Kyiv and New York\0Kyiv is not New York."),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", choices=sorted(SEEDS), help="this one alone")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.target, options.seconds)
    names = [options.target] if options.target else list(SEEDS)
    return max([run(name, options.seconds) for name in names])


def run(name: str, seconds: int) -> int:
    """One target in a process of its own, for atheris ends the process it runs in."""
    command = [sys.executable, __file__, "--inside", "--target", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    runs = re.findall(r"#(\d+)\s", done.stderr)
    print(
        json.dumps(
            {"target": name, "seconds": seconds, "runs": int(runs[-1]) if runs else 0, "passed": done.returncode == 0}
        )
    )
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
    return int(done.returncode != 0)


def fuzz(name: str, seconds: int) -> None:
    """Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["kg", "ernie_kg"]):
        read = target(name)
    from kg.errors import InputError

    file, seed = SEEDS[name]
    with tempfile.TemporaryDirectory() as folder:
        place, corpus = Path(folder) / file, Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "seed").write_bytes(seed)

        def once(content: bytes) -> None:
            place.write_bytes(content)
            try:
                read(place)
            except InputError:
                return

        found = f"-artifact_prefix={tempfile.gettempdir()}/ernie-kg-fuzz-{name}-"
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", found, str(corpus)], once
        )
        atheris.Fuzz()


def target(name: str) -> Callable[[Path], object]:
    """What is called with a file of random bytes."""
    if name == "config":
        from ernie_kg.pipeline import load_road

        return load_road
    if name == "matcher":
        from entity_linking.alias_table import AliasTable
        from entity_linking.matcher import AliasMatcher

        def match(path: Path) -> None:
            aliases, _, text = path.read_bytes().decode("utf-8", "replace").partition("\0")
            found = AliasMatcher(AliasTable.from_aliases(aliases.split("\n"))).detect([text])
            assert (found.start < found.end).all() and (found.end <= len(text)).all(), "a mention leaves its text"  # noqa: PT018

        return match
    from kg.readers.table import READERS
    from kg.records import ReadOptions

    return lambda path: list(READERS[name].read(path, ReadOptions()).batches)


if __name__ == "__main__":
    sys.exit(main())
