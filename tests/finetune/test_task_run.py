"""Fine-tuning from artifacts to a model folder, in worlds small enough to know the answer."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import ernie
from ernie.training import TrainingConfig, TrainingResult
from finetune import metrics, seeds
from finetune.data import encode_examples, load_examples, read_entity_rows
from finetune.evaluation import evaluate, predictions, without_entities
from finetune.predict import PredictConfig
from finetune.predict import run as predict
from finetune.prepared import Task
from finetune.run import FinetuneConfig, run
from finetune.task_model import build_classifier, load_task_model
from finetune.tasks import TASKS, for_examples
from finetune.tasks.schema import EntityLink, Example, Span, write_examples
from kg.artifact import open_artifact
from kg.errors import InputError

NUM_ENTITIES = 24


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def closed_world(num_examples: int, entities: range, seed: int, multi: bool = False) -> list[Example]:
    """Texts of random letters; whether an entity is `even` or `odd` stands in its vector alone."""
    draw = random.Random(seed)
    made = []
    for n in range(num_examples):
        entity = draw.choice(entities)
        text = " ".join(draw.choice("abcdefgh") for _ in range(draw.randint(4, 8)))
        label = ["even", "odd"][entity % 2]
        made.append(
            Example(
                id=f"{seed}:{n}",
                text=text,
                spans=(Span(start=0, end=1),),
                links=(EntityLink(start=0, end=1, entity=f"Q{entity}"),),
                label=None if multi else label,
                labels=((label, "thing") if n % 2 else (label,)) if multi else None,
            )
        )
    return made


@pytest.fixture
def world(make_examples: Callable, make_vectors: Callable, pretrained: Path, tmp_path: Path) -> FinetuneConfig:
    """Dev and test ask for entities that training never showed."""
    examples = make_examples(
        train=closed_world(200, range(16), 0),
        dev=closed_world(40, range(16, 20), 1),
        test=closed_world(60, range(20, NUM_ENTITIES), 2),
    )
    noise = np.random.default_rng(0).normal(scale=0.3, size=(NUM_ENTITIES, 8))
    signs = np.array([1 if n % 2 else -1 for n in range(NUM_ENTITIES)])
    vectors = make_vectors({f"Q{n}": noise[n] + 2 * signs[n] for n in range(NUM_ENTITIES)})
    return FinetuneConfig(
        output=tmp_path / "task",
        task="entity_typing",
        examples=examples,
        model=pretrained,
        vectors=vectors,
        max_length=24,
        training=TrainingConfig(max_steps=60, batch_size=16, learning_rate=3e-3, eval_every=20, precision="fp32"),
    )


def figures(folder: Path) -> dict:
    return open_artifact(folder, stage="finetune run").figures


def test_vectors_teach_what_text_cannot_tell(world: FinetuneConfig):
    """Were the vectors not reaching the head, every number of the real tasks would still look plausible."""
    found = figures(run(world))
    assert found["test"]["accuracy"] >= 0.95
    assert found["test_without_entities"]["accuracy"] <= 0.7
    assert found["majority_baseline"]["accuracy"] <= 0.7
    low, high = found["test_interval_95"]["macro_f1"]
    assert low <= found["test"]["macro_f1"] <= high
    assert found["num_dev_evaluations"] == 3
    assert found["best_dev"] == max(entry["macro_f1"] for entry in found["dev_curve"])
    assert found["loss_curve"][-1]["loss"] < found["loss_curve"][0]["loss"]


def test_zero_vectors_leave_it_to_chance(world: FinetuneConfig):
    """A control that still knew the answer would mean a leak through the text or the positions."""
    found = figures(run(dataclasses.replace(world, entity_control="zero")))
    assert found["test"]["accuracy"] <= 0.7


def short(config: FinetuneConfig, **settings) -> FinetuneConfig:
    training = TrainingConfig(max_steps=4, batch_size=16, learning_rate=3e-3, precision="fp32", **settings)
    return dataclasses.replace(config, training=training, max_train=40)


def test_the_model_folder_gives_the_same_answers_again(world: FinetuneConfig, tmp_path: Path):
    """Labels, marks and length must travel with the weights."""
    folder = run(short(world))
    assert not (folder / "checkpoints").exists()
    task = load_task_model(folder, read_entity_rows(world.vectors))
    assert (task.label_to_id, task.max_length) == ({"even": 0, "odd": 1}, 24)
    task.model.attach_entity_table(ernie.EntityTable.open(world.vectors))
    examples = load_examples(world.examples, "test")
    features, _ = encode_examples(
        examples,
        spec=task.spec,
        tokenizer=task.tokenizer,
        label_to_id=task.label_to_id,
        max_length=task.max_length,
        linked=None,
        entities="given",
    )
    again = evaluate(task.model, features, spec=task.spec, batch_size=7, pad_token_id=0)
    assert again.metrics == pytest.approx(figures(folder)["test"])
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [example.id for example in examples]
    assert np.mean([line["predicted"] == line["gold"] for line in lines]) == again.metrics["accuracy"]

    write_examples(tmp_path / "new.jsonl", [dataclasses.replace(e, label=None) for e in examples])
    config = PredictConfig(
        output=tmp_path / "answers", model=folder, texts=tmp_path / "new.jsonl", vectors=world.vectors
    )
    answers = [json.loads(line) for line in (predict(config) / "predictions.jsonl").read_text().splitlines()]
    assert [a["predicted"] for a in answers] == [line["predicted"] for line in lines]
    assert "gold" not in answers[0]
    assert [a["probability"] for a in answers] == pytest.approx([line["probability"] for line in lines], abs=1e-4)


def test_plain_text_is_predicted_without_entities(world: FinetuneConfig, tmp_path: Path):
    """A line a text, nothing marked, no vectors."""
    (tmp_path / "texts.txt").write_text("a b\n\nc d e\n", encoding="utf-8")
    config = PredictConfig(output=tmp_path / "answers", model=run(short(world)), texts=tmp_path / "texts.txt")
    answers = [json.loads(line) for line in (predict(config) / "predictions.jsonl").read_text().splitlines()]
    assert [a["id"] for a in answers] == ["1", "3"]
    assert all(0.5 <= a["probability"] <= 1 for a in answers)


def test_an_interrupted_run_ends_as_if_nothing_had_happened(world: FinetuneConfig, monkeypatch: pytest.MonkeyPatch):
    """Dev-chosen weights, order and dropout must not depend on where a run was cut."""
    config = short(world, eval_every=2, save_every=2)
    whole = figures(run(dataclasses.replace(config, output=config.output.with_name("whole"))))

    calls = 0
    forward = ernie.ErnieForEntityTyping.forward

    def interrupted(self, *args, **settings):
        nonlocal calls
        calls += self.training
        if calls == 4:
            raise KeyboardInterrupt
        return forward(self, *args, **settings)

    monkeypatch.setattr(ernie.ErnieForEntityTyping, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not config.output.exists()
    monkeypatch.setattr(ernie.ErnieForEntityTyping, "forward", forward)
    found = figures(run(config))
    same = ["test", "dev_curve", "loss_curve", "best_step", "test_without_entities"]
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    assert open_artifact(config.output, stage="finetune run").data["resumed"]


def test_a_run_cut_between_seeds_trains_none_again_and_ends_as_a_whole_one(
    world: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
):
    """A seed done twice costs hours; one that begins where the last one's randomness stopped is another model."""
    config = dataclasses.replace(short(world, eval_every=2, save_every=2), seeds=(3, 4))
    whole = figures(run(dataclasses.replace(config, output=config.output.with_name("whole"))))

    trained: list[int] = []
    fit = seeds.fit

    def noted(config: FinetuneConfig, task: Task, *, seed: int, checkpoints: Path) -> TrainingResult:
        if trained == [3] and len(interruptions):
            raise interruptions.pop()
        trained.append(seed)
        return fit(config, task, seed=seed, checkpoints=checkpoints)

    interruptions = [KeyboardInterrupt()]
    monkeypatch.setattr(seeds, "fit", noted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    found = figures(run(config))
    assert trained == [3, 4]
    same = ["seeds", "over_seeds", "chosen_seed", "loss_curve", "dev_curve", "test"]
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}


