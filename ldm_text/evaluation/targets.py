"""``ldm-text targets``: what was to be reached, beside what tables of comparisons and times say."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ldm_text.evaluation.measured_tables import Figure, MeasuredRow, read_measured_rows
from ldm_text.whole_lines import WholeLinesFile, check_output_file

logger = logging.getLogger(__name__)

Measure = Literal["value", "difference", "ratio"]


@dataclass(frozen=True)
class RowChoice:
    """One row of a table.

    Args:
        generator: Its name there.
        settings: Its settings, as the table has them in words; null where the generator has one row
            only, or for `against` the row of its that is hardest to beat.
        batch_size: Batch size, of a table of times.
    """

    generator: str
    settings: str | None = None
    batch_size: int | None = None

    def __str__(self) -> str:
        """Say which row it is, for a message."""
        parts = [self.generator, self.settings]
        parts.append(None if self.batch_size is None else f"batch {self.batch_size}")
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Target:
    """A figure that a row is to reach, by itself or against another row.

    Args:
        name: What is to be reached, in words.
        table: CSV table of `ldm-text compare`, or JSON report of `ldm-text bench`.
        figure: Column of the table.
        row: Whose figure it is.
        against: Row to compare it with; null for `value`.
        measure: The figure itself, its difference from the other row's, or its ratio to it.
        at_least: Least value that reaches the target.
        at_most: Largest value that does.
    """

    name: str
    table: Path
    figure: str
    row: RowChoice
    against: RowChoice | None = None
    measure: Measure = "value"
    at_least: float | None = None
    at_most: float | None = None

    def check(self) -> None:
        """Check what can be checked without the table.

        Raises:
            ValueError: If there is no bound, or nothing or too much to compare with.
        """
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"Target `{self.name}` needs `at_least` or `at_most`.")
        if (self.measure == "value") != (self.against is None):
            raise ValueError(
                f"Target `{self.name}`: `against` names the other row of a difference or a ratio, "
                f"and of nothing else; `measure` is {self.measure}."
            )

    def choose(self, rows: Sequence[MeasuredRow], choice: RowChoice) -> MeasuredRow:
        """Find a row: of several, the one against which the target is hardest to reach.

        Raises:
            ValueError: If there is none, or several and no telling which to take.
        """
        found = [
            row
            for row in rows
            if row.generator == choice.generator
            and choice.settings in (None, row.settings)
            and row.batch_size == choice.batch_size
            and self.figure in row.figures
        ]
        if not found:
            raise ValueError(
                f"Target `{self.name}`: `{self.table}` has no {self.figure} of {choice}."
            )
        has_one_bound = (self.at_least is None) != (self.at_most is None)
        if len(found) > 1 and not (choice is self.against and has_one_bound):
            raise ValueError(
                f"Target `{self.name}`: `{self.table}` has several rows of {choice}; `settings` "
                f"must be one of {', '.join(repr(row.settings) for row in found)}."
            )
        hardest = max if self.at_least is not None else min
        return hardest(found, key=lambda row: row.figures[self.figure].mean)

    def found(self, rows: Sequence[MeasuredRow]) -> Figure:
        """Measure it by the rows of its table.

        Raises:
            ValueError: If a row is missing, or a ratio is to zero.
        """
        value = self.choose(rows, self.row).figures[self.figure]
        if self.against is None:
            return value
        return COMBINED[self.measure](value, self.choose(rows, self.against).figures[self.figure])

    def is_reached(self, value: float) -> bool:
        """Tell whether a value is within the bounds."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= value <= high

    def asked(self) -> str:
        """Write the bounds."""
        bounds = ((self.at_least, "at least"), (self.at_most, "at most"))
        return ", ".join(f"{words} {bound:g}" for bound, words in bounds if bound is not None)


def difference(one: Figure, other: Figure) -> Figure:
    """Subtract two independent means."""
    return Figure(one.mean - other.mean, combined_error(one.standard_error, other.standard_error))


def ratio(one: Figure, other: Figure) -> Figure:
    """Divide two independent means, with the error to first order.

    Raises:
        ValueError: If the divisor is zero.
    """
    if other.mean == 0:
        raise ValueError("A ratio to a figure that is zero says nothing.")
    value = one.mean / other.mean
    error = combined_error(
        None if one.standard_error is None else one.standard_error / other.mean,
        None if other.standard_error is None else value * other.standard_error / other.mean,
    )
    return Figure(value, error)


def combined_error(one: float | None, other: float | None) -> float | None:
    """Combine independent standard errors; ``None`` if either is unknown."""
    return None if one is None or other is None else math.hypot(one, other)


COMBINED: dict[Measure, Callable[[Figure, Figure], Figure]] = {
    "difference": difference,
    "ratio": ratio,
}


def targets(targets: list[Target], output: Path | None = None) -> int:
    """Write one table of what was to be reached and what was found.

    The figures are those that `ldm-text compare` and `ldm-text bench` have measured; nothing is
    measured anew. Standard errors over seeds are combined as if rows were independent.

    Args:
        targets: What was to be reached; a YAML file (--config) is the place for it.
        output: Markdown file to write; by default standard output.

    Returns:
        The exit code: 1 if a target is missed.

    Raises:
        ValueError: If there are no targets, or one cannot be told by its table.
    """
    if not targets:
        raise ValueError("`--targets` must hold at least one target, got none.")
    if output is not None:
        check_output_file("--output", output)
    for target in targets:
        target.check()
    tables = {path: read_measured_rows(path) for path in {each.table for each in targets}}
    lines = ["| to reach | figure | asked | found | reached |", "|---|---|---|---|---|"]
    num_missed = 0
    for target in targets:
        found = target.found(tables[target.table])
        is_reached = target.is_reached(found.mean)
        num_missed += not is_reached
        cells = (target.name, figure_of(target), target.asked(), str(found))
        lines.append(f"| {' | '.join(cells)} | {'yes' if is_reached else 'no'} |")
    if output is None:
        sys.stdout.write("\n".join(lines) + "\n")
    else:
        with WholeLinesFile(output) as file:
            file.write_lines(lines)
    logger.info("%d of %d targets reached.", len(targets) - num_missed, len(targets))
    return 1 if num_missed else 0


def figure_of(target: Target) -> str:
    """Say in words what a target measures."""
    name = target.figure.replace("_", " ")
    return name if target.measure == "value" else f"{name}, {target.measure}"
