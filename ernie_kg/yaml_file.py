"""YAML files from anyone: aliases that would unfold to millions of values, keys given twice and depth are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kg.errors import InputError

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 50


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping.

    Raises:
        InputError: no file, more than `MAX_BYTES`, YAML that does not parse (with its line), a key given twice, more
            than `MAX_VALUES` values or `MAX_DEPTH` levels once aliases are unfolded, another top than a mapping.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path}: expected a config file of at most {MAX_BYTES:,} bytes, this one is larger")
        data = _loaded(content.decode("utf-8"), path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a config file, found a folder") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path}: its values are nested more than {MAX_DEPTH} levels deep") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of keys at the top, got {type(data).__name__}")
    return data


def _loaded(text: str, path: Path) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _unfolded(node, path, {}, ())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _unfolded(node: yaml.Node, path: Path, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Values under a node, those of an alias counted wherever it stands.

    known: counts by node, so that counting takes one visit a node. above: the nodes this one lies in.
    """
    if id(node) in above or len(above) > MAX_DEPTH:
        fault = "an alias stands inside its own value" if id(node) in above else f"over {MAX_DEPTH} levels"
        raise InputError(f"{path}:{node.start_mark.line + 1}: {fault}; write the values out, flatter")
    if id(node) in known:
        return known[id(node)]
    inside = (*above, id(node))
    count = 1
    if isinstance(node, yaml.MappingNode):
        _refuse_twice(node, path)
        count += sum(_unfolded(part, path, known, inside) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_unfolded(part, path, known, inside) for part in node.value)
    if count > MAX_VALUES:
        raise InputError(f"{path}: its aliases unfold to more than {MAX_VALUES:,} values; no config needs that")
    known[id(node)] = count
    return count


def _refuse_twice(node: yaml.MappingNode, path: Path) -> None:
    """YAML's readers keep the last of two equal keys, and a setting is gone without a word."""
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen and key.value != "<<":
                raise InputError(f"{path}:{key.start_mark.line + 1}: the key {key.value!r} is given twice; keep one")
            seen.add(key.value)
