"""Going on after a kill: every bit as if nothing had happened."""

from __future__ import annotations

import contextlib
import io
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
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003"]
    again, resumed = run(tmp_path)
    assert resumed.resumed_from == 3
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert resumed.history == result.history


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
def test_kill_minus_nine_from_outside_is_gone_on_from(tmp_path):
    """An exception runs clean-up code; SIGKILL does not, and only a process of its own can meet it."""
    script = textwrap.dedent(
        """
        import os, signal, sys, torch
        from torch import nn
        from ernie.training import ExampleBatches, TrainingConfig, train
        folder, die = sys.argv[1], int(sys.argv[2])
        torch.manual_seed(0)
        x = torch.randn(20, 3)
        batches = ExampleBatches(range(20), lengths=[1] * 20, batch_size=6, seed=0,
            collate=lambda e, epoch, rows: {"x": x[e]})
        model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.4), nn.Linear(3, 1))
        def on_step(step, figures):
            if step == die:
                os.kill(os.getpid(), signal.SIGKILL)
        result = train(model, batches=batches, compute_losses=lambda m, b: {"loss": (m(b["x"]) ** 2).mean()},
            config=TrainingConfig(max_steps=9, save_every=2, precision="fp32"), seed=0,
            checkpoint_folder=folder, on_step=on_step)
        print(result.resumed_from, result.history, [p.tolist() for p in model.parameters()])
        """
    )

    def go(folder: str, die: int) -> str:
        """The script in this process; what it prints."""
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.setattr(sys, "argv", ["script", str(tmp_path / folder), str(die)])
            exec(script, {})
        return printed.getvalue()

    command = [sys.executable, "-c", script, str(tmp_path / "b"), "7"]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = go("b", 0)
    assert resumed.startswith("6 ")
    assert resumed.split(" ", 1)[1] == go("a", 0).split(" ", 1)[1]
