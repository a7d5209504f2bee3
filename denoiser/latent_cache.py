"""Keep the latents of a frozen autoencoder, in memory or on disk, so that each row is encoded once.

``N`` rows in the data set, encoded in batches that are numbered in its order.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

MARKS = "filled"  # the file that tells which batches are there
NOTHING, FILLED = 0, 1


class LatentCache:
    """Latents of a data set in half precision.

    It takes ``2 * L * D`` bytes a row and a column. In a folder they are files mapped into memory:
    they may be larger than it, processes share them, and an interrupted filling goes on where it
    was. Who encodes a batch a second time writes the same bytes, so no process waits for another.

    Args:
        num_rows: Rows of the data set, ``N``.
        batch_size: Rows of a batch; the last one may be smaller.
        folder: Where the files are; ``None`` keeps the latents in memory.
    """

    def __init__(self, num_rows: int, batch_size: int, folder: Path | None = None) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.folder = folder
        self.latents: dict[str, np.ndarray] = {}
        num_batches = -(-num_rows // batch_size)
        if folder is None:
            self.filled = np.full(num_batches, NOTHING, np.uint8)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.filled = self.open(MARKS, (num_batches,), np.uint8)

    def missing(self) -> list[int]:
        """Return the numbers of the batches that are not there yet."""
        return np.flatnonzero(self.filled == NOTHING).tolist()

    def rows_of(self, batch: int) -> range:
        """Return the rows of a batch."""
        start = batch * self.batch_size
        return range(start, min(start + self.batch_size, self.num_rows))

    def put(self, column: str, rows: Tensor, latents: Tensor) -> None:
        """Keep the latents of some rows.

        Args:
            column: Name of what was encoded.
            rows: Row numbers ``(B,)``.
            latents: Their latents ``(B, L, D)``.

        Raises:
            ValueError: If the memory is too small for them.
        """
        if column not in self.latents:
            self.latents[column] = self.make(column, (self.num_rows, *latents.shape[1:]))
        self.latents[column][rows.cpu().numpy()] = latents.cpu().half().numpy()

    def mark(self, batches: list[int]) -> None:
        """Note that batches are there, their latents on the disk before the note."""
        for values in self.latents.values():
            flush(values)
        self.filled[batches] = FILLED
        flush(self.filled)

    def get(self, column: str, rows: Tensor) -> Tensor:
        """Return the latents of some rows.

        Args:
            column: Name of what was encoded.
            rows: Row numbers ``(B,)``.

        Returns:
            Latents ``(B, L, D)``, float32, on the device of ``rows``.
        """
        if column not in self.latents:
            self.columns()
        chosen = torch.from_numpy(self.latents[column][rows.cpu().numpy()])
        return chosen.to(rows.device).float()

    def columns(self) -> list[np.ndarray]:
        """Return all columns ``(N, L, D)``, those that others have filled included."""
        for path in [] if self.folder is None else sorted(self.folder.glob("*.npy")):
            if path.stem != MARKS and path.stem not in self.latents:
                self.latents[path.stem] = np.load(path, mmap_mode="r+", allow_pickle=False)
        return list(self.latents.values())

    def make(self, column: str, shape: tuple[int, ...]) -> np.ndarray:
        """Make a column: files without content take no room; memory is checked before."""
        if self.folder is not None:
            return self.open(column, shape, np.float16)
        num_bytes, available = 2 * int(np.prod(shape)), psutil.virtual_memory().available
        if num_bytes > available:
            raise ValueError(
                f"`cache_latents` needs {num_bytes / 1e9:.1f} GB of memory, {available / 1e9:.1f} "
                "GB are left: set `latent_cache_dir` to keep the latents on disk."
            )
        return np.full(shape, np.nan, np.float16)  # a row that was never put shows in the loss

    def open(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Open a file of the folder for writing, made by whichever process comes first.

        Raises:
            ValueError: If the file is damaged.
        """
        assert self.folder is not None, "a cache in memory has no files"
        path = self.folder / f"{name}.npy"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as own_folder:
                np.lib.format.open_memmap(Path(own_folder, name), "w+", dtype, shape)
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.link(Path(own_folder, name), path)
        try:
            values = np.load(path, mmap_mode="r+", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(self.damaged(path, str(error))) from error
        if values.shape != shape or values.dtype != dtype:
            raise ValueError(self.damaged(path, f"shape {values.shape}, expected {shape}"))
        return values

    @staticmethod
    def damaged(path: Path, reason: str) -> str:
        """Say what to do with a damaged file."""
        return (
            f"The latent cache `{path}` is damaged ({reason}). Delete its folder to fill it anew."
        )


def flush(values: np.ndarray) -> None:
    """Bring a mapped file to the disk."""
    if isinstance(values, np.memmap):
        values.flush()
