"""Rows of a batch that are done before the others, and leave it."""

import torch
from torch import Tensor


class ActiveRows:
    """The rows of a batch that are still denoised.

    The networks are given these alone. A scheduler, which may keep tensors of earlier steps, is
    given all rows: what it makes of those that are done is not read.

    Attributes:
        index: Numbers of the rows, ``(A,)``; ``None`` as long as all are there.
    """

    def __init__(self) -> None:
        self.index: Tensor | None = None

    def take(self, values: Tensor) -> Tensor:
        """Take the active rows of ``(B, ...)``: ``(A, ...)``."""
        return values if self.index is None else values[self.index]

    def put(self, values: Tensor, into: Tensor | None) -> Tensor:
        """Write the values ``(A, ...)`` of the active rows into those of all, ``(B, ...)``."""
        if self.index is None:
            return values
        assert into is not None, "rows leave a batch after its first step"
        return into.index_copy(0, self.index, values)

    def drop(self, is_done: Tensor | None) -> bool:
        """Let active rows go.

        Args:
            is_done: True for those that are done, ``(A,)``; ``None`` for none.

        Returns:
            Whether any are left.
        """
        if is_done is None or not bool(is_done.any()):
            return True
        if self.index is None:
            self.index = torch.arange(len(is_done), device=is_done.device)
        self.index = self.index[~is_done]
        return len(self.index) > 0
