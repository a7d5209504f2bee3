"""Output formats: the bytes of a chunk of records, such that chunks can stand one after another.

JSON Lines are plain text; each compressed chunk is a gzip member, xz stream or zstandard frame of
its own, which every reader joins. A Parquet file cannot grow, so its chunks are Arrow IPC streams
at first and become row groups when the job is complete.
"""

import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ldm_text.batch.columns import CarriedColumns, to_json
from ldm_text.batch.work import Record

ROWS_PER_ROW_GROUP = 1 << 16


class Encoding(Protocol):
    """A format of output files."""

    def encode(self, records: Sequence[Record]) -> bytes:
        """Return the bytes of a chunk; nothing for no records.

        Raises:
            ValueError: If the format cannot hold a record.
        """
        ...

    def complete(self, chunks: Path, target: Path) -> None:
        """Make the file of all chunks the output file; may be repeated after it was broken off."""
        ...


def encoding_of(
    path: Path, fields: Mapping[str, type], columns: CarriedColumns, schema: Any
) -> Encoding:
    """Return the format that a file's name asks for; JSON Lines if it does not say.

    Args:
        path: The output file.
        fields: Fields of the records and their types.
        columns: Further columns of the records.
        schema: ``pyarrow.Schema`` of the input, ``None`` where it has none.
    """
    if path.suffix == ".parquet":
        return ParquetEncoding(fields, columns, schema)
    return LinesEncoding(_COMPRESSORS.get(path.suffix, bytes))


def encode_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Write records as JSON Lines."""
    return "".join(to_json(record) + "\n" for record in records).encode()


class LinesEncoding:
    """JSON Lines, perhaps compressed."""

    def __init__(self, compress: Callable[[bytes], bytes] = bytes) -> None:
        self.compress = compress

    def encode(self, records: Sequence[Record]) -> bytes:
        """Return the bytes of a chunk."""
        return self.compress(encode_lines(records)) if records else b""

    def complete(self, chunks: Path, target: Path) -> None:
        """Make the output file of the chunks."""
        if not chunks.stat().st_size:  # no record at all; a compressed file has bytes even then
            with chunks.open("wb") as file:
                file.write(self.compress(b""))
                file.flush()
                os.fsync(file.fileno())
        os.replace(chunks, target)


class ParquetEncoding:
    """A Parquet file.

    Columns carried through keep the type that they have in a table; from JSON Lines they are text:
    strings as they are, anything else as JSON.
    """

    def __init__(self, fields: Mapping[str, type], columns: CarriedColumns, schema: Any) -> None:
        import pyarrow

        types = {
            int: pyarrow.int64(),
            float: pyarrow.float64(),
            str: pyarrow.string(),
            bool: pyarrow.bool_(),
        }
        entries = [(name, types[kind]) for name, kind in fields.items()]
        for name, target in columns.targets.items():
            kind = pyarrow.string() if schema is None else schema.field(name).type
            entries.append((target, kind))
        self.schema = pyarrow.schema(entries)
        self.text_columns = [] if schema is not None else list(columns.targets.values())

    def encode(self, records: Sequence[Record]) -> bytes:
        """Return the bytes of a chunk."""
        import pyarrow

        if not records:
            return b""
        rows = [
            record | {name: _as_text(record[name]) for name in self.text_columns}
            for record in records
        ]
        try:
            table = pyarrow.Table.from_pylist(rows, schema=self.schema)
        except (pyarrow.ArrowException, OverflowError) as error:
            raise ValueError(f"`--output`: a record does not fit into Parquet: {error}") from error
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, self.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    def complete(self, chunks: Path, target: Path) -> None:
        """Make the output file of the chunks."""
        from pyarrow import parquet

        joined = target.with_name(target.name + ".joining")
        try:
            with joined.open("wb") as file:
                with parquet.ParquetWriter(file, self.schema) as writer:
                    for table in self._row_groups(chunks):
                        writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            os.replace(joined, target)
        except BaseException:
            joined.unlink(missing_ok=True)
            raise
        chunks.unlink()

    def _row_groups(self, chunks: Path) -> Iterator[Any]:
        import pyarrow

        tables: list[Any] = []
        with pyarrow.OSFile(str(chunks)) as file:
            while file.tell() < file.size():
                with pyarrow.ipc.open_stream(file) as reader:
                    tables.append(reader.read_all())
                if sum(map(len, tables)) >= ROWS_PER_ROW_GROUP:
                    yield pyarrow.concat_tables(tables)
                    tables = []
        if tables:
            yield pyarrow.concat_tables(tables)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _compress_gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the time would differ between two runs


def _compress_zst(content: bytes) -> bytes:
    import zstandard

    return zstandard.compress(content)


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": _compress_gz,
    ".xz": lzma.compress,
    ".zst": _compress_zst,
}
