"""Rows of input, streamed, each with its number and its place."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_text.data.readers import data_fingerprint, open_table


@dataclass(frozen=True)
class InputRow:
    """One row, not yet looked into.

    Attributes:
        number: Number of the row in the whole input, from 0; blank lines have none.
        line: Number of the line in the file, from 1; without lines, of the row.
        content: The line as bytes, or the fields of a row that is no line.
    """

    number: int
    line: int
    content: Any


@dataclass(frozen=True)
class InputSize:
    """What one pass over an input tells: its number of rows, and a hash of its content."""

    num_rows: int
    digest: str


class InputRows(ABC):
    """Rows that can be read again and again, or once.

    Args:
        name: How messages call the input.

    Attributes:
        is_stream: Whether the rows can be read only once: a pipe.
        schema: The ``pyarrow.Schema`` of the rows where they have one.
    """

    is_stream = False
    schema: Any = None

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def position(self) -> tuple[int, str] | None:
        """For a stream, the rows read until now and their hash."""
        return None

    @abstractmethod
    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """Read from a row on.

        Raises:
            ValueError: If the input is damaged.
        """

    @abstractmethod
    def parse(self, row: InputRow) -> Mapping[str, Any]:
        """Return the fields of a row.

        Raises:
            RowError: If it has none.
        """

    @abstractmethod
    def measure(self, check: Callable[[InputRow], object] | None = None) -> InputSize:
        """Read all rows, call ``check`` with each, and return their number and hash.

        Raises:
            ValueError: If the input is damaged or holds no row.
        """


class TableRows(InputRows):
    """Rows of a Parquet file, of a dataset folder or of the Hugging Face hub."""

    def __init__(self, data: str | Path) -> None:
        super().__init__(str(data))
        self.data, self.table = data, open_table(data)
        self.schema = self.table.schema()

    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """Read from a row on."""
        for number, (_, row) in enumerate(self.table.rows(start), start=start):
            yield InputRow(number, number + 1, row)

    def parse(self, row: InputRow) -> Mapping[str, Any]:
        """Return the fields of a row, which the table has checked."""
        return row.content

    def measure(self, check: Callable[[InputRow], object] | None = None) -> InputSize:
        """Count and hash all rows, and check each."""
        num_rows = self.table.num_rows()
        if not num_rows:
            raise ValueError(f"{self.name} holds no records.")
        if check is not None:
            for row in self.rows():
                check(row)
        return InputSize(num_rows, data_fingerprint(self.data))


class EmptyRow(InputRows):
    """One row without fields: texts are generated unconditionally."""

    def __init__(self) -> None:
        super().__init__("no input")

    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """Yield the one row."""
        yield from [InputRow(0, 1, {})][start:]

    def parse(self, row: InputRow) -> Mapping[str, Any]:
        """Return no fields."""
        return row.content

    def measure(self, check: Callable[[InputRow], object] | None = None) -> InputSize:
        """Count one row."""
        return InputSize(1, "")
