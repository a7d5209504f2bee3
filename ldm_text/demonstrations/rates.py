"""Shares of right answers and how exact they are."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

Z_95 = 1.959964  # 97.5th percentile of the standard normal distribution


def wilson_interval(share: float, num_rows: int) -> tuple[float, float]:
    """Bound a probability with 95 % confidence (Wilson 1927), also where the share is 0 or 1.

    Args:
        share: Share of successes in ``num_rows`` independent trials, in [0, 1].
        num_rows: Number of trials, at least 1.
    """
    square = Z_95**2 / num_rows
    middle = (share + square / 2) / (1 + square)
    spread = Z_95 * math.sqrt(share * (1 - share) / num_rows + square / num_rows / 4)
    spread /= 1 + square
    return max(0.0, middle - spread), min(1.0, middle + spread)


def mean_and_error(shares: Sequence[float]) -> dict[str, float]:
    """Average over independent rows.

    Args:
        shares: The share of right answers of each row, in [0, 1], at least one.

    Returns:
        ``rate``, its ``standard_error`` (left out of a single row) and the 95 % interval from
        ``low`` to ``high``; where rows have several samples, the interval is somewhat too wide.
    """
    rate = fmean(shares)
    low, high = wilson_interval(rate, len(shares))
    figures = {"rate": rate, "low": low, "high": high}
    if len(shares) > 1:
        figures["standard_error"] = stdev(shares) / math.sqrt(len(shares))
    return figures


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Estimate the chance that one of k samples passes, without bias (Chen et al. 2021, Eq. 1).

    It is ``1 - C(n - c, k) / C(n, k)``, the chance that k of the n samples drawn without
    replacement are not all among the n - c that failed.

    Args:
        num_samples: Number of samples, ``n``.
        num_passed: How many of them passed, ``c``.
        k: At most ``n``.

    Raises:
        ValueError: If ``k`` is not between 1 and ``n``, or ``c`` is not between 0 and ``n``.
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(
            "pass@k needs 1 <= k <= n and 0 <= c <= n, got "
            f"n = {num_samples}, c = {num_passed}, k = {k}."
        )
    return 1 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)
