"""Balanced brackets of a length with a beginning: ``6: ( [`` gives ``( [ ] ( ) )``.

What was opened must be closed, at the right time for the length.
"""

import random
import re
from collections.abc import Sequence

PAIRS = {"(": ")", "[": "]", "{": "}"}
SOURCE = re.compile(r"(\d+): ([][(){} ]+)")


def is_balanced(brackets: str) -> bool:
    """Tell whether each bracket closes the last one that is open; other characters never do."""
    expected: list[str] = []
    for bracket in brackets:
        if bracket in PAIRS:
            expected.append(PAIRS[bracket])
        elif not expected or expected.pop() != bracket:
            return False
    return not expected


class Brackets:
    """Three kinds of brackets, balanced, of a length, going on from a beginning.

    Brackets stand apart, so that each is a token and the length is a number of tokens.
    """

    group_field = "length"
    groups = (12, 20, 28, 36, 44)

    def make(self, group: int, draw: random.Random) -> tuple[str, str]:
        """Draw balanced brackets of a length; a quarter to a half of them is given."""
        brackets, expected = "", []
        for left in range(group, 0, -1):
            must_open, must_close = not expected, len(expected) == left
            if must_open or (not must_close and draw.random() < 0.5):
                bracket = draw.choice(list(PAIRS))
                brackets += bracket
                expected.append(PAIRS[bracket])
            else:
                brackets += expected.pop()
        given = brackets[: draw.randint(group // 4, group // 2)]
        return f"{group}: {' '.join(given)}", " ".join(brackets)

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Check brackets; white space does not count.

        Returns:
            ``correct`` where all of these are: ``balanced``, of the ``length``, with the
            ``beginning``.

        Raises:
            ValueError: If the source is none of the task.
        """
        match = SOURCE.fullmatch(source)
        if match is None:
            raise ValueError(f"{source[:80]!r} is no source such as '8: ( ['.")
        brackets = "".join(text.split())
        checks = {
            "balanced": is_balanced(brackets),
            "length": len(brackets) == int(match[1]),
            "beginning": brackets.startswith("".join(match[2].split())),
        }
        return {"correct": all(checks.values())} | checks
