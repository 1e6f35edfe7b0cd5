"""Where input comes from: a path, or the data inside a package that is never imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kg.errors import InputError
from kg.sources import resolve_source, source_path


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data packages name dependencies that are not installed: importing one would fail."""
    (tmp_path / "carries_data").mkdir()
    (tmp_path / "carries_data" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (tmp_path / "carries_data" / "data.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_source("package:carries_data/data.json") == tmp_path / "carries_data" / "data.json"
    assert "carries_data" not in sys.modules
    with pytest.raises(InputError, match=r"is installed but holds no 'other.json'"):
        resolve_source("package:carries_data/other.json")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no_such_package_here/data.json", "'no_such_package_here' is not installed; run `make setup`"),
        ("package:sys/data.json", "'sys' is not installed"),
        ("no/such/folder", "no such file or folder"),
    ],
)
def test_what_is_missing_is_named_with_the_mend(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_source(source)


def test_a_path_may_be_named_before_it_is_made() -> None:
    """A dry run names what an earlier step will make."""
    assert source_path("not/made/yet") == Path("not/made/yet")
