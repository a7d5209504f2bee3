"""Finished chunks on their way from the process that made them to the one that writes the output.

A packed chunk is one line of JSON with its figures and rejects, and behind it its encoded records.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ldm_text.batch.chunks import ChunkResult
from ldm_text.batch.encoding import Encoding
from ldm_text.batch.work import Record
from ldm_text.whole_lines import sync_folder


@dataclass(frozen=True)
class EncodedChunk:
    """A finished chunk, ready to be written.

    Attributes:
        number: The chunk's.
        content: Its records in the format of the output.
        rejects: Rows that could not be used, and texts that could not be written.
        num_slots: Its slots, rejected ones included.
        num_records: Its records.
        num_tokens: Tokens of its texts.
    """

    number: int
    content: bytes
    rejects: list[Record]
    num_slots: int
    num_records: int
    num_tokens: int

    @classmethod
    def of(cls, result: ChunkResult, encoding: Encoding) -> "EncodedChunk":
        """Encode the records of a chunk."""
        return cls(
            result.number,
            encoding.encode(result.records),
            result.rejects,
            result.num_slots,
            len(result.records),
            result.num_tokens,
        )

    def pack(self) -> bytes:
        """Return the chunk as bytes."""
        about = {name: value for name, value in vars(self).items() if name != "content"}
        return json.dumps(about).encode() + b"\n" + self.content

    @classmethod
    def unpack(cls, packed: bytes) -> "EncodedChunk":
        """Return the chunk that ``pack`` has packed."""
        about, _, content = packed.partition(b"\n")
        return cls(content=content, **json.loads(about))


class ChunkFolder:
    """Packed chunks as files, each there as a whole or not at all.

    Args:
        path: The folder, see ``chunk_folder``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the folder, if it is not there."""
        self.path.mkdir(exist_ok=True)

    def write(self, chunk: EncodedChunk) -> None:
        """Bring a chunk to the disk."""
        target = self._path_of(chunk.number)
        # A process of a run that was killed may still be at work on the same chunk.
        successor = target.with_suffix(f".{os.getpid()}")
        with successor.open("wb") as file:
            file.write(chunk.pack())
            file.flush()
            os.fsync(file.fileno())
        os.replace(successor, target)
        sync_folder(self.path)

    def missing(self, numbers: range) -> list[int]:
        """Return those of the numbers whose chunk is not there."""
        return [number for number in numbers if not self._path_of(number).exists()]

    def take(self, numbers: range) -> Iterator[EncodedChunk]:
        """Read chunks in order; each is removed when the next one is asked for."""
        for number in numbers:
            yield EncodedChunk.unpack(self._path_of(number).read_bytes())
            self._path_of(number).unlink()

    def _path_of(self, number: int) -> Path:
        return self.path / f"{number:09d}"


def chunk_folder(output: Path, job_key: str) -> ChunkFolder:
    """Return where the processes of a job leave their chunks: jobs that differ never share it."""
    return ChunkFolder(output.with_name(f"{output.name}.chunks.{job_key}"))


def has_chunks(output: Path) -> bool:
    """Tell whether processes of a job have left chunks of this output."""
    return any(any(folder.iterdir()) for folder in _chunk_folders(output))


def remove_chunk_folders(output: Path) -> None:
    """Remove the chunks of all jobs that wrote this output."""
    for folder in _chunk_folders(output):
        shutil.rmtree(folder)


def _chunk_folders(output: Path) -> list[Path]:
    start = f"{output.name}.chunks."
    return [path for path in output.parent.iterdir() if path.name.startswith(start)]
