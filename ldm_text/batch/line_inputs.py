"""Rows of input that are lines of a file or of a pipe."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ldm_text.batch.inputs import EmptyRow, InputRow, InputRows, InputSize, TableRows
from ldm_text.batch.work import RowError
from ldm_text.data.compression import read_raw_lines
from ldm_text.data.readers import PLAIN_TEXT_FIELD, file_kind, is_hub, is_plain_text, resolve_path

MAX_LINE_BYTES = 1 << 26
STANDARD_STREAM = Path("-")
LINE_KINDS = (".jsonl", ".txt")

PromptsFormat = Literal["jsonl", "txt"]


def prompt_field(path: Path | None, kind: PromptsFormat | None, field: str) -> str:
    """Name the field of a prompt; lines of text have one of their own, whatever the user says."""
    is_text = kind == "txt" or (path is not None and is_plain_text(path))
    return PLAIN_TEXT_FIELD if is_text else field


def open_input(path: Path | None, kind: PromptsFormat | None = None) -> InputRows:
    """Open the input of a job; nothing of it is read yet.

    Args:
        path: A file or data set that ``readers.read_rows`` takes, ``-`` for standard input, or
            ``None`` for one row without any field.
        kind: JSON Lines or lines of text, where the name does not say it.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If its kind is unknown.
    """
    if path is None:
        return EmptyRow()
    if path == STANDARD_STREAM:
        return StreamedLines("standard input", path, kind == "txt")
    if is_hub(path):
        return TableRows(path)
    resolved = resolve_path(path)
    suffix = f".{kind}" if kind else file_kind(resolved)
    if resolved.is_dir() or suffix not in LINE_KINDS:
        if resolved.is_fifo():  # <(command): its name says nothing
            return StreamedLines(str(path), resolved, is_text=False)
        return TableRows(path)
    lines = LineRows if resolved.is_file() else StreamedLines
    return lines(str(path), resolved, suffix == ".txt")


class LineRows(InputRows):
    """Lines of text, or of JSON objects; blank ones are no rows.

    Args:
        name: How messages call the input.
        path: The file, ``-`` for standard input.
        is_text: Whether a line is a text and not a JSON object.
    """

    def __init__(self, name: str, path: Path, is_text: bool) -> None:
        super().__init__(name)
        self.path, self.is_text = path, is_text

    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """Read from a row on; the lines before it are read, but not looked into."""
        return (row for row in self._lines() if row.number >= start)

    def _lines(self) -> Iterator[InputRow]:
        number = 0
        stream = sys.stdin.buffer if self.path == STANDARD_STREAM else None
        for line, content in read_raw_lines(self.path, MAX_LINE_BYTES, stream):
            if line == 1:
                content = content.removeprefix(b"\xef\xbb\xbf")
            if content and not content.isspace():
                yield InputRow(number, line, content)
                number += 1

    def parse(self, row: InputRow) -> Mapping[str, Any]:
        """Return the fields of a line.

        Raises:
            RowError: If it is too long, not UTF-8 or no JSON object.
        """
        if len(row.content) > MAX_LINE_BYTES:
            raise RowError(f"longer than {MAX_LINE_BYTES} bytes.")
        try:
            text = row.content.decode()
            if self.is_text:
                return {PLAIN_TEXT_FIELD: text}
            fields = json.loads(text)
        except UnicodeDecodeError as error:
            raise RowError(f"not valid UTF-8 ({error.reason}).") from error
        except (ValueError, RecursionError) as error:
            hint = " For lines of text give `--prompts_format txt`." if self.is_stream else ""
            raise RowError(f"not JSON ({error}).{hint}") from error
        if not isinstance(fields, dict):
            raise RowError(f"expected a JSON object, got {type(fields).__name__}.")
        return fields

    def measure(self, check: Callable[[InputRow], object] | None = None) -> InputSize:
        """Count and hash all rows, and check each."""
        digest, num_rows = hashlib.sha256(), 0
        for row in self._lines():
            digest.update(row.content + b"\n")
            num_rows += 1
            if check is not None:
                check(row)
        if not num_rows:
            raise ValueError(f"{self.name} holds no records.")
        return InputSize(num_rows, digest.hexdigest())


class StreamedLines(LineRows):
    """Lines of standard input or of a named pipe, which come once."""

    is_stream = True

    def __init__(self, name: str, path: Path, is_text: bool) -> None:
        super().__init__(name, path, is_text)
        self._hash, self._num_read = hashlib.sha256(), 0
        self._expected: tuple[int, str] | None = None

    @property
    def position(self) -> tuple[int, str]:
        """Rows read until now, and their hash."""
        return self._num_read, self._hash.hexdigest()

    def expect(self, position: tuple[int, str]) -> None:
        """Let reading fail if the first rows are not those that led to a position."""
        self._expected = position

    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """Read from a row on.

        Raises:
            ValueError: If the rows are not those that are expected.
        """
        num_expected = self._expected[0] if self._expected else 0
        for row in self._lines():
            self._hash.update(row.content + b"\n")
            self._num_read += 1
            if self._num_read == num_expected and self.position != self._expected:
                raise self._changed()
            if row.number >= start:
                yield row
        if self._num_read < num_expected:
            raise self._changed()

    def _changed(self) -> ValueError:
        return ValueError(
            f"{self.name} does not begin with the rows of the run that is to be gone on with; give "
            "these again, or `--start_over`."
        )
