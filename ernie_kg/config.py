"""Dataclass configs from YAML and the command line; every mistake names file, key, what was expected and what came."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from kg.errors import InputError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def config_from_mapping(config_class: type[Any], values: Mapping[str, Any], *, source: str) -> Any:
    """An instance of a stage's config dataclass.

    source: where the values come from, the beginning of every error message.

    Raises:
        InputError: an unknown key (with the nearest), a missing one, a wrong type, a value the dataclass refuses.
    """
    check_keys(config_class, values, source=source)
    parser = config_parser(config_class, prog=source)
    try:
        parsed = parser.parse_object(dict(values))
        return instantiate(parser, config_class, parsed)
    except ArgumentError as error:
        raise InputError(f"{source}: {one_line(error)}") from None


def config_parser(config_class: type[Any], *, prog: str, description: str | None = None) -> ArgumentParser:
    """A jsonargparse parser with one option a field of the dataclass; mistakes raise instead of leaving the process."""
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_class_arguments(config_class, as_group=False)
    return parser


def instantiate(parser: ArgumentParser, config_class: type[Any], parsed: Namespace) -> Any:
    """The dataclass from a parsed namespace, nested dataclasses included."""
    built = parser.instantiate(parsed)
    names = {field.name for field in dataclasses.fields(config_class)}
    return config_class(**{name: value for name, value in vars(built).items() if name in names})


def check_keys(config_class: type[Any], values: Mapping[str, Any], *, source: str, prefix: str = "") -> None:
    """Refuses a key that the dataclass, or a dataclass nested in it, does not have, with the nearest that it has; and
    a key without a value where the field takes none (jsonargparse lets `null` through)."""
    types = typing.get_type_hints(config_class)
    known = [field.name for field in dataclasses.fields(config_class)]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"nearest: {prefix}{near[0]}" if near else f"known: {', '.join(known)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
        if value is None and not _takes_null(types[key]):
            raise InputError(f"{source}: {prefix}{key} has no value; give it one, or leave the key out for its default")
        if dataclasses.is_dataclass(types[key]) and isinstance(value, Mapping):
            check_keys(typing.cast(type, types[key]), value, source=source, prefix=f"{prefix}{key}.")


def _takes_null(annotation: Any) -> bool:
    return annotation is Any or type(None) in (annotation, *typing.get_args(annotation))


def dotted_keys(config_class: type[Any], prefix: str = "") -> list[str]:
    """Every key of a config as the command line writes it: `graph`, `training`, `training.max_steps`."""
    types = typing.get_type_hints(config_class)
    keys = []
    for field in dataclasses.fields(config_class):
        keys.append(prefix + field.name)
        if dataclasses.is_dataclass(types[field.name]):
            keys += dotted_keys(typing.cast(type, types[field.name]), f"{prefix}{field.name}.")
    return keys


def check_options(config_class: type[Any], words: list[str], *, command: str, flags: tuple[str, ...] = ()) -> None:
    """Refuses an option that the command does not have; names the nearest that it has. flags: options beside the
    config's keys and those of every command."""
    known = [*dotted_keys(config_class), "config", "dry-run", "help", *flags]
    for word in words:
        option = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"nearest: --{near[0]}" if near else f"see `ernie-kg {command} --help`"
            raise InputError(f"{command}: unknown option --{option}; {hint}")


def one_line(error: Exception) -> str:
    """An error's message without line breaks and runs of blanks."""
    return " ".join(str(error).split())
