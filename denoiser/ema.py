"""Exponential moving average of the weights, with a warm-up."""

import warnings
from itertools import chain
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel

from autoencoder.sharding import is_sharded


class Weights(nn.Module):
    """What ``parameters`` and ``buffers`` of a module give, in their order.

    A module whose weights are sharded cannot be copied; this can.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.weights = nn.ParameterList(module.parameters())
        for number, values in enumerate(module.buffers()):
            self.register_buffer(str(number), values)


class EMAWithWarmup(WeightAveraging):
    """Average weights with a decay that grows with the number of steps.

    The decay after ``n`` updates is ``min(decay, (1 + n) / (10 + n))``, so that a short run does
    not carry its initialization along. Validation and checkpoints use the averaged weights, and so
    does what callbacks log of a validation. Buffers are not averaged: a validation may measure
    them. Weights that are sharded over processes are averaged in their shards.

    Args:
        decay: Largest decay per optimizer step, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
        self.decay = decay
        super().__init__(use_buffers=False, avg_fn=self.average)

    def average(self, averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        """Move an averaged parameter towards the current one."""
        n = float(num_averaged)
        return averaged.lerp(current, 1 - min(self.decay, (1 + n) / (10 + n)))

    @property
    def averaged(self) -> nn.Module | None:
        """The module with averaged weights, in a training; ``None`` where they are sharded."""
        if self._average_model is None or isinstance(self._average_model.module, Weights):
            return None
        return self._average_model.module

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights to average."""
        if stage == "fit" and pl_module.device_mesh is not None:
            pl_module.configure_model()  # shards; Lightning's own call comes later
            weights = Weights(pl_module)
            self._average_model = AveragedModel(weights, use_buffers=False, avg_fn=self.average)
            return
        with warnings.catch_warnings():
            # That sharding is not supported: here it is.
            warnings.filterwarnings("ignore", "You're using the WeightAveraging callback with")
            super().setup(trainer, pl_module, stage)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the averaged weights in place: callbacks may still look at them."""

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the current weights; both keep the buffers that the validation measured."""
        if self._average_model is None:
            return
        measured = [values.clone() for values in pl_module.buffers()]
        if isinstance(pl_module, FSDPModule):
            pl_module.reshard()
        self._swap_models(pl_module)
        for values, current in zip(measured, pl_module.buffers(), strict=True):
            current.copy_(values)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average as the weights of the checkpoint, and the current ones beside them."""
        if self._average_model is None or not is_sharded(pl_module):
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            return
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        self._swap_models(pl_module)
        checkpoint["state_dict"] = trainer.strategy.lightning_module_state_dict()
        self._swap_models(pl_module)
        checkpoint["averaging_state"] = {"n_averaged": self._average_model.n_averaged}

    @torch.no_grad()
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up the average, which Lightning has loaded as the weights, and the current ones."""
        if self._average_model is None or not is_sharded(pl_module):
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        average = self._average_model.module
        pairs = zip(
            chain(average.parameters(), average.buffers()),
            chain(pl_module.parameters(), pl_module.buffers()),
            strict=True,
        )
        for averaged, loaded in pairs:
            averaged.copy_(loaded)
        self._average_model.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(pl_module, checkpoint["current_model_state"], options=whole)
