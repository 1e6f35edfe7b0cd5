"""A task model's folder says what it lacks."""

from __future__ import annotations

import orjson
import pytest

from finetune.task_model import TASK_FIELDS, TASK_FILE, read_task
from kg.errors import InputError


@pytest.mark.faults
def test_a_folder_of_another_version_is_refused_by_what_it_lacks(tmp_path):
    """A bare KeyError would reach the explorer's visitor as a fault of ours, with no word of what to do."""
    record = dict.fromkeys(TASK_FIELDS, "")
    del record["span_types"], record["pooling"]
    (tmp_path / TASK_FILE).write_bytes(orjson.dumps(record))
    with pytest.raises(InputError, match=r"task.json lacks span_types, pooling: another version wrote it; train"):
        read_task(tmp_path)