def test_several_labels_at_once(world: FinetuneConfig, make_examples: Callable):
    """The head's loss, the marks and the scores all change with the kind of answer."""
    examples = make_examples(
        train=closed_world(40, range(16), 0, multi=True),
        dev=closed_world(10, range(16), 1, multi=True),
        test=closed_world(10, range(16), 2, multi=True),
    )
    folder = run(short(dataclasses.replace(world, examples=examples)))
    assert set(figures(folder)["test"]) >= {"strict_accuracy", "loose_micro_f1", "loose_macro_over_all_f1"}
    assert load_task_model(folder, {}).spec.multi_label


def test_labels_unseen_in_training_are_reported_and_scored(world: FinetuneConfig, make_examples: Callable):
    """The first implementation ended in a KeyError."""
    strange = [dataclasses.replace(e, label="neither") for e in closed_world(10, range(16), 3)]
    examples = make_examples(
        train=closed_world(40, range(16), 0),
        dev=closed_world(10, range(16), 1),
        test=strange + closed_world(10, range(16), 2),
    )
    manifest = open_artifact(run(short(dataclasses.replace(world, examples=examples))), stage="finetune run")
    assert manifest.dropped["test_label_unseen_in_training"] == 10
    assert manifest.counts["test"] == 20
    assert manifest.figures["test"]["accuracy"] <= 0.5


