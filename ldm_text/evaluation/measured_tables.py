"""Read the tables that ``ldm-text compare`` and ``ldm-text bench`` write, row by row."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_text.component_files import read_json
from ldm_text.evaluation.sweep_options import describe_settings

SUFFIX = "_standard_error"


@dataclass(frozen=True)
class Figure:
    """A mean and its standard error over seeds; ``None`` where there is one value only."""

    mean: float
    standard_error: float | None = None

    def __str__(self) -> str:
        """Write it with as many digits as mean something."""
        if not self.standard_error:
            return f"{self.mean:.3g}"
        return f"{self.mean:.3g} \N{PLUS-MINUS SIGN} {self.standard_error:.1g}"


@dataclass(frozen=True)
class MeasuredRow:
    """A row of a table.

    Attributes:
        generator: Name of the generator, or of the reference or control.
        settings: At which it was measured, in words.
        batch_size: Batch size of a time; ``None`` in a comparison.
        figures: Its figures by name.
    """

    generator: str
    settings: str
    batch_size: int | None
    figures: dict[str, Figure]


def read_measured_rows(path: Path) -> list[MeasuredRow]:
    """Read a CSV table of a comparison, or a JSON report of times.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is neither.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no table `{path}`.")
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return [comparison_row(row) for row in csv.DictReader(file)]
        return [timed_row(row) for row in read_json(path)["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{path}` is no CSV table of `ldm-text compare` and no report of `ldm-text bench`."
        ) from error


def comparison_row(row: dict[str, str]) -> MeasuredRow:
    """Read a row of a comparison: two columns a figure, the second its standard error."""
    names = [name for name in row if f"{name}{SUFFIX}" in row and row[name]]
    figures = {}
    for name in names:
        error = row[f"{name}{SUFFIX}"]
        figures[name] = Figure(float(row[name]), float(error) if error else None)
    return MeasuredRow(row["name"], row["settings"], None, figures)


def timed_row(row: dict[str, Any]) -> MeasuredRow:
    """Read a row of times."""
    figures = {
        name: Figure(float(value))
        for name, value in row.items()
        if isinstance(value, int | float) and name != "batch_size"
    }
    return MeasuredRow(row["generator"], describe_settings(row), row["batch_size"], figures)
