import pytest
import torch

from denoiser.shares import draw_numbers


@pytest.mark.parametrize(
    ("num_rows", "shares", "numbers"),
    [
        (70, [0.5], [35]),
        (10, [0.7], [7]),  # 0.7 * 10 is 7 and no more by a rounding error
        (100, [0.29], [29]),  # 28.999999999999996
        (30, [0.1], [3]),
        (8, [0.0], [0]),
        (7, [1.0], [7]),
        (32, [0.25, 0.5], [8, 16]),
        (10, [0.1, 0.2, 0.7], [1, 2, 7]),
    ],
)
def test_whole_numbers_of_rows_are_exact_and_take_no_random_number(num_rows, shares, numbers):
    state = torch.get_rng_state()
    assert draw_numbers(num_rows, *shares) == numbers
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("num_rows", "shares"), [(1, [0.5]), (5, [0.1]), (1, [0.5, 0.25]), (3, [0.5, 0.5]), (7, [0.3])]
)
def test_other_numbers_are_right_on_average_and_never_off_by_one(num_rows, shares):
    drawn = torch.tensor([draw_numbers(num_rows, *shares) for _ in range(2000)])
    exact = num_rows * torch.tensor(shares)
    assert ((drawn - exact).abs() < 1).all()
    assert (drawn.sum(dim=1) <= num_rows).all()
    # A standard error of at most 0.011.
    assert torch.allclose(drawn.float().mean(dim=0), exact, atol=0.05)


def test_a_seed_decides_the_numbers():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append([draw_numbers(3, 0.5) for _ in range(20)])
    assert drawn[0] == drawn[1]
    assert len({number for [number] in drawn[0]}) == 2
