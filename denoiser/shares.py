"""Numbers of rows that shares of a batch come to."""

from itertools import accumulate, pairwise

import torch

ROUNDING_ERROR = 1e-6


def draw_numbers(num_rows: int, *shares: float) -> list[int]:
    """Draw how many rows of a batch are of each kind, right on average.

    A number that a share comes to is rounded down or up by chance, so that rows of a small batch
    are of each kind as often as those of a large one. Whole numbers stay as they are, and take no
    random number.

    Args:
        num_rows: Rows of the batch.
        shares: Share of each kind, together at most 1; the other rows are of none.

    Returns:
        The numbers, together at most ``num_rows``.
    """
    ends = [total * num_rows for total in accumulate(shares)]
    ends = [round(end) if abs(end - round(end)) < ROUNDING_ERROR else end for end in ends]
    # One number for all kinds: each is right on average, and so are all together.
    is_whole = all(end == int(end) for end in ends)
    draw = 0.0 if is_whole else torch.rand((), dtype=torch.float64).item()
    return [after - before for before, after in pairwise([0, *(int(end + draw) for end in ends)])]
