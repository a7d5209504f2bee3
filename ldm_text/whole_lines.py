"""A text file that is whole, or can be told to be not."""

import os
from pathlib import Path
from typing import BinaryIO, Self


def check_output_file(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before the work that fills it.

    Args:
        option: The option as the user typed it.
        path: Its value.

    Raises:
        FileNotFoundError: If the folder of the file is missing.
        ValueError: If something else than a file stands at the path.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`{option}`: there is no folder `{path.parent}`; make it first.")
    if path.exists() and not path.is_file():
        raise ValueError(f"`{option}`: `{path}` is no regular file; name a file to write.")


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write to a file without a buffer, which may take a part of the content at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that a power cut cannot undo a replacement."""
    if os.name != "posix":  # other systems cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WholeLinesFile:
    """A text file that appears under its name only when complete.

    Until then it is ``NAME.partial`` and holds whole lines only, also after an error or an
    interrupt: a later run can tell that the file is not complete. A file that had the name before
    stays until then; an earlier ``NAME.partial`` is begun anew.

    Args:
        path: The file, in an existing folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.num_lines = 0

    def __enter__(self) -> Self:
        self.file = self.partial.open("wb", buffering=0)
        self.whole = 0
        return self

    def write_lines(self, lines: list[str]) -> None:
        """Append lines; either all of them count, or none."""
        write_all(self.file, "".join(line + "\n" for line in lines).encode())
        self.whole = self.file.tell()
        self.num_lines += len(lines)

    def __exit__(self, error_type: type | None, error: BaseException | None, _: object) -> None:
        if self.file.tell() != self.whole:
            self.file.truncate(self.whole)
        if error is None:
            os.fsync(self.file.fileno())  # a full disk may show only now
        self.file.close()
        if error is None:
            os.replace(self.partial, self.path)
        else:
            error.add_note(f"`{self.partial}` holds the {self.num_lines} lines written until then.")
