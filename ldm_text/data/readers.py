"""Read rows from JSON Lines, plain text, Parquet, dataset folders and the Hugging Face hub.

Every reader yields ``(place, row)``: the place names file and line for error messages, the row is
a mapping from field names to values. Bad input raises one clear ``ValueError``.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm_text.data.compression import COMPRESSION_SUFFIXES, read_lines
from ldm_text.data.tables import DatasetTable, ParquetTable, Table
from ldm_text.excerpts import excerpt_path

Rows = Iterator[tuple[str, Mapping[str, Any]]]

HUB_PREFIX = "hub:"
EXCERPT_PREFIX = "excerpt:"
# The one field of a plain text file.
PLAIN_TEXT_FIELD = "text"

_HASH_CHUNK_BYTES = 1 << 20


def read_rows(data: str | Path, *, split: str = "train") -> Rows:
    """Stream the rows of a data set as they are stored.

    Args:
        data: A ``.jsonl``, ``.txt`` (each also with ``.gz``, ``.xz`` or ``.zst``) or ``.parquet``
            file; a folder written by ``datasets.save_to_disk``; ``hub:owner/name`` or
            ``hub:owner/name:config``; or ``excerpt:NAME``, a file that comes with the package.
            In a ``.txt`` file every line that is not blank is a row with the field ``text``.
        split: Split of a dataset folder or hub dataset. Files have none.

    Raises:
        FileNotFoundError: If the data does not exist.
        ValueError: If the kind of file is unknown, its content is damaged or it holds no row.
    """
    empty = True
    for place, row in _open_rows(data, split):
        empty = False
        yield place, row
    if empty:
        raise ValueError(f"{data} holds no records.")


def data_fingerprint(data: str | Path, *, split: str = "train") -> str:
    """Return a hash that changes with the content of a data set."""
    if is_hub(data):
        return f"{_load_hub(str(data), split)._fingerprint}:{split}"
    path = resolve_path(data)
    digest = hashlib.sha256()
    if not path.is_dir():
        _hash_file(digest, path)
        return digest.hexdigest()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\n{file.stat().st_size}\n".encode())
            _hash_file(digest, file)
    return f"{digest.hexdigest()}:{split}"


def is_hub(data: str | Path) -> bool:
    """Return whether the data set is on the Hugging Face hub."""
    return str(data).startswith(HUB_PREFIX)


def resolve_path(data: str | Path) -> Path:
    """Return the file or folder of a data set that is not on the hub.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    name = str(data)
    if name.startswith(EXCERPT_PREFIX):
        return excerpt_path(name.removeprefix(EXCERPT_PREFIX))
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"No such file or folder: {path}.")
    return path


def is_plain_text(data: str | Path) -> bool:
    """Return whether the data set is a file of lines of text, which has no named fields."""
    return not is_hub(data) and file_kind(Path(data)) == ".txt"


def file_kind(path: Path) -> str:
    """Return the last suffix that does not name a compression, empty if there is none."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSION_SUFFIXES]
    return suffixes[-1] if suffixes else ""


def open_table(data: str | Path, *, split: str = "train") -> Table:
    """Open a data set whose rows have columns: Parquet, a dataset folder or one of the hub.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is no table.
    """
    if is_hub(data):
        return DatasetTable(_load_hub(str(data), split), str(data))
    path = resolve_path(data)
    if path.is_dir():
        return DatasetTable(_load_folder(path, split), str(path))
    if path.suffix != ".parquet":
        raise ValueError(
            f"{path}: unknown kind of file. Give .jsonl or .txt, plain or with "
            f"{', '.join(COMPRESSION_SUFFIXES)}, or .parquet, or a folder written by `datasets`."
        )
    return ParquetTable(path)


def _open_rows(data: str | Path, split: str) -> Rows:
    if not is_hub(data):
        path = resolve_path(data)
        kind = file_kind(path)
        if kind in _LINE_READERS and not path.is_dir():
            return _LINE_READERS[kind](path)
    return open_table(data, split=split).rows()


def _json_rows(path: Path) -> Rows:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected a JSON object, got {type(row).__name__}.")
        yield place, row


def _text_rows(path: Path) -> Rows:
    for number, line in read_lines(path):
        if line.strip():
            yield f"{path}, line {number}", {PLAIN_TEXT_FIELD: line}


def _load_folder(path: Path, split: str) -> Any:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds for a folder that is not its own
        raise ValueError(f"{path} is not a folder written by `datasets`: {error}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if split not in loaded:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(map(str, loaded))}.")
    return loaded[split]


def _load_hub(data: str, split: str) -> Any:
    import datasets

    name, _, config = data.removeprefix(HUB_PREFIX).partition(":")
    try:
        return datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises many kinds, from ConnectionError to KeyError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{data} (split {split!r}) cannot be loaded: {reason}") from error


def _hash_file(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)


_LINE_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _json_rows, ".txt": _text_rows}
