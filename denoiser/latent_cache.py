"""Keep the latents of a frozen autoencoder in memory, so that each row is encoded once."""

from collections.abc import Callable

import torch
from torch import Tensor


class LatentCache:
    """Latents of a data set in half precision, filled row by row as they are first asked for.

    It takes ``2 * L * D`` bytes a row and a column.

    Args:
        num_rows: Rows of the data set.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.latents: dict[str, Tensor] = {}
        self.is_filled: dict[str, Tensor] = {}

    def get(self, column: str, rows: Tensor, encode: Callable[[], Tensor]) -> Tensor:
        """Return the latents of some rows.

        Args:
            column: Name of what is encoded.
            rows: Row numbers ``(B,)``.
            encode: Computes the latents ``(B, L, D)`` of exactly these rows; called unless all
                of them are known.

        Returns:
            Latents ``(B, L, D)``, float32, on the device of ``rows``.
        """
        index = rows.cpu()
        if column in self.latents and self.is_filled[column][index].all():
            return self.latents[column][index].to(rows.device).float()
        latents = encode()
        if column not in self.latents:
            shape = (self.num_rows, *latents.shape[1:])
            self.latents[column] = torch.empty(shape, dtype=torch.half)
            self.is_filled[column] = torch.zeros(self.num_rows, dtype=torch.bool)
        self.latents[column][index] = latents.cpu().half()
        self.is_filled[column][index] = True
        return latents.float()
