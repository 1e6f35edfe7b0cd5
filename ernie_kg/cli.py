"""The command `ernie-kg`: finds the stage, builds its config, runs it; says in one line what went wrong.

Exit codes: 0 done · 1 a fault of ours · 2 something the user can mend · 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_kg.stages import STAGES, VIEWS, Stage, View
from kg.errors import InputError
from kg.exhaustion import exhausted
from kg.tables import plain

if TYPE_CHECKING:
    from ernie_kg.pipeline import Step

ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # stages show progress of their own
    "OMP_WAIT_POLICY": "PASSIVE",  # a thread that spins at a barrier takes the core its partner waits for
}
"""Set before torch is loaded, unless the user has set them."""
USAGE = """usage: ernie-kg COMMAND [--help] [options]

commands:
{commands}

commands that print, and write nothing:
{views}

Every command takes an option for each key of its config, and --debug; every one that writes takes --config FILE.yaml
and --dry-run too."""
RUN_USAGE = """usage: ernie-kg run FILE.yaml [--STEP.KEY VALUE …] [--output FOLDER] [--dry-run] [--debug]

Runs the road that the file describes, skips finished stages, prints one table and the path of the report.
  --STEP.KEY VALUE  replaces a value of the file, e.g. --pretrain.training.max_steps 50
  --output FOLDER   the folder that the stages write into
  --dry-run         prints the resolved configs, the inputs found, and what would be written
  --debug           shows the traceback of an error"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    signal.signal(signal.SIGTERM, _interrupt)
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return guarded(lambda: dispatch(words, debug=debug), debug=debug)


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """The exit code of `work`, or that of what went wrong, which is said in one line; debug: it is raised instead."""
    try:
        return work()
    except KeyboardInterrupt:
        print(
            "ernie-kg: interrupted; finished stages stay, run the same command again to go on",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while it leaves
        return 0
    except Exception as error:
        if debug:
            raise
        return _report(error)


def dispatch(words: list[str], *, debug: bool = False) -> int:
    """Calls what the first words name; see the module for exit codes. debug: for the processes it begins."""
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from kg.artifact import package_version

        print(f"ernie-kg {package_version()}")
        return 0
    if words[0] == "run":
        return run_command(words[1:], debug=debug)
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in STAGES:
            return stage_command(name, STAGES[name], words[length:])
        if name in VIEWS:
            return view_command(name, VIEWS[name], words[length:])
    return _unknown(words)


def usage(group: str = "") -> str:
    """The list of commands, or of one group's (`kg`, `pretrain`, `finetune`)."""
    stages = {name: stage.summary for name, stage in STAGES.items() if name.startswith(group)}
    views = {name: view.summary for name, view in VIEWS.items() if name.startswith(group)}
    if not group:
        stages = {"run": "a whole road from one YAML file", **stages}
    width = max(map(len, [*stages, *views])) + 2
    commands, printing = ("\n".join(f"  {n:<{width}}{text}" for n, text in rows.items()) for rows in (stages, views))
    template = USAGE if views else USAGE.replace("commands that print, and write nothing:\n{views}\n\n", "")
    return template.format(commands=commands, views=printing)


def stage_command(name: str, stage: Stage, words: list[str]) -> int:
    """One stage by itself, its config from --config and options."""
    from ernie_kg import config as configs
    from ernie_kg.yaml_file import read_yaml

    config_class = stage.config_class()
    configs.check_options(config_class, words, command=name, flags=("explain",) if stage.explains else ())
    if stage.places:
        words = with_keys(name, words, stage.places, flags=("dry-run", "help", "explain"))
    parser = configs.config_parser(config_class, prog=f"ernie-kg {name}", description=stage.summary)
    parser.usage = _usage_line(name, stage.places) if stage.places else None
    parser.add_argument("--config", type=str, default=None, help="a YAML file with keys of this stage's config")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and inputs, write nothing")
    if stage.explains:
        parser.add_argument("--explain", action="store_true", help="print what would be compared with what, and stop")
    try:
        file = _value_of("--config", words)
        if file is not None:
            values = read_yaml(Path(file))
            configs.check_keys(config_class, values, source=file)
            parser.set_defaults(_flat(values))
        parsed = parser.parse_args(words)
        config = configs.instantiate(parser, config_class, parsed)
    except configs.ArgumentError as error:
        raise InputError(f"{name}: {configs.one_line(error)}") from None
    if parsed.dry_run:
        from ernie_kg.pipeline import Step, describe_road

        print(describe_road([Step(name, name, stage, config)]))
        return 0
    if stage.explains and parsed.explain:
        print(stage.explain(config))
        return 0
    folder = stage.run(config)
    from kg.artifact import read_manifest

    if os.environ.get("RANK", "0") == "0":  # a launcher starts several of us for one artifact
        print(f"{folder}: {read_manifest(folder).data['headline']}")
    return 0


def view_command(name: str, view: View, words: list[str]) -> int:
    """One command that prints; bare words stand for the keys in `view.places`, a bare switch for `true`."""
    from ernie_kg import config as configs

    config_class = view.config_class()
    configs.check_options(config_class, words, command=name)
    switches = tuple(field.name for field in dataclasses.fields(config_class) if field.type in (bool, "bool"))
    parser = configs.config_parser(config_class, prog=f"ernie-kg {name}", description=view.summary)
    parser.usage = _usage_line(name, view.places)
    try:
        parsed = parser.parse_args(with_keys(name, words, view.places, flags=("help",), switches=switches))
        config = configs.instantiate(parser, config_class, parsed)
    except configs.ArgumentError as error:
        raise InputError(f"{name}: {configs.one_line(error)}") from None
    text = view.run(config)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
    print(text, flush=True)
    return 0


def with_keys(
    command: str, words: list[str], places: Sequence[str], *, flags: Sequence[str], switches: Sequence[str] = ()
) -> list[str]:
    """The words with a key for every bare one: `G --k 3 dog` to `--graph=G --k 3 --name=dog`.

    A last place that ends in `…` takes all bare words that are left, as a list.

    flags: options that take no value. switches: options that take true or false, true when nothing follows.

    Raises:
        InputError: more bare words than places.
    """
    keyed, free, rest = [], list(places), list(words)
    several: list[str] = []
    while rest:
        word = rest.pop(0)
        option, equals, _ = word.removeprefix("--").partition("=")
        if word == "-h" or (word.startswith("--") and (equals or option in flags)):
            keyed.append(word)
        elif word.startswith("--") and option in switches:
            keyed.append(f"{word}={rest.pop(0) if rest and rest[0] in ('true', 'false') else 'true'}")
        elif word.startswith("--"):
            keyed += [word, *rest[:1]]
            rest = rest[1:]
        elif free and free[0].endswith("…"):
            several.append(word)
        elif free:
            keyed.append(f"--{free.pop(0)}={word}")
        else:
            raise InputError(
                f"{command}: expected {' '.join(places).upper()}, got {word!r} after them; "
                f"a name of several words stands in quotes"
            )
    return [*keyed, f"--{free[0][:-1]}={json.dumps(several)}"] if several else keyed


def run_command(words: list[str], *, debug: bool = False) -> int:
    """A whole road; see `ernie_kg.pipeline`. Every stage has a process of its own where that is possible."""
    if not words or {"-h", "--help"} & set(words):
        print(RUN_USAGE)
        return 0 if words else 2
    from ernie_kg.apart import can_be_apart
    from ernie_kg.pipeline import StageEnded, describe_road, load_road, run_road, run_step, summary

    dry_run = "--dry-run" in words
    file, overrides = _road_words([word for word in words if word != "--dry-run"])
    steps = load_road(file, overrides)
    if dry_run:
        print(describe_road(steps))
        return 0
    try:
        run_road(steps, partial(_run_apart, debug=debug) if can_be_apart() else run_step)
    except StageEnded as ended:
        return ended.exit_code
    print(summary(steps), end="")
    return 0


def _run_apart(step: Step, *, debug: bool) -> None:
    """One stage in a process of its own, which says itself what went wrong.

    Raises:
        StageEnded: it went wrong.
        InputError: the process was killed.
    """
    from ernie_kg.apart import run_apart
    from ernie_kg.pipeline import StageEnded, run_step

    def work() -> int:
        run_step(step)
        return 0

    code = run_apart(lambda: guarded(work, debug=debug), name=step.name)
    if code == -signal.SIGKILL:
        raise InputError(
            f"{step.name} ({step.command}): its process was killed from outside, as a system does that runs out of "
            f"memory; run the same command again to go on"
        )
    if code < 0:
        raise RuntimeError(f"{step.name} ({step.command}): its process ended by {signal.Signals(-code).name}")
    if code:
        raise StageEnded(code)


def _road_words(words: list[str]) -> tuple[Path, dict[str, Any]]:
    import yaml

    files, overrides = [], {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            files.append(Path(word))
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise InputError(f"--{key}: expected a value after it")
        overrides[key] = yaml.safe_load(value)
    if len(files) != 1:
        raise InputError(f"ernie-kg run: expected one YAML file, got {len(files)}; see `ernie-kg run --help`")
    return files[0], overrides


def _usage_line(name: str, places: Sequence[str]) -> str:
    return f"ernie-kg {name} {' '.join(places).upper()} [options]"


def _value_of(option: str, words: list[str]) -> str | None:
    for position, word in enumerate(words):
        if word.startswith(option + "="):
            return word.partition("=")[2]
        if word == option and position + 1 < len(words):
            return words[position + 1]
    return None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _unknown(words: list[str]) -> int:
    groups = {name.split()[0] for name in STAGES if " " in name}
    if words[0] in groups and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(usage(words[0]))
        return 0
    typed = " ".join(words[:2]) if words[0] in groups else words[0]
    near = difflib.get_close_matches(typed, ["run", *STAGES, *VIEWS], n=1)
    hint = f"nearest: {near[0]}" if near else "see `ernie-kg --help`"
    raise InputError(f"unknown command {typed!r}; {hint}")


def _report(error: Exception) -> int:
    error = exhausted(error) or error
    code = getattr(error, "exit_code", 2 if isinstance(error, OSError) else 1)
    text = " ".join(plain(str(error)).split()) or type(error).__name__
    if code == 2:
        print(f"ernie-kg: {text}", file=sys.stderr)
        return 2
    print(
        f"ernie-kg: a fault of ours: {type(error).__name__}: {text}; run again with --debug and report the traceback",
        file=sys.stderr,
    )
    return code


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
