"""Means of what rows are scored by, such as their errors, in four equal bins of their times."""

import torch
from lightning import LightningModule
from torch import Tensor

NUM_BINS = 4
BINS = tuple(f"{low / NUM_BINS:.2f}_to_{(low + 1) / NUM_BINS:.2f}" for low in range(NUM_BINS))


def sums_by_time(t: Tensor, row_scores: Tensor) -> Tensor:
    """Sum the scores of rows in each bin of time, and count the rows.

    Args:
        t: Times ``(B,)`` in [0, 1]; pure noise is in the last bin.
        row_scores: Scores ``(B,)``, such as errors.

    Returns:
        The sum and the number of its rows for each of ``BINS``, ``(4, 2)``.
    """
    place = (t * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    chosen = torch.nn.functional.one_hot(place, NUM_BINS).float()
    return torch.stack([row_scores.float() @ chosen, chosen.sum(dim=0)], dim=1)


def means_by_time(sums: Tensor) -> dict[str, Tensor]:
    """Divide the sums ``(4, 2)`` of ``sums_by_time``; a bin without rows has no mean."""
    pairs = zip(BINS, sums, strict=True)
    return {name: total / count for name, (total, count) in pairs if count}


class MeansByTime:
    """Scores of the rows of a whole validation, over all processes."""

    def __init__(self) -> None:
        self.sums = torch.zeros(NUM_BINS, 2)

    def add(self, t: Tensor, row_scores: Tensor) -> None:
        """Add the rows of a batch, both ``(B,)``."""
        self.sums = self.sums.to(t.device) + sums_by_time(t, row_scores)

    def take_means(self, module: LightningModule) -> dict[str, Tensor]:
        """Return the mean of each bin that has rows, and begin anew."""
        sums = self.sums.to(module.device)
        if module.trainer.world_size > 1:
            sums = torch.as_tensor(module.all_gather(sums)).sum(dim=0)
        self.sums = torch.zeros(NUM_BINS, 2)
        return means_by_time(sums)
