"""A made world in which nothing but the vectors can tell the answer: graph, TransE, links, fine-tuning, comparison."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from entity_linking.annotate import LINKED
from ernie import ErnieConfig
from ernie.training import TrainingConfig
from ernie_kg.compare import (
    ARMS,
    PRETRAININGS,
    CompareConfig,
    FinetuneSettings,
    PretrainSettings,
    Unfinished,
    degrees,
    run,
    table,
)
from finetune.comparison import Answers, buckets, paired_difference
from finetune.metrics import accuracy
from finetune.tasks.schema import EntityLink, Example, Span
from kg.artifact import open_artifact, write_artifact
from kg.build import BuildConfig
from kg.build import run as build_graph
from kg.embed import EmbedConfig
from kg.embed import run as embed
from kg.errors import InputError
from pretrain.prepare import PrepareConfig
from pretrain.prepare import run as prepare

NUM_ENTITIES, NUM_SEEN = 480, 320
COUNTRIES = ["north", "east", "south", "west"]
CHANCE = 1 / len(COUNTRIES)


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    """The least a stage's config offers, for an artifact that a test writes itself."""

    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def texts(entities: list[int], *, name: str, seed: int) -> list[Example]:
    """Random letters; who is spoken of stands in the link alone, its country in the graph alone."""
    draw = random.Random(seed)
    made = []
    for number, entity in enumerate(entities):
        words = " ".join(draw.choice("abcdefgh") for _ in range(draw.randint(4, 8)))
        made.append(
            Example(
                id=f"{name}:{number}",
                text=words,
                spans=(Span(start=0, end=1),),
                links=(EntityLink(start=0, end=1, entity=f"Q{entity}"),),
                label=COUNTRIES[entity % 4],
            )
        )
    return made


@pytest.fixture
def world(make_examples: Callable, pretrained: Path, tmp_path: Path) -> CompareConfig:
    """Every entity has neighbours in its own country. A third of them are in no training text; the others in one."""
    draw = random.Random(0)
    lines = []
    for entity in range(NUM_ENTITIES):
        country = entity % 4
        lines.append(f"Q{entity}\tlies_in\tC{country}\n")
        for _ in range(3):
            lines.append(f"Q{entity}\tnear\tQ{draw.randrange(NUM_ENTITIES // 4) * 4 + country}\n")
    (tmp_path / "triples.tsv").write_text("".join(lines), encoding="utf-8")
    graph = build_graph(BuildConfig(reader="tsv", source=str(tmp_path / "triples.tsv"), output=tmp_path / "graph"))
    vectors = embed(
        EmbedConfig(graph=graph, output=tmp_path / "vectors", dim=8, num_negatives=32, epochs=40, valid=0, test=0)
    )
    entities = list(range(NUM_ENTITIES))
    draw.shuffle(entities)
    seen, unseen = entities[:NUM_SEEN], entities[NUM_SEEN:]
    examples = make_examples(
        train=texts(seen, name="train", seed=1),
        dev=texts(unseen[:40], name="dev", seed=2),
        test=texts(seen[:120] + unseen[40:], name="test", seed=3),
    )
    training = TrainingConfig(max_steps=100, batch_size=16, learning_rate=4e-3, eval_every=50, precision="fp32")
    return CompareConfig(
        output=tmp_path / "compared",
        examples=examples,
        base=str(pretrained),
        graph=graph,
        vectors=vectors,
        finetuning=FinetuneSettings(task="entity_typing", training=training, max_length=24, pooling="mean"),
        arms=("text", "ernie", "ernie_shuffled"),
        seeds=(0,),
    )


