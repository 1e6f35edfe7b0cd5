"""The stage `finetune import`: task examples from the layouts they are published in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from finetune.data import SPLITS, TASK_DESCRIPTION, Split, labels_of
from finetune.formats import FORMATS, BadRecord, Columns, OnBadRecord, read_format, relabelled
from finetune.formats.records import json_lines
from finetune.scorers import SCORERS
from finetune.tasks import TASKS, null_label
from finetune.tasks.schema import EntityLink, Example, write_examples
from kg.artifact import ArtifactWriter, write_artifact
from kg.errors import InputError
from kg.split import split_of

if TYPE_CHECKING:
    from entity_linking.linker import EntityLinker

STAGE = "finetune import"
SKIPPED = "skipped.jsonl"
LINKED_TOGETHER = 512


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Which files, in which layout, and whose links."""

    output: Path
    """Folder to write."""
    format: str
    """A key of finetune.formats.FORMATS."""
    train: Path
    """File of training examples."""
    dev: Path | None = None
    """File of dev examples; none takes `dev_share` of train."""
    test: Path | None = None
    """File of test examples; none is no test set, dev then gives the final figures."""
    dev_share: float = 0.1
    """Share of train that becomes dev where there is no dev file, drawn by id."""
    task: str = ""
    """A key of finetune.tasks.TASKS, for layouts that do not say (jsonl, csv)."""
    scorer: str = ""
    """A key of finetune.scorers.SCORERS; empty: the layout's own, or the usual one of the kind of answer."""
    columns: Columns = field(default_factory=Columns)
    """Names of a table's columns."""
    on_bad_record: OnBadRecord = "error"
    """skip: counts a bad record by its reason, writes it to skipped.jsonl, and goes on."""
    patch: Path | None = None
    """New labels by id: TACREV's list corrects some, Re-TACRED's object names all that stay."""
    min_link_score: float = 0.0
    """Links of a lower score are left out (ERNIE took 0.3 for Open Entity and FIGER, 0.4 for TACRED)."""
    entity_map: Path | None = None
    """Lines `id in the file<TAB>id in the graph`, or a graph's entities.jsonl whose records have `wikidata_id` beside
    `id`; a link to an id that it lacks is kept as it is."""
    linker: Path | None = None
    """Artifact of `link train`: its links take the place of the file's."""
    graph: Path | None = None
    """Instead of a linker, a graph artifact: linked untrained, by priors and popularity (and `vectors`)."""
    vectors: Path | None = None
    """Artifact of `kg embed` of that graph, for coherence."""
    min_score: float = 0.5
    """Least probability of a link by `linker` or `graph`."""
    keep_links: bool = False
    """The file's links stay, also those to entities that the graph lacks; the linker's are added where none of them
    lies."""
    seed: int = 0
    """Decides which training examples become dev."""

    def __post_init__(self) -> None:
        if not 0 < self.dev_share < 1:
            raise InputError(f"dev_share must lie between 0 and 1, but is {self.dev_share}")
        if self.linker is not None and self.graph is not None:
            raise InputError("links come from `linker` or from `graph`, not from both")

    def inputs(self) -> dict[str, Path]:
        named = ("train", "dev", "test", "patch", "entity_map", "linker", "graph", "vectors")
        return {name: path for name in named if (path := getattr(self, name)) is not None}


def run(config: ImportConfig) -> Path:
    """Writes train.jsonl, dev.jsonl, test.jsonl, labels.json, facts.tsv and task.json.

    facts.tsv holds the facts that dev and test ask for, to be left out of the graph before its entities are embedded:
    head, label and tail where both are linked. task.json names the task and how it is scored.

    Raises:
        InputError: an unknown format, task or scorer, a bad record (unless skipped), fewer than two labels, a link or
            span outside its text.
    """
    task, scorer = described(config)
    with write_artifact(config, stage=STAGE) as writer:
        examples = {split: read_split(config, split, task, writer) for split in SPLITS}
        if config.dev is None:
            examples = _with_dev_share(examples, config)
        mapping = read_entity_map(config.entity_map, writer.dropped) if config.entity_map is not None else {}
        for split, found in examples.items():
            examples[split] = [_links(example, config.min_link_score, mapping, writer.dropped) for example in found]
        if config.linker is not None or config.graph is not None:
            linker = _linker(config)
            examples = {split: linked_anew(found, linker, keep=config.keep_links) for split, found in examples.items()}
        _write(examples, task, scorer, writer)
    return config.output


