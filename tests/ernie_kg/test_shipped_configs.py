"""Every YAML that the project ships loads; a new one cannot be forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ernie_kg.pipeline import describe_road, load_road
from kg.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ROADS = [
    "finetuning/fb15k237.yaml",
    "finetuning/wordnet.yaml",
    "kg/fb15k237.yaml",
    "kg/wikidata5m.yaml",
    "kg/wn18rr.yaml",
    "kg/wordnet.yaml",
    "own-data.yaml",
    "paraphrase/rbm-sl.yaml",
    "pretraining/staged.yaml",
    "quickstart.yaml",
]


def test_the_list_below_is_the_folder() -> None:
    assert sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")) == ROADS


@pytest.mark.parametrize("name", ROADS)
def test_a_road_loads_and_agrees_on_its_split(name: str) -> None:
    """Test documents stay out of pretraining only if seed and shares are the same in every stage that splits."""
    steps = load_road(CONFIGS / name)
    assert len(steps) == len(yaml.safe_load((CONFIGS / name).read_text())["stages"])
    splitting = [s.config for s in steps if s.command in ("finetune examples", "pretrain prepare")]
    splits = {(c.seed, c.dev, c.test) for c in splitting}
    assert len(splits) == (0 if name.startswith(("kg/", "paraphrase/")) else 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ROADS)
def test_a_dry_run_needs_nothing_that_earlier_steps_make(name: str, tmp_path: Path) -> None:
    """A stage that looks into its inputs while naming them would stop a dry run before the first step has run."""
    try:
        shown = describe_road(load_road(CONFIGS / name, {"output": str(tmp_path / "run")}))
    except InputError as error:
        pytest.skip(str(error))
    assert shown.count("would be written") == len(load_road(CONFIGS / name))
    assert "from an earlier step" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["finetuning/fb15k237.yaml", "finetuning/wordnet.yaml"])
def test_relations_that_are_compared_stay_out_of_the_vectors(name: str) -> None:
    """`finetune compare` refuses vectors that know what its examples ask for, hours after the road began."""
    steps = {step.config.output: step for step in load_road(CONFIGS / name)}
    compared = [step.config for step in steps.values() if step.command == "finetune compare"]
    asked = {
        config.examples  # type: ignore[attr-defined]
        for config in compared
        for examples in [steps[config.examples].config]  # type: ignore[attr-defined]
        if {getattr(examples, "format", ""), getattr(examples, "task", "")} & {"fewrel", "semeval2010", "relations"}
    }
    assert asked
    for config in compared:
        left_out = steps[config.vectors].config.leave_out  # type: ignore[attr-defined]
        assert asked <= set(left_out)
