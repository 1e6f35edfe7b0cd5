"""docs/reference.md is what the configs say today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "write_reference.py"


def test_the_reference_is_current() -> None:
    """A key that was renamed in the code and not in the reference costs every reader an error message."""
    spec = importlib.util.spec_from_file_location("write_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.REFERENCE.read_text(encoding="utf-8") == module.reference(), "run `make docs`"