def described(config: ImportConfig) -> tuple[str, str]:
    """Task and scorer of the config, or of its layout."""
    if config.format not in FORMATS:
        raise InputError(f"format {config.format!r} is unknown; there are {', '.join(FORMATS)}")
    layout = FORMATS[config.format]
    task = layout.task or config.task
    if task not in TASKS:
        raise InputError(f"{config.format} does not say what task it is; set task to one of {', '.join(TASKS)}")
    if config.task and config.task != task:
        raise InputError(f"{config.format} is {task}, not {config.task!r}")
    scorer = config.scorer or layout.scorer
    if scorer and scorer not in SCORERS:
        raise InputError(f"scorer {scorer!r} is unknown; there are {', '.join(SCORERS)}")
    return task, scorer


def read_split(config: ImportConfig, split: Split, task: str, writer: ArtifactWriter) -> list[Example]:
    """The examples of a split's file; none without a file. Skipped records are written beside them."""
    path = getattr(config, split)
    if path is None:
        return []
    with (writer.path / SKIPPED).open("ab") as aside:

        def put_aside(place: str, fault: BadRecord) -> None:
            aside.write(orjson.dumps({"place": place, "reason": fault.reason, "fault": str(fault)}) + b"\n")

        dropped: Counter[str] = Counter()
        found = read_format(
            config.format,
            path,
            columns=config.columns,
            task=task,
            on_bad_record=config.on_bad_record,
            dropped=dropped,
            skipped=put_aside,
        )
        examples = list(found if config.patch is None else relabelled(found, config.patch, dropped))
    writer.dropped.update({f"{split}_{reason}": count for reason, count in dropped.items()})
    return examples


def read_entity_map(path: Path, counts: Counter[str]) -> dict[str, str]:
    """Id in the examples -> id in the graph.

    Two entities of a graph may share a Wikidata id (Freebase has such doubles): the first is taken, the others are
    counted as `entity_map_shares_an_id`.

    Raises:
        InputError: no such file, a line without two tab-separated ids, an id that a list of pairs maps twice
            differently.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected lines id<TAB>id in the graph")
    of_a_graph = Path(path).suffix == ".jsonl"
    found: dict[str, str] = {}
    for number, (outer, inner) in (_wikidata_ids if of_a_graph else _tab_pairs)(Path(path)):
        if found.setdefault(outer, inner) == inner:
            continue
        if not of_a_graph:
            raise InputError(f"{path}:{number}: {outer!r} is mapped to {found[outer]!r} and to {inner!r}")
        counts["entity_map_shares_an_id"] += 1
    return found


def _tab_pairs(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            ids = line.rstrip("\r\n").split("\t")
            if len(ids) != 2 or not all(ids):
                raise InputError(f"{path}:{number}: expected id<TAB>id in the graph, got {line.rstrip()[:80]!r}")
            yield number, (ids[0], ids[1])


def _wikidata_ids(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    for place, record in json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise InputError(f"{path}: {place}: expected an entity's record with its id")
        if record.get("wikidata_id"):
            yield int(place.removeprefix("line ")), (str(record["wikidata_id"]), record["id"])


def linked_anew(examples: Sequence[Example], linker: EntityLinker, *, keep: bool = False) -> list[Example]:
    """The examples with the linker's links: alone, or (keep) beside their own, where none of these lies."""
    shown = []
    for start in range(0, len(examples), LINKED_TOGETHER):
        group = examples[start : start + LINKED_TOGETHER]
        found = linker.link_batch([example.text for example in group])
        for example, links in zip(group, found, strict=True):
            own = example.links if keep else ()
            new = (EntityLink(start=k.start, end=k.end, entity=k.entity, score=k.score) for k in links)
            free = (link for link in new if not any(link.start < k.end and k.start < link.end for k in own))
            shown.append(replace(example, links=tuple(sorted((*own, *free), key=lambda k: (k.start, k.end)))))
    return shown


