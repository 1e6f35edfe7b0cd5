"""What the pages speak of, laid out in a folder of each page's own: a small stand-in under every name."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FACTS = [
    ("Q1", "P17", "Q2"), ("Q3", "P17", "Q2"), ("Q4", "P17", "Q2"), ("Q2", "P30", "Q5"), ("Q1", "P31", "Q6"),
    ("Q3", "P31", "Q6"), ("Q2", "P36", "Q1"), ("Q392", "P19", "Q7"), ("Q392", "P106", "Q8"), ("Q47899", "P106", "Q8"),
    ("Q47899", "P19", "Q7"), ("Q7", "P17", "Q2"), ("Q7", "P31", "Q6"), ("Q392", "P737", "Q47899"), ("Q4", "P31", "Q6"),
]  # fmt: skip
"""Of a Wikidata dump, beside six of each item with the next ones."""
NAMES = {
    "Q1": "Kyiv", "Q2": "Ukraine", "Q3": "Lviv", "Q4": "Dnipro", "Q5": "Europe", "Q6": "city", "Q392": "Bob Dylan",
    "Q47899": "Paris", "Q7": "Duluth", "Q8": "singer",
}  # fmt: skip
OTHERS = 90
"""Items beside those: enough triples for a held-out set."""
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
BANKS = {
    "bank_of_river": ("river", "shore", "water", "boat", "fish", "reed", "mud", "current"),
    "bank_for_money": ("money", "loan", "cashier", "account", "cheque", "vault", "coin", "clerk"),
}
PRODUCTS = [
    ("sku", "name", "also_called", "brand", "category", "sold"),
    ("P1", "Alpina 3 kettle", "Alpina kettle|Alpina 3", "Alpina", "kettle", "120"),
    ("P2", "Bergen toaster", "", "Bergen", "toaster", "80"),
    ("P3", "Alpina 5 kettle", "Alpina 5", "Alpina", "kettle", "15"),
    ("P4", "Bergen kettle", "", "Bergen", "kettle", "40"),
]
ARTIFACTS: dict[str, dict[str, str]] = {
    "README.md": {"typing-model": "typing-model", "vectors": "wiki/vectors"},
    "docs/distillation.md": {"exported": "own/exported"},
    "docs/finetuning.md": {
        "pretrained": "own/pretrained", "graph": "own/graph", "vectors": "own/vectors", "linker": "linker",
        "instances": "own/instances", "topic-model": "typing-model",
    },
    "docs/howto/cluster.md": {"linker": "bank/linker", "vectors": "bank/vectors"},
    "docs/linking.md": {
        "G": "bank/graph", "V": "bank/vectors", "graph": "bank/graph", "vectors": "bank/vectors",
        "MODEL": "own/pretrained",
    },
    "docs/paraphrase.md": {"EXAMPLES": "typed"},
    "docs/pretraining.md": {"runs/linked": "own/linked", "runs/vectors": "own/vectors", "path/to/bert": "bert"},
}  # fmt: skip
"""Of each page: the name it gives an artifact, and which of the session's stands under it (`own`: a stage of the
finished run of the made world)."""


def lay_out(page: str, folder: Path, made: Path, world: Path) -> None:
    """Puts into `folder` the finished run, the artifacts that the page names and the files that it reads.

    made: the folder of the session's artifacts, as `ARTIFACTS` names them. Files are linked, not copied: stages replace
    their folders and never write into one.
    """
    _link(made / "own", folder / "runs/own-data")
    _link(world, folder / "own-data")
    for name, source in ARTIFACTS.get(page, {}).items():
        _link(made / source, folder / name)
    for write in FILES.get(page, ()):
        write(folder)


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.link)


def write_dump(folder: Path) -> None:
    """A Wikidata dump of a hundred items under the name of the whole one."""
    named = {**NAMES, **{f"Q{number}": f"item {number}" for number in range(1000, 1000 + OTHERS)}}
    lines = [json.dumps(_item(identifier, name)) for identifier, name in named.items()]
    with gzip.open(folder / "latest-all.json.gz", "wt", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n")


def _item(identifier: str, name: str) -> dict[str, object]:
    claims: dict[str, list[object]] = {}
    items = [*NAMES, *(f"Q{number}" for number in range(1000, 1000 + OTHERS))]
    steps = range(1, 7)
    ring = [(a, f"P36{step}", items[(place + step) % len(items)]) for place, a in enumerate(items) for step in steps]
    for head, relation, tail in [*FACTS, *ring]:
        if head == identifier:
            value = {"type": "wikibase-entityid", "value": {"entity-type": "item", "id": tail}}
            snak = {"snaktype": "value", "property": relation, "datavalue": value}
            claims.setdefault(relation, []).append({"mainsnak": snak, "type": "statement", "rank": "normal"})
    labels = {language: {"language": language, "value": name} for language in ("en", "de")}
    return {"type": "item", "id": identifier, "labels": labels, "claims": claims}


def write_ontology(folder: Path) -> None:
    (folder / "ontology.obo").write_text(OBO)
    line = {"id": "1", "title": "t", "text": "Programmed cell death, or apoptosis, is a cell process."}
    (folder / "abstracts.jsonl").write_text(json.dumps(line) + "\n")


def write_products(folder: Path) -> None:
    with (folder / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows(PRODUCTS)


def write_banks(folder: Path) -> None:
    """A source for `kg build` in which "bank" is two things, each with partners that tell it from the other."""
    (folder / "banks").mkdir()
    facts = [(bank, "near", partner) for bank, partners in BANKS.items() for partner in partners]
    (folder / "banks/triples.tsv").write_text("".join("\t".join(fact) + "\n" for fact in facts))
    kinds = {bank: {"label": "bank", "description": about} for bank, about in zip(BANKS, ("of a river", "for money"))}
    partners = {name: {"label": name} for names in BANKS.values() for name in names}
    with (folder / "banks/entities.jsonl").open("w") as file:
        for identifier, record in {**kinds, **partners}.items():
            file.write(json.dumps({"id": identifier, "types": ["thing"], **record}) + "\n")


def write_news(folder: Path) -> None:
    """Sentences about banks as JSON lines, and their links as gold in four files."""
    sentences = [(bank, partner) for bank, partners in BANKS.items() for partner in partners]
    gold = []
    for number in range(120):
        bank, partner = sentences[number * 7 % len(sentences)]
        text = f"Case {number}: the bank and the {partner} are here."
        places = [(text.index("bank"), "bank", bank), (text.index(partner), partner, partner)]
        found = [{"start": start, "end": start + len(name), "entity": entity} for start, name, entity in places]
        gold.append({"id": str(number), "text": text, "mentions": found})
    (folder / "news").mkdir()
    for place in range(2):
        lines = [json.dumps({"id": line["id"], "text": line["text"]}) for line in gold[place:40:2]]
        (folder / f"news/{place}.jsonl").write_text("\n".join(lines) + "\n")
    for place, name in enumerate(("gold", "train", "test", "other")):
        lines = [json.dumps(line) for line in gold[30 * place : 30 * place + 30]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_fewrel(folder: Path) -> None:
    """FewRel's official object of the made world's facts, with Wikidata's kind of ids and the map back."""
    facts = [line.split("\t") for line in (folder / "own-data/triples.tsv").read_text().splitlines()]
    qids = {name: f"Q{number}" for number, name in enumerate(dict.fromkeys(end for h, _, t in facts for end in (h, t)))}
    (folder / "qid-to-graph.tsv").write_text("".join(f"{qid}\t{name}\n" for name, qid in qids.items()))
    relations: dict[str, list[dict[str, object]]] = {}
    for head, relation, tail in facts:
        row = {"tokens": [head, "and", tail, "."], "h": [head, qids[head], [[0]]], "t": [tail, qids[tail], [[2]]]}
        relations.setdefault(relation, []).append(row)
    for name, part in (("train", slice(0, 12)), ("val", slice(12, 18))):
        (folder / f"{name}.json").write_text(json.dumps({relation: rows[part] for relation, rows in relations.items()}))


