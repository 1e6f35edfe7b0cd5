"""How fast `kg build` reads, and in how much memory: one JSON line a figure, each from a process of its own.

python benchmarks/readers.py                          made Wikidata JSON and N-Triples, WordNet where installed
python benchmarks/readers.py --entities 2000000 --lean --only wikidata_json       the memory of a large dump
python benchmarks/readers.py --source FB15K237_FOLDER --only tsv

The made dump is as deep as the real one: labels in 25 languages, references and hashes around every statement, about
7 kB an item; `--lean` leaves one language and no references, about 2 kB. Its facts are random, so that nothing about
a graph of knowledge can be read off them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

LANGUAGES = (
    "en",
    "de",
    "fr",
    "es",
    "it",
    "ru",
    "ja",
    "zh",
    "pl",
    "nl",
    "pt",
    "sv",
    *(f"x{letter}" for letter in "abcdefghijklm"),
)
STATEMENTS = 6
ENTITY, DIRECT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
MEMORY_BASE, MEMORY_PER_TRIPLE = 2e9, 120  # what a build may take

READ = """
import json, sys, time
from pathlib import Path
from kg.readers.table import READERS
from kg.records import ReadOptions
batches = READERS[sys.argv[1]].read(Path(sys.argv[2]), ReadOptions()).batches  # the reader's module is loaded by now
started, entities, triples = time.perf_counter(), 0, 0
for batch in batches:
    entities, triples = entities + len(batch.entities), triples + len(batch.heads)
print(json.dumps({"seconds": time.perf_counter() - started, "entities": entities, "triples": triples}))
"""
BUILD = """
import json, sys
from pathlib import Path
from kg.artifact import read_manifest
from kg.build import BuildConfig, run
data = read_manifest(run(BuildConfig(reader=sys.argv[1], source=sys.argv[2], output=Path(sys.argv[3])))).data
print(json.dumps({"seconds": data["seconds"], "peak_bytes": data["peak_memory_bytes"], **data["counts"]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=15_000, help="items of the made dump")
    parser.add_argument("--lean", action="store_true", help="one language, no references")
    parser.add_argument("--only", nargs="+", default=["wikidata_json", "rdf", "wordnet"], help="readers to measure")
    parser.add_argument("--source", type=Path, help="a source of your own for the reader of --only")
    parser.add_argument("--work", type=Path, help="where the made dumps lie meanwhile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for reader in arguments.only:
            source = arguments.source or made(reader, Path(folder), arguments.entities, arguments.lean)
            measure(reader, source, Path(folder))


def measure(reader: str, source: Path | str, folder: Path) -> None:
    """Prints the reader's own speed, where its source is one file, and the whole stage's time and memory."""
    line: dict[str, Any] = {"benchmark": "kg build", "reader": reader}
    if Path(source).is_file():
        size = Path(source).stat().st_size
        found = child(READ, reader, source)
        line |= {"mb": round(size / 1e6), "read_mb_per_second": round(size / 1e6 / found["seconds"], 1)}
    found = child(BUILD, reader, source, folder / f"graph-{reader}")
    allowed = MEMORY_BASE + MEMORY_PER_TRIPLE * found["triples"]
    line |= {
        "build_seconds": found["seconds"],
        "entities": found["entities"],
        "triples": found["triples"],
        "peak_memory_mb": round(found["peak_bytes"] / 1e6),
        "allowed_memory_mb": round(allowed / 1e6),
        "memory_ok": found["peak_bytes"] <= allowed,
    }
    print(json.dumps(line), flush=True)


def child(code: str, *words: Any) -> dict[str, Any]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def made(reader: str, folder: Path, entities: int, lean: bool) -> Path | str:
    """A source for the reader; the two formats of one seed hold the same facts."""
    if reader == "wordnet":
        return "auto"
    write = {"wikidata_json": write_json, "rdf": write_ntriples}[reader]
    path = folder / {"wikidata_json": "dump.json", "rdf": "dump.nt"}[reader]
    write(path, items(entities, lean))
    return path


def items(count: int, lean: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Items of a made Wikidata; a few are named often, most hardly ever."""
    rng = random.Random(seed)
    codes = LANGUAGES[:1] if lean else LANGUAGES
    for number in range(1, count + 1):
        name = f"Q{number}"
        properties = rng.sample(range(1, 400), STATEMENTS)
        targets = [1 + int(rng.random() ** 2 * count) for _ in properties]
        yield {
            "type": "item",
            "id": name,
            "labels": {code: {"language": code, "value": f"label {number} {code}"} for code in codes},
            "descriptions": {code: {"language": code, "value": f"words on {number} in {code}"} for code in codes[:12]},
            "aliases": {"en": [{"language": "en", "value": f"alias {number} {place}"} for place in range(2)]},
            "claims": {
                f"P{kind}": [statement(name, kind, target, rng, lean)]
                for kind, target in zip(properties, targets, strict=True)
            },
            "sitelinks": {f"{code}wiki": {"site": f"{code}wiki", "title": f"Label {number}"} for code in codes[:10]},
            "modified": "2024-01-01T00:00:00Z",
        }


def statement(name: str, kind: int, target: int, rng: random.Random, lean: bool) -> dict[str, Any]:
    """A statement between items, with the hashes and the reference that surround one in the dump."""

    def snak(of: int, item: int) -> dict[str, Any]:
        value = {"entity-type": "item", "numeric-id": item, "id": f"Q{item}"}
        datavalue = {"value": value, "type": "wikibase-entityid"}
        return {
            "snaktype": "value",
            "property": f"P{of}",
            "hash": f"{rng.getrandbits(160):040x}",
            "datavalue": datavalue,
        }

    found = {"mainsnak": snak(kind, target), "type": "statement", "id": f"{name}${rng.getrandbits(128):032x}"}
    if not lean:
        found["references"] = [{"hash": f"{rng.getrandbits(160):040x}", "snaks": {"P248": [snak(248, 36578)]}}]
    return found | {"rank": "normal"}


def write_json(path: Path, found: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        file.write(b"[\n")
        for number, item in enumerate(found):
            file.write(b",\n" * bool(number) + orjson.dumps(item))
        file.write(b"\n]\n")


def write_ntriples(path: Path, found: Iterator[dict[str, Any]]) -> None:
    label, description = "http://www.w3.org/2000/01/rdf-schema#label", "http://schema.org/description"
    with path.open("w", encoding="utf-8") as file:
        for item in found:
            subject = f"<{ENTITY}{item['id']}>"
            for predicate, texts in ((label, item["labels"]), (description, item["descriptions"])):
                file.writelines(f'{subject} <{predicate}> "{t["value"]}"@{t["language"]} .\n' for t in texts.values())
            for relation, statements in item["claims"].items():
                target = statements[0]["mainsnak"]["datavalue"]["value"]["id"]
                file.write(f"{subject} <{DIRECT}{relation}> <{ENTITY}{target}> .\n")


if __name__ == "__main__":
    main()
