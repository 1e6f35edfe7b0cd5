"""Every kind of task through `finetune run` and back out of its folder, in worlds small enough to know the answer."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ernie
from ernie.training import TrainingConfig
from finetune.evaluate import EvaluateConfig
from finetune.evaluate import run as evaluate
from finetune.importing import ImportConfig
from finetune.importing import run as import_examples
from finetune.learning import balanced_weights, parameter_groups, weighted_cross_entropy
from finetune.metrics import UNSEEN
from finetune.pipeline import TaskPipeline, pipeline, words_of
from finetune.predict import PredictConfig
from finetune.predict import run as predict
from finetune.run import FinetuneConfig, run
from finetune.tasks import MARKINGS, TASKS, with_pooling
from finetune.tasks.schema import WORD, EntityLink, Example, Span, write_examples
from kg.artifact import open_artifact
from kg.build import BuildConfig
from kg.build import run as build_graph
from kg.errors import InputError


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(pretrained: Path, tmp_path: Path) -> dict:
    return {
        "output": tmp_path / "task",
        "model": pretrained,
        "entities": "none",
        "max_length": 24,
        "training": TrainingConfig(max_steps=60, batch_size=16, learning_rate=3e-3, eval_every=20, precision="fp32"),
    }


def drawn(count: int, seed: int, make: Callable[[random.Random, int], Example]) -> list[Example]:
    draw = random.Random(seed)
    return [make(draw, number) for number in range(count)]


def splits(make: Callable[[random.Random, int], Example], train: int = 160) -> dict[str, list[Example]]:
    return {
        "train": drawn(train, 0, make),
        "dev": [dataclasses.replace(e, id=f"d{e.id}") for e in drawn(40, 1, make)],
        "test": [dataclasses.replace(e, id=f"t{e.id}") for e in drawn(40, 2, make)],
    }


def letters(draw: random.Random, count: int = 5) -> list[str]:
    return [draw.choice("abcdef") for _ in range(count)]


def figures(folder: Path) -> dict:
    return open_artifact(folder, stage="finetune run").figures


def a_relation(draw: random.Random, number: int) -> Example:
    """The relation is what the head's own word says; the other words are noise, the head comes first or last."""
    kind, words = draw.choice("xyz"), letters(draw)
    first = draw.random() < 0.5
    words = [kind, *words] if first else [*words, kind]
    text, end = " ".join(words), len(" ".join(words))
    own, other = (0, 1), (end - 1, end)
    head, tail = (own, other) if first else (other, own)
    spans = (
        Span(start=head[0], end=head[1], role="head", type="PERSON"),
        Span(start=tail[0], end=tail[1], role="tail", type="CITY"),
    )
    return Example(id=str(number), text=text, spans=spans, label=kind)


@pytest.mark.parametrize(
    ("task", "asked", "read"),
    [
        ("relation_classification", "auto", "mean"),
        ("entity_typing", "auto", "mean"),
        ("sequence_classification", "auto", "cls"),
        ("token_classification", "auto", "cls"),
        ("entity_typing", "cls", "cls"),
    ],
)
def test_a_head_reads_the_marked_spans_where_there_are_any(task: str, asked: str, read: str):
    """[CLS] learns slowly which pair is meant; a task without spans has nothing else."""
    assert with_pooling(TASKS[task], asked).pooling == read


@pytest.mark.parametrize("pooling", ["start", "mean"])
def test_a_head_that_reads_spans_learns_which_word_is_meant(make_examples: Callable, settings: dict, pooling: str):
    """Read from the wrong piece, the head would see noise and stay at a third."""
    config = FinetuneConfig(
        task="relation_classification", examples=make_examples(**splits(a_relation)), pooling=pooling, **settings
    )
    folder = run(config)
    assert figures(folder)["test"]["accuracy"] >= 0.9
    ready = TaskPipeline.from_pretrained(folder)
    assert (ready.task.spec.pooling, ready.task.model.config.num_spans) == (pooling, 2)


