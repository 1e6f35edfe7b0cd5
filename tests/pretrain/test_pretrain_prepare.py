"""The stage `pretrain prepare`: what goes in comes out or is counted; test documents never come out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from multiprocessing import get_context

import numpy as np
import pytest
from transformers import AutoTokenizer

from kg.artifact import open_artifact, peak_memory_bytes
from kg.errors import InputError
from kg.split import split_of
from pretrain import shards
from pretrain.dataset import COLUMNS, Instances
from pretrain.prepare import PrepareConfig, run


def prepare(world, output, **settings):
    given = {"linked": world.linked, "vectors": world.vectors, "tokenizer": str(world.base), "max_length": 32}
    if "aligned" in settings or "dataset" in settings:
        del given["linked"]
    config = PrepareConfig(**{**given, **settings}, output=output)
    run(config)
    return open_artifact(output, stage="pretrain prepare")


def test_counts_and_statistics_are_those_of_the_arrays(world, tmp_path):
    """Manifest figures computed beside the data drift from it; here they are taken again from the files."""
    manifest = prepare(world, tmp_path / "out")
    for split in ("train", "dev"):
        instances = Instances(tmp_path / "out" / split)
        rows = [instances[i] for i in range(len(instances))]
        assert manifest.counts[f"{split}_instances"] == len(rows)
        assert manifest.counts[f"{split}_tokens"] == sum(len(r["input_ids"]) for r in rows)
        assert manifest.counts[f"{split}_entities"] == sum(len(r["entity_ids"]) for r in rows)
        figures = manifest.figures[split]
        assert figures["entities_per_instance"] == pytest.approx(np.mean([len(r["entity_ids"]) for r in rows]))
        assert sum(bar["instances"] for bar in figures["length_histogram"]) == len(rows)
        labels = [int(r["next_sentence_label"]) for r in rows]
        assert figures["next_sentence"] == {
            "next": labels.count(0),
            "random": labels.count(1),
            "no_pair": labels.count(-100),
        }
        assert {bar["entities"]: bar["instances"] for bar in figures["entity_histogram"]} == Counter(
            len(r["entity_ids"]) for r in rows
        )
        assert len(rows) > 0
        assert max(len(r["input_ids"]) for r in rows) <= 32


def test_entities_lie_on_their_names(world, tmp_path):
    """The row's name must be what the pieces spell; a shifted position trains happily on nonsense."""
    prepare(world, tmp_path / "out")
    names = (world.vectors / "vocabulary.txt").read_text().splitlines()
    tokenizer = AutoTokenizer.from_pretrained(str(world.base))
    instances = Instances(tmp_path / "out" / "train")
    assert len(instances) > 40
    for row in range(len(instances)):
        item = instances[row]
        for entity, start, length in zip(
            item["entity_ids"], item["entity_positions"], item["entity_lengths"], strict=True
        ):
            spelled = tokenizer.decode(item["input_ids"][start : start + length])
            assert f"E:{spelled}" == names[entity - 1]
        second = item["token_type_ids"] == 1
        separators = np.flatnonzero(item["input_ids"] == tokenizer.sep_token_id)
        assert second.sum() == (separators[-1] - separators[0])


