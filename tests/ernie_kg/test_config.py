"""Configs from YAML: every mistake names the place, the key, what was expected."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from ernie_kg.config import config_from_mapping
from ernie_kg.yaml_file import read_yaml
from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Inner:
    learning_rate: float = 5e-5
    max_steps: int = 10


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    graph: Path
    output: Path
    reader: Literal["tsv", "wordnet"] = "tsv"
    leave_out: tuple[Path, ...] = ()
    training: Inner = field(default_factory=Inner)


GOOD: dict[str, Any] = {"graph": "g", "output": "o"}


def test_yaml_numbers_in_exponent_form_become_floats(tmp_path: Path) -> None:
    """YAML reads `3e-4` as text; a learning rate that stays text fails hours later, in the optimiser."""
    (tmp_path / "c.yaml").write_text("graph: g\noutput: o\ntraining: {learning_rate: 3e-4}\nleave_out: [a, b]\n")
    config = config_from_mapping(OuterConfig, read_yaml(tmp_path / "c.yaml"), source="c.yaml")
    assert config.training.learning_rate == pytest.approx(3e-4)
    assert config.leave_out == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raeder": "tsv"}, "c.yaml: unknown key raeder; nearest: reader"),
        ({"training": {"max_step": 3}}, "unknown key training.max_step; nearest: training.max_steps"),
        ({"training": {"max_steps": "many"}}, '"training.max_steps".*int.*many'),
        ({"reader": "rdf"}, "'tsv', 'wordnet'.*rdf"),
        ({"leave_out": "x"}, '"leave_out".*tuple'),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_from_mapping(OuterConfig, {**GOOD, **change}, source="c.yaml")


def test_a_missing_required_key_is_named() -> None:
    with pytest.raises(InputError, match="required: graph"):
        config_from_mapping(OuterConfig, {"output": "o"}, source="c.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1", "expected a mapping"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "no such config"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
