"""entity2id.txt and entity2vec.vec into a table: which row is whose, which line is bad, how much memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ernie import EntityTable, InputError
from ernie import first_release_vectors as converter
from ernie.first_release_vectors import convert_entity_vectors


def written(folder: Path, ids: str, vectors: str) -> dict[str, Any]:
    (folder / "entity2id.txt").write_text(ids)
    (folder / "entity2vec.vec").write_text(vectors)
    return {
        "entity2id": folder / "entity2id.txt",
        "entity2vec": folder / "entity2vec.vec",
        "output": folder / "vectors",
    }


IDS, VECTORS = "3\nQ10\t0\nQ7\t1\nQ5\t2\n", "1\t2\t\n3\t4e-1\t\n-5\t6\t\n"


@pytest.mark.parametrize("ids", [IDS, "3\nQ5\t2\nQ10\t0\nQ7\t1\n", IDS.replace("\n", "\r\n")])
def test_row_is_index_plus_one(tmp_path: Path, ids: str) -> None:
    """The prepended zero row shifts everything by one: off by one, every entity has its neighbour's vector."""
    report = convert_entity_vectors(**written(tmp_path, ids, VECTORS))
    assert (report.num_entities, report.entity_size, report.bad_lines) == (3, 2, ())
    table = EntityTable.open(tmp_path / "vectors")
    wanted = torch.tensor([[0, 0], [1, 2], [3, 0.4], [-5, 6]])
    torch.testing.assert_close(table.rows(torch.arange(4)), wanted)
    assert (tmp_path / "vectors" / "vocabulary.txt").read_text() == "Q10\nQ7\nQ5\n"
    assert not list((tmp_path / "vectors").glob("*.partial"))


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        (IDS, "1\t2\n3\n5\t6\n", "line 2 holds 1 values where the first line holds 2 numbers"),
        (IDS, "1\t2\n3\t4\t9\n5\n", "line 2 holds 3 values"),
        (IDS, "1\t2\n3\t4\n5\tx\n", "line 3 holds a value that is no finite number"),
        (IDS, "1\t2\n3\tnan\n5\t6\n", "line 2 holds a value that is no finite number"),
        (IDS, "1\t2\n\n5\t6\n", "line 2 holds 0 values"),
        (IDS, "1\t2\n3\t4\n", "only 2 vectors where entity2id.txt names 3"),
        (IDS, "1\t2\n" * 4, "more 4 vectors where entity2id.txt names 3"),
        (IDS, "", "line 1 holds no vector"),
        ("Q10\t0\n", VECTORS, "line 1 holds the number of entities, got 'Q10"),
        ("3\nQ10\t0\nQ7 1\nQ5\t2\n", VECTORS, "line 3 is identifier<TAB>index, got 'Q7 1'"),
        ("3\nQ10\t0\nQ7\t0\nQ5\t2\n", VECTORS, "line 3: index 0 stands twice"),
        ("3\nQ10\t0\nQ7\t1\n", VECTORS, "announces 3 entities and names 2"),
        ("3\nQ10\t0\nQ7\t1\nQ5\t3\n", VECTORS, "announces 3 entities and names 3, none has index 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, ids: str, vectors: str, words: str) -> None:
    """A download cut short was padded with zeros by one of that release's scripts and by the others not noticed."""
    with pytest.raises(InputError, match=words):
        convert_entity_vectors(**written(tmp_path, ids, vectors))
    assert not (tmp_path / "vectors" / "entity_embeddings.safetensors").exists()


def test_bad_rows_may_be_zeros_and_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On request, and by line number; in whichever chunk they stand."""
    monkeypatch.setattr(converter, "CHUNK_LINES", 2)
    vectors = "1\t2\n3\n5\t6\n7\t8\n9\tinf\n"
    ids = "5\n" + "".join(f"Q{n}\t{n}\n" for n in range(5))
    report = convert_entity_vectors(**written(tmp_path, ids, vectors), on_bad_row="zero", dtype="float16")
    assert report.bad_lines == (2, 5)
    rows = EntityTable.open(tmp_path / "vectors").rows(torch.arange(6))
    assert rows.tolist() == [[0, 0], [1, 2], [0, 0], [5, 6], [7, 8], [0, 0]]


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """16 GB for 2 GB is why that release's users could not start."""
    peaks = []
    for count in (10_000, 40_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        line = "\t".join(f"{x:.6f}" for x in np.linspace(-1, 1, 50)) + "\n"
        files = written(folder, f"{count}\n" + "".join(f"Q{n}\t{n}\n" for n in range(count)), line * count)
        tracemalloc.start()
        convert_entity_vectors(**files)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 12e6
