"""Checksums of a released folder, in the format of ``sha256sum``: damage on the way shows."""

import hashlib
import re
from pathlib import Path, PurePosixPath

CHECKSUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]{1,200}(?:/[\w.-]{1,200}){0,3})")
MAX_BYTES = 1 << 20


def write_checksums(folder: Path) -> None:
    """Write the checksums of all parts of a pipeline: its index and the files of its components."""
    parts = [*sorted(folder.glob("*/*")), *sorted(folder.glob("classifiers/*/*"))]
    files = [folder / "model_index.json", *parts]
    lines = [
        f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in files
        if path.is_file()
    ]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Compare a folder with its checksums, if it has any.

    They tell damage, not malice: who changes a file on purpose can change its checksum.

    Raises:
        ValueError: If a file is missing or not as it was written, or the list is no list.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"`{path}` is damaged: it is too long for a list of checksums.")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        found = LINE.fullmatch(line.decode("utf-8", "replace"))
        name = PurePosixPath(found[2]) if found else PurePosixPath("..")
        if not found or name.is_absolute() or ".." in name.parts:
            raise ValueError(
                f"`{path}`, line {number}: expected a checksum and a file in the folder."
            )
        file = folder / name
        if not file.is_file() or file_sha256(file) != found[1]:
            state = "is not as it was written" if file.is_file() else "is missing"
            raise ValueError(
                f"`{file}` {state}: fetch the folder again. If the change is yours, "
                f"delete `{path}`."
            )


def file_sha256(path: Path) -> str:
    """Return the checksum of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