def write_pairs(folder: Path) -> None:
    """Sentence pairs for the paraphraser, train.tsv and dev.tsv."""
    cities = ("New York City", "Boston", "Chicago", "Denver", "Austin", "Dallas")
    rows = [(f"Who founded {city} in {year} ?", f"{city} was founded in {year} by whom ?")
            for city in cities for year in (1624, 1700, 1801)]  # fmt: skip
    for name, part in (("train", rows), ("dev", rows[::3])):
        (folder / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in part))


def write_pretrain_config(folder: Path) -> None:
    keys = {"instances": "runs/own-data/instances", "vectors": "runs/own-data/vectors", "base": "path/to/bert"}
    lines = [f"{key}: {value}" for key, value in {**keys, "output": "runs/several"}.items()]
    (folder / "pretrain.yaml").write_text("\n".join([*lines, "training: {max_steps: 2, batch_size: 4}"]) + "\n")


FILES: dict[str, tuple[Callable[[Path], None], ...]] = {
    "docs/graphs.md": (write_dump,),
    "docs/tutorials/wikidata.md": (write_dump,),
    "docs/tutorials/biomedical.md": (write_ontology,),
    "docs/tutorials/products.md": (write_products,),
    "docs/finetuning.md": (write_fewrel,),
    "docs/howto/cluster.md": (write_news,),
    "docs/linking.md": (write_news,),
    "docs/paraphrase.md": (write_pairs,),
    "docs/results.md": (write_pairs,),
    "docs/pretraining.md": (write_pretrain_config,),
}
"""What each page reads that is no artifact."""
