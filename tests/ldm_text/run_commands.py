"""Run command lines one after the other in this process, as a process of ``torchrun``.

Usage: run_commands.py FILE, a JSON list of lists of arguments of ``ldm-text``.
"""

import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from ldm_text import cli


def share_held(tensors: Iterable[Tensor]) -> float:
    """Return which share of tensors this process holds."""
    held = total = 0
    for values in tensors:
        total += values.numel()
        held += (values.to_local() if isinstance(values, DTensor) else values).numel()
    return held / total


class RecordShares(Callback):
    """Write which share of trained weights and of their optimizer's tensors a process holds.

    Args:
        path: File that the first process writes.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if not trainer.is_global_zero:
            return
        weights = [weight for weight in pl_module.parameters() if weight.requires_grad]
        states = trainer.optimizers[0].state.values()
        kept = [values for state in states for values in state.values()]
        shares = {"weights": share_held(weights), "optimizer": share_held(kept)}
        self.path.write_text(json.dumps(shares))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = ["ldm-text", *arguments]
        cli.main()