def test_test_documents_never_become_instances(make, world, tmp_path):
    """Each document says one word of its own; leaked test text would otherwise show only as too good a score."""
    words = [f"only{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(60)]
    base = make["base"](tmp_path / "base", [*make["words"](), *words])
    documents = [
        make["document"](f"d{n}", [f"Then anna kern {words[n]} {words[n]}.", "Then boris lund met clara moss."])
        for n in range(60)
    ]
    linked = make["linked"](tmp_path / "linked", documents)
    manifest = prepare(world, tmp_path / "out", linked=linked, tokenizer=str(base), test=0.3, dev=0.2, seed=4)
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    splits = {f"d{n}": split_of(f"d{n}", seed=4, dev=0.2, test=0.3) for n in range(60)}
    assert manifest.dropped["test_documents"] == list(splits.values()).count("test") > 5
    for split in ("train", "dev"):
        instances = Instances(tmp_path / "out" / split)
        seen = set(tokenizer.convert_ids_to_tokens(np.unique(instances.arrays["input_ids"]).tolist()))
        assert {w for n, w in enumerate(words) if splits[f"d{n}"] == split} == seen & set(words)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_the_same_seed_makes_the_same_files_and_another_does_not(world, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(world, tmp_path / name, seed=seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert files_of(tmp_path / "a") != files_of(tmp_path / "c")


@pytest.fixture(scope="module")
def several(make, tmp_path_factory):
    """Four linked shards of 12 documents."""
    folder = tmp_path_factory.mktemp("several") / "linked"
    make["linked"](folder, *[[make["made"](12 * shard + n) for n in range(12)] for shard in range(4)])
    return folder


def test_any_number_of_processes_writes_the_same_bytes(world, several, tmp_path):
    """A drawing keyed by the process, or by what it did before, would make a run on another machine another run."""
    prepare(world, tmp_path / "one", linked=several)
    manifest = prepare(world, tmp_path / "two", linked=several, processes=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert len(list((tmp_path / "two" / "train").glob("*.arrow"))) == 4
    assert manifest.counts["train_documents"] + manifest.counts["dev_documents"] > 30


def test_several_shards_are_prepared_in_another_process(world, several, tmp_path):
    """What the stage itself has loaded, twice as much as preparing needs, is no part of a worker's memory."""
    ballast = np.ones(50_000_000)
    manifest = prepare(world, tmp_path / "prepared", linked=several)
    assert 0 < manifest.figures["worker_memory_bytes"] < peak_memory_bytes() - ballast.nbytes


def test_a_worker_of_a_pool_prepares_all_by_itself(world, several, tmp_path):
    """Such a process, of a launcher say, may start none of its own."""
    prepare(world, tmp_path / "straight", linked=several)
    given = {"linked": several, "vectors": world.vectors, "tokenizer": str(world.base), "max_length": 32}
    with get_context("spawn").Pool(1) as pool:
        pool.apply(run, (PrepareConfig(**given, output=tmp_path / "pooled"),))
    assert files_of(tmp_path / "pooled") == files_of(tmp_path / "straight")


@pytest.mark.faults
@pytest.mark.parametrize("dies_at", [0, 1, 3])
def test_an_interrupted_run_goes_on_behind_its_finished_shards(world, several, tmp_path, monkeypatch, dies_at):
    prepare(world, tmp_path / "straight", linked=several)
    units, prepare_units = [], shards.prepare_units

    def dying(waiting, *rest, **settings):
        for unit, memory in zip(waiting, prepare_units(waiting, *rest, **settings), strict=True):
            if unit.number == dies_at and dies_at not in units:
                (tmp_path / "out.partial" / f".unit-{dies_at:05d}.json").unlink()
                units.append(unit.number)
                raise KeyboardInterrupt
            units.append(unit.number)
            yield memory

    monkeypatch.setattr("pretrain.prepare.prepare_units", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(world, tmp_path / "out", linked=several)
    assert not (tmp_path / "out").exists()
    for later in range(dies_at + 1, 4):
        (tmp_path / "out.partial" / f".unit-{later:05d}.json").unlink(missing_ok=True)
    manifest = prepare(world, tmp_path / "out", linked=several)
    assert sorted(units) == sorted([*range(4), dies_at]), "every shard once, the interrupted one twice"
    assert files_of(tmp_path / "out") == files_of(tmp_path / "straight")
    straight = open_artifact(tmp_path / "straight", stage="pretrain prepare")
    assert (manifest.counts, manifest.dropped) == (straight.counts, straight.dropped)


def test_a_worker_loads_neither_torch_nor_transformers():
    """Each costs a process 200 MB and seconds; one import too many in what workers run brings both."""
    code = "import sys, pretrain.shards; print([n for n in ('torch', 'transformers', 'ernie') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def lone(make, tmp_path_factory):
    """One linked shard of 48 documents, which the stage's own process prepares."""
    folder = tmp_path_factory.mktemp("lone") / "linked"
    make["linked"](folder, [make["made"](n) for n in range(48)])
    return folder


def test_blocks_are_small_whatever_the_shard(world, lone, tmp_path, monkeypatch):
    """Memory is that of a block; the documents come out all the same."""
    whole = prepare(world, tmp_path / "whole", linked=lone)
    monkeypatch.setattr("pretrain.sources.BLOCK_CHARACTERS", 700)
    monkeypatch.setattr("pretrain.sources.ROWS_AT_ONCE", 5)
    parts = prepare(world, tmp_path / "parts", linked=lone)
    for name in ("train_documents", "dev_documents", "characters"):
        assert parts.counts[name] == whole.counts[name]
    monkeypatch.setattr("pretrain.sources.BLOCK_CHARACTERS", 2_000_000)
    monkeypatch.setattr("pretrain.sources.BLOCK_DOCUMENTS", 48)
    prepare(world, tmp_path / "same", linked=lone)
    assert files_of(tmp_path / "same") == files_of(tmp_path / "whole"), "how rows are read does not matter"


def test_packed_instances_are_full_and_ask_nothing_about_pairs(world, tmp_path):
    pairs = prepare(world, tmp_path / "pairs")
    packed = prepare(world, tmp_path / "packed", layout="packed", max_length=64)
    figures = packed.figures["train"]
    assert figures["next_sentence"] == {"next": 0, "random": 0, "no_pair": packed.counts["train_instances"]}
    assert figures["tokens_per_instance"] > 0.8 * 64
    rows = Instances(tmp_path / "packed" / "train")
    assert all(not rows[n]["token_type_ids"].any() for n in range(len(rows)))
    text = pairs.counts["train_tokens"] - 2 * pairs.counts["train_instances"]
    assert packed.counts["train_tokens"] < text, "every sentence once, fewer special pieces"


def test_sentences_with_few_entities_can_be_left_out(make, world, tmp_path):
    """The paper's filter, by sentence; an instance then holds only sentences that pass."""
    documents = [
        make["document"](
            f"d{n}", ["Then anna kern met boris lund.", "Then slowly in may.", "Then clara moss followed."]
        )
        for n in range(20)
    ]
    linked = make["linked"](tmp_path / "linked", documents)
    manifest = prepare(world, tmp_path / "out", linked=linked, min_sentence_entities=2, dev=0.0, test=0.0)
    assert manifest.dropped["sentences_with_too_few_entities"] == 40
    rows = Instances(tmp_path / "out" / "train")
    assert all(len(rows[n]["entity_ids"]) % 2 == 0 for n in range(len(rows)))


def test_link_scores_come_along(world, tmp_path):
    prepare(world, tmp_path / "out")
    rows = Instances(tmp_path / "out" / "train")
    assert all(rows[n]["entity_scores"] == pytest.approx(0.9) for n in range(len(rows)))


def test_datasets_opens_a_shard(world, tmp_path):
    datasets = pytest.importorskip("datasets")
    prepare(world, tmp_path / "out")
    found = datasets.Dataset.from_file(str(tmp_path / "out" / "train" / "shard-00000.arrow"))
    rows = Instances(tmp_path / "out" / "train")
    assert found.column_names == list(COLUMNS)
    assert found[3]["input_ids"] == rows[3]["input_ids"].tolist()


def texts_and_mentions(make, count: int = 30) -> list[dict]:
    return [make["made"](n) for n in range(count)]


@pytest.mark.parametrize("kind", ["folder", "parquet", "jsonl"])
def test_a_data_set_gives_what_the_linked_shards_give(make, world, tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    documents = texts_and_mentions(make)
    rows = [{"body": d["text"], "links": d["mentions"], "key": d["id"]} for d in documents]
    data = datasets.Dataset.from_list(rows)
    path = tmp_path / {"folder": "data", "parquet": "data.parquet", "jsonl": "data.jsonl"}[kind]
    {"folder": data.save_to_disk, "parquet": data.to_parquet, "jsonl": data.to_json}[kind](str(path))
    columns = {"text_column": "body", "mentions_column": "links", "name_column": "key"}
    found = prepare(world, tmp_path / "out", dataset=path, **columns)
    expected = prepare(world, tmp_path / "expected", linked=make["linked"](tmp_path / "linked", documents))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")
    assert found.counts == expected.counts


def write_aligned(folder, world, documents, *, ids: bool) -> None:
    """What ERNIE's own preparation writes: word pieces and, at each, the entity of its mention."""
    tokenizer = AutoTokenizer.from_pretrained(str(world.base))
    folder.mkdir()
    with (folder / "part_token").open("w") as tokens, (folder / "part_entity").open("w") as entities:
        for document in documents:
            lines: tuple[list[str], list[str]] = ([], [])
            sentences = [s for s in document["text"].replace("!", ".").split(".") if s.strip()]
            at = 0
            for sentence in sentences:
                start = document["text"].index(sentence.strip(), at)
                at = start + len(sentence.strip())
                encoded = tokenizer(sentence.strip(), add_special_tokens=False, return_offsets_mapping=True)
                pieces = encoded.input_ids if ids else tokenizer.convert_ids_to_tokens(encoded.input_ids)
                marks = [
                    next((m["entity"] for m in document["mentions"] if m["start"] <= start + b < m["end"]), "#UNK#")
                    for b, _ in encoded.offset_mapping
                ]
                for line, values in zip(lines, (pieces, marks)):
                    line += [str(len(values)), *map(str, values)]
            for file, line in zip((tokens, entities), lines):
                file.write("\t".join([str(len(sentences)), *line]) + "\n")


@pytest.mark.parametrize("ids", [False, True])
def test_aligned_text_gives_every_entity_its_pieces(make, world, tmp_path, ids):
    """ERNIE's own layout; two neighbours of one entity are one mention there, anything else is as it was linked."""
    documents = texts_and_mentions(make)
    write_aligned(tmp_path / "aligned", world, documents, ids=ids)
    settings = {"aligned_tokens": "ids" if ids else "pieces", "dev": 0.0, "test": 0.0, "short_seq_prob": 0.0}
    manifest = prepare(world, tmp_path / "out", aligned=tmp_path / "aligned", layout="packed", **settings)
    rows = Instances(tmp_path / "out" / "train")
    names = (world.vectors / "vocabulary.txt").read_text().splitlines()
    tokenizer = AutoTokenizer.from_pretrained(str(world.base))
    spelled = Counter()
    for item in (rows[n] for n in range(len(rows))):
        for entity, start, length in zip(item["entity_ids"], item["entity_positions"], item["entity_lengths"]):
            name = tokenizer.decode(item["input_ids"][start : start + length])
            assert names[entity - 1] == f"E:{name}"
            spelled[name] += 1
    assert spelled == Counter(m["entity"][2:] for d in documents for m in d["mentions"])
    assert manifest.dropped.get("unknown_word_piece", 0) == 0


@pytest.mark.faults
@pytest.mark.parametrize(
    ("tokens", "entities", "message"),
    [
        ("1\t2\tanna\tkern\n", "1\t1\tE:anna kern\n", "not as long"),
        ("1\t3\tanna\tkern\n", "1\t2\tx\tx\n", "line 1.*do not add up"),
        ("one\t1\tanna\n", "1\t1\tx\n", "do not add up"),
        ("1\t1\tanna\n1\t1\tkern\n", "1\t1\t#UNK#\n", "differ in their number of lines"),
        ("1\t1\t\udcff\n", "1\t1\tx\n", "line 1: not UTF-8"),
        (None, "1\t1\tx\n", "found none"),
        ("1\t1\tanna\n", None, "no part_entity"),
    ],
)
def test_aligned_files_that_do_not_fit_are_named_by_line(world, tmp_path, tokens, entities, message):
    (tmp_path / "aligned").mkdir()
    for name, content in (("part_token", tokens), ("part_entity", entities)):
        if content is not None:
            (tmp_path / "aligned" / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        prepare(world, tmp_path / "out", aligned=tmp_path / "aligned")


@pytest.mark.faults
def test_a_data_set_without_the_column_says_which_it_has(make, world, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "x", "tags": []}]).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"\['mentions'\] are missing; it has \['text', 'tags'\]"):
        prepare(world, tmp_path / "out", dataset=tmp_path / "data")
    with pytest.raises(InputError, match="datasets` cannot read"):
        prepare(world, tmp_path / "out", dataset=tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("mentions", [[1, 2], [{"start": 0, "end": 4}], "anna"])
def test_a_column_that_holds_no_mentions_says_what_it_holds(world, tmp_path, mentions):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "anna kern", "mentions": mentions}]).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(InputError, match="'mentions' must hold lists of"):
        prepare(world, tmp_path / "out", dataset=tmp_path / "data")


def test_a_data_set_without_a_single_mention_can_be_prepared(world, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "Then anna kern met boris lund. Then slowly in may.", "mentions": []}] * 5
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "data"))
    manifest = prepare(world, tmp_path / "out", dataset=tmp_path / "data", min_entities=0, dev=0.0, test=0.0)
    assert manifest.counts["train_entities"] == 0
    assert manifest.counts["train_instances"] >= 5


