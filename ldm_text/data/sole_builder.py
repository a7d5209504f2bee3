"""One process at a time makes a folder of a cache; the others wait for it."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def sole_builder(folder: Path) -> Iterator[Path]:
    """Hold the lock of a folder, which the system takes from a process that dies.

    Args:
        folder: Folder to make. Whoever has the lock looks first whether it is there by now.

    Yields:
        The folder to write into, which is renamed when it is complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("Another process is making %s: waiting for it.", folder)
        lock.acquire()
    try:
        yield folder.with_name(f".{folder.name}.partial")
    finally:
        lock.release()
