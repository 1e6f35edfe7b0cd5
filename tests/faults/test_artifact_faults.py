"""What befalls an artifact's folder: a second writer, a clock that is set, flipped bits, links that lead elsewhere."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kg.artifact import damaged_files, open_artifact, read_manifest, write_artifact
from kg.errors import InputError

pytestmark = pytest.mark.faults


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    """A stage that writes one file from another artifact, or from nothing."""

    output: Path
    source: Path | None = None
    seed: int = 0

    def inputs(self) -> dict[str, Path]:
        return {} if self.source is None else {"source": self.source}


def make(config: MadeConfig, text: str = "x" * 1000) -> Path:
    with write_artifact(config, stage="made") as writer:
        (writer.path / "file.txt").write_text(text)
    return config.output


def _write_slowly(output: Path, number: int, gate, results) -> None:
    """Nobody leaves before everybody has tried: on a busy machine one may begin when another is done."""
    gate.wait(60)
    try:
        with write_artifact(MadeConfig(output=output), stage="made") as writer:
            for part in range(20):
                (writer.path / f"{part}.txt").write_text(str(number))
                time.sleep(0.005)
            gate.wait(60)
        results.put(("wrote", number))
    except InputError as error:
        gate.wait(60)
        results.put(("refused", str(error)))


def test_of_many_that_begin_together_one_writes_and_the_others_name_it(tmp_path: Path) -> None:
    """A lock that is looked at first and written then lets two in now and then; their files would mix."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(6), context.Queue()
    writers = [
        context.Process(target=_write_slowly, args=(tmp_path / "out", number, gate, results)) for number in range(6)
    ]
    for writer in writers:
        writer.start()
    found = [results.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join()
    wrote = [number for kind, number in found if kind == "wrote"]
    assert len(wrote) == 1
    assert all(str(writers[wrote[0]].pid) in text for kind, text in found if kind == "refused")
    assert {(tmp_path / "out" / f"{part}.txt").read_text() for part in range(20)} == {str(wrote[0])}
    assert damaged_files(tmp_path / "out") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_second_writer_of_the_same_process_is_refused(tmp_path: Path) -> None:
    config = MadeConfig(output=tmp_path / "out")
    with write_artifact(config, stage="made") as writer:
        (writer.path / "file.txt").write_text("first")
        with pytest.raises(InputError, match=f"process {os.getpid()} is writing"):
            make(config)
        assert (writer.path / "file.txt").exists()
    assert (config.output / "file.txt").read_text() == "first"


def test_a_clock_that_is_set_back_changes_no_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time server that moves the clock by a day would give a stage minus 86,400 seconds in every table."""
    config = MadeConfig(output=tmp_path / "out")
    before = time.time
    with write_artifact(config, stage="made") as writer:
        (writer.path / "file.txt").write_text("x")
        monkeypatch.setattr(time, "time", lambda: before() - 86_400)
    assert 0 < read_manifest(config.output).data["seconds"] < 60
    first = read_manifest(config.output).digest
    monkeypatch.setattr(time, "time", lambda: before() + 10 * 365 * 86_400)
    make(config, "x")
    assert read_manifest(config.output).digest == first


@pytest.mark.parametrize("bit", [0, 3_999, 7_999])
def test_one_flipped_bit_stops_the_stage_that_reads_it(tmp_path: Path, bit: int) -> None:
    """Vectors with one wrong exponent train without a word, and the model is worse for no reason anyone finds."""
    source = make(MadeConfig(output=tmp_path / "first"))
    content = bytearray((source / "file.txt").read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    (source / "file.txt").write_bytes(content)
    open_artifact(source, stage="made")  # the size is right
    assert damaged_files(source) == ["file.txt"]
    with pytest.raises(InputError, match=r"file.txt has other bytes than were written.*`ernie-kg made` again"):
        make(MadeConfig(output=tmp_path / "second", source=source))
    assert not (tmp_path / "second").exists()


def test_a_manifest_that_was_edited_to_fit_is_noticed(tmp_path: Path) -> None:
    source = make(MadeConfig(output=tmp_path / "first"))
    (source / "file.txt").write_text("other")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["files"]["file.txt"] = {"bytes": 5, "sha256": "0" * 64}
    (source / "manifest.json").write_text(json.dumps(manifest))
    assert damaged_files(source) == ["manifest.json", "file.txt"]
    with pytest.raises(InputError, match=r"manifest.json has other bytes"):
        make(MadeConfig(output=tmp_path / "second", source=source))


@pytest.mark.parametrize("way", ["link", "parent", "absolute"])
def test_an_artifact_that_reaches_out_of_its_folder_is_refused(tmp_path: Path, way: str) -> None:
    """A stranger's artifact must not make a stage read, or a page show, what lies beside it."""
    secret = tmp_path / "secret.txt"
    secret.write_text("x" * 1000)
    folder = make(MadeConfig(output=tmp_path / "first"))
    if way == "link":
        (folder / "file.txt").unlink()
        (folder / "file.txt").symlink_to(secret)
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        name = "../secret.txt" if way == "parent" else str(secret)
        manifest["files"] = {name: manifest["files"]["file.txt"]}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    for read in (lambda: open_artifact(folder, stage="made"), lambda: damaged_files(folder)):
        with pytest.raises(InputError, match="lies outside the folder"):
            read()


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    folder = make(MadeConfig(output=tmp_path / "first"))
    (folder / "file.txt").rename(folder / "really.txt")
    (folder / "file.txt").symlink_to("really.txt")
    open_artifact(folder, stage="made")
    assert damaged_files(folder) == []
