import pytest
import torch

from autoencoder.latent_statistics import LatentStatistics


@pytest.fixture
def latents():
    return torch.randn(500, 6) * torch.logspace(-2, 2, 6) + torch.linspace(-5, 5, 6)


@pytest.fixture
def statistics(latents):
    measured = LatentStatistics(6)
    measured.measure(latents)
    return measured


def test_standardized_latents_have_mean_zero_and_deviation_one(statistics, latents):
    standardized = statistics.standardize(latents)
    assert torch.allclose(standardized.mean(0), torch.zeros(6), atol=1e-3)
    assert torch.allclose(standardized.std(0), torch.ones(6), atol=1e-3)


def test_standardize_and_unstandardize_are_inverse(statistics):
    statistics = statistics.double()
    latents = torch.randn(4, 3, 6, dtype=torch.float64)
    there_and_back = statistics.unstandardize(statistics.standardize(latents))
    back_and_there = statistics.standardize(statistics.unstandardize(latents))
    assert torch.allclose(there_and_back, latents, atol=1e-12)
    assert torch.allclose(back_and_there, latents, atol=1e-12)


def test_fresh_statistics_change_nothing(latents):
    assert torch.equal(LatentStatistics(6).standardize(latents), latents)


def test_constant_channel_stays_finite():
    statistics = LatentStatistics(2)
    statistics.measure(torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    assert torch.equal(statistics.standardize(torch.ones(1, 2))[:, 0], torch.zeros(1))


def test_statistics_are_saved_with_the_model(statistics):
    loaded = LatentStatistics(6)
    loaded.load_state_dict(statistics.state_dict())
    assert torch.equal(loaded.latent_mean, statistics.latent_mean)
    assert torch.equal(loaded.latent_std, statistics.latent_std)
    assert not torch.equal(loaded.latent_std, torch.ones(6))


def test_one_latent_has_no_deviation():
    with pytest.raises(ValueError, match="at least 2 latents, got 1"):
        LatentStatistics(2).measure(torch.zeros(1, 2))
