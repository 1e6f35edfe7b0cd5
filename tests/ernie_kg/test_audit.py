"""`make audit` says what it looked up: a list that knows no package must not read as a clean bill."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON3 = """#!/bin/sh
# stands for `python3 -m venv FOLDER`: two programs and nothing else
mkdir -p "$3/bin"
cp "$STUBS/pip" "$STUBS/pip-audit" "$3/bin"
"""
UNKNOWN = "torch  Dependency not found on PyPI and could not be audited: torch (2.13.0)"


def audit(stubs: Path, *, install: int = 0, code: int = 0, out: str = "", err: str = "") -> tuple[int, str]:
    """The exit code of scripts/audit.sh and what it prints, where pip and pip-audit do as told."""
    (stubs / "out").write_text(out)
    (stubs / "err").write_text(err)
    programs = {"python3": PYTHON3, "pip": f"#!/bin/sh\nexit {install}\n"}
    programs["pip-audit"] = f"#!/bin/sh\ncat {stubs}/out; cat {stubs}/err >&2; exit {code}\n"
    for name, text in programs.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    variables = {**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs)}
    command = ["bash", str(ROOT / "scripts/audit.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    return done.returncode, done.stdout


def test_an_audit_that_cannot_run_is_not_run(tmp_path: Path) -> None:
    assert audit(tmp_path, install=1) == (0, "audit: not run, pip-audit could not be installed\n")
    unreachable = "audit: not run, the list of vulnerabilities could not be reached\n"
    assert audit(tmp_path, code=1, err="Connection to the host timed out\n") == (0, unreachable)


def test_packages_that_the_list_does_not_know_are_counted_as_not_run(tmp_path: Path) -> None:
    pinned = sum("==" in line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#")
    code, printed = audit(tmp_path, out=f"{UNKNOWN}\n{UNKNOWN}\n", err="No known vulnerabilities found\n")
    assert code == 0
    assert f"not run for 2 of {pinned} packages" in printed
    assert f"of the other {pinned - 2}:" in printed


@pytest.mark.parametrize("out", ["", f"{UNKNOWN}\n"])
def test_a_vulnerability_fails_whatever_else_is_unknown(tmp_path: Path, out: str) -> None:
    """A finding whose text speaks of a proxy once read as a list that could not be reached."""
    found = "Found 1 known vulnerability in 1 package\nrequests: Proxy-Authorization leaks\n"
    code, printed = audit(tmp_path, code=1, out=out + "requests 2.0 PYSEC-1\n", err=found)
    assert code == 1
    assert "PYSEC-1" in printed