@pytest.mark.parametrize("marking", [name for name in MARKINGS if name not in ("ernie", "entity_marker_punct")])
def test_every_marking_trains_and_comes_back_from_its_folder(make_examples: Callable, settings: dict, marking: str):
    """Marks that the saved tokenizer does not know as one piece would fall apart at prediction, unnoticed."""
    if marking == "typed_entity_marker_punct":
        with pytest.raises(InputError, match="the marks #, @, \\^ have no word piece"):
            run(FinetuneConfig(**_of_marking(make_examples, settings, marking)))
        return
    folder = run(FinetuneConfig(**_of_marking(make_examples, settings, marking)))
    spec = TaskPipeline.from_pretrained(folder).task.spec
    tokenizer = TaskPipeline.from_pretrained(folder).task.tokenizer.fast_tokenizer
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(spec.marker_tokens)
    expected = {
        "special": 4,
        "entity_marker": 4,
        "typed_entity_marker": 12,  # two types and one for the untyped, two roles, before and behind
        "none": 0,
    }
    assert len(spec.marker_tokens) == expected[marking]
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    examples = drawn(40, 2, a_relation)
    again = [r["predicted"] for r in pipeline(folder).predict(examples)]
    assert again == [json.loads(line)["predicted"] for line in lines]


def _of_marking(make_examples: Callable, settings: dict, marking: str) -> dict:
    training = dataclasses.replace(settings["training"], max_steps=2)
    examples = make_examples(**splits(a_relation, train=40))
    task = {"task": "relation_classification", "examples": examples, "marking": marking, "pooling": "start"}
    return {**settings, **task, "training": training}


def test_words_are_tagged_and_scored_by_chunks(make_examples: Callable, settings: dict, tmp_path: Path):
    """A tag on the wrong piece of a word trains well and scores nothing; a word beyond the cut counts as outside."""

    def tagged(draw: random.Random, number: int) -> Example:
        words = ["".join(letters(draw, draw.randint(1, 2))) for _ in range(5)]
        words[draw.randrange(5)] = "x"
        spans = tuple(dataclasses.replace(s, type="O") for s in words_of(" ".join(words)))
        spans = tuple(dataclasses.replace(s, type="B-X") if words[n] == "x" else s for n, s in enumerate(spans))
        return Example(id=str(number), text=" ".join(words), spans=spans)

    made = splits(tagged)
    long = words_of("x " * 30)
    made["test"].append(
        Example(id="long", text="x " * 30, spans=tuple(dataclasses.replace(s, type="B-X") for s in long))
    )
    folder = run(FinetuneConfig(task="token_classification", examples=make_examples(**made), **settings))
    found = figures(folder)["test"]
    assert found["span_precision"] >= 0.95
    manifest = open_artifact(folder, stage="finetune run")
    assert manifest.dropped["test_words_cut_by_max_length"] == 8
    assert manifest.dropped["test_examples_cut_by_max_length"] == 1
    long_answer = json.loads((folder / "predictions.jsonl").read_text().splitlines()[-1])
    assert long_answer["predicted"][22:] == ["O"] * 8
    (answer,) = pipeline(folder)(["a x b"])
    assert answer["predicted"] == ["O", "B-X", "O"]
    (tmp_path / "t.txt").write_text("x a\n", encoding="utf-8")
    lines = predict(PredictConfig(output=tmp_path / "p", model=folder, texts=tmp_path / "t.txt")) / "predictions.jsonl"
    assert json.loads(lines.read_text())["predicted"] == ["B-X", "O"]


def test_a_number_is_learned_and_correlates(make_examples: Callable, settings: dict):
    """A regression head of two outputs, or labels taken for rows, would still bring the loss down."""

    def rated(draw: random.Random, number: int) -> Example:
        words = letters(draw, 4)
        return Example(id=str(number), text="m", text_pair=" ".join(words), value=float(words.count("a")) + 0.5)

    folder = run(FinetuneConfig(task="sequence_classification", examples=make_examples(**splits(rated)), **settings))
    found = figures(folder)
    assert (found["primary_metric"], found["scorer"]) == ("pearson_spearman", "correlation")
    assert found["test"]["pearson"] >= 0.8
    pairs = [Example(id=words, text="m", text_pair=words) for words in ("a a a a", "b b b b")]
    many, none = (record["predicted"] for record in pipeline(folder).predict(pairs))
    assert many > none


