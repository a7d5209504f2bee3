"""Optimizer and learning rate schedule of a LightningModule, alike for every stage."""

import math
from typing import Literal

from diffusers.optimization import get_scheduler
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer

from autoencoder.muon import MuonWithAdamW

ScheduleName = Literal["constant_with_warmup", "cosine", "linear"]


def tell_matrices(optimizer: Optimizer, module: LightningModule) -> None:
    """Tell an optimizer that treats matrices in a way of its own which weights these are."""
    if isinstance(optimizer, MuonWithAdamW):
        optimizer.take_matrices(module)


def number_of_steps(trainer: Trainer) -> int:
    """Return the number of optimizer steps of a training.

    Raises:
        ValueError: If only time ends it.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError(
            "`trainer.max_steps` or `trainer.max_epochs` must be set: the learning rate runs "
            "towards the end of the training. Beside it `trainer.max_time` may end it sooner."
        )
    return int(steps)


def with_schedule(
    module: LightningModule, optimizer: Optimizer, name: ScheduleName, warmup_steps: int
) -> OptimizerLRScheduler:
    """Warm the learning rate up linearly, then let it run to the end of the training.

    Args:
        module: The module in training; its trainer knows the number of steps.
        optimizer: Its optimizer.
        name: Course of the learning rate after the warm-up.
        warmup_steps: Steps of the warm-up.

    Returns:
        What ``configure_optimizers`` returns.

    Raises:
        ValueError: If the course has an end and the training none.
    """
    tell_matrices(optimizer, module)
    schedule = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=(
            None if name == "constant_with_warmup" else number_of_steps(module.trainer)
        ),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
