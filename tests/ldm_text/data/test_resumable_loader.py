import pytest
import torch
from torch.utils.data import Dataset

from ldm_text.data.batches import keep_batch
from ldm_text.data.resumable_loader import ResumableLoader, ShuffledRows


class Numbers(Dataset):
    def __len__(self):
        return 22

    def __getitems__(self, rows):
        return list(rows)


def make(batch_size=4, num_workers=0, num_replicas=1, rank=0, seed=0):
    options = {"num_replicas": num_replicas, "rank": rank, "seed": seed}
    order = ShuffledRows(Numbers(), batch_size=batch_size, **options)
    return ResumableLoader(
        order.dataset,
        sampler=order,
        batch_size=batch_size,
        drop_last=True,
        collate_fn=keep_batch,
        num_workers=num_workers,
    )


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides():
    first, again, other = make(), make(), make(seed=1)
    epochs = [list(first) for _ in range(3)]
    assert [list(again) for _ in range(3)] == epochs
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert list(other) not in epochs
    for batches in epochs:
        assert len(batches) == len(first) == 5
        assert len({row for batch in batches for row in batch}) == 20


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_given", [0, 1, 4, 5, 7])
def test_a_restored_loader_goes_on_where_the_other_was(num_given, num_workers):
    """Workers prepare batches ahead, which do not count."""
    unbroken = make()
    batches = [batch for _ in range(3) for batch in unbroken]
    loader, given = make(num_workers=num_workers), []
    while len(given) < num_given:
        for batch in loader:
            given.append(batch)
            if len(given) == num_given:
                break
    assert given == batches[:num_given]
    restored = make(num_workers=num_workers)
    restored.load_state_dict(loader.state_dict())
    assert len(restored) == 5
    rest = list(restored) + list(restored)
    assert rest == batches[num_given : num_given + len(rest)]
    assert len(rest) == 10 - num_given % 5


def test_an_epoch_cut_short_is_followed_by_the_next_one():
    whole, cut = make(), make()
    epochs = [list(whole), list(whole)]
    cut.sampler.set_epoch(0)
    assert next(iter(cut)) == epochs[0][0]
    cut.load_state_dict(cut.state_dict())
    cut.sampler.set_epoch(1)  # as Lightning does after `limit_train_batches`
    assert list(cut) == epochs[1]


def test_two_processes_share_the_batches_of_one_with_twice_the_rows():
    one, in_turns = make(batch_size=8), make(batch_size=4)
    first, second = (make(num_replicas=2, rank=rank) for rank in (0, 1))
    for _ in range(2):
        pairs = list(zip(first, second, strict=True))
        assert list(one) == [a + b for a, b in pairs]
        assert list(in_turns)[:4] == [batch for pair in pairs for batch in pair]


def test_the_order_leaves_the_random_state_of_the_training():
    state = torch.get_rng_state()
    list(make().sampler)
    assert torch.equal(torch.get_rng_state(), state)