def test_imported_pairs_bring_their_task_and_scorer_along(settings: dict, tmp_path: Path):
    """MRPC's figure is F1 of the positive class: from the file to the headline without naming a task."""
    draw = random.Random(0)
    rows = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    for _ in range(80):
        one, two = " ".join(letters(draw, 3)), " ".join(letters(draw, 3))
        rows.append(f"{int(draw.random() < 0.5)}\t1\t2\t{one}\t{two}")
    (tmp_path / "m.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    examples = import_examples(
        ImportConfig(output=tmp_path / "e", format="glue/mrpc", train=tmp_path / "m.tsv", dev_share=0.3)
    )
    training = dataclasses.replace(settings["training"], max_steps=2)
    folder = run(FinetuneConfig(examples=examples, **{**settings, "training": training}))
    found = figures(folder)
    assert (found["primary_metric"], found["scored_split"]) == ("f1", "dev")
    assert set(found["dev"]) == {"f1", "accuracy"}
    assert "test" not in found
    with pytest.raises(InputError, match="scorer 'types' scores a multi_label_classification, these examples make a"):
        run(FinetuneConfig(examples=examples, scorer="types", **settings))
    checked = evaluate(EvaluateConfig(output=tmp_path / "v", model=folder, examples=examples, split="dev"))
    assert open_artifact(checked, stage="finetune evaluate").figures["dev"] == pytest.approx(found["dev"])


def test_several_seeds_report_their_spread_and_keep_the_best(make_examples: Callable, settings: dict):
    """One lucky seed is not a result; and the folder must hold the model whose figures it shows."""
    training = dataclasses.replace(settings["training"], max_steps=6, eval_every=3)
    examples = make_examples(**splits(a_relation, train=60))
    config = FinetuneConfig(
        task="relation_classification",
        examples=examples,
        seeds=(3, 4, 5),
        patience=1,
        **{**settings, "training": training},
    )
    folder = run(config)
    found = figures(folder)
    each = {seed: found["seeds"][seed] for seed in ("3", "4", "5")}
    accuracies = np.array([scores["accuracy"] for scores in each.values()])
    assert found["over_seeds"]["accuracy"]["mean"] == pytest.approx(accuracies.mean())
    assert found["over_seeds"]["accuracy"]["sd"] == pytest.approx(accuracies.std(ddof=1))
    assert found["chosen_seed"] == int(max(each, key=lambda seed: each[seed]["best_dev"]))
    assert found["test"]["accuracy"] == each[str(found["chosen_seed"])]["accuracy"]
    records = list(pipeline(folder).predict(drawn(40, 2, a_relation)))
    assert np.mean([r["predicted"] == r["gold"] for r in records]) == found["test"]["accuracy"]
    assert {path.name for path in (folder / "seeds").iterdir()} == {"3", "4", "5"}
    alone = figures(run(dataclasses.replace(config, seeds=(4,), output=folder.with_name("alone"))))
    assert alone["test"]["accuracy"] == each["4"]["accuracy"]


def test_training_stops_when_dev_no_longer_gains(make_examples: Callable, settings: dict):
    """A rate of nearly nothing: the first evaluation stays the best, and two more end it."""
    training = TrainingConfig(max_steps=50, batch_size=8, learning_rate=1e-12, eval_every=2, precision="fp32")
    config = FinetuneConfig(
        task="relation_classification",
        examples=make_examples(**splits(a_relation, train=40)),
        patience=2,
        **{**settings, "training": training},
    )
    found = figures(run(config))
    assert (found["stopped_by"], found["steps"], found["num_dev_evaluations"], found["best_step"]) == (
        "patience",
        6,
        3,
        2,
    )


