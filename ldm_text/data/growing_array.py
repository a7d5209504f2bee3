"""An ``.npy`` file that grows row by row, in no more memory than its last rows take."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np


class GrowingArray:
    """Append rows to an ``.npy`` file; its header says how many there are once it is closed.

    Args:
        path: The file; one that is there is continued.
        dtype: Type of the numbers.
        row_shape: Shape of one row, empty for a column of numbers.
        num_rows: Rows of the file to keep; later ones, of an interrupted run, are cut off.
    """

    def __init__(
        self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...] = (), num_rows: int = 0
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.num_rows = num_rows
        self.file = path.open("r+b" if num_rows else "w+b")
        self._write_header()
        self.file.truncate(self.file.tell() + num_rows * self._row_bytes())
        self.file.seek(0, os.SEEK_END)

    def append(self, rows: np.ndarray) -> None:
        """Write rows ``(n, *row_shape)`` behind the others."""
        self.file.write(np.ascontiguousarray(rows, self.dtype).data)
        self.num_rows += len(rows)

    def sync(self) -> None:
        """Bring all rows to the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Write the number of rows into the header."""
        if not self.file.closed:
            self.file.seek(0)
            self._write_header()
            self.file.close()

    def __enter__(self) -> "GrowingArray":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write_header(self) -> None:
        """Write a header of the same length for any number of rows: NumPy leaves room for it."""
        shape = (self.num_rows, *self.row_shape)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def _row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.row_shape))
