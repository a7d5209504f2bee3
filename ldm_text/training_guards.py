"""Guards of a training run: whole checkpoint files, and an end when the loss is not finite."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save_file
from torch import Tensor

from ldm_text.whole_lines import sync_folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint only once the new one is whole and on the disk, and keep the old one.

    Lightning writes to the system's temporary folder and moves the file; where that folder is on
    another disk, the move is a copy over the old checkpoint, which a kill can cut short. Here the
    new file, ``NAME.partial``, stands beside the old one, which becomes ``NAME.previous.ckpt``:
    should a disk damage the new one, the training goes on from there. Lightning's own way to two
    checkpoints, ``save_top_k``, wants a quantity to monitor, and then leaves out steps that end an
    epoch. A checkpoint that is written again at the same step does not push the older one out.
    Remote folders stay with Lightning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[Path, int | None] = {}  # of the checkpoints that were written

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: The file; its folder is made where it is missing.
            storage_options: Not supported, as in Lightning.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        step = checkpoint.get("global_step")
        if step is None or self.steps.get(path) != step:
            keep_previous(path)
            self.steps[path] = step
        os.replace(partial, path)
        sync_folder(path.parent)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and the one that it replaced."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            previous_of(Path(path)).unlink(missing_ok=True)


def previous_of(path: Path) -> Path:
    """Return where the checkpoint goes that stood at ``path`` before."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def keep_previous(path: Path) -> None:
    """Give a checkpoint that is about to be replaced a second name; no moment is without one."""
    if not path.is_file():
        return
    link, previous = path.with_name(f"{path.name}.old"), previous_of(path)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links
        os.replace(path, previous)
    else:
        os.replace(link, previous)


class StopOnNonFiniteLoss(Callback):
    """End the training before a loss that is not finite reaches the weights, and keep its batch.

    The batch goes beside the checkpoints, as ``non_finite_loss_step_N.safetensors`` with the step's
    numbers as metadata. Resumed from the last checkpoint, the run comes to the same step again.
    """

    def __init__(self) -> None:
        self.batch: dict[str, Tensor] = {}
        self.batch_idx = 0

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Remember the batch."""
        self.batch, self.batch_idx = batch, batch_idx

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Check the loss.

        Raises:
            ValueError: If it is not finite.
        """
        if torch.isfinite(loss).all():
            return
        value = loss.item()
        path = self.save_batch(trainer, value)
        raise ValueError(
            f"The training loss of step {trainer.global_step} is {value}: the training ends, "
            f"and its weights are as before this step. The batch is in `{path}`. A lower learning "
            "rate, gradient clipping or a longer warm-up often help."
        )

    def save_batch(self, trainer: Trainer, loss: float) -> Path:
        """Write the batch of the step beside the checkpoints and return the file."""
        checkpoints = getattr(trainer.checkpoint_callback, "dirpath", None)
        folder = Path(checkpoints or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        process = f"_process_{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = folder / f"non_finite_loss_step_{trainer.global_step}{process}.safetensors"
        numbers = {
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "batch_idx": self.batch_idx,
            "loss": loss,
        }
        # Copies, because tensors of a file must not share memory.
        tensors = {name: values.detach().cpu().clone() for name, values in self.batch.items()}
        tensors = {name: values.contiguous() for name, values in tensors.items()}
        save_file(tensors, path, metadata={name: str(value) for name, value in numbers.items()})
        return path