@pytest.mark.faults
def test_one_source_and_no_other(world, tmp_path):
    with pytest.raises(InputError, match="linked and aligned"):
        prepare(world, tmp_path / "out", linked=world.linked, aligned=tmp_path)
    with pytest.raises(InputError, match="got none"):
        prepare(world, tmp_path / "out", linked=None)


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbled"])
def test_a_linked_shard_that_is_damaged_is_named(make, world, tmp_path, damage):
    linked = make["linked"](tmp_path / "linked", [make["made"](n) for n in range(5)])
    path = linked / "shard-00000.parquet"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "truncated" else b"x" * len(content))
    with pytest.raises(InputError, match=r"shard-00000\.parquet"):
        prepare(world, tmp_path / "out", linked=linked)


@pytest.mark.faults
def test_an_empty_shard_is_no_error(make, world, several, tmp_path):
    linked = make["linked"](tmp_path / "linked", [make["made"](n) for n in range(12)], [])
    manifest = prepare(world, tmp_path / "out", linked=linked)
    rows = Instances(tmp_path / "out" / "train")
    assert len(rows) == manifest.counts["train_instances"] > 0
    assert [shard["instances"] > 0 for shard in rows.described["shards"]] == [True, False]


@pytest.mark.faults
def test_odd_documents_are_used_or_counted(make, world, tmp_path):
    """Empty, blank, one sentence, 100,000 characters: each is found again in the counts."""
    long = make["made"](1, sentences=3400)
    assert len(long["text"]) > 100_000
    documents = [
        {"id": "empty", "title": "", "text": "", "mentions": []},
        {"id": "blank", "title": "", "text": " \n ", "mentions": []},
        make["document"]("one", ["Then anna kern met boris lund."]),
        {**long, "id": "long"},
        {"id": "unlinked", "title": "", "text": "Then slowly.", "mentions": []},
    ]
    linked = make["linked"](tmp_path / "linked", documents)
    manifest = prepare(world, tmp_path / "out", linked=linked, dev=0.0, test=0.0)
    assert manifest.dropped["documents_without_word_pieces"] == 2
    assert manifest.counts["train_documents"] == 3
    assert manifest.dropped["instances_with_too_few_entities"] >= 1
    instances = Instances(tmp_path / "out" / "train")
    assert len(instances) > 500
    assert manifest.counts["dev_instances"] == len(Instances(tmp_path / "out" / "dev")) == 0
    tokens = manifest.counts["train_tokens"]
    pieces = 9 * 3400
    assert tokens > pieces, "a long document is used to its end"


