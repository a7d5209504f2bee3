"""Lines of text from plain and compressed files."""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

COMPRESSION_SUFFIXES = (".gz", ".xz", ".zst")

_CHUNK_BYTES = 1 << 20
_DAMAGE_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(number, line)`` of a UTF-8 file, numbered from 1, without line ends.

    The last suffix says how the file is compressed: ``.gz``, ``.xz``, ``.zst`` or not at all.
    Lines end at a line feed only; other characters that Unicode counts as line breaks are text.

    Raises:
        ValueError: If the file is damaged, cut off, unreadable or not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_DECOMPRESSORS.get(path.suffix, iter)(file), start=1):
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                yield number, line.decode(encoding).removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not valid UTF-8 ({error.reason}).") from error
    except _DAMAGE_ERRORS as error:
        raise ValueError(
            f"{path} is damaged or cut off after line {number} ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def _zst_lines(file: BinaryIO) -> Iterator[bytes]:
    """Decompress frame by frame: the library's own reader takes a cut-off frame for the end."""
    import zstandard

    def chunks() -> Iterator[bytes]:
        frame, started = zstandard.ZstdDecompressor().decompressobj(), False
        while compressed := file.read(_CHUNK_BYTES):
            while compressed:
                started = True
                yield frame.decompress(compressed)
                if not frame.eof:
                    break
                compressed = frame.unused_data
                frame, started = zstandard.ZstdDecompressor().decompressobj(), False
        if started:
            raise EOFError("the last frame has no end")

    try:
        yield from _split_lines(chunks())
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], Iterable[bytes]]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lzma.LZMAFile,
    ".zst": _zst_lines,
}
