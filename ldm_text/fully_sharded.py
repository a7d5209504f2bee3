"""Training with weights, gradients and optimizer sharded over all processes."""

from datetime import timedelta
from typing import ClassVar

from lightning.pytorch.strategies import ModelParallelStrategy

DEFAULT_TIMEOUT_S = 1800.0


class FullySharded(ModelParallelStrategy):
    """Shard over all devices of all machines with PyTorch's FSDP2 (``fully_shard``).

    What is sharded tells ``autoencoder.sharding``. A checkpoint is one file with whole weights, as
    that of any other strategy: it can be exported, and resumed with another number of processes.

    Args:
        timeout_s: Seconds after which a process that waits for the others gives up.
    """

    strategy_name: ClassVar[str] = "fully_sharded"  # of `--trainer.strategy`

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(seconds=timeout_s),
        )

    def setup_environment(self) -> None:
        """Lay out all processes in one dimension."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
