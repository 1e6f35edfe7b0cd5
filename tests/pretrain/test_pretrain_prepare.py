"""The stage `pretrain prepare`: what goes in comes out or is counted; test documents never come out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from kg.artifact import open_artifact
from kg.errors import InputError
from kg.split import split_of
from pretrain.dataset import ARRAYS, Instances
from pretrain.prepare import PrepareConfig, run


def prepare(world, output, **settings):
    given = {"linked": world.linked, "vectors": world.vectors, "tokenizer": str(world.base), "max_length": 32}
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
            "lone_sentence": labels.count(-100),
        }
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


def test_the_same_seed_makes_the_same_files_and_another_does_not(world, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(world, tmp_path / name, seed=seed)
    files = {name: [(tmp_path / name / "train" / f"{array}.bin").read_bytes() for array in ARRAYS] for name in "abc"}
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]


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
@pytest.mark.parametrize("victim", [*(f"{name}.bin" for name in ARRAYS), "index.json"])
def test_a_truncated_or_missing_file_is_named(world, tmp_path, victim):
    """A short array would only shift every later instance."""
    prepare(world, tmp_path / "out")
    path = tmp_path / "out" / "train" / victim
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=victim):
        Instances(tmp_path / "out" / "train")
    path.unlink()
    with pytest.raises(InputError, match=f"{victim}.*pretrain prepare"):
        Instances(tmp_path / "out" / "train")


@pytest.mark.faults
def test_arrays_that_disagree_are_refused(world, tmp_path):
    prepare(world, tmp_path / "out")
    folder = tmp_path / "out" / "train"
    lengths = np.fromfile(folder / "lengths.bin", dtype="<u2")
    lengths[3] += 1
    lengths.tofile(folder / "lengths.bin")
    with pytest.raises(InputError, match="disagree"):
        Instances(folder)
    index = json.loads((folder / "index.json").read_text())
    del index["arrays"]["lengths"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="lengths"):
        Instances(folder)