@pytest.mark.faults
def test_mentions_without_a_row_are_counted(make, world, tmp_path):
    vectors = make["vectors"](tmp_path / "vectors", make["names"]()[:6])
    manifest = prepare(world, tmp_path / "out", vectors=vectors)
    assert manifest.dropped["unknown_entity"] > 0


@pytest.mark.faults
def test_nothing_left_is_an_error_that_says_why(world, tmp_path):
    with pytest.raises(InputError, match=r"instances_with_too_few_entities.*lower min_entities"):
        prepare(world, tmp_path / "out", min_entities=99)
    assert not (tmp_path / "out").exists()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 4}, "max_length"),
        ({"short_seq_prob": 2.0}, "short_seq_prob"),
        ({"dev": 0.6, "test": 0.5}, "dev"),
        ({"min_entities": -1}, "min_entities"),
        ({"min_sentence_entities": -1}, "min_sentence_entities"),
        ({"processes": 0}, "processes"),
    ],
)
def test_settings_out_of_range_are_refused(world, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        prepare(world, tmp_path / "out", **settings)


@pytest.mark.faults
def test_a_folder_without_tokenizer_is_refused(world, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="tokenizer"):
        prepare(world, tmp_path / "out", tokenizer=str(tmp_path / "none"))


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["shard-00000.arrow", "index.json"])
def test_a_truncated_or_missing_file_is_named(world, tmp_path, victim):
    prepare(world, tmp_path / "out")
    path = tmp_path / "out" / "train" / victim
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=victim):
        Instances(tmp_path / "out" / "train")
    path.unlink()
    with pytest.raises(InputError, match=f"{victim}.*pretrain prepare"):
        Instances(tmp_path / "out" / "train")


@pytest.mark.faults
def test_an_index_that_disagrees_with_its_shards_is_refused(world, tmp_path):
    prepare(world, tmp_path / "out")
    folder = tmp_path / "out" / "train"
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["instances"] += 1
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"shard-00000\.arrow.*index\.json says"):
        Instances(folder)
    shard = folder / "shard-00000.arrow"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with pytest.raises(InputError, match="not a readable shard"):
        Instances(folder)
    index["columns"].remove("entity_scores")
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="entity_scores"):
        Instances(folder)
