"""The before and after in the docstrings of the steps is what the steps do."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "ernie.training.bad_steps", "ernie.training.batches", "ernie.training.optimisation",
    "ernie.training.reproducibility", "pretrain.instances", "pretrain.masking", "pretrain.sentences",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
