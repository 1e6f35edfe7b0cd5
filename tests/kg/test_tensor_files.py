"""Arrays written without a copy, against safetensors' own reader and writer."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from kg.columns import column, numbers
from kg.partitioned.files import PickedRows, TableFile, read_tensors, write_tensors

shapes = array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)
tensors = st.dictionaries(
    st.text("abc_", min_size=1, max_size=4),
    st.sampled_from([np.float32, np.int64, np.uint8]).flatmap(lambda dtype: arrays(dtype, shapes)),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tensors, st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
def test_files_are_safetensors_files(tmp_path, found, metadata):
    """Checkpoints are read by others' tools, and by ours from files that safetensors wrote."""
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_tensors(ours, found, metadata)
    save_file(found, theirs, metadata or None)
    with safe_open(ours, "np") as file:
        assert (file.metadata() or {}) == metadata
    for name, array in load_file(ours).items():
        np.testing.assert_array_equal(array, found[name])
    for path in (ours, theirs):
        filled = {name: np.zeros_like(array) for name, array in found.items()}
        read_tensors(path, filled)
        for name, array in filled.items():
            np.testing.assert_array_equal(array, found[name])


def test_a_tensor_of_another_shape_is_not_read(tmp_path):
    """Bytes of another table would fill the array just as well."""
    write_tensors(tmp_path / "t.safetensors", {"a": np.zeros((2, 3), np.float32)})
    with pytest.raises(AssertionError, match="was written as"):
        read_tensors(tmp_path / "t.safetensors", {"a": np.zeros((3, 2), np.float32)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sets(st.integers(0, 40), min_size=1), st.data())
def test_picked_rows_read_as_an_array_does(tmp_path, rows, data):
    """The index takes either; a shift by one row would name every neighbour wrongly."""
    table = np.random.default_rng(0).random((41, 3), dtype=np.float32)
    TableFile.write(tmp_path / "t.safetensors", "t", table.shape, [table[:7], table[7:]])
    picked = np.array(sorted(rows))
    on_disk, in_memory = PickedRows(TableFile(tmp_path / "t.safetensors"), picked), table[picked]
    assert (len(on_disk), on_disk.shape) == (len(in_memory), in_memory.shape)
    start, stop = sorted(data.draw(st.integers(0, len(picked))) for _ in range(2))
    np.testing.assert_array_equal(on_disk[start:stop], in_memory[start:stop])
    places = data.draw(arrays(np.int64, st.integers(0, 6), elements=st.integers(-1, len(picked) - 1)))
    np.testing.assert_array_equal(on_disk[places], in_memory[places])


@given(arrays(st.sampled_from([np.int32, np.int64, np.uint64, np.int8, bool]), st.integers(0, 20)))
def test_columns_hold_the_numbers_they_were_made_of(values):
    """They go round pyarrow's own conversion, which would load pandas."""
    found = column(values)
    assert found.to_pylist() == values.tolist()
    if values.dtype != bool:
        np.testing.assert_array_equal(numbers(found), values)
        assert numbers(found).dtype == values.dtype