def _linker(config: ImportConfig) -> EntityLinker:
    from entity_linking.linker import EntityLinker

    if config.linker is not None:
        return EntityLinker.from_pretrained(config.linker)
    assert config.graph is not None, "run asks for a linker only with one of the two"
    return EntityLinker.from_artifacts(config.graph, config.vectors, min_score=config.min_score)


def _links(example: Example, least: float, mapping: Mapping[str, str], dropped: Counter[str]) -> Example:
    kept = tuple(
        replace(link, entity=mapping.get(link.entity, link.entity)) for link in example.links if link.score >= least
    )
    if len(kept) < len(example.links):
        dropped["link_below_min_link_score"] += len(example.links) - len(kept)
    return replace(example, links=kept)


def _with_dev_share(examples: Mapping[Split, list[Example]], config: ImportConfig) -> dict[Split, list[Example]]:
    """Dev drawn from train; a stated test set stays as it is."""
    splits: dict[Split, list[Example]] = {"train": [], "dev": [], "test": examples["test"]}
    for example in examples["train"]:
        drawn = split_of(example.id, seed=config.seed, dev=config.dev_share, test=0.0)
        splits["dev" if drawn == "dev" else "train"].append(example)
    if not splits["dev"]:
        raise InputError(f"{config.train}: {len(examples['train']):,} examples leave none for dev; give a dev file")
    return splits


def _write(examples: Mapping[Split, Sequence[Example]], task: str, scorer: str, writer: ArtifactWriter) -> None:
    labels = Counter(name for found in examples.values() for example in found for name in labels_of(example))
    numbers = any(example.value is not None for example in examples["train"])
    trained = {name for example in examples["train"] for name in labels_of(example)}
    if len(trained) < 2 and not numbers:
        raise InputError(
            f"expected at least two labels in train, its {len(examples['train']):,} examples carry "
            f"{', '.join(map(repr, sorted(trained))) or 'none'}; there is nothing to tell apart"
        )
    for split in SPLITS:
        writer.counts[split] = write_examples(writer.path / f"{split}.jsonl", examples[split])
        writer.counts[f"{split}_links"] = sum(len(example.links) for example in examples[split])
    (writer.path / "labels.json").write_bytes(orjson.dumps(sorted(labels), option=orjson.OPT_INDENT_2))
    (writer.path / TASK_DESCRIPTION).write_bytes(orjson.dumps({"task": task, "scorer": scorer}))
    facts = sorted({fact for split in SPLITS[1:] for example in examples[split] if (fact := _fact(example))})
    (writer.path / "facts.tsv").write_text("".join(f"{h}\t{r}\t{t}\n" for h, r, t in facts), encoding="utf-8")
    if not (writer.path / SKIPPED).stat().st_size:
        (writer.path / SKIPPED).unlink()
    unseen = sorted(set(labels) - trained)
    writer.counts.update(labels=len(labels), facts=len(facts), labels_unseen_in_train=len(unseen))
    null = null_label(sorted(labels)) if task == "relation_classification" else None
    writer.figures.update(examples_per_label=dict(labels.most_common()), unseen_in_train=unseen, null_label=null)
    said = f", null label {null!r}" if null else ""
    kinds = "numbers" if numbers else f"{len(labels)} labels"
    writer.headline = f"{sum(writer.counts[s] for s in SPLITS):,} examples of {kinds}{said}"


def _fact(example: Example) -> tuple[str, str, str] | None:
    """(head, label, tail) where both marked spans are linked."""
    ends = []
    for role in ("head", "tail"):
        span = example.span(role)
        ends.append(next((k.entity for k in example.links if span and k.start < span.end and span.start < k.end), None))
    if None in ends or example.label is None:
        return None
    return str(ends[0]), example.label, str(ends[1])
