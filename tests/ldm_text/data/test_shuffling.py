import numpy as np
import pytest

from ldm_text.data import shuffling
from ldm_text.data.shuffling import shuffled


@pytest.fixture(params=["table", "network"])
def order(request, monkeypatch):
    """Return the whole order of a number of rows."""
    if request.param == "network":
        monkeypatch.setattr(shuffling, "MAX_TABLE_ROWS", 0)
    return lambda num_rows, *seeds: shuffled(num_rows, list(seeds))(0, num_rows)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 16, 17, 1000])
def test_every_row_comes_once(order, num_rows):
    assert sorted(order(num_rows, 0, 0)) == list(range(num_rows))


def test_seed_and_epoch_decide_the_order(order):
    assert order(1000, 3, 1) == order(1000, 3, 1)
    assert len({tuple(order(1000, *seeds)) for seeds in ((3, 1), (3, 2), (4, 1))}) == 3


def test_the_order_has_no_pattern(order):
    rows = np.array(order(4000, 0, 0))
    places = np.arange(4000)
    assert abs(np.corrcoef(places, rows)[0, 1]) < 0.06  # four standard errors
    assert abs(np.corrcoef(rows[1:], rows[:-1])[0, 1]) < 0.06
    assert abs((rows[places % 2 == 0] % 2).mean() - 0.5) < 0.05


def test_places_of_a_billion_rows_take_no_memory():
    rows = shuffled(1_600_000_000, [0, 0])
    some = rows(1_599_999_000, 1_600_000_000)
    assert len(set(some)) == 1000
    assert 0 <= min(some) < max(some) < 1_600_000_000
    assert rows(1_599_999_990, 1_600_000_000) == some[-10:]
