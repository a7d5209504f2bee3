"""Lines of text from plain and compressed files."""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

COMPRESSION_SUFFIXES = (".gz", ".xz", ".zst")

_CHUNK_BYTES = 1 << 20
# A frame has no bound on what it expands to: little input at a time bounds the output.
_ZST_CHUNK_BYTES = 1 << 12
_DAMAGE_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(number, line)`` of a UTF-8 file, numbered from 1, without line ends.

    The last suffix says how the file is compressed: ``.gz``, ``.xz``, ``.zst`` or not at all.
    Lines end at a line feed only; other characters that Unicode counts as line breaks are text.

    Raises:
        ValueError: If the file is damaged, cut off, unreadable or not UTF-8.
    """
    for number, line in read_raw_lines(path):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid UTF-8 ({error.reason}).") from error


def read_raw_lines(
    path: Path, max_line_bytes: int | None = None, file: BinaryIO | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number, line)`` as ``read_lines`` does, but undecoded.

    Args:
        path: The file; its last suffix says how it is compressed.
        max_line_bytes: A longer line comes cut to one byte more than that, which bounds the memory
            it takes; ``None`` cuts nothing.
        file: A stream to read in place of the file; ``path`` is then only its name.

    Raises:
        ValueError: If the file is damaged, cut off or unreadable.
    """
    number = 0
    try:
        with path.open("rb") if file is None else file as opened:
            chunks = _DECOMPRESSORS.get(path.suffix, _chunks)(opened)
            for number, line in enumerate(_split_lines(chunks, max_line_bytes), start=1):
                yield number, line.removesuffix(b"\r")
    except _DAMAGE_ERRORS as error:
        raise ValueError(
            f"{path} is damaged or cut off after line {number} ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def _chunks(file: Any, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
    # What a pipe holds is passed on at once, not only when a chunk is full.
    read = getattr(file, "read1", file.read)
    while chunk := read(size):
        yield chunk


def _gz_chunks(file: BinaryIO) -> Iterator[bytes]:
    with gzip.open(file) as content:
        yield from _chunks(content)


def _xz_chunks(file: BinaryIO) -> Iterator[bytes]:
    with lzma.open(file) as content:
        yield from _chunks(content)


def _zst_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Decompress frame by frame: the library's own reader takes a cut-off frame for the end."""
    import zstandard

    frame, started = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        for chunk in _chunks(file, _ZST_CHUNK_BYTES):
            compressed = chunk
            while compressed:
                started = True
                yield frame.decompress(compressed)
                if not frame.eof:
                    break
                compressed = frame.unused_data
                frame, started = zstandard.ZstdDecompressor().decompressobj(), False
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error
    if started:
        raise EOFError("the last frame has no end")


def _split_lines(chunks: Iterable[bytes], max_line_bytes: int | None) -> Iterator[bytes]:
    longest = None if max_line_bytes is None else max_line_bytes + 1
    parts: list[bytes] = []  # of the line that the chunks so far have not ended
    num_bytes = 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        if ended:
            yield b"".join([*parts, ended[0]])[:longest]
            parts, num_bytes = [], 0
            for line in ended[1:]:
                yield line[:longest]
        if longest is None or num_bytes < longest:
            parts.append(rest)
            num_bytes += len(rest)
    if last := b"".join(parts)[:longest]:
        yield last


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], Iterable[bytes]]] = {
    ".gz": _gz_chunks,
    ".xz": _xz_chunks,
    ".zst": _zst_chunks,
}
