"""The loop: accumulation, clipping, freezing, stopping, and what it reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ernie.errors import InputError
from ernie.training import ExampleBatches, NonFiniteLoss, TrainingConfig, train


def regression(rows: int = 24, *, batch_size: int, ignored: bool = False) -> ExampleBatches:
    """Rows of (4 numbers, a target); with `ignored` some targets are NaN-free but marked by mask 0."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    y = x.sum(1, keepdim=True) ** 2
    mask = (torch.rand(rows, generator=generator) < 0.4).double() if ignored else torch.ones(rows).double()

    def collate(examples: list[int], epoch: int, numbers: np.ndarray) -> dict[str, torch.Tensor]:
        return {"x": x[examples], "y": y[examples], "mask": mask[examples]}

    return ExampleBatches(range(rows), lengths=np.ones(rows), batch_size=batch_size, seed=0, collate=collate)


def small_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.LayerNorm(8), nn.Linear(8, 1)).double()


def masked_square(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    errors = ((model(batch["x"]) - batch["y"]) ** 2)[:, 0] * batch["mask"]
    loss = errors.sum() / batch["mask"].sum()
    return {"loss": loss, "square": loss}


def weights_after(tmp_path, batches, **settings) -> dict[str, torch.Tensor]:
    model = small_model()
    extra = {k: settings.pop(k) for k in ("count_targets",) if k in settings}
    config = TrainingConfig(max_steps=5, learning_rate=0.01, precision="fp32", **settings)
    train(
        model,
        batches=batches,
        compute_losses=masked_square,
        config=config,
        seed=0,
        checkpoint_folder=tmp_path,
        **extra,
    )
    return model.state_dict()


class Groups:
    """The same rows in the same order, cut into batches of another size."""

    def __init__(self, source: ExampleBatches, parts: int) -> None:
        self.source, self.parts = source, parts

    def __len__(self) -> int:
        return len(self.source) * self.parts

    def batch(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        whole = self.source.batch(epoch, index // self.parts)
        cut = index % self.parts
        return {name: torch.tensor_split(tensor, self.parts)[cut] for name, tensor in whole.items()}


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulated_batches_train_like_one_big_batch(tmp_path, parts):
    """Parts of unequal size (8 rows in 3 or 5) expose a mean of means, which trains on, only slightly wrong."""
    source = regression(batch_size=8)
    one = weights_after(tmp_path / "one", source, batch_size=8)
    many = weights_after(tmp_path / "many", Groups(source, parts), batch_size=3, gradient_accumulation=parts)
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=1e-10, atol=1e-12)


def test_losses_over_masked_targets_accumulate_by_their_own_counts(tmp_path):
    """Batches hold unequal numbers of targets; sharing by examples would weigh rare targets too much."""
    source = regression(batch_size=12, ignored=True)

    def count(batch):
        return {"square": float(batch["mask"].sum())}

    one = weights_after(tmp_path / "one", source, batch_size=12, count_targets=count)
    many = weights_after(
        tmp_path / "many", Groups(source, 4), batch_size=3, gradient_accumulation=4, count_targets=count
    )
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=1e-10, atol=1e-12)


def test_a_step_equals_adamw_written_out(tmp_path):
    """First step against AdamW's equations in NumPy: decay on the matrix, none on bias, norm clipped to 1."""
    model = nn.Linear(4, 1).double()
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    batches = regression(rows=8, batch_size=8)
    batch = batches.batch(0, 0)
    x, y = batch["x"].numpy(), batch["y"].numpy()
    config = TrainingConfig(max_steps=1, learning_rate=0.1, weight_decay=0.5, warmup_ratio=0.0, precision="fp32")
    result = train(
        model,
        batches=batches,
        compute_losses=masked_square,
        config=config,
        seed=0,
        checkpoint_folder=tmp_path,
    )
    error = x @ before["weight"].T + before["bias"] - y
    gradient = {"weight": 2 * error.T @ x / 8, "bias": 2 * error.mean(0)}
    norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert norm > 1
    for name, decay in (("weight", 0.5), ("bias", 0.0)):
        g = gradient[name] / (norm + 1e-6)
        expected = before[name] * (1 - 0.1 * decay) - 0.1 * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(dict(model.named_parameters())[name].detach().numpy(), expected, rtol=1e-7)
    assert result.history[0]["grad_norm"] == pytest.approx(norm)


def test_loss_falls_and_history_has_means_at_every_log_step(tmp_path):
    model, seen = small_model(), []
    config = TrainingConfig(max_steps=45, learning_rate=0.05, log_every=20, eval_every=15, precision="fp32")
    result = train(
        model,
        batches=regression(batch_size=8),
        compute_losses=masked_square,
        config=config,
        seed=0,
        checkpoint_folder=tmp_path,
        evaluate=lambda m: {"training": float(m.training), "gradients": float(torch.is_grad_enabled())},
        evaluate_at_start=True,
        on_step=lambda step, figures: seen.append(figures["loss"]),
    )
    assert [entry["step"] for entry in result.history] == [20, 40, 45]
    assert result.history[0]["loss"] == pytest.approx(np.mean(seen[:20]))
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert [entry["step"] for entry in result.evaluations] == [0, 15, 30, 45]
    assert all(entry["training"] == 0 and entry["gradients"] == 0 for entry in result.evaluations)
    assert (result.steps, result.stopped_by, len(seen)) == (45, "max_steps", 45)


def test_a_frozen_parameter_does_not_move_before_its_step(tmp_path):
    """AdamW's decay alone would move a parameter whose gradient is zero rather than absent."""
    model = small_model()
    first = model[0].weight.detach().clone()
    moved = []

    def on_step(step, figures):
        moved.append(not torch.equal(model[0].weight, first))

    train(
        model,
        batches=regression(batch_size=8),
        compute_losses=masked_square,
        config=TrainingConfig(max_steps=5, precision="fp32"),
        seed=0,
        checkpoint_folder=tmp_path,
        trainable_from=lambda name: 3 if name.startswith("0.") else 0,
        on_step=on_step,
    )
    assert moved == [False, False, False, True, True]
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.faults
def test_nan_loss_stops_and_keeps_the_batch(tmp_path):
    """Trained on, a NaN turns every weight into NaN and the run ends as if it were well."""
    model = small_model()
    batches = regression(batch_size=8)

    def poisoned(model, batch):
        losses = masked_square(model, batch)
        return {"loss": losses["loss"] * (float("nan") if batch is not None and step[0] == 2 else 1.0)}

    step = [0]

    def on_step(number, figures):
        step[0] = number

    with pytest.raises(NonFiniteLoss, match="step 3: loss is nan") as caught:
        train(
            model,
            batches=batches,
            compute_losses=poisoned,
            config=TrainingConfig(max_steps=5, precision="fp32"),
            seed=0,
            checkpoint_folder=tmp_path,
            on_step=on_step,
        )
    saved = load_file(tmp_path / "non-finite-step-00000003.safetensors")
    assert str(tmp_path) in str(caught.value)
    torch.testing.assert_close(saved["x"], batches.batch(0, 2)["x"])
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_callers_random_numbers_are_untouched(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    model = small_model(dropout=0.5)
    torch.manual_seed(11)
    train(
        model,
        batches=regression(batch_size=8),
        compute_losses=masked_square,
        config=TrainingConfig(max_steps=3, precision="fp32"),
        seed=0,
        checkpoint_folder=tmp_path,
    )
    assert torch.equal(torch.rand(3), expected)


def test_best_weights_are_given_back(tmp_path):
    model, weights = small_model(), {}
    scores = iter([0.1, 0.9, 0.9, 0.3])

    def evaluate(m):
        weights[len(weights) + 1] = m[0].weight.detach().clone()
        return {"f1": next(scores)}

    result = train(
        model,
        batches=regression(batch_size=8),
        compute_losses=masked_square,
        config=TrainingConfig(max_steps=4, eval_every=1, learning_rate=0.1, precision="fp32"),
        seed=0,
        checkpoint_folder=tmp_path,
        evaluate=evaluate,
        keep_best="f1",
    )
    assert result.best_step == 2
    assert torch.equal(model[0].weight, weights[2])


def test_max_minutes_stops_cleanly_and_can_be_gone_on_from(tmp_path):
    def go(minutes: float):
        model = small_model(dropout=0.3)
        config = TrainingConfig(max_steps=6, max_minutes=minutes, precision="fp32")
        return model, train(
            model,
            batches=regression(batch_size=8),
            compute_losses=masked_square,
            config=config,
            seed=0,
            checkpoint_folder=tmp_path / "a",
        )

    _, stopped = go(1e-9)
    assert (stopped.stopped_by, stopped.steps) == ("max_minutes", 1)
    assert [entry["step"] for entry in stopped.history] == [1], "what was trained is told, also between two log steps"
    model, finished = go(0.0)
    assert (finished.stopped_by, finished.steps, finished.resumed_from) == ("max_steps", 6, 1)
    straight = small_model(dropout=0.3)
    train(
        straight,
        batches=regression(batch_size=8),
        compute_losses=masked_square,
        config=TrainingConfig(max_steps=6, precision="fp32"),
        seed=0,
        checkpoint_folder=tmp_path / "b",
    )
    assert torch.equal(model[0].weight, straight[0].weight)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("warmup_ratio", 1.5), ("log_every", 0)],
)
def test_settings_that_cannot_train_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        TrainingConfig(**{field: value})
