"""Log what tells early that a training goes wrong: norms, and errors by time."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from denoiser.time_bins import means_by_time, sums_by_time


class LogTrainingHealth(Callback):
    """Log quantities of the training step beside its loss, as often as the trainer logs.

    ``train/grad_norm`` is the norm of all gradients together before they are clipped. For a
    denoiser, too: ``train/latent_rms`` and ``train/pred_latent_rms``, the root mean square of clean
    and of predicted standardized latents (the first is about 1, or the statistics of the
    autoencoder are wrong), and ``train/loss_t_...``, the loss in four bins of time, averaged over
    the steps since the last log. Values are those of the first process.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Log the norm of the gradients."""
        if not trainer._logger_connector.should_update_logs:
            return
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # Of sharded gradients each process holds a part.
        pl_module.log("train/grad_norm", norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log what a denoiser's step returns beside its loss."""
        if not isinstance(outputs, dict) or "row_error" not in outputs:
            return
        sums = sums_by_time(outputs["t"], outputs["row_error"])
        self.sums = sums if self.sums is None else self.sums + sums
        if not trainer._logger_connector.should_update_logs:
            return
        for name, mean in means_by_time(self.sums).items():
            pl_module.log(f"train/loss_t_{name}", mean)
        self.sums = None
        for name in ("latents", "pred_latents"):
            rms = outputs[name].float().square().mean().sqrt()
            pl_module.log(f"train/{name.removesuffix('s')}_rms", rms)
