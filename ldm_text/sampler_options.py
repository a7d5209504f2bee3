"""Values of a sampler's options: they come untyped, from ``--sampling`` or from Python."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple


class Numbers(NamedTuple):
    """The numbers that an option takes.

    Attributes:
        words: Which ones, in words.
        hold: Tells whether a number is one of them.
        are_whole: Whether they have no fractions.
    """

    words: str
    hold: Callable[[Any], bool]
    are_whole: bool = False


SHARE = Numbers("between 0 and 1", lambda value: 0 <= value <= 1)
POSITIVE_OR_ZERO = Numbers("0 or larger", lambda value: value >= 0)
NUMBERS = {
    "block_length": Numbers("1 or larger", lambda value: value >= 1, are_whole=True),
    "clamp_start": SHARE,
    "entropy_bound": POSITIVE_OR_ZERO,
    "eta": SHARE,
    "guidance_scale": Numbers("a finite number", math.isfinite),
    "noise_shift": Numbers("larger than 0 and finite", lambda value: 0 < value < math.inf),
    "self_correction": Numbers("between 0 and below 1", lambda value: 0 <= value < 1),
    "stop_confidence": SHARE,
    "temperature": Numbers(
        "0 or larger and finite", lambda value: value >= 0 and math.isfinite(value)
    ),
    "top_p": Numbers("larger than 0 and at most 1", lambda value: 0 < value <= 1),
}


def check_number(name: str, value: Any) -> None:
    """Check the value of one of ``NUMBERS``.

    Raises:
        ValueError: If it is no number, or out of range.
    """
    numbers = NUMBERS[name]
    kind, words = (Integral, "a whole number") if numbers.are_whole else (Real, "a number")
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"`{name}` must be {words}, got {value!r}.")
    if not numbers.hold(value):
        raise ValueError(f"`{name}` must be {numbers.words}, got {value}.")


def check_switch(name: str, value: Any) -> None:
    """Check the value of an option that is on or off.

    Raises:
        ValueError: If it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false, got {value!r}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check the value of an option that takes names.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")
