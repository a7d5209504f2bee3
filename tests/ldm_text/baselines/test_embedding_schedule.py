"""The noise of embedding diffusion: its schedule, its weights, and the steps back through it."""

import pytest
import torch

from ldm_text.baselines.embedding_sampling import make_scheduler, spaced_timesteps
from ldm_text.baselines.embedding_schedule import (
    add_noise,
    sqrt_alphas_cumprod,
    weighted_timesteps,
)


def test_noise_follows_the_square_root():
    """At the middle of the way the share of noise is that of the paper's formula."""
    alphas_cumprod = sqrt_alphas_cumprod(2000)
    t = torch.arange(1, 2001, dtype=torch.float64) / 2000
    closed = (1 - (t + 1e-4).sqrt()) / (1 - 0.01)
    assert torch.allclose(alphas_cumprod[:-1], closed[:-1], rtol=1e-9)
    assert 0 < alphas_cumprod[-1] < 1e-5  # where the formula falls below 0
    assert (alphas_cumprod.diff() < 0).all()
    assert (1 - alphas_cumprod[0]).sqrt().item() == pytest.approx(0.121, abs=1e-3)


@pytest.mark.parametrize("timestep", [0, 50, 99])
def test_noising_has_the_variance_of_the_schedule(timestep):
    alphas_cumprod = sqrt_alphas_cumprod(100)
    share = alphas_cumprod[timestep].expand(4)
    clean = torch.tensor([-2.0, -0.5, 0.5, 3.0])[:, None, None].expand(4, 100, 400)
    noisy = add_noise(clean, torch.randn_like(clean), share)
    # 40,000 numbers: standard errors of 0.5 % in the mean and 0.7 % in the variance.
    mean = alphas_cumprod[timestep].sqrt().float() * clean[:, 0, 0]
    assert torch.allclose(noisy.mean(dim=(1, 2)), mean, atol=0.02)
    variance = (1 - alphas_cumprod[timestep]).float()
    assert torch.allclose(noisy.var(dim=(1, 2)), variance.expand(4), rtol=0.03)


def test_all_divergences_have_their_weight():
    """Drawn evenly, the mean of any error times its weight is the sum over all steps."""
    alphas_cumprod = sqrt_alphas_cumprod(5)
    ratio = alphas_cumprod / (1 - alphas_cumprod)
    share = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    timesteps, weights = weighted_timesteps(alphas_cumprod, share)
    for error in torch.eye(5, dtype=torch.float64)[1:]:
        step = int(error.argmax())
        expected = (ratio[step - 1] - ratio[step]).item() / 2
        assert (weights * error[timesteps]).mean().item() == pytest.approx(expected, rel=1e-3)
    assert timesteps.min() == 1


def test_draws_of_the_best_linear_prediction_are_nearly_equal():
    """Its error for embeddings of unit variance is the variance of noise: so the noise of the
    estimate is that of the error alone."""
    alphas_cumprod = sqrt_alphas_cumprod(2000)
    share = torch.rand(10_000, dtype=torch.float64)
    timesteps, weights = weighted_timesteps(alphas_cumprod, share)
    draws = weights * (1 - alphas_cumprod[timesteps])
    assert draws.std() / draws.mean() < 0.1


@pytest.mark.parametrize(("num_train", "num_steps"), [(2000, 2000), (2000, 30), (7, 3), (5, 1)])
def test_steps_start_at_the_noisiest_timestep_and_are_even(num_train, num_steps):
    timesteps = spaced_timesteps(num_train, num_steps)
    assert len(timesteps) == num_steps
    assert timesteps[-1] == num_train - 1
    assert torch.all((timesteps.diff() - num_train / num_steps).abs() < 1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_of_the_scheduler_keep_the_marginals(eta):
    """With the clean embeddings known, a step leads from one share of signal to the next, also
    where the number of steps does not divide that of the timesteps."""
    alphas_cumprod = sqrt_alphas_cumprod(2000)[spaced_timesteps(2000, 30)]
    scheduler = make_scheduler(alphas_cumprod)
    clean = torch.full((20_000,), 1.5)
    noisy = torch.randn(20_000)
    for index in scheduler.timesteps[:-1]:
        noisy = scheduler.step(clean, index, noisy, eta=eta, return_dict=False)[0]
        share = alphas_cumprod[index - 1]
        assert noisy.mean().item() == pytest.approx(1.5 * share.sqrt().item(), abs=0.03)
        assert noisy.var().item() == pytest.approx(1 - share.item(), rel=0.05)
    last = scheduler.step(clean, scheduler.timesteps[-1], noisy, eta=eta, return_dict=False)[0]
    assert torch.allclose(last, clean, atol=1e-6)
