"""Artifacts: what the manifest promises, what an interruption leaves, what damage is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kg.artifact import damaged_files, fingerprint, open_artifact, read_manifest, write_artifact
from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    source: Path
    output: Path
    suffix: str = ""
    seed: int = 3

    def inputs(self) -> dict[str, Path]:
        return {"source": self.source}


@pytest.fixture
def config(tmp_path: Path) -> CopyConfig:
    (tmp_path / "in.txt").write_text("abc")
    return CopyConfig(source=tmp_path / "in.txt", output=tmp_path / "out")


def make(config: CopyConfig, text: str = "x") -> None:
    with write_artifact(config, stage="copy") as writer:
        (writer.path / "file.txt").write_text(text)
        writer.counts["lines"] += 1
        writer.dropped["empty"] += 2
        writer.headline = "one line"


def test_manifest_says_what_was_made_from_what(config: CopyConfig) -> None:
    """A manifest without digests or reasons would still open; nobody would notice until a stale artifact is used."""
    make(config)
    manifest = open_artifact(config.output, stage="copy")
    assert manifest.counts == {"lines": 1}
    assert manifest.dropped == {"empty": 2}
    assert manifest.data["seed"] == 3
    assert manifest.data["files"]["file.txt"]["bytes"] == 1
    assert manifest.data["fingerprint"] == fingerprint("copy", config)
    assert manifest.data["peak_memory_bytes"] > 1_000_000
    assert [p.name for p in config.output.parent.iterdir() if "partial" in p.name or "retired" in p.name] == []


def test_fingerprint_follows_content_and_settings_not_places(config: CopyConfig, tmp_path: Path) -> None:
    """A fingerprint on paths would rebuild after a move, one on names would keep a stale artifact after an edit."""
    first = fingerprint("copy", config)
    moved = tmp_path / "elsewhere.txt"
    config.source.rename(moved)
    assert fingerprint("copy", CopyConfig(source=moved, output=tmp_path / "o2")) == first
    assert fingerprint("copy", CopyConfig(source=moved, output=tmp_path / "o2", suffix="!")) != first
    moved.write_text("abd")
    assert fingerprint("copy", CopyConfig(source=moved, output=tmp_path / "o2")) != first


def test_an_exception_leaves_the_older_artifact_and_no_partial(config: CopyConfig) -> None:
    """A half artifact looks like a whole one to everything that only checks for the folder."""
    make(config, "old")
    with pytest.raises(KeyboardInterrupt), write_artifact(config, stage="copy") as writer:
        (writer.path / "file.txt").write_text("half")
        raise KeyboardInterrupt
    assert (config.output / "file.txt").read_text() == "old"
    assert not config.output.with_name("out.partial").exists()


def test_resumable_partial_is_kept_for_the_same_config_only(config: CopyConfig) -> None:
    """Going on in the partial folder of another config would mix two runs in one artifact."""
    with pytest.raises(RuntimeError), write_artifact(config, stage="copy", resumable=True) as writer:
        (writer.path / "step1").write_text("done")
        raise RuntimeError
    with write_artifact(config, stage="copy", resumable=True) as writer:
        assert writer.resumed
        assert (writer.path / "step1").exists()
        (writer.path / "step2").write_text("done")
    assert set(read_manifest(config.output).data["files"]) == {"step1", "step2"}
    with pytest.raises(RuntimeError), write_artifact(config, stage="copy", resumable=True):
        raise RuntimeError
    other = CopyConfig(source=config.source, output=config.output, suffix="!")
    with write_artifact(other, stage="copy", resumable=True) as writer:
        assert not writer.resumed


def test_a_folder_without_manifest_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match=r"holds no manifest.json.*ernie-kg kg build"):
        open_artifact(tmp_path / "plain", stage="kg build")
    with pytest.raises(InputError, match=r"does not exist.*ernie-kg kg build"):
        open_artifact(tmp_path / "none", stage="kg build")


def test_another_stage_and_broken_json_are_refused(config: CopyConfig) -> None:
    make(config)
    with pytest.raises(InputError, match="was made by `ernie-kg copy`"):
        open_artifact(config.output, stage="kg build")
    (config.output / "manifest.json").write_text('{"stage": "copy"')
    with pytest.raises(InputError, match="not readable as JSON"):
        read_manifest(config.output)


@pytest.mark.faults
def test_truncated_and_flipped_files_are_noticed(config: CopyConfig) -> None:
    """Truncation shows in the size at opening; a flipped bit keeps the size and shows only in the digest."""
    make(config, "hello")
    (config.output / "file.txt").write_text("hellp")
    open_artifact(config.output, stage="copy")
    assert damaged_files(config.output) == ["file.txt"]
    (config.output / "file.txt").write_text("hel")
    with pytest.raises(InputError, match="3 bytes, the manifest says 5 bytes"):
        open_artifact(config.output, stage="copy")


@pytest.mark.faults
def test_a_second_run_into_the_same_folder_names_the_first(config: CopyConfig, tmp_path: Path) -> None:
    """Two writers in one folder would interleave files; and a lock left by kill -9 must not block for ever."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_artifact import CopyConfig, write_artifact
config = CopyConfig(source=Path({str(config.source)!r}), output=Path({str(config.output)!r}))
with write_artifact(config, stage="copy") as writer:
    print("open", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "open"
    with pytest.raises(InputError, match=f"process {process.pid} is writing"):
        make(config)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    make(config)
    assert open_artifact(config.output, stage="copy").counts == {"lines": 1}