def test_only_true_vectors_tell_the_answer(world: CompareConfig):
    """Every figure of a real task stays plausible when the entities never reach the head; here nothing else can."""
    found = open_artifact(run(world), stage="finetune compare").figures
    right = {name: arm["accuracy"]["mean"] for name, arm in found["arms"].items()}
    assert right["ernie"] >= 0.95
    # In the buckets the metric is macro-F1; classes are balanced, so that both say the same of chance.
    for bucket in ("seen", "unseen"):
        assert found["buckets"][bucket] == 120
        assert found["arms"]["ernie"]["in_buckets"][bucket] >= 0.93
        for control in ("text", "ernie_shuffled"):
            assert found["arms"][control]["in_buckets"][bucket] <= CHANCE + 0.15
    for control in ("text", "ernie_shuffled"):
        assert abs(right[control] - CHANCE) <= 0.12
    assert found["differences"]["ernie - text"]["p"] < 0.01
    assert found["differences"]["ernie - text"]["low"] > 0.4
    lines = (world.output / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| text", "| ernie", "| ernie_shuffled"]
    kept = {path.name for path in world.output.iterdir()}
    assert kept >= {"comparison.json", "table.md", "ernie.json", "ernie.jsonl", "manifest.json"}
    assert not {"arms", "pretrained"} & kept


def short(world: CompareConfig, **settings) -> CompareConfig:
    training = TrainingConfig(max_steps=2, batch_size=8, learning_rate=1e-3, precision="fp32")
    finetuning = dataclasses.replace(world.finetuning, training=training, max_train=16, max_dev=8)
    return dataclasses.replace(world, finetuning=finetuning, **settings)


def test_an_unfinished_comparison_goes_on_with_the_next_arm(world: CompareConfig, monkeypatch: pytest.MonkeyPatch):
    """Hours of arms that are done must not be done again."""
    import finetune.run as stage

    begun = []
    real = stage.run
    monkeypatch.setattr(stage, "run", lambda config: (begun.append(config.output.name), real(config))[1])
    with pytest.raises(Unfinished, match=r"1 of 3 arms done; give the same command again to go on with ernie"):
        run(short(world, seeds=(0, 1), max_minutes=1e-9))
    run(short(world, seeds=(0, 1)))
    assert begun == ["text", "ernie", "ernie_shuffled"]
    figures = orjson.loads((world.output / "comparison.json").read_bytes())
    assert set(figures["arms"]["text"]["macro_f1"]) == {"mean", "sd", "low", "high"}
    assert "± " in table(figures)
    assert (world.output / "ernie-1.jsonl").exists()


def test_a_comparison_of_more_arms_takes_what_is_kept(world: CompareConfig, monkeypatch: pytest.MonkeyPatch):
    """And no more than that: an arm of other settings is another, and stands beside the first."""
    import finetune.run as stage

    begun = []
    real = stage.run
    monkeypatch.setattr(stage, "run", lambda config: (begun.append(config.output.name.split("-")[0]), real(config))[1])
    kept = short(world, arms=("text",), work=world.output.with_name("work"))
    run(kept)
    run(dataclasses.replace(kept, arms=("text", "ernie"), output=world.output.with_name("more")))
    assert begun == ["text", "ernie"]
    assert (world.output.with_name("more") / "text.jsonl").exists()
    finetuning = dataclasses.replace(kept.finetuning, max_train=12)
    run(dataclasses.replace(kept, finetuning=finetuning, output=world.output.with_name("other")))
    assert begun == ["text", "ernie", "text"]
    run(dataclasses.replace(kept, output=world.output.with_name("again")))
    assert begun == ["text", "ernie", "text"], "the first settings' arm is still there"


@pytest.fixture
def instances(world: CompareConfig, pretrained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A plain BERT, and pretraining instances of a few linked documents."""
    draw = random.Random(0)
    documents = []
    for number in range(30):
        text, mentions = "", []
        for _ in range(6):
            mentions.append({"start": len(text), "end": len(text) + 1, "entity": f"Q{draw.randrange(9)}", "score": 1.0})
            text += " ".join(draw.choice("abcdefgh") for _ in range(6)) + ". "
        documents.append({"id": str(number), "title": "", "text": text, "mentions": mentions})
    with write_artifact(MadeConfig(output=tmp_path / "linked"), stage="link") as writer:
        pq.write_table(pa.Table.from_pylist(documents, schema=LINKED), writer.path / "shard-00000.parquet")
    vocabulary = AutoTokenizer.from_pretrained(pretrained)
    vocabulary.save_pretrained(tmp_path / "bert")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **shape)).save_pretrained(
        tmp_path / "bert"
    )
    prepared = prepare(
        PrepareConfig(
            linked=tmp_path / "linked",
            tokenizer=str(tmp_path / "bert"),
            vectors=world.vectors,
            output=tmp_path / "instances",
            max_length=32,
            dev=0.2,
            test=0.0,
        )
    )
    return tmp_path / "bert", prepared


def test_every_arm_is_pretrained_as_it_says(world: CompareConfig, instances: tuple[Path, Path]):
    """An arm that quietly begins elsewhere, or reads what it should not, decides the whole table."""
    bert, prepared = instances
    arms = ("text", "text_pretrained", "ernie", "ernie_shuffled", "ernie_without_dea", "metadata")
    training = TrainingConfig(max_steps=1, batch_size=4, learning_rate=1e-4, precision="fp32")
    asked = short(
        world,
        arms=arms,
        base=str(bert),
        instances=prepared,
        work=world.output.with_name("work"),
        pretraining=PretrainSettings(training=training, heldout_instances=4),
    )
    with pytest.raises(InputError, match="'text_pretrained' differs from another by its pretraining alone"):
        dataclasses.replace(asked, instances=None, arms=("text_pretrained",))
    words = {f"Q{n}": "an entity of the graph" for n in range(NUM_ENTITIES)}
    asked = dataclasses.replace(asked, graph=described(world.graph, words))
    figures = open_artifact(run(asked), stage="finetune compare").figures
    assert list(figures["arms"]) == list(arms)
    begun = {}
    for name in arms:
        config = orjson.loads((asked.output / f"{name}.json").read_bytes())["config"]
        begun[name] = Path(config["model"]).name.split("-")[0]
        assert (config["entities"] == "none") == (name in ("text", "text_pretrained", "metadata"))
        assert config["seeds"] == [0]
    assert begun == {name: ARMS[name].pretraining or bert.name for name in arms}
    made = [name for name in PRETRAININGS if name in {ARMS[arm].pretraining for arm in arms}]
    folders = {name: next((asked.work / "pretrained").glob(f"{name}-????????????")) for name in made}
    layers = {name: ErnieConfig.from_pretrained(folder).layer_types for name, folder in folders.items()}
    assert layers == {name: ["text", "text"] if name == "text" else ["mix", "fuse"] for name in made}
    controls = {name: open_artifact(folder, stage="pretrain run").data["config"] for name, folder in folders.items()}
    assert controls["shuffled"]["entity_control"] == "shuffled"
    assert [name for name in made if controls[name]["objectives"]["dea"] == 0] == ["text", "no_dea"]


def described(graph: Path, words: dict[str, str]) -> Path:
    """The same graph from a source that describes its entities."""
    source = graph.parent / "described"
    source.mkdir()
    (source / "triples.tsv").write_bytes((graph.parent / "triples.tsv").read_bytes())
    records = [{"id": name, "description": said} for name, said in words.items()]
    (source / "entities.jsonl").write_bytes(b"\n".join(map(orjson.dumps, records)))
    return build_graph(BuildConfig(reader="tsv", source=str(source), output=graph.parent / "described-graph"))


@pytest.mark.faults
def test_vectors_that_know_the_answers_are_refused(world: CompareConfig, make_examples: Callable, tmp_path: Path):
    """A margin that comes from test facts inside the graph looks like the best result of all."""
    made = {name: texts([0, 1, 2, 3] * 4, name=name, seed=1) for name in ("train", "dev", "test")}
    examples = make_examples(facts="Q1\tlies_in\tC1\n", **made)
    world = short(dataclasses.replace(world, examples=examples))
    with pytest.raises(InputError, match="embed the graph again with `leave_out` of these examples"):
        run(world)
    vectors = embed(
        EmbedConfig(
            graph=world.graph,
            output=tmp_path / "clean",
            leave_out=(world.examples,),
            dim=8,
            num_negatives=8,
            epochs=1,
            valid=0,
            test=0,
        )
    )
    run(dataclasses.replace(world, vectors=vectors, arms=("text",)))
    with pytest.raises(InputError, match="arm 'ernei' is unknown; there are text, text_pretrained, ernie"):
        dataclasses.replace(world, arms=("ernei",))


def test_a_paired_difference_sees_what_two_intervals_hide():
    """Two models that err on the same examples differ surely, though each one's own interval is wide."""
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 2, size=200)
    one = np.where(draw.random(200) < 0.7, gold, 1 - gold)
    wrong = np.flatnonzero(one == gold)[:8]
    other = one.copy()
    other[wrong] = 1 - other[wrong]
    better, worse = Answers(predicted=[one], gold=gold), Answers(predicted=[other], gold=gold)
    found = paired_difference(better, worse, accuracy, seed=0)
    assert found["difference"] == pytest.approx(8 / 200)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p"] < 0.05
    same = paired_difference(better, better, accuracy, seed=0)
    assert (same["difference"], same["p"]) == (0.0, 1.0)


def test_buckets_part_the_examples_by_what_the_graph_knows():
    """An entity outside the graph is no link; one of two unseen entities makes an example unseen."""

    def example(name: str, *entities: str) -> Example:
        spans = tuple(Span(start=n, end=n + 1, role=role) for n, role in enumerate(("head", "tail")))
        links = tuple(EntityLink(start=n, end=n + 1, entity=entity) for n, entity in enumerate(entities))
        return Example(id=name, text="abc", spans=spans, links=links)

    scored = [example("0", "A", "B"), example("1", "X"), example("2", "C", "B"), example("3")]
    found = buckets(scored, [example("t", "A", "B")], degree={"A": 9, "B": 7, "C": 1}, roles=("head", "tail"))
    rows = {name: numbers.tolist() for name, numbers in found.items()}
    assert rows == {
        "linked": [0, 2],
        "not_linked": [1, 3],
        "frequent": [0],
        "rare": [2],
        "seen": [0],
        "unseen": [2],
    }


def test_degrees_count_both_ends_by_name(world: CompareConfig):
    """Rows begin at 1: counts off by one row would sort entities by their neighbours."""
    lines = [line.split("\t") for line in (world.graph.parent / "triples.tsv").read_text().splitlines()]
    pairs = {tuple(line) for line in lines if line[0] != line[2]}
    found = degrees(world.graph)
    for entity in ("Q0", "Q7", "C2"):
        assert found[entity] == sum(line[0] == entity for line in pairs) + sum(line[2] == entity for line in pairs)


def test_every_arm_but_the_encoder_alone_differs_from_another_in_one_thing():
    """A control that differs in two things says nothing about either."""
    assert len({(arm.pretraining, tuple(sorted(arm.finetuning.items()))) for arm in ARMS.values()}) == len(ARMS)
