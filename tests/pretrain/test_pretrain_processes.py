"""Two processes train what one trains on batches of twice the size: the same weights, losses and candidates."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kg.artifact import open_artifact
from pretrain import prepare

SCRIPT = Path(__file__).with_name("two_processes.py")
TOLERANCE = 1e-10
"""Of weights after six steps in fp64. Sums over two halves round otherwise than one sum; AdamW's first steps divide a
gradient by its own size, which magnifies that where a gradient is nearly 0."""


def in_two_processes(*command: str, timeout: int = 300) -> list[str]:
    """Runs the command twice at once, as a launcher would; what each printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=timeout)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(printed)
    return printed


@pytest.fixture(scope="module")
def script():
    """The script that the processes run, as a module of this one."""
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory):
    """Base, instances, vectors; 49 instances, so that the last batch of an epoch is a small one."""
    output = tmp_path_factory.mktemp("shared") / "instances"
    prepare.run(
        prepare.PrepareConfig(
            linked=world.linked, vectors=world.vectors, tokenizer=str(world.base), max_length=32, output=output
        )
    )
    return [str(world.base), str(output), str(world.vectors)]


@pytest.fixture(scope="module")
def outcomes(script, folders, tmp_path_factory):
    """Folders of `one` process and of two with `ddp` and `fsdp2`."""
    output = tmp_path_factory.mktemp("processes")
    in_two_processes(sys.executable, str(SCRIPT), *folders, str(output))
    (output / "one").mkdir()
    script.go(folders, output / "one", batch_size=16)
    return output


def same_weights(left: Path, right: Path) -> None:
    ours, theirs = load_file(left / "end.safetensors"), load_file(right / "end.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_end_with_the_weights_of_one_with_the_double_batch(outcomes, kind):
    """A mean of two means, a dropped share, candidates of one half only: each still trains, on something else."""
    same_weights(outcomes / "one", outcomes / kind)
    (history, evaluations), (ours, scored) = (
        json.loads((outcomes / name / "result.json").read_text()) for name in ("one", kind)
    )
    for left, right in zip([*history, *evaluations], [*ours, *scored], strict=True):
        assert left == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_one_process_goes_on_from_a_checkpoint_of_two(script, folders, outcomes, tmp_path, kind):
    """One format whatever the number of processes: slices are gathered before they are written."""
    shutil.copytree(outcomes / kind, tmp_path / kind)
    shutil.rmtree(tmp_path / kind / "checkpoints" / "step-00000006")
    result = script.go(folders, tmp_path / kind, batch_size=16)
    assert result.resumed_from == 3
    same_weights(outcomes / "one", tmp_path / kind)


def test_the_stage_runs_under_a_launcher(folders, tmp_path):
    """The command line itself, twice at once: one artifact, written and told of once."""
    base, instances, vectors = folders
    words = ["pretrain", "run", "--instances", instances, "--vectors", vectors, "--base", base]
    words += ["--output", str(tmp_path / "model"), "--training.max_steps", "3", "--training.batch_size", "4"]
    words += ["--training.precision", "fp32", "--heldout_instances", "8", "--tracker", "none"]
    printed = in_two_processes(sys.executable, "-m", "ernie_kg.cli", *words)
    manifest = open_artifact(tmp_path / "model", stage="pretrain run")
    assert manifest.counts["steps"] == 3
    assert [manifest.data["headline"] in lines for lines in printed] == [True, False]
    assert not (tmp_path / "model.partial").exists()
