"""Orders of rows: a table where it fits, a keyed permutation without memory where not."""

from collections.abc import Callable

import numpy as np
import torch

MAX_TABLE_ROWS = 1 << 24  # 128 MiB
NUM_ROUNDS = 6


def shuffled(num_rows: int, seeds: list[int]) -> Callable[[int, int], list[int]]:
    """Return a function from places ``start, ..., end - 1`` of an order to the rows there.

    Args:
        num_rows: Rows to order.
        seeds: Numbers that decide the order, not negative.
    """
    sequence = np.random.SeedSequence(seeds)
    if num_rows <= MAX_TABLE_ROWS:
        state = sequence.generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
        table = torch.randperm(num_rows, generator=generator)
        return lambda start, end: table[start:end].tolist()
    keys = sequence.generate_state(NUM_ROUNDS, np.uint64)
    return lambda start, end: permuted(np.arange(start, end), num_rows, keys).tolist()


def permuted(places: np.ndarray, num_rows: int, keys: np.ndarray) -> np.ndarray:
    """Permute the numbers below ``num_rows`` by a Feistel network.

    The network permutes the numbers of an even count of bits, at most four times as many; a number
    that comes out too large goes through again until it does not (cycle walking, Black and Rogaway
    2002, "Ciphers with arbitrary finite domains").

    Args:
        places: Numbers below ``num_rows``.
        num_rows: Size of the permutation.
        keys: One ``uint64`` a round.
    """
    half = np.uint64(max(1, -(-(num_rows - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    result = places.astype(np.uint64)
    is_open = np.ones(len(result), bool)
    while is_open.any():
        left, right = result[is_open] >> half, result[is_open] & mask
        for key in keys:
            left, right = right, left ^ (scrambled(right ^ key) & mask)
        result[is_open] = left << half | right
        is_open = result >= num_rows
    return result.astype(np.int64)


def scrambled(values: np.ndarray) -> np.ndarray:
    """Mix the bits of ``uint64`` numbers (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
