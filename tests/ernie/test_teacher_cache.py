"""A teacher's answers on disk: right rows, a kill in between, and nobody else's answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ernie.errors import InputError
from ernie.teacher_cache import TeacherCache, cache_bytes

KEY = {"teacher": "t1", "seed": 0}
COUNTS = np.array([2, 0, 3, 1])


def _cache(folder, **changes) -> TeacherCache:
    return TeacherCache(folder, **{"key": KEY, "counts": COUNTS, "width": 4, **changes})


def _answers(row: int) -> np.ndarray:
    return np.arange(COUNTS[row] * 4, dtype=np.float32).reshape(-1, 4) + 100 * row


def test_rows_of_any_number_come_back_in_any_order(tmp_path):
    cache = _cache(tmp_path / "c")
    for row in (2, 0, 1):
        cache.put(row, _answers(row))
    cache.flush()
    again = _cache(tmp_path / "c")
    for row in (0, 1, 2):
        np.testing.assert_array_equal(again[row], _answers(row))
    assert again.missing(np.array([3, 2, 3, 1])).tolist() == [3]
    with pytest.raises(AssertionError, match="never asked"):
        again[3]


def test_its_size_is_known_before_it_is_made(tmp_path, monkeypatch):
    """A run that fills the disk after an hour; the estimate is the bytes it takes."""
    cache = _cache(tmp_path / "c")
    found = sum(path.stat().st_size for path in cache.folder.iterdir() if path.suffix == ".bin")
    assert found == cache_bytes(COUNTS, width=4, dtype="<f4")
    monkeypatch.setattr("ernie.teacher_cache.shutil.disk_usage", lambda _: type("Disk", (), {"free": 10})())
    with pytest.raises(InputError, match="the disk has"):
        _cache(tmp_path / "d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": {"teacher": "t2", "seed": 0}}, "another teacher .'t1', this run has 't2'"),
        ({"key": {"teacher": "t1", "seed": 1}}, "another seed"),
        ({"counts": np.array([2, 0, 3])}, "another rows"),
        ({"width": 5}, "another width"),
    ],
)
def test_other_answers_are_refused_by_what_differs(tmp_path, changes, message):
    """They would train a student on the wrong distribution, and the loss would go down."""
    _cache(tmp_path / "c")
    with pytest.raises(InputError, match=message):
        _cache(tmp_path / "c", **changes)


def test_damage_is_named(tmp_path):
    cache = _cache(tmp_path / "c")
    (cache.folder / "filled.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"filled\.bin: missing or not 4 bytes"):
        _cache(tmp_path / "c")
    (cache.folder / "index.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match="not readable"):
        _cache(tmp_path / "c")
