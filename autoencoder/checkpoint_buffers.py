"""Put buffers into a checkpoint that a training has written."""

from lightning import Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


def paths_of_step(trainer: Trainer) -> list[str]:
    """Return the checkpoints that were written at the current step.

    Of a callback that monitors a metric it is the last one alone: which are its best ones, and of
    which step, is its own affair.
    """
    paths = []
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if callback._last_global_step_saved == trainer.global_step:
            paths.append(callback.last_model_path)
            if callback.monitor is None:
                paths.append(callback.best_model_path)
    return [path for path in paths if path]


def put_into_checkpoint(io: CheckpointIO, path: str, buffers: dict[str, Tensor]) -> None:
    """Replace buffers in a checkpoint of this training; all else stays as it was written.

    Args:
        io: What reads and writes the checkpoints of the training.
        path: The checkpoint.
        buffers: Values by their names in the state of the LightningModule.
    """
    checkpoint = io.load_checkpoint(path, weights_only=False)
    values = {name: value.cpu() for name, value in buffers.items()}
    for name in ("state_dict", "current_model_state"):  # the latter beside averaged weights
        if name in checkpoint:
            checkpoint[name].update(values)
    io.save_checkpoint(checkpoint, path)
