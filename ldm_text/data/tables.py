"""Rows of tables: Parquet files and data sets of the library ``datasets``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Table(Protocol):
    """Rows with named columns, which can be read from any row on."""

    def rows(self, start: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(place, row)`` from row ``start`` on, counted from 0; places count from 1.

        Raises:
            ValueError: If the table is damaged.
        """
        ...

    def num_rows(self) -> int:
        """Return the number of rows."""
        ...

    def schema(self) -> Any:
        """Return the ``pyarrow.Schema`` of the rows."""
        ...


class ParquetTable:
    """A Parquet file; a batch of rows is in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.path} is not a readable Parquet file: {reason}") from error

    def rows(self, start: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Read from a row on."""
        with self._open() as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            first, number = 0, 0  # row group to begin with, and rows before it
            while first < len(sizes) and number + sizes[first] <= start:
                number += sizes[first]
                first += 1
            groups = list(range(first, len(sizes)))
            for batch in file.iter_batches(row_groups=groups) if groups else ():
                skipped = min(max(start - number, 0), batch.num_rows)
                number += skipped
                for row in batch.slice(skipped).to_pylist():
                    number += 1
                    yield f"{self.path}, row {number}", row

    def num_rows(self) -> int:
        """Return the number of rows."""
        with self._open() as file:
            return file.metadata.num_rows

    def schema(self) -> Any:
        """Return the types of the columns."""
        with self._open() as file:
            return file.schema_arrow


class DatasetTable:
    """A data set of the library ``datasets``."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name

    def rows(self, start: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Read from a row on."""
        for number, row in enumerate(self.dataset.skip(start), start=start + 1):
            yield f"{self.name}, row {number}", row

    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self.dataset)

    def schema(self) -> Any:
        """Return the types of the columns."""
        return self.dataset.features.arrow_schema
