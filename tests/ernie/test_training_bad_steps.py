"""Steps that are not taken, and batches shared out among processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ernie.errors import InputError
from ernie.training import BadStep, ExampleBatches, TrainingConfig, train
from ernie.training.batches import part_of

BAD = 25
"""The step (from 1) whose loss is bad."""


def run(folder, *, factor: float, max_steps: int = 30, kill_at: int = 0, **settings):
    """A regression whose BAD-th batch has its loss multiplied by `factor`; the model and what came out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1)).double()
    x = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batches = ExampleBatches(
        range(64), lengths=np.ones(64), batch_size=8, seed=0, collate=lambda rows, *_: {"x": x[rows]}
    )
    step = [0]

    def losses(model: nn.Module, batch: dict[str, torch.Tensor]):
        loss = ((model(batch["x"]) - batch["x"].sum(1, keepdim=True)) ** 2).mean()
        return {"loss": loss * (factor if step[0] == BAD - 1 else 1.0)}, {
            "size": (2.0 * len(batch["x"]), len(batch["x"]))
        }

    def on_step(number: int, figures: dict[str, float]) -> None:
        step[0] = number
        if number == kill_at:
            raise KeyboardInterrupt

    class From(ExampleBatches):
        """Tells the loss which step a resumed run is at."""

        def batch(self, epoch: int, index: int):
            step[0] = epoch * len(self) + index
            return super().batch(epoch, index)

    batches.__class__ = From
    config = TrainingConfig(
        max_steps=max_steps, learning_rate=1e-3, log_every=10, save_every=4, precision="fp32", **settings
    )
    result = train(
        model,
        batches=batches,
        compute_losses=losses,
        config=config,
        seed=0,
        checkpoint_folder=folder,
        on_step=on_step,
    )
    return model, result


@pytest.mark.faults
@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e6])
def test_a_bad_step_can_be_skipped_and_is_counted(tmp_path, factor):
    """The weights after it are those before it, and its losses are not in the curve."""
    model, result = run(tmp_path / "a", factor=factor, on_bad_step="skip", spike_factor=20.0)
    assert result.skipped_steps == 1
    assert result.steps == 30
    assert all(math.isfinite(entry["loss"]) and entry["loss"] < 100 for entry in result.history)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    kind = "spike" if math.isfinite(factor) else "non-finite"
    assert (tmp_path / "a" / f"{kind}-step-{BAD:08d}.safetensors").is_file()


@pytest.mark.faults
def test_a_spike_stops_training_and_leaves_its_batch(tmp_path):
    with pytest.raises(BadStep, match=rf"step {BAD}: loss is .* times the median of the last 24 steps.*on_bad_step"):
        run(tmp_path, factor=1e6, spike_factor=20.0)
    assert load_file(tmp_path / f"spike-step-{BAD:08d}.safetensors")["x"].shape == (8, 4)


def test_without_a_spike_factor_nothing_is_a_spike(tmp_path):
    _, result = run(tmp_path, factor=1e6)
    assert result.skipped_steps == 0


@pytest.mark.faults
def test_a_resumed_run_skips_the_same_steps(tmp_path):
    """The median is over steps before the kill too; forgotten, the spike would be trained on."""
    straight, whole = run(tmp_path / "a", factor=1e6, on_bad_step="skip", spike_factor=20.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", factor=1e6, on_bad_step="skip", spike_factor=20.0, kill_at=BAD - 1)
    again, resumed = run(tmp_path / "b", factor=1e6, on_bad_step="skip", spike_factor=20.0)
    assert (resumed.resumed_from, resumed.skipped_steps) == (20, 1)
    assert resumed.history == whole.history
    assert all(torch.equal(left, right) for left, right in zip(straight.parameters(), again.parameters()))


def test_figures_beside_the_losses_are_means_over_their_targets(tmp_path):
    _, result = run(tmp_path, factor=1.0)
    assert [entry["size"] for entry in result.history] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("factor", [0.5, -1.0])
def test_a_spike_factor_that_every_step_exceeds_is_refused(factor):
    with pytest.raises(InputError, match="spike_factor"):
        TrainingConfig(spike_factor=factor)


def batches_of(rows: int, batch_size: int) -> ExampleBatches:
    def collate(examples, epoch, numbers, everyones):
        return {"rows": torch.from_numpy(numbers), "everyones": torch.from_numpy(everyones)}

    return ExampleBatches(
        range(rows), lengths=np.arange(rows) % 7, batch_size=batch_size, seed=0, collate=collate, whole_batch=True
    )


@pytest.mark.parametrize(("rows", "world"), [(64, 2), (67, 4), (33, 2), (35, 3)])
def test_processes_share_the_batches_of_one(rows, world):
    """Together they see what one sees with batches `world` times as large; every process is told all rows."""
    one = batches_of(rows, 4 * world)
    wholes = [batch for index in range(len(one)) if len(batch := one.batch(2, index)["rows"].tolist()) >= world]
    parts = [part_of(batches_of(rows, 4), rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {len(wholes)}
    seen: set[int] = set()
    for index, whole in enumerate(wholes):
        shares = [part.batch(2, index) for part in parts]
        assert all(len(share["rows"]) > 0 for share in shares)
        assert sorted(row for share in shares for row in share["rows"].tolist()) == sorted(whole)
        assert all(share["everyones"].tolist() == whole for share in shares)
        seen |= set(whole)
    assert rows - len(seen) < world, "at most one row fewer than processes is left out of an epoch"


@pytest.mark.faults
def test_batches_that_cannot_be_shared_are_refused():
    class Alone:
        def __len__(self) -> int:
            return 1

        def batch(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
            return {}

    assert isinstance(part_of(Alone(), 0, 1), Alone)
    with pytest.raises(InputError, match="Alone cannot be shared by 2 processes"):
        part_of(Alone(), 0, 2)
    with pytest.raises(InputError, match="3 training examples are too few for 4 processes"):
        part_of(batches_of(3, 2), 0, 4)
