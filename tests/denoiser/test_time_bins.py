from types import SimpleNamespace

import pytest
import torch

from denoiser.time_bins import BINS, MeansByTime, means_by_time, sums_by_time


def test_errors_are_summed_and_counted_in_their_bin():
    """Pure noise, where students begin, is in the last one."""
    t = torch.tensor([0.0, 0.24, 0.25, 0.99, 1.0])
    sums = sums_by_time(t, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    assert sums.tolist() == [[3.0, 2], [4.0, 1], [0.0, 0], [24.0, 2]]
    means = {name: mean.item() for name, mean in means_by_time(sums).items()}
    assert means == {"0.00_to_0.25": 1.5, "0.25_to_0.50": 4.0, "0.75_to_1.00": 12.0}


@pytest.mark.parametrize("world_size", [1, 2])
def test_means_are_of_the_rows_of_all_batches_and_processes(world_size):
    """The other process has seen three rows of error 5 in the first bin, and no others."""
    other = torch.tensor([[15.0, 3.0], [0, 0], [0, 0], [0, 0]])
    module = SimpleNamespace(
        device=torch.device("cpu"),
        trainer=SimpleNamespace(world_size=world_size),
        all_gather=lambda sums: torch.stack([sums, other]),
    )
    errors = MeansByTime()
    for t, error in ((0.1, 1.0), (0.6, 2.0), (0.6, 4.0)):
        errors.add(torch.tensor([t]), torch.tensor([error]))
    means = {name: mean.item() for name, mean in errors.take_means(module).items()}
    assert means == {BINS[0]: 1.0 if world_size == 1 else 4.0, BINS[2]: 3.0}
    assert not errors.sums.any()
