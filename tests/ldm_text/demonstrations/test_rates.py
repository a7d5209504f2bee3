from itertools import combinations
from math import comb, isclose, sqrt

import pytest

from ldm_text.demonstrations.rates import mean_and_error, pass_at_k, wilson_interval


def test_wilson_interval_solves_its_equation():
    """Its ends are the probabilities from which the share is 1.96 standard deviations away."""
    for share, num_rows in ((0.3, 40), (0.0, 10), (1.0, 25)):
        for end in wilson_interval(share, num_rows):
            if 0 < end < 1:
                spread = 1.959964 * sqrt(end * (1 - end) / num_rows)
                assert isclose(abs(share - end), spread, rel_tol=1e-6)
        assert wilson_interval(share, num_rows)[0] <= share <= wilson_interval(share, num_rows)[1]
    assert wilson_interval(0.0, 10)[1] > 0.2


def test_standard_error_is_the_binomial_one():
    figures = mean_and_error([1.0] * 30 + [0.0] * 70)
    assert figures["rate"] == pytest.approx(0.3)
    assert figures["standard_error"] == pytest.approx(sqrt(0.3 * 0.7 / 99))
    assert "standard_error" not in mean_and_error([1.0])


def test_pass_at_k_is_the_share_of_drawings_with_a_passed_sample():
    for n, c, k in ((5, 2, 3), (10, 1, 1), (4, 0, 2), (4, 4, 1), (6, 4, 3)):
        drawings = list(combinations([True] * c + [False] * (n - c), k))
        share = sum(map(any, drawings)) / comb(n, k)
        assert pass_at_k(n, c, k) == pytest.approx(share)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 0), (5, 2, 6), (5, 6, 1), (5, -1, 1)])
def test_pass_at_k_refuses_impossible_numbers(n, c, k):
    with pytest.raises(ValueError, match=r"pass@k needs 1 <= k <= n"):
        pass_at_k(n, c, k)
