"""Texts with gaps, such as ``The [MASK:3-8] sat on [MASK].``, and how they are read."""

import re
from dataclasses import dataclass

# An escaped bracket or backslash, a mask, or what looks like one.
MARK = re.compile(r"\\(?P<literal>[\[\]\\])|\[MASK(?P<length>:[^\[\]]*)?\]")
LENGTH = re.compile(r":(?P<shortest>\d+)(?:-(?P<longest>\d+))?")


@dataclass(frozen=True)
class Gap:
    """A place in a text that the model fills.

    Attributes:
        shortest: Least number of tokens, at least 1.
        longest: Largest number of tokens; ``None`` leaves it to the model.
    """

    shortest: int = 1
    longest: int | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether the gap has one length only."""
        return self.shortest == self.longest


Part = str | Gap


def parse_template(template: str) -> list[Part]:
    r"""Split a template into known texts and gaps.

    ``[MASK:5]`` is a gap of 5 tokens, ``[MASK:3-8]`` one of 3 to 8, ``[MASK]`` one of any length. A
    bracket or backslash behind a backslash is itself: ``\[MASK]`` is text.

    Raises:
        ValueError: If there is no gap, no text beside the gaps, or a gap is not as above.
    """
    parts: list[Part] = [""]
    place = 0
    for mark in MARK.finditer(template):
        known = template[place : mark.start()]
        place = mark.end()
        is_gap = mark["literal"] is None
        _add_text(parts, known if is_gap else known + mark["literal"])
        if is_gap:
            parts.append(_gap(mark[0], mark["length"]))
    _add_text(parts, template[place:])
    parts = [part for part in parts if part != ""]
    if not any(isinstance(part, Gap) for part in parts):
        raise ValueError(
            f"There is no gap in {template!r}: write [MASK], [MASK:5] or [MASK:3-8] for one."
        )
    if not any(isinstance(part, str) and part.strip() for part in parts):
        raise ValueError(
            f"There is no text around the gap in {template!r}: to write a whole text, use "
            "`generate`."
        )
    return parts


def _add_text(parts: list[Part], text: str) -> None:
    if isinstance(parts[-1], str):
        parts[-1] += text
    else:
        parts.append(text)


def _gap(mark: str, length: str | None) -> Gap:
    if length is None:
        return Gap()
    found = LENGTH.fullmatch(length)
    if found is None:
        raise ValueError(
            f"{mark} is no gap: write [MASK], [MASK:5] or [MASK:3-8], or \\{mark} for the text "
            "itself."
        )
    shortest = int(found["shortest"])
    longest = int(found["longest"] or shortest)
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"{mark} is impossible: a gap has at least 1 token, and its longest length is not "
            "below its shortest."
        )
    return Gap(shortest, longest)
