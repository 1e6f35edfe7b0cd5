"""Going on after a kill: every bit as if nothing had happened."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ernie.errors import InputError
from ernie.training import ExampleBatches, TrainingConfig, keyed_generator, train
from ernie.training.checkpointing import latest_checkpoint, save_checkpoint

STEPS = 14


class Killed(Exception):
    pass


class Tied(nn.Module):
    """Dropout, LayerNorm, a tied decoder and a buffer: what a checkpoint easily loses."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.drop = nn.Dropout(0.3)
        self.decoder = nn.Linear(6, 11)
        self.decoder.weight = self.word.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += ids.numel()
        return self.decoder(self.drop(self.norm(self.word(ids))))


def masked_batches() -> ExampleBatches:
    """37 rows in batches of 5, so epochs end inside the run; ids drawn anew each epoch."""

    def collate(examples: list[int], epoch: int, rows: np.ndarray) -> dict[str, torch.Tensor]:
        draws = [keyed_generator(7, "mask", epoch, int(row)).integers(0, 11, 4) for row in rows]
        return {"input_ids": torch.from_numpy(np.stack(draws)), "labels": torch.from_numpy(rows % 11)}

    return ExampleBatches(range(37), lengths=np.arange(37) % 9, batch_size=5, seed=1, collate=collate)


def losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    logits = model(batch["input_ids"]).mean(1)
    return {"loss": nn.functional.cross_entropy(logits, batch["labels"])}


def run(folder, kill_at: set[int] | None = None):
    """One attempt; dies with `Killed` right after the steps in `kill_at`. Returns (model, result)."""
    torch.manual_seed(5)
    model = Tied()

    def on_step(step: int, figures: dict[str, float]) -> None:
        if kill_at and step in kill_at:
            kill_at.discard(step)
            raise Killed

    def evaluate(m: nn.Module) -> dict[str, float]:
        return {"norm": float(m.word.weight.norm()), "draw": float(torch.rand(()))}

    config = TrainingConfig(
        max_steps=STEPS,
        gradient_accumulation=2,
        learning_rate=0.01,
        save_every=3,
        eval_every=4,
        log_every=5,
        precision="fp32",
    )
    result = train(
        model,
        batches=masked_batches(),
        compute_losses=losses,
        config=config,
        seed=2,
        checkpoint_folder=folder,
        evaluate=evaluate,
        on_step=on_step,
        trainable_from=lambda name: 4 if name == "norm.weight" else 0,
    )
    return model, result


def until_done(folder, kill_at: set[int]):
    while True:
        try:
            return run(folder, kill_at)
        except Killed:
            continue


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return (*run(folder), latest_checkpoint(folder))


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@settings(max_examples=8, deadline=None)
@given(kill_at=st.sets(st.integers(1, STEPS), min_size=1, max_size=4))
def test_a_run_killed_anywhere_ends_bit_for_bit_the_same(straight, tmp_path_factory, kill_at):
    """A resume that loses an optimiser moment or a dropout draw still converges; only equality shows it."""
    model, result, checkpoint = straight
    folder = tmp_path_factory.mktemp("killed")
    waiting = set(kill_at)
    again, resumed = until_done(folder, waiting)
    assert not waiting, "every kill must have struck"
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert resumed.history == result.history
    last = [(e["step"], e["norm"]) for e in result.evaluations]
    assert [(e["step"], e["norm"]) for e in resumed.evaluations] == last
    found = latest_checkpoint(folder)
    assert same(found.optimizer, checkpoint.optimizer)
    assert resumed.steps == STEPS


def test_evaluating_more_often_does_not_change_training(straight, tmp_path):
    """`evaluate` above draws from torch's generator; a shared stream would shift every later dropout mask."""
    model, *_ = straight
    torch.manual_seed(5)
    other = Tied()
    train(
        other,
        batches=masked_batches(),
        compute_losses=losses,
        config=TrainingConfig(
            max_steps=STEPS, gradient_accumulation=2, learning_rate=0.01, eval_every=1, precision="fp32"
        ),
        seed=2,
        checkpoint_folder=tmp_path,
        evaluate=lambda m: {"draw": float(torch.rand(100).sum())},
        trainable_from=lambda name: 4 if name == "norm.weight" else 0,
    )
    assert same(dict(model.state_dict()), dict(other.state_dict()))


@pytest.mark.faults
def test_a_kill_inside_a_checkpoint_write_leaves_the_one_before(straight, tmp_path, monkeypatch):
    """Disk full while the optimiser is written: the error is told, the earlier checkpoint carries the run on."""
    model, result, _ = straight
    with pytest.raises(Killed):
        run(tmp_path, {5})
    full = OSError(28, "No space left on device")

    def no_space(*args, **kwargs):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr("ernie.training.checkpointing.torch.save", no_space)
        with pytest.raises(InputError, match=r"step-00000006.*No space left.*make room"):
            run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003"]
    again, resumed = run(tmp_path)
    assert resumed.resumed_from == 3
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert resumed.history == result.history


