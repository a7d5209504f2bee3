"""Optimizer and learning rate schedule of a LightningModule, alike for every stage."""

from typing import Literal

from diffusers.optimization import get_scheduler
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer

from autoencoder.muon import MuonWithAdamW

ScheduleName = Literal["constant_with_warmup", "cosine", "linear"]


def tell_matrices(optimizer: Optimizer, module: LightningModule) -> None:
    """Tell an optimizer that treats matrices in a way of its own which weights these are."""
    if isinstance(optimizer, MuonWithAdamW):
        optimizer.take_matrices(module)


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
    """
    tell_matrices(optimizer, module)
    schedule = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=int(module.trainer.estimated_stepping_batches),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
