"""The memory-mapped entity table."""

from __future__ import annotations

import json
import mmap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ernie import EntityTable, InputError


@pytest.fixture
def vectors() -> torch.Tensor:
    made = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    made[0] = 0
    return made


def _owner(array: object) -> object:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mapped_table_gathers_its_rows(tmp_path: Path, vectors: torch.Tensor, dtype: torch.dtype) -> None:
    """Read by our own few lines of the safetensors layout, written by the library: offsets beside another tensor."""
    save_file(
        {"another": torch.ones(7), "entity_embeddings": vectors.to(dtype)},
        tmp_path / "entity_embeddings.safetensors",
    )
    table = EntityTable.open(tmp_path)
    assert (table.num_rows, table.entity_size) == (50, 6)
    ids = torch.tensor([[3, 0], [49, 3]])
    rows = table.rows(ids)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, vectors.to(dtype).float()[ids])
    assert isinstance(_owner(table._vectors), mmap.mmap), "the file is mapped, not read"
    assert table.rows(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 6)


@pytest.mark.parametrize("bad", [50, -1])
def test_a_row_outside_is_named(vectors: torch.Tensor, bad: int) -> None:
    """numpy would count -1 from the end and hand over a wrong entity."""
    with pytest.raises(InputError, match=f"entity row {bad} .* 0..49"):
        EntityTable(vectors).rows(torch.tensor([1, bad]))


def test_controls_change_the_knowledge_and_nothing_else(vectors: torch.Tensor) -> None:
    """An ablation that also moved row 0, or drew anew each call, would compare two other things."""
    table, everything = EntityTable(vectors), torch.arange(50)
    assert table.controlled("true") is table
    assert not table.controlled("zero").rows(everything).any()
    shuffled, drawn = (table.controlled(kind, seed=3).rows(everything) for kind in ("shuffled", "random"))
    assert torch.equal(shuffled.sort(0).values, vectors.sort(0).values)
    assert (shuffled[1:] != vectors[1:]).any(1).float().mean() > 0.8
    for rows in (shuffled, drawn):
        assert not rows[0].any()
    one = table.controlled("random", seed=3).rows(torch.tensor([[17]]))
    assert torch.equal(one[0, 0], drawn[17]), "a row is the same whatever it is asked with"
    assert not torch.equal(table.controlled("random", seed=4).rows(everything), drawn)
    with pytest.raises(InputError, match="true, zero, shuffled, random, got 'zeros'"):
        table.controlled("zeros")  # pyrefly: ignore[bad-argument-type]


def test_random_control_is_normal_with_the_tables_spread() -> None:
    """Noise of another size would be told from knowledge by its norm alone."""
    vectors = torch.randn(4001, 25, generator=torch.Generator().manual_seed(0)) * 0.3
    vectors[0] = 0
    drawn = EntityTable(vectors).controlled("random").rows(torch.arange(1, 4001))
    assert drawn.mean().abs() < 0.005
    assert abs(drawn.std().item() - 0.3) < 0.005
    kurtosis = (drawn / drawn.std()).pow(4).mean()
    assert abs(kurtosis - 3) < 0.1
    correlation = torch.corrcoef(drawn.T) - torch.eye(25)
    assert correlation.abs().max() < 0.08


def test_files_that_are_no_tables_say_so(tmp_path: Path, vectors: torch.Tensor) -> None:
    """Each of these met a user once: nothing there, another tensor, cut short, row 0 in use, wrong type."""
    with pytest.raises(InputError, match=r"no entity vectors at .* kg embed"):
        EntityTable.open(tmp_path)
    file = tmp_path / "entity_embeddings.safetensors"
    save_file({"relation_embeddings": vectors}, file)
    with pytest.raises(InputError, match="it holds: relation_embeddings"):
        EntityTable.open(tmp_path)
    save_file({"entity_embeddings": vectors}, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(InputError, match="truncated"):
        EntityTable.open(file)
    file.write_bytes(b"not a table, but text")
    with pytest.raises(InputError, match="not a safetensors file"):
        EntityTable.open(file)
    file.write_bytes(b"")
    with pytest.raises(InputError, match="not a safetensors file"):
        EntityTable.open(file)
    save_file({"entity_embeddings": vectors.bfloat16()}, file)
    with pytest.raises(InputError, match="holds BF16"):
        EntityTable.open(file)
    with pytest.raises(InputError, match="row 0"):
        EntityTable(vectors + 1)
    with pytest.raises(InputError, match="floating"):
        EntityTable(torch.zeros(3, 3, dtype=torch.long))


@pytest.mark.parametrize(("name", "item"), [("F32", 4), ("F16", 2)])
def test_five_million_rows_open_at_once_and_cost_what_is_read(tmp_path: Path, name: str, item: int) -> None:
    """Read whole, the table would be two gigabytes before the first word; a sparse file of that size shows it."""
    rows, width = 5_000_001, 100
    end = rows * width * item
    entry = {"dtype": name, "shape": [rows, width], "data_offsets": [0, end]}
    header = json.dumps({"entity_embeddings": entry}).encode()
    header += b" " * (-len(header) % 8)
    file = tmp_path / "entity_embeddings.safetensors"
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.seek(end - width * item, 1)
        out.write(np.full(width, 0.5, dtype=f"<f{item}").tobytes())
    before = _resident_mb()
    start = time.perf_counter()
    table = EntityTable.open(tmp_path)
    scattered = torch.randint(1, rows - 1, (8, 12), generator=torch.Generator().manual_seed(0))
    gathered = table.rows(scattered)
    seconds = time.perf_counter() - start
    assert seconds < 1.0
    assert _resident_mb() - before < 50
    assert gathered.shape == (8, 12, 100)
    assert not gathered.any()
    assert table.rows(torch.tensor([rows - 1])).unique().tolist() == [0.5]
    with pytest.raises(InputError, match=f"entity row {rows} "):
        table.rows(torch.tensor([rows]))


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
