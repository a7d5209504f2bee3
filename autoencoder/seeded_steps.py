"""Seed each training step by its number, so that a resumed run draws what an unbroken one draws."""

import copy
import inspect
import random
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn

from autoencoder.last_step import is_last_step, is_validation_due, save_last_step
from autoencoder.sharding import is_sharded, shard


def is_plain(value: Any) -> bool:
    """Tell whether a value can be read from a checkpoint without unpickling."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


class SeededSteps(LightningModule):
    """Base of the training modules: the random numbers of a step depend on nothing before it.

    No random state has to be kept in a checkpoint, on any device, and neither validation nor the
    sampling of texts in between can change the training. Each process draws numbers of its own:
    those that one process would draw that takes the batches of ``R`` processes one after the other,
    with ``accumulate_grad_batches`` of ``R``. Only the end of an epoch can differ: fewer than ``R``
    batches are left out by ``R`` processes, and make a smaller step of one.
    """

    base_seed: int = 0
    can_be_sharded: ClassVar[bool] = True
    takes_16_bit_weights: ClassVar[bool] = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "SeededSteps":
        """Copy all but what makes the optimizer, which is shared.

        From the command line that holds the parser and with it processes that Lightning started.
        """
        make_optimizer = self.__dict__.get("optimizer")
        memo[id(make_optimizer)] = make_optimizer
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep the plain values among the arguments, as all are that the command line gives.

        Networks and functions, which Python gives, would be pickled into each checkpoint, and no
        checkpoint is unpickled: none could be resumed.
        """
        current = inspect.currentframe()
        if frame is None and current is not None:
            frame = current.f_back  # whose arguments Lightning looks at
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        for name in [name for name, value in self.hparams.items() if not is_plain(value)]:
            del self.hparams[name]

    def configure_model(self) -> None:
        """Shard the weights, where the strategy has laid out processes for it.

        Raises:
            ValueError: If this training copies or samples from its own weights.
        """
        if self.device_mesh is None or is_sharded(self):
            return
        if not self.can_be_sharded:
            raise ValueError(
                f"{type(self).__name__} needs whole weights: use `--trainer.strategy ddp` for it."
            )
        shard(self, self.device_mesh["data_parallel"], ("training_step", "validation_step"))

    def setup(self, stage: str) -> None:
        """Keep what Lightning's ``seed_everything`` set, before steps set other seeds.

        Raises:
            ValueError: If the strategy wraps the forward pass of a module, of which these have
                none, or the precision would round the weights themselves.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ValueError(
                "`--trainer.strategy fsdp` shards what runs in `forward` alone; use "
                "`--trainer.strategy fully_sharded`."
            )
        is_16_bit = self.trainer.precision in ("bf16-true", "16-true")
        if is_16_bit and not self.takes_16_bit_weights:
            raise ValueError(
                f"`--trainer.precision {self.trainer.precision}` keeps weights, latents and their "
                "statistics in 16 bits; use `--trainer.precision bf16-mixed`."
            )
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

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save the last step, after all callbacks: a timer among them may end the training."""
        if is_last_step(self.trainer):
            save_last_step(self.trainer, is_validation_due(self.trainer))

    def on_validation_end(self) -> None:
        """Save the last step where its validation decides, as for an early stop."""
        if self.trainer.state.fn == TrainerFn.FITTING and is_last_step(self.trainer):
            save_last_step(self.trainer, is_validation_to_come=False)
