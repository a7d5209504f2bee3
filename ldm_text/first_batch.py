"""What callbacks that look at validation rows share: they see those of the first batch."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class KeepFirstBatch(Callback):
    """Keep the first rows of the first validation batch, as ``self.batch``.

    Args:
        max_rows: Most rows to keep.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.batch: dict[str, Tensor] = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep rows of the first batch."""
        if batch_idx == 0:
            self.batch = {name: values[: self.max_rows] for name, values in batch.items()}
