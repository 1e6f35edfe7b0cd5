"""What every training of the model needs: one loop, batches by (epoch, index), checkpoints, keyed randomness."""

from ernie.training.batches import Batches, ExampleBatches
from ernie.training.configuration import TrainingConfig
from ernie.training.loop import BadStep, NonFiniteLoss, train
from ernie.training.precision import Precision, choose_precision
from ernie.training.record import TrainingResult
from ernie.training.reproducibility import derived_seed, keyed_generator

__all__ = [
    "BadStep",
    "Batches",
    "ExampleBatches",
    "NonFiniteLoss",
    "Precision",
    "TrainingConfig",
    "TrainingResult",
    "choose_precision",
    "derived_seed",
    "keyed_generator",
    "train",
]
