"""The command line as a user meets it: quick help, one line for a mistake, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ernie_kg.cli import main
from ernie_kg.stages import STAGES
from kg.errors import InputError


def loaded_by(*words: str) -> set[str]:
    """Top-level modules that a command line loads in a fresh interpreter."""
    script = (
        "import sys\nfrom ernie_kg.cli import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(output.rsplit("LOADED", 1)[1].split())


HEAVY = {"torch", "transformers", "faiss", "spacy", "pyarrow", "numpy", "datasets", "scipy"}


def test_help_loads_no_heavy_package() -> None:
    """`import torch` takes seconds: one careless import at the top of a module makes every --help slow."""
    assert not loaded_by("--help") & HEAVY
    assert not loaded_by("kg", "build", "--help") & HEAVY


def test_every_stage_of_the_table_has_config_and_run() -> None:
    """A wrong name in the table shows only when a user asks for that stage."""
    for name, stage in STAGES.items():
        config_class = stage.config_class()
        assert callable(config_class.inputs), name
        assert {"output"} <= set(config_class.__dataclass_fields__), name
        undocumented = [f for f in config_class.__dataclass_fields__ if not _documented(config_class, f)]
        assert not undocumented, f"{name}: fields without a docstring: {undocumented}"


def _documented(config_class: type, field: str) -> bool:
    import inspect
    import re

    source = inspect.getsource(config_class)
    return re.search(rf"^    {field}:.*(?:\n(?!    \w).*)*?\n    \"\"\"", source, re.MULTILINE) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bild"], "unknown command 'bild'"),
        (["kg", "bild"], "unknown command 'kg bild'; nearest: kg build"),
        (["run", "none.yaml"], "none.yaml: no such config file"),
        (["kg", "build", "--outptu", "x"], "kg build: unknown option --outptu; nearest: --output"),
        (["run", "a.yaml", "b.yaml"], "expected one YAML file, got 2"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("mend it"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyError("bug"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_tell_who_is_at_fault(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr("ernie_kg.cli.dispatch", fail)
    assert main([]) == code
    assert capsys.readouterr().err.count("\n") == 1
    if code in (1, 2):
        with pytest.raises(type(error)):
            main(["--debug"])