@pytest.mark.faults
def test_what_a_user_got_wrong_is_said_in_one_line(world: FinetuneConfig, make_examples: Callable, tmp_path: Path):
    """Each of these once ended in a traceback from deep inside, or trained on."""
    with pytest.raises(InputError, match="task 'typing' is unknown; there are entity_typing"):
        run(dataclasses.replace(world, task="typing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json and no tokenizer_config\.json"):
        run(dataclasses.replace(world, model=tmp_path / "empty"))
    finished = run(short(world))
    three = [dataclasses.replace(e, label=f"l{n % 3}") for n, e in enumerate(closed_world(40, range(16), 0))]
    examples = make_examples(train=three, dev=three[:5], test=three[5:10])
    other = dataclasses.replace(short(world), examples=examples, model=finished, output=tmp_path / "other")
    with pytest.raises(InputError, match="head was trained for 2 labels, these examples have 3"):
        run(other)
    one = closed_world(10, range(0, 16, 2), 0)
    examples = make_examples(train=one, dev=one, test=one)
    with pytest.raises(InputError, match="at least two different labels"):
        run(dataclasses.replace(other, examples=examples))
    examples = make_examples(train=[], dev=one, test=one)
    with pytest.raises(InputError, match=r"train\.jsonl holds no examples"):
        run(dataclasses.replace(other, examples=examples))


def test_marks_begin_near_a_known_piece_and_apart_from_each_other(pretrained: Path):
    """Marks of another scale than the pretrained pieces drown in the position vectors; equal ones are one mark."""
    spec = TASKS["entity_typing"]
    tokenizer = ernie.ErnieTokenizer.from_pretrained(pretrained, {})
    settings = {"spec": spec, "label_to_id": {"p": 0, "q": 1}, "entity_size": 8}
    first, second = (build_classifier(pretrained, tokenizer=tokenizer, seed=n, **settings) for n in (0, 0))
    table = first.get_input_embeddings().weight.detach()
    piece, opening, closing = tokenizer.fast_tokenizer.convert_tokens_to_ids(["*", *spec.marker_tokens])
    for mark in (opening, closing):
        noise = first.config.initializer_range
        assert (table[mark] - table[piece]).std().item() == pytest.approx(noise, rel=0.6)
    assert not torch.equal(table[opening], table[closing])
    assert torch.equal(first.classifier.weight, second.classifier.weight)


def test_scores_do_not_depend_on_the_evaluation_batch(world: FinetuneConfig, pretrained: Path):
    """Logits are computed in order of length and must come back in the order of the examples."""
    examples = closed_world(20, range(16), 5)
    tokenizer = ernie.ErnieTokenizer.from_pretrained(pretrained, read_entity_rows(world.vectors))
    spec = for_examples(TASKS["entity_typing"], examples)
    features, _ = encode_examples(
        examples,
        spec=dataclasses.replace(spec, markers={}),
        tokenizer=tokenizer,
        label_to_id={"even": 0, "odd": 1},
        max_length=24,
        linked=None,
        entities="given",
    )
    model = ernie.ErnieForEntityTyping.from_pretrained(pretrained, problem_type=spec.problem_type)
    model.attach_entity_table(ernie.EntityTable.open(world.vectors))
    model.train()
    one = evaluate(model, features, spec=spec, batch_size=1, pad_token_id=0)
    many = evaluate(model, features, spec=spec, batch_size=20, pad_token_id=0)
    assert model.training
    assert one.logits == pytest.approx(many.logits, abs=1e-5)
    gold = np.array([["even", "odd"].index(example.label) for example in examples])
    assert one.metrics["accuracy"] == metrics.accuracy(predictions(one.logits, spec=spec), gold)
    bare = evaluate(model, [without_entities(f) for f in features], spec=spec, batch_size=20, pad_token_id=0)
    assert np.abs(bare.logits - many.logits).max() > 1e-3
