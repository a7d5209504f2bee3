"""Count the floating-point operations of a training run, so that budgets can be made equal."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode


class CountTrainingFLOPs(Callback):
    """Count the operations of the first training step; the report multiplies them by the steps.

    PyTorch counts matrix products and attention, forwards and backwards, as executed: positions of
    padding count, recomputation and elementwise work do not. That first step runs uncompiled, as
    the counter cannot look into compiled code. All batches of a run have one shape, so one step
    stands for all; what happens before the first step, such as the encoding of cached latents, is
    not counted. The figure is kept in the checkpoint, and a resumed run does not count again.
    """

    def __init__(self) -> None:
        self.flops_per_step: int | None = None
        self.counter: FlopCounterMode | None = None
        self.stance: Any = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start counting with the first step of a run."""
        if self.flops_per_step is not None:
            return
        self.stance = torch.compiler.set_stance("force_eager")
        self.stance.__enter__()
        self.counter = FlopCounterMode(display=False)
        self.counter.__enter__()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the count and log it."""
        if self.counter is None:
            return
        self.counter.__exit__(None, None, None)
        self.stance.__exit__(None, None, None)
        self.flops_per_step = self.counter.get_total_flops()
        self.counter = None
        pl_module.log("train/flops_per_step", float(self.flops_per_step))

    def state_dict(self) -> dict[str, Any]:
        """Return the operations of one step on one process."""
        return {"flops_per_step": self.flops_per_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count of the run that is resumed."""
        self.flops_per_step = state_dict["flops_per_step"]