@pytest.mark.faults
def test_a_disk_that_really_has_no_room_is_told_and_leaves_the_checkpoint_before(tmp_path):
    """Every writer has its own error for a full disk (safetensors' and torch's are no OSError); a limit on the size of
    files makes all of them fail as a full disk does."""
    weights = {"w": torch.zeros(50_000)}
    save_checkpoint(tmp_path, step=1, weights=weights, optimizer={"state": {}}, state={"n": 1}, keep=2)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit, big in ((100_000, {"state": {}}), (250_000, {"state": {0: torch.zeros(100_000)}})):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(InputError, match="step 2 could not be written"):
                save_checkpoint(tmp_path, step=2, weights=weights, optimizer=big, state={"n": 2}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, kept)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path).state == {"n": 1}


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["model.safetensors", "optimizer.pt", "state.json"])
def test_a_truncated_checkpoint_is_passed_over(tmp_path, victim):
    for step in (1, 2):
        save_checkpoint(
            tmp_path,
            step=step,
            weights={"w": torch.full((3,), float(step))},
            optimizer={"state": {}},
            state={"n": step},
            keep=2,
        )
    file = tmp_path / "step-00000002" / victim
    file.write_bytes(file.read_bytes()[:-3])
    (tmp_path / "step-00000009.tmp").mkdir()
    found = latest_checkpoint(tmp_path)
    assert found.state == {"n": 1}
    assert found.weights["w"].tolist() == [1.0, 1.0, 1.0]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000012", "step-00000014"]


@pytest.mark.faults
def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match="seed 2, this run has 3"):
        train(
            Tied(),
            batches=masked_batches(),
            compute_losses=losses,
            config=TrainingConfig(max_steps=STEPS, precision="fp32"),
            seed=3,
            checkpoint_folder=tmp_path,
        )


@pytest.mark.faults
def test_kill_minus_nine_at_any_moment_is_gone_on_from(tmp_path):
    """An exception runs clean-up code; SIGKILL does not, and only a process of its own can meet it.

    It strikes after a step, inside the write of the model, of the optimiser and of the state, before the rename, and
    while old checkpoints are removed; each attempt goes on from the last whole checkpoint.
    """
    script = textwrap.dedent(
        """
        import json, os, signal, sys, torch
        from torch import nn
        from ernie.training import ExampleBatches, TrainingConfig, checkpointing, train

        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        def half(path, content=b"half of it"):
            with open(path, "wb") as file:
                file.write(content)
            die()

        def attempt(folder, moment):
            torch.manual_seed(0)
            x = torch.randn(20, 3)
            batches = ExampleBatches(range(20), lengths=[1] * 20, batch_size=6, seed=0,
                collate=lambda e, epoch, rows: {"x": x[e]})
            model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.4), nn.Linear(3, 1))
            what, _, step = moment.partition(" ")
            def on_step(number, figures):
                if step and number == int(step):
                    if what == "model":
                        checkpointing.save_file = lambda tensors, path: half(path)
                    elif what == "optimizer":
                        checkpointing.torch.save = lambda state, path: half(path)
                    elif what == "state":
                        checkpointing.Path.write_text = lambda path, text, **kwargs: half(path, text[:9].encode())
                    elif what == "rename":
                        checkpointing.Path.rename = die
                    elif what == "removal":
                        checkpointing._remove_old = die
                    else:
                        die()
            result = train(model, batches=batches, compute_losses=lambda m, b: {"loss": (m(b["x"]) ** 2).mean()},
                config=TrainingConfig(max_steps=9, save_every=2, precision="fp32"), seed=0,
                checkpoint_folder=folder, on_step=on_step)
            return [result.history, [p.tolist() for p in model.parameters()], result.resumed_from]

        for moment in sys.argv[2:]:
            child = os.fork()
            if child == 0:
                try:
                    attempt(sys.argv[1], moment)
                finally:
                    os._exit(1)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, moment
        print(json.dumps([attempt(sys.argv[1], ""), attempt(sys.argv[1] + "-straight", "")]))
        """
    )
    moments = ["step 1", "model 1", "optimizer 3", "state 3", "step 5", "rename 5", "removal 5", "step 7", "state 7"]
    command = [sys.executable, "-c", script, str(tmp_path / "killed"), *moments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    killed, straight = json.loads(done.stdout.splitlines()[-1])
    assert killed[:2] == straight[:2]
    assert (killed[2], straight[2]) == (6, None)
