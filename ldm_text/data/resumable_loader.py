"""Shuffled batches that go on in the middle of an epoch when training is resumed."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ldm_text.data.read_ahead import ReadAhead, ahead
from ldm_text.data.shuffling import shuffled


class ShuffledRows(DistributedSampler):
    """Row numbers in an order that seed and epoch decide, from any place on.

    Lightning leaves a ``DistributedSampler`` alone in distributed training. ``R`` processes take
    the batches of one process in turns: batch ``n`` of all together holds the rows of batch ``n``
    of one process with ``R`` times the rows. Rows that fill no batch of all are left out.

    Args:
        dataset: The rows. One with a method ``read_ahead_stages`` is told of them some batches
            before they are needed; see ``read_ahead.ahead``.
        batch_size: Rows in a batch of one process.
        num_replicas: Number of processes, ``R``.
        rank: Number of this process.
        seed: Decides the order, with the epoch.
    """

    more_readers: Callable[[], list[ReadAhead]] = list  # of what else is needed for these rows
    first_row: int = 0  # of this process; rows before it were given before the run was resumed

    def __init__(
        self, dataset: Dataset, *, batch_size: int, num_replicas: int, rank: int, seed: int
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed, drop_last=True)
        self.batch_size = batch_size
        self.num_rows = len(dataset)  # pyrefly: ignore [bad-argument-type]
        num_batches = self.num_rows // (batch_size * num_replicas)
        self.num_samples = num_batches * batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield the row numbers of this process."""
        stages = getattr(self.dataset, "read_ahead_stages", list)()
        for rows in ahead(self.batches(), [*stages, self.more_readers()]):
            yield from rows

    def batches(self) -> Iterator[list[int]]:
        """Yield the row numbers batch by batch."""
        order = shuffled(self.num_rows, [self.seed, self.epoch])
        for place in range(self.first_row, self.num_samples, self.batch_size):
            number = place // self.batch_size * self.num_replicas + self.rank
            start = number * self.batch_size
            yield order(start + place % self.batch_size, start + self.batch_size)


class ResumableLoader(DataLoader):
    """Data loader whose place in the epoch Lightning keeps in its checkpoints.

    What counts are the batches given to the training, not those that workers have prepared ahead.
    Each pass is an epoch of its own; the pass after ``load_state_dict`` is the rest of one.
    """

    epoch: int = 0
    num_batches_given: int = 0
    is_restored: bool = False

    # pyrefly: ignore [bad-override]
    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of an epoch; nothing happens before the first is asked for."""
        sampler = self.sampler
        if self.num_batches_given and not self.is_restored:
            self.start_epoch(self.epoch + 1)
        if isinstance(sampler, ShuffledRows):
            # Lightning sets the epoch too; a limit of batches can end one before its last row.
            if sampler.epoch > self.epoch:
                self.start_epoch(sampler.epoch)
            sampler.set_epoch(self.epoch)
            sampler.first_row = self.num_batches_given * (self.batch_size or 1)
        self.is_restored = False
        for batch in super().__iter__():
            self.num_batches_given += 1
            yield batch

    def start_epoch(self, epoch: int) -> None:
        """Go to the first batch of an epoch."""
        self.epoch, self.num_batches_given = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Return the place of the next batch."""
        if self.num_batches_given >= len(self):
            return {"epoch": self.epoch + 1, "num_batches_given": 0}
        return {"epoch": self.epoch, "num_batches_given": self.num_batches_given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go to a place that ``state_dict`` returned."""
        self.epoch = state_dict["epoch"]
        self.num_batches_given = state_dict["num_batches_given"]
        self.is_restored = True
