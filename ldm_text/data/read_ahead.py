"""Have the system read rows of mapped files from the disk before they are needed.

A row at random that is not in memory costs a wait for the disk: rows of a batch one after the
other, several times a training step. Told of them some batches before, the system reads them all
at once and in the background.
"""

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

# Batches between telling the system of rows and the next use of them.
NUM_BATCHES_AHEAD = 4

# Takes the numbers of the rows of a batch.
ReadAhead = Callable[[Sequence[int]], None]


def reader_of(array: np.ndarray) -> Callable[[np.ndarray, np.ndarray], None] | None:
    """Return what has the system read entries ``starts[i], ..., ends[i] - 1`` of an array.

    Args:
        array: A file as a whole, as ``np.load`` maps it, or any other array.

    Returns:
        None where the array is in memory, or the system takes no such advice (POSIX does).
    """
    if not isinstance(array, np.memmap) or not hasattr(os, "posix_fadvise"):
        return None
    if array.filename is None:  # memory without a file
        return None
    descriptor = os.open(array.filename, os.O_RDONLY)
    first, row_bytes = array.offset, array.strides[0]

    def read(starts: np.ndarray, ends: np.ndarray) -> None:
        places, sizes = first + starts * row_bytes, (ends - starts) * row_bytes
        for place, size in zip(places.tolist(), sizes.tolist(), strict=True):
            os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_WILLNEED)

    weakref.finalize(read, os.close, descriptor)
    return read


def rows_reader(array: np.ndarray, width: int = 1) -> ReadAhead | None:
    """Return a reader of rows of an array; of each ``width`` entries from its number on."""
    read = reader_of(array)
    if read is None:
        return None

    def read_rows(rows: Sequence[int]) -> None:
        index = np.asarray(rows, np.int64)
        read(index, index + width)

    return read_rows


def present(readers: Iterable[ReadAhead | None]) -> list[ReadAhead]:
    """Return the readers of those arrays that are mapped files."""
    return [read for read in readers if read is not None]


def ahead(
    batches: Iterable[list[int]], stages: Sequence[Sequence[ReadAhead]]
) -> Iterator[list[int]]:
    """Yield batches of row numbers as they come, and give each to the stages before.

    Args:
        batches: Row numbers, batch by batch.
        stages: What reads ahead, in groups: each group gets a batch ``NUM_BATCHES_AHEAD`` batches
            before the next group does, and the last one that long before it is yielded.
    """
    for stage in stages:
        batches = _after(stage, batches)
    yield from batches


def _after(stage: Sequence[ReadAhead], batches: Iterable[list[int]]) -> Iterator[list[int]]:
    waiting: deque[list[int]] = deque()
    for rows in batches:
        for read in stage:
            read(rows)
        waiting.append(rows)
        if len(waiting) > NUM_BATCHES_AHEAD:
            yield waiting.popleft()
    yield from waiting
