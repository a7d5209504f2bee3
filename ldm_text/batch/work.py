"""The contract between a job and the verb that it carries out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

Record = dict[str, Any]
Item = TypeVar("Item")


class RowError(ValueError):
    """An input row that cannot be used; the message is the reason, without the place in the file.

    Either the row itself does not do, or no text was found for it.
    """


@dataclass(frozen=True)
class Outputs:
    """What a batch gave.

    Attributes:
        records: One output record for each entry of the batch, in its order, or the reason why
            there is none.
        num_tokens: Tokens in all of their texts, for the report of throughput.
    """

    records: Sequence[Record | RowError]
    num_tokens: int


class Work(Protocol[Item]):
    """Turn input rows into output records, a batch at a time.

    A record must depend on its row, its sample number and ``settings`` alone, neither on the
    other rows of the batch nor on calls before: noise comes from ``(seed, row, sample)``. That is
    what makes a job the same however it is cut, broken off, sharded or distributed.

    Attributes:
        num_samples: Output records for each row, the same for all rows.
        fields: Name and type (``int``, ``float``, ``str``, ``bool``) of each field of a record, in
            the order they are written; any of them may be ``None``.
    """

    num_samples: int
    fields: Mapping[str, type]

    def settings(self) -> dict[str, Any]:
        """Return all that decides the records besides the rows, as JSON: weights, options, device.

        A job that is begun again with other settings is refused.
        """
        ...

    def prepare(self, row: int, record: Mapping[str, Any]) -> Item:
        """Check an input row; cheap, without any network.

        Args:
            row: Number of the row in the whole input, from 0.
            record: The row's fields; a line of text is ``{"text": line}``.

        Returns:
            What ``run`` needs of the row.

        Raises:
            RowError: If the row cannot be used.
        """
        ...

    def to(self, device: torch.device) -> None:
        """Move the networks to a device."""
        ...

    def length(self, item: Item) -> int:
        """Return what the cost of an item grows with; rows of like lengths share a batch."""
        ...

    def run(self, batch: Sequence[tuple[Item, int]]) -> Outputs:
        """Make the records of a batch of items, each with its sample number.

        Running out of memory (``torch.OutOfMemoryError``, ``MemoryError`` or the ``RuntimeError``
        of torch's CPU allocator) is the job's to handle: it calls again with smaller batches.
        """
        ...
