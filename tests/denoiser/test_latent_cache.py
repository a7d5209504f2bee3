import numpy as np
import pytest
import torch

from denoiser.latent_cache import LatentCache


@pytest.fixture
def table():
    return torch.randn(10, 3, 8)


def test_rows_come_back_rounded_to_half_precision_in_the_order_asked_for(table):
    cache = LatentCache(10, 4)
    for rows in (torch.tensor([3, 1, 4]), torch.tensor([0, 2])):
        cache.put("input", rows, table[rows])
    rows = torch.tensor([4, 0, 3, 3])
    latents = cache.get("input", rows)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, table[rows].half().float())
    assert torch.allclose(latents, table[rows], atol=2e-3)


def test_columns_are_kept_apart(table):
    cache, rows = LatentCache(10, 4), torch.tensor([1, 2])
    cache.put("input", rows, table[rows])
    cache.put("source", rows, torch.ones(2, 5, 8))
    assert cache.get("input", rows).shape == (2, 3, 8)
    assert torch.equal(cache.get("source", rows), torch.ones(2, 5, 8))


def test_a_row_that_was_never_put_cannot_pass_for_latents(table):
    cache = LatentCache(10, 4)
    cache.put("input", torch.tensor([1]), table[:1])
    assert cache.get("input", torch.tensor([1, 2])).isnan().any(-1).any(-1).tolist() == [
        False,
        True,
    ]


def test_what_is_returned_can_be_changed_without_harm(table):
    cache, rows = LatentCache(10, 4), torch.arange(10)
    cache.put("input", rows, table)
    cache.get("input", rows).zero_()
    assert torch.equal(cache.get("input", rows), table.half().float())


@pytest.fixture
def fill(table):
    """Put a batch of the table, as training does."""

    def put(cache, number):
        rows = torch.tensor(list(cache.rows_of(number)))
        cache.put("input", rows, table[rows])
        cache.mark([number])

    return put


def test_a_folder_keeps_what_is_there_for_the_next_run(table, fill, tmp_path):
    cache = LatentCache(10, 4, tmp_path / "latents")
    assert cache.missing() == [0, 1, 2]
    fill(cache, 2)
    again = LatentCache(10, 4, tmp_path / "latents")
    assert again.missing() == [0, 1]
    rows = torch.tensor([9, 8])
    assert torch.equal(again.get("input", rows), table[rows].half().float())
    for number in again.missing():
        fill(again, number)
    assert LatentCache(10, 4, tmp_path / "latents").missing() == []
    assert isinstance(again.latents["input"], np.memmap)
    assert torch.equal(cache.get("input", torch.arange(10)), table.half().float())


def test_two_that_fill_one_folder_at_once_write_the_same_files(table, fill, tmp_path):
    first, second = (LatentCache(10, 4, tmp_path / "latents") for _ in range(2))
    for number in (0, 1, 2):
        fill(first, number)
        fill(second, 2 - number)
    assert first.missing() == second.missing() == []
    assert torch.equal(first.get("input", torch.arange(10)), table.half().float())
    assert sorted(path.name for path in (tmp_path / "latents").iterdir()) == [
        "filled.npy",
        "input.npy",
    ]


@pytest.mark.parametrize("content", [b"", b"no array", "shape"])
def test_a_damaged_folder_says_what_to_do(fill, tmp_path, content):
    fill(LatentCache(10, 4, tmp_path), 0)
    path = tmp_path / "input.npy"
    if content == "shape":
        np.save(path, np.zeros((3, 2), np.float16))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"input\.npy` is damaged .* Delete its folder"):
        fill(LatentCache(10, 4, tmp_path), 1)


def test_latents_that_do_not_fit_into_the_memory_are_refused_before_they_are_made():
    cache = LatentCache(10**12, 10**9)
    with pytest.raises(ValueError, match=r"needs 192000\.0 GB of memory, .* `latent_cache_dir`"):
        cache.put("input", torch.tensor([0]), torch.zeros(1, 12, 8))
