"""Seed each training step by its number, so that a resumed run draws what an unbroken one draws."""

import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule


class SeededSteps(LightningModule):
    """Base of the training modules: the random numbers of a step depend on nothing before it.

    No random state has to be kept in a checkpoint, on any device, and neither validation nor the
    sampling of texts in between can change the training. Each process draws numbers of its own:
    those that one process would draw that takes the batches of ``R`` processes one after the other,
    with ``accumulate_grad_batches`` of ``R``.
    """

    base_seed: int = 0

    def setup(self, stage: str) -> None:
        """Keep what Lightning's ``seed_everything`` set, before steps set other seeds."""
        self.base_seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the generators of Python, NumPy and PyTorch."""
        number = batch_idx * self.trainer.world_size + self.global_rank
        place = [self.base_seed, 0, self.global_step, number]
        high, low, legacy = np.random.SeedSequence(place).generate_state(3, np.uint32).tolist()
        seed = high << 32 | low
        random.seed(seed)
        np.random.seed(legacy)  # noqa: NPY002 - for code that draws from the global generator
        torch.manual_seed(seed)
