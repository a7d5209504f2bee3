"""Count the floating-point operations of a training run, so that budgets can be made equal."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from ldm_text.flop_counting import flop_counter


class CountTrainingFLOPs(Callback):
    """Count the operations of the first training step of each kind, and add up those of all steps.

    Matrix products and attention count, forwards and backwards, as executed: positions of padding
    count, elementwise work does not. A counted step is one of the optimizer with all its batches,
    and runs uncompiled, as the counter cannot look into compiled code. All batches of a run have
    one shape, so one step stands for all of its kind; a module whose steps change has an attribute
    ``kind_of_step``, such as the round of a distillation. What happens between steps, such as the
    encoding of cached latents or a validation, is not counted. The figures are kept in the
    checkpoint: a resumed run adds to them, and does not count again.
    """

    def __init__(self) -> None:
        self.training_flops = 0
        self.flops_per_step: int | None = None
        self.kind: int | None = None
        self.step: int | None = None  # the one that is in work
        self.is_counted = False
        self.counter: FlopCounterMode | None = None
        self.stance: Any = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count a step of a new kind, from its first batch on."""
        if self.step is None:
            self.step = trainer.global_step
            kind = getattr(pl_module, "kind_of_step", 0)
            self.is_counted = self.flops_per_step is None or kind != self.kind
            if self.is_counted:
                self.kind, self.flops_per_step = kind, 0
        if not self.is_counted:
            return
        self.stance = torch.compiler.set_stance("force_eager")
        self.stance.__enter__()
        self.counter = flop_counter()
        self.counter.__enter__()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the batch to its step; add the step where it ends, and log what was counted."""
        flops = self.flops_per_step or 0
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.stance.__exit__(None, None, None)
            flops += self.counter.get_total_flops()
            self.flops_per_step, self.counter = flops, None
        if trainer.global_step == self.step:
            return
        self.training_flops += flops
        self.step = None
        if self.is_counted:
            pl_module.log("train/flops_per_step", float(flops))

    def state_dict(self) -> dict[str, Any]:
        """Return the operations of one process: of all steps, and of a step of which kind."""
        return {
            "training_flops": self.training_flops,
            "flops_per_step": self.flops_per_step,
            "kind": self.kind,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts of the run that is resumed."""
        self.training_flops = state_dict["training_flops"]
        self.flops_per_step = state_dict["flops_per_step"]
        self.kind = state_dict["kind"]
