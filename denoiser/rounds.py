"""Rounds of a distillation: where each begins, and a learning rate that falls to 0 in each."""

from bisect import bisect_right
from itertools import accumulate

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from autoencoder.schedule import number_of_steps, tell_matrices

ROUND = "distillation_round"  # in a checkpoint


def round_at(step: int, round_steps: list[int]) -> int:
    """Return the round, from 0, that a training step is in; steps behind the last are in it."""
    return bisect_right(list(accumulate(round_steps))[:-1], step)


def round_learning_rate(step: int, round_steps: list[int], warmup_steps: int) -> float:
    """Return the share of the learning rate: each round warms up and falls linearly to 0."""
    index = round_at(step, round_steps)
    length, done = round_steps[index], step - sum(round_steps[:index])
    if done < warmup_steps:
        return done / warmup_steps
    return max(0.0, (length - done) / max(1, length - warmup_steps))


def check_rounds(trainer: Trainer, round_steps: list[int], warmup_steps: int) -> None:
    """Compare the length of the rounds with that of the training and of the warm-up.

    Raises:
        ValueError: If the training is longer than its rounds, or only time ends it; if a round has
            no step behind its warm-up; or if weights are averaged over several rounds.
    """
    if (shortest := min(round_steps)) <= warmup_steps:
        raise ValueError(
            f"`warmup_steps` must be less than the steps of each round, the shortest of which has "
            f"{shortest}, got {warmup_steps}: its learning rate would never fall."
        )
    # The teacher would be averaged, too, with those of the rounds before.
    # pyrefly: ignore [missing-attribute] - the trainer is given them after it is made
    is_averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    if is_averaged and len(round_steps) > 1:
        raise ValueError(
            "Averaged weights (`denoiser.EMAWithWarmup`) would carry a round into the next: take "
            "them out of `trainer.callbacks`; each round ends at a learning rate of 0."
        )
    if (steps := number_of_steps(trainer)) > sum(round_steps):
        raise ValueError(
            f"`trainer.max_steps` must be at most {sum(round_steps)}, the sum of the objective's "
            f"`round_steps`, got {steps}."
        )


def with_rounds(
    module: LightningModule, optimizer: Optimizer, round_steps: list[int], warmup_steps: int
) -> OptimizerLRScheduler:
    """Give an optimizer the learning rate of ``round_learning_rate``, in Lightning's form."""
    tell_matrices(optimizer, module)
    schedule = LambdaLR(
        optimizer, lambda step: round_learning_rate(step, round_steps, warmup_steps)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
