"""What the system is told to read is what the next batches take from the files."""

import os

import numpy as np
import pytest
import torch

from ldm_text.data.batches import PackedBatches, RecordRows
from ldm_text.data.packing import PackedRows
from ldm_text.data.read_ahead import NUM_BATCHES_AHEAD, ahead
from ldm_text.data.resumable_loader import ResumableLoader, ShuffledRows
from ldm_text.data.token_cache import TokenCache, TokenColumn

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")
LENGTHS = np.array([3, 0, 5, 2, 7, 4, 1, 6])


@pytest.fixture
def parts_read(monkeypatch):
    """Collect the bytes of the files that the system is told to read."""
    parts = []

    def advise(file, place, size, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        parts.append(os.pread(file, size, place))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return parts


@pytest.fixture
def column(tmp_path):
    """Return a mapped column of rows of different lengths."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.arange(100, 100 + LENGTHS.sum(), dtype=np.uint16)
    for name, values in (("ids", ids), ("offsets", offsets)):
        np.save(tmp_path / f"{name}.npy", values)
    mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("ids", "offsets"))
    return TokenColumn(*mapped)


def rows_of(cache):
    lengths = {"max_length_tokens": 8, "max_source_length_tokens": 8}
    return RecordRows(cache, **lengths, pad_token_id=0, end_token_id=1)


def test_rows_of_token_caches_are_read_places_first(column, parts_read):
    places, ids = rows_of(TokenCache(column, column)).read_ahead_stages()
    assert len(places) == len(ids) == 2  # text and source
    places[0]([2, 6])
    assert [np.frombuffer(part, np.int64).tolist() for part in parts_read] == [[3, 8], [21, 22]]
    parts_read.clear()
    ids[0]([2, 1, 6])
    assert [np.frombuffer(part, np.uint16).tolist() for part in parts_read] == [
        column[row].tolist() for row in (2, 1, 6)
    ]


def test_packed_rows_are_read(tmp_path, parts_read):
    for name, dtype, width in (("ids", np.uint16, 6), ("numbers", np.int32, 3)):
        np.save(tmp_path / f"{name}.npy", np.arange(4 * width, dtype=dtype).reshape(4, width))
    arrays = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("ids", "numbers")]
    (stage,) = PackedBatches(PackedRows(*arrays), pad_token_id=0).read_ahead_stages()
    for read in stage:
        read([3, 1])
    assert parts_read == [array[row].tobytes() for array in arrays for row in (3, 1)]


def test_nothing_is_read_where_all_is_in_memory():
    column = TokenColumn(np.arange(4, dtype=np.uint16), np.arange(3))
    assert rows_of(TokenCache(column, None)).read_ahead_stages() == [[], []]
    packed = PackedRows(np.zeros((2, 4), np.uint16), np.zeros((2, 1), np.int32))
    assert PackedBatches(packed, pad_token_id=0).read_ahead_stages() == [[]]


def test_each_stage_is_so_many_batches_ahead_of_the_next():
    events = []
    stages = [[lambda rows, name=name: events.append((name, rows[0]))] for name in ("a", "b")]
    batches = [[number] for number in range(12)]
    for rows in ahead(batches, stages):
        events.append(("given", rows[0]))
    assert [number for name, number in events if name == "given"] == list(range(12))
    for number in range(12 - 2 * NUM_BATCHES_AHEAD):
        place = events.index(("given", number))
        assert ("b", number + NUM_BATCHES_AHEAD) in events[:place]
        assert ("b", number + NUM_BATCHES_AHEAD + 1) not in events[:place]
        assert ("a", number + 2 * NUM_BATCHES_AHEAD) in events[:place]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_loader_gives_the_same_batches_and_has_all_rows_read(column, parts_read, num_workers):
    dataset, latents_read = rows_of(TokenCache(column, None)), []

    def loader(with_latents):
        order = ShuffledRows(dataset, batch_size=2, num_replicas=1, rank=0, seed=3)
        if with_latents:
            order.more_readers = lambda: [latents_read.extend]
        options = {"collate_fn": lambda batch: batch, "num_workers": num_workers}
        return ResumableLoader(dataset, sampler=order, batch_size=2, drop_last=True, **options)

    batches = list(loader(with_latents=True))
    order = [row for batch in batches for row in batch["row"].tolist()]
    assert sorted(order) == list(range(8))
    assert latents_read == order
    assert {column[row].tobytes() for row in range(8)} <= set(parts_read)
    for batch, again in zip(batches, loader(with_latents=False), strict=True):
        assert all(torch.equal(batch[name], again[name]) for name in batch)
