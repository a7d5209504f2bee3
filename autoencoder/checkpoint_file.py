"""Tell whether a checkpoint file is whole, before anything is made of it."""

import lzma
import struct
import zipfile
import zlib
from pathlib import Path

FIRST_BYTES = b"PK\x03\x04"
# What the zip reader raises for bytes that are no archive, a cut one or one with flipped bits.
DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # NotImplementedError among them: a flipped bit can ask for a password
    ValueError,
)


def check_checkpoint_file(path: str | Path) -> None:
    """Compare every part of a checkpoint with the checksum in it, part by part in little memory.

    PyTorch writes checksums and never looks at them: a flipped bit in a weight goes unnoticed, and
    one in a length can end in the allocation of any amount of memory.

    Raises:
        ValueError: If the file is cut, damaged or none that ``torch.save`` writes.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(len(FIRST_BYTES)) != FIRST_BYTES:  # the zip reader looks from the end
                raise zipfile.BadZipFile("it does not begin as one")
        with zipfile.ZipFile(path) as archive:
            # Parts are stored as they are: what unpacks to more than the file holds is no part.
            sizes = sum(part.file_size for part in archive.infolist())
            if sizes > Path(path).stat().st_size:
                raise zipfile.BadZipFile("its parts are larger than the file")
            damaged = archive.testzip()
    except DAMAGE_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"`{path}` is damaged or cut, or no checkpoint: {reason}.") from error
    if damaged is not None:
        raise ValueError(f"`{path}` is damaged: the checksum of `{damaged}` is wrong.")
