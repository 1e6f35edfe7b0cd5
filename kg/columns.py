"""Arrow columns of numbers to NumPy arrays and back, without pandas.

pyarrow loads pandas, where it is installed, for `to_numpy` and for `pa.array`: 35 MB and half a second that training
has no use for.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """An integer or floating column without nulls, (len(column),); read-only where it lies in one piece.

    >>> numbers(pa.chunked_array([[1, 2], [3]])).tolist()
    [1, 2, 3]
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    found = [np.from_dlpack(chunk) for chunk in chunks if len(chunk)]
    if len(found) == 1:
        return found[0]
    name = str(column.type)
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    return np.concatenate([np.zeros(0, dtype), *found], dtype=dtype)


def column(values: np.ndarray) -> pa.Array:
    """Integers or booleans (n,) as an Arrow array, over the same memory where that is possible.

    >>> column(np.array([True, False])).to_pylist(), column(np.array([4, 5])[1:]).to_pylist()
    ([True, False], [5])
    """
    values = np.ascontiguousarray(values)
    if values.dtype == bool:
        bits = pa.py_buffer(np.packbits(values, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])
    return pa.Array.from_buffers(pa.type_for_alias(str(values.dtype)), len(values), [None, pa.py_buffer(values)])
