"""What a task of the demonstrations is."""

import random
from collections.abc import Sequence
from typing import Protocol


class Task(Protocol):
    """A task whose texts can be checked."""

    @property
    def group_field(self) -> str | None:
        """Field of the data whose values results are grouped by; None for one group."""
        ...

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Tell what is right about a text.

        Args:
            source: What the text was written for.
            text: Any text.
            targets: The right texts of the data; not used where the source alone decides.

        Returns:
            An answer a check, the same checks for every text; ``correct`` is the main one.

        Raises:
            ValueError: If the source is none of the task.
        """
        ...


class GeneratedTask(Task, Protocol):
    """A task whose data are generated."""

    @property
    def groups(self) -> tuple[int, ...]:
        """The values of the group field, all equally often in the data."""
        ...

    def make(self, group: int, draw: random.Random) -> tuple[str, str]:
        """Draw the source and the target of a record of a group."""
        ...
