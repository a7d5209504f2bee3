"""A few fixed shapes of batches, so that what is compiled for one of them serves all batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiser.infilling import KnownLatents


class FixedShapes:
    """The shapes that compiled networks run at.

    A network treats the rows of a batch alike and each by itself, so rows can be added and taken
    away again. Without sizes nothing is compiled, and every batch runs as it is.

    Args:
        batch_sizes: Numbers of rows, each at least 1.

    Attributes:
        batch_sizes: The same, growing; halved when memory runs out.

    Raises:
        ValueError: If one is below 1.
    """

    def __init__(self, batch_sizes: Sequence[int] = ()) -> None:
        self.batch_sizes = tuple(sorted(set(batch_sizes)))
        if self.batch_sizes and self.batch_sizes[0] < 1:
            raise ValueError(f"`batch_sizes` must be 1 or larger, got {list(batch_sizes)}.")

    def run(self, function: Callable[..., Tensor], *inputs: Tensor | KnownLatents | None) -> Tensor:
        """Run a function of rows at the smallest size that holds them.

        What is missing are copies of the last row. More rows than the largest size run in parts.

        Args:
            function: Takes the inputs and returns a tensor ``(B, ...)``.
            inputs: Rows ``(B, ...)``, the first ones a tensor; what is ``None`` stays so.

        Returns:
            What the function returns of the rows, ``(B, ...)``.
        """
        (num_rows, device) = next((len(x), x.device) for x in inputs if isinstance(x, Tensor))
        if not self.batch_sizes or num_rows in self.batch_sizes:
            return self._halved_without_memory(function, *inputs)
        larger = [size for size in self.batch_sizes if size > num_rows]
        size = larger[0] if larger else self.batch_sizes[-1]
        parts = []
        for start in range(0, num_rows, size):
            rows = torch.arange(start, start + size, device=device).clamp(max=num_rows - 1)
            part = [take_rows(values, rows) for values in inputs]
            parts.append(self._halved_without_memory(function, *part))
        return torch.cat(parts)[:num_rows]

    def source_length(self, num_tokens: int, tokens_per_latent: int, longest: int) -> int:
        """Return the tokens that sources are padded to.

        Args:
            num_tokens: Tokens of the longest source of a batch; 0 for none.
            tokens_per_latent: What the length must be a multiple of.
            longest: Most tokens of any source.

        Returns:
            The next multiple, at least one; of fixed shapes a power of two times
            ``tokens_per_latent``, or what holds all sources.
        """
        num_latents = max(1, -(-num_tokens // tokens_per_latent))
        if self.batch_sizes:
            most = -(-longest // tokens_per_latent)
            num_latents = min(1 << (num_latents - 1).bit_length(), most)
        return num_latents * tokens_per_latent

    def _halved_without_memory(
        self, function: Callable[..., Tensor], *inputs: Tensor | KnownLatents | None
    ) -> Tensor:
        try:
            return function(*inputs)
        except (RuntimeError, MemoryError) as error:
            # Who runs out of memory comes again with half of the rows; they must not be filled up.
            if is_out_of_memory(error):
                self.batch_sizes = tuple(sorted({max(1, n // 2) for n in self.batch_sizes}))
            raise


def take_rows(values: Tensor | KnownLatents | None, rows: Tensor) -> Tensor | KnownLatents | None:
    """Take rows by their numbers."""
    if values is None:
        return None
    return values[rows] if isinstance(values, Tensor) else values.map(lambda part: part[rows])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the machine had no memory for a batch."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
