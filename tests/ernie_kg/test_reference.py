"""docs/reference.md is what the configs say today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from ernie_kg.config import config_parser
from ernie_kg.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "write_reference.py"
REFERENCE = ROOT / "docs" / "reference.md"


def test_the_reference_is_current() -> None:
    """A key that was renamed in the code and not in the reference costs every reader an error message."""
    spec = importlib.util.spec_from_file_location("write_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.REFERENCE.read_text(encoding="utf-8") == module.reference(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_defaults_shown_are_those_that_the_command_takes(name: str) -> None:
    """A stage may put other values into a nested config than its class has: what is shown must be what is run."""
    heading = f"## `ernie-kg {' '.join([name, *(place.upper() for place in STAGES[name].places)])}`\n"
    page = REFERENCE.read_text(encoding="utf-8")
    rows = page.split(heading)[1].split("\n## ")[0]
    shown = dict(re.findall(r"^\| `([\w.]+)` \| (?:`(.*?)`|below|required) \|", rows, flags=re.MULTILINE))
    taken = config_parser(STAGES[name].config_class(), prog=name).get_defaults()
    assert shown
    for key, value in shown.items():
        if value:
            assert value == (str(taken[key]) or '""'), key
