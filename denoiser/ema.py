"""Exponential moving average of the weights, with a warm-up."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMAWithWarmup(WeightAveraging):
    """Average weights with a decay that grows with the number of steps.

    The decay after ``n`` updates is ``min(decay, (1 + n) / (10 + n))``, so that a short run does
    not carry its initialization along. Validation and checkpoints use the averaged weights.

    Args:
        decay: Largest decay per optimizer step, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
        self.decay = decay
        super().__init__(avg_fn=self.average)

    def average(self, averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        """Move an averaged parameter towards the current one."""
        n = float(num_averaged)
        return averaged.lerp(current, 1 - min(self.decay, (1 + n) / (10 + n)))
