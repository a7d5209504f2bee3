"""Put buffers into a checkpoint that a training has written."""

from lightning.fabric.plugins import CheckpointIO
from torch import Tensor


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
