"""Checks of options, each of which names the option that is out of range."""

import math


def check_shares(**shares: float) -> None:
    """Refuse shares outside of [0, 1].

    Raises:
        ValueError: If one is; it is named.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {share}.")


def check_positive(**numbers: float) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ValueError: If one is not; it is named.
    """
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"`{name}` must be a positive number, got {number}.")
