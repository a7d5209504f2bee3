import pytest
import torch

from denoiser.latent_cache import LatentCache


class Encoder:
    """Stand-in for an autoencoder: look the rows up in a table and count the calls."""

    def __init__(self):
        self.table = torch.randn(10, 3, 8)
        self.num_calls = 0

    def of(self, rows):
        def encode():
            self.num_calls += 1
            return self.table[rows]

        return encode


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def get(encoder):
    cache = LatentCache(10)

    def get_rows(*rows, column="input"):
        rows = torch.tensor(rows)
        latents = cache.get(column, rows, encoder.of(rows))
        assert latents.dtype == torch.float32
        assert torch.allclose(latents, encoder.table[rows], atol=2e-3)  # half precision
        return latents

    return get_rows


def test_each_row_is_encoded_once(get, encoder):
    get(3, 1, 4)
    get(0, 2)
    assert encoder.num_calls == 2
    get(4, 0, 3)
    get(2, 2, 1)
    assert encoder.num_calls == 2


def test_a_batch_with_an_unknown_row_is_encoded(get, encoder):
    get(3, 1)
    get(3, 5)
    assert encoder.num_calls == 2
    get(5, 1)
    assert encoder.num_calls == 2


def test_columns_are_kept_apart(encoder):
    cache, rows = LatentCache(10), torch.tensor([1, 2])
    inputs = cache.get("input", rows, encoder.of(rows))
    sources = cache.get("source", rows, lambda: torch.ones(2, 5, 8))
    assert inputs.shape == (2, 3, 8)
    assert torch.equal(sources, torch.ones(2, 5, 8))
    assert torch.allclose(cache.get("input", rows, encoder.of(rows)), inputs, atol=2e-3)
    assert encoder.num_calls == 1


def test_what_is_returned_can_be_changed_without_harm(get):
    get(1, 2)
    get(1, 2).zero_()
    get(1, 2)