def test_balanced_classes_find_the_rare_one(make_examples: Callable, settings: dict):
    """Weights turned upside down would make the rare class rarer still."""
    features = [{"labels": 0}] * 3 + [{"labels": 1}] + [{"labels": UNSEEN}]
    weights = balanced_weights(features, num_labels=2)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])
    logits, labels = torch.randn(5, 2), torch.tensor([0, 1, UNSEEN, 0, 1])
    theirs = F.cross_entropy(logits, labels, weight=weights, ignore_index=UNSEEN)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights), theirs)
    assert weighted_cross_entropy(logits, torch.full((5,), UNSEEN), weights).item() == 0.0

    def rare(draw: random.Random, number: int) -> Example:
        label = "yes" if draw.random() < 0.1 else "no"
        return Example(id=str(number), text=" ".join(letters(draw)), label=label)

    training = dataclasses.replace(settings["training"], max_steps=30, learning_rate=1e-3)
    examples = make_examples(**splits(rare))
    answers = {}
    for weighted in ("none", "balanced"):
        config = FinetuneConfig(
            task="sequence_classification",
            examples=examples,
            class_weights=weighted,
            **{**settings, "training": training, "output": settings["output"].with_name(weighted)},
        )
        lines = (run(config) / "predictions.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        of_yes = [r["probability"] if r["predicted"] == "yes" else 1 - r["probability"] for r in found]
        answers[weighted] = np.mean(of_yes)
    assert answers["none"] < 0.25
    assert 0.35 < answers["balanced"] < 0.65


def test_rates_fall_with_depth_and_the_head_and_entities_have_their_own(pretrained: Path):
    """A group that is left out does not train at all; one named twice trains twice."""
    model = ernie.ErnieForEntityTyping.from_pretrained(pretrained, num_labels=2)
    groups = parameter_groups(
        model,
        learning_rate=1.0,
        weight_decay=0.1,
        layer_decay=0.5,
        head_learning_rate=7.0,
        entity_learning_rate=9.0,
    )
    listed = [parameter for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(map(id, listed))) == len(list(model.parameters()))
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    of = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert of["bert.encoder.layer.1.output.dense.weight"] == (1.0, 0.1)
    assert of["bert.encoder.layer.0.output.dense.weight"] == (0.5, 0.1)
    assert of["bert.embeddings.word_embeddings.weight"] == (0.25, 0.1)
    assert of["classifier.weight"] == (7.0, 0.1)
    assert of["classifier.bias"] == (7.0, 0.0)
    assert of["bert.encoder.layer.1.output.dense_ent.weight"] == (9.0, 0.1)
    plain = parameter_groups(nn.Linear(2, 2), learning_rate=1.0, weight_decay=0.1)
    assert {(group["lr"], group["weight_decay"]) for group in plain} == {(1.0, 0.1), (1.0, 0.0)}


class FoundLinks:
    """A linker that links every `q`."""

    def link_batch(self, texts: Sequence[str]) -> list[list[EntityLink]]:
        return [
            [EntityLink(start=n, end=n + 1, entity="Q1") for n, letter in enumerate(text) if letter == "q"]
            for text in texts
        ]


def test_plain_text_gives_typed_mentions(make_examples: Callable, settings: dict):
    """Offsets must be those of the text the user gave, not of the marked one."""

    def typed(draw: random.Random, number: int) -> Example:
        kind = draw.choice("xy")
        return Example(id=str(number), text=f"q {kind}", spans=(Span(start=0, end=1),), label=kind)

    folder = run(FinetuneConfig(task="entity_typing", examples=make_examples(**splits(typed)), **settings))
    ready = TaskPipeline.from_pretrained(folder)
    with pytest.raises(InputError, match="asks about mentions; give a linker"):
        ready("q x")
    ready.linker = FoundLinks()  # type: ignore[assignment]
    (mention,) = ready("q y")
    assert (mention["start"], mention["end"], mention["text"], mention["entity"]) == (0, 1, "q", "Q1")
    assert mention["predicted"] == "y"
    assert mention["probability"] > 0.5
    two, none = ready(["q x and q x", "a b"])
    assert [m["start"] for m in two] == [0, 8]
    assert none == []


def test_plain_text_in_a_file_is_linked_on_the_fly(make_examples: Callable, settings: dict, tmp_path: Path):
    """A linker's places are those of the line; ids say which line and which mention."""
    (tmp_path / "g.tsv").write_text("abcde\tknows\tfedcb\nfedcb\tknows\tbbccd\n", encoding="utf-8")
    graph = build_graph(BuildConfig(reader="tsv", source=str(tmp_path / "g.tsv"), output=tmp_path / "graph"))

    def typed(draw: random.Random, number: int) -> Example:
        text = " ".join(letters(draw))
        return Example(id=str(number), text=text, spans=(Span(start=0, end=1),), label=draw.choice("xy"))

    training = dataclasses.replace(settings["training"], max_steps=1)
    examples = make_examples(**splits(typed, train=20))
    folder = run(FinetuneConfig(task="entity_typing", examples=examples, **settings | {"training": training}))
    (tmp_path / "t.txt").write_text("a abcde and fedcb\n\nnothing here\nfedcb\n", encoding="utf-8")
    config = PredictConfig(output=tmp_path / "p", model=folder, texts=tmp_path / "t.txt", graph=graph)
    lines = [json.loads(line) for line in (predict(config) / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["1:0", "1:1", "4:0"]
    with pytest.raises(InputError, match="from a linker or from a graph, not from both"):
        pipeline(folder, linker=graph, graph=graph)
    found = pipeline(folder, graph=graph)("a abcde and fedcb")
    assert [(m["text"], m["entity"]) for m in found] == [("abcde", "abcde"), ("fedcb", "fedcb")]


@pytest.mark.faults
def test_what_a_user_got_wrong_is_said_before_training(
    make_examples: Callable, settings: dict, pretrained: Path, tmp_path: Path
):
    """Each trained on, or ended deep inside, or scored a head of other labels."""
    good = splits(a_relation, train=20)
    task = {**settings, "task": "relation_classification"}
    overlapping = dataclasses.replace(
        good["train"][0],
        id="o",
        spans=(Span(start=0, end=3, role="head"), Span(start=2, end=4, role="tail")),
    )
    with pytest.raises(InputError, match=r"example 'o' has overlapping head \[0, 3\) and tail \[2, 4\)"):
        run(FinetuneConfig(examples=make_examples(**good | {"train": [*good["train"], overlapping]}), **task))
    without = dataclasses.replace(good["dev"][0], spans=())
    with pytest.raises(InputError, match=r"dev\.jsonl: example 'd0' has 0 spans of role 'head'; .* give its start"):
        run(FinetuneConfig(examples=make_examples(**good | {"dev": [without]}), **task))
    one = [dataclasses.replace(e, label="x") for e in good["train"]]
    with pytest.raises(InputError, match="at least two different labels, 20 examples carry only 'x'"):
        run(FinetuneConfig(examples=make_examples(**good | {"train": one}), **task))
    bare = [dataclasses.replace(e, label=None, labels=()) for e in good["train"]]
    with pytest.raises(InputError, match="at least two different labels, 20 examples carry none"):
        run(FinetuneConfig(examples=make_examples(train=bare, dev=bare, test=[]), **task))
    examples = make_examples(**good)
    for wrong, message in (
        ({"marking": "stars"}, "marking 'stars' is unknown; there are special"),
        ({"scorer": "f2"}, "scorer 'f2' is unknown; there are single_label"),
        ({"task": "sequence_classification", "pooling": "mean"}, "marks no spans: pooling is cls"),
    ):
        with pytest.raises(InputError, match=message):
            run(FinetuneConfig(examples=examples, **task | wrong))
    for wrong, message in (
        ({"layer_decay": 0.0}, "layer_decay must lie in"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"seeds": (1, 1)}, "name one twice"),
        ({"entities": "given"}, "name `vectors`, or set entities to none"),
        ({"metadata": "types"}, "come from a graph; name `graph`"),
    ):
        with pytest.raises(InputError, match=message):
            FinetuneConfig(examples=examples, **task | wrong)
    training = dataclasses.replace(settings["training"], max_steps=1)
    finished = run(FinetuneConfig(examples=examples, **task | {"training": training}))
    other = [dataclasses.replace(e, label=f"other {e.label}") for e in good["train"]]
    with pytest.raises(InputError, match="the model's head was trained for 3 labels"):
        run(
            FinetuneConfig(
                examples=make_examples(**good | {"train": other}),
                **task | {"model": finished, "output": tmp_path / "again"},
            )
        )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"value": float("nan")}, "not JSON|finite number"),
        ({"labels": []}, None),
    ],
)
def test_an_empty_set_of_labels_is_an_answer_and_a_nan_is_none(tmp_path: Path, example: dict, message: str | None):
    """Open Entity has mentions without any general type: leaving them out would raise the precision."""
    from finetune.tasks.schema import read_examples

    line = json.dumps({"id": "a", "text": "x", **example})
    (tmp_path / "e.jsonl").write_text(line + "\n", encoding="utf-8")
    if message is None:
        assert next(read_examples(tmp_path / "e.jsonl")).labels == ()
    else:
        with pytest.raises(InputError, match=message):
            list(read_examples(tmp_path / "e.jsonl"))


def test_a_tag_stands_on_the_first_piece_of_its_word():
    """`words_of` and the schema's role must agree on what a word is."""
    spans = words_of(" ab  c")
    assert [(s.start, s.end, s.role) for s in spans] == [(1, 3, WORD), (5, 6, WORD)]


def test_examples_are_written_and_read_with_numbers(tmp_path: Path):
    """A value that became text would be a label."""
    from finetune.tasks.schema import read_examples

    write_examples(tmp_path / "e.jsonl", [Example(id="a", text="x", value=2.5)])
    assert next(read_examples(tmp_path / "e.jsonl")).value == 2.5
