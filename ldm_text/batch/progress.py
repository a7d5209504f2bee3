"""The progress of a job: a bar with rates and the time left, on a terminal only."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """Count what is done and show it on standard error.

    Args:
        total: Texts of the whole job, ``None`` where it is not known.
        num_done: Texts of earlier runs; rates leave them out.
    """

    def __init__(self, total: int | None, num_done: int = 0) -> None:
        self.num_slots = self.num_tokens = 0
        self.bar = Bar(
            TextColumn("Generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task("", total=total, completed=num_done, rates="")
        self.start = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def seconds(self) -> float:
        """Time since the work began."""
        return time.perf_counter() - self.start

    def advance(self, num_slots: int, num_tokens: int) -> None:
        """Count texts that are done, and their tokens."""
        self.num_slots += num_slots
        self.num_tokens += num_tokens
        seconds = self.seconds
        rates = f"{self.num_slots / seconds:.1f} texts/s {self.num_tokens / seconds:.0f} tokens/s"
        self.bar.update(self.task, advance=num_slots, rates=rates)
