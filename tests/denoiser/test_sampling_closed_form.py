"""Sampling of gaussian data, whose denoiser and whose flow are known exactly."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

from denoiser.sampling import denoise
from denoiser.schedulers import make_scheduler

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.5, 1.2])


class ExactDenoiser(nn.Module):
    """The expected latents of data ~ N(MEAN, STD^2), given the noisy ones."""

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        t = t[:, None, None]
        return MEAN + gain(t) * (noisy_latents - (1 - t) * MEAN)


def gain(t):
    """Covariance of data and noisy latents at time ``t`` over the variance of the latter."""
    return (1 - t) * STD**2 / (((1 - t) * STD) ** 2 + t**2)


def sample(name, num_steps, noise_shift, num_rows):
    """Return the noise, the latents made from it, and the times of the steps."""
    noise, scheduler = torch.randn(num_rows, 1, 2), make_scheduler(name, noise_shift)
    latents = denoise(
        ExactDenoiser(),
        scheduler,
        ClassifierFreeGuidance(1.0),
        noise,
        torch.zeros(num_rows, 1, 2),
        torch.ones(num_rows, 1, dtype=torch.bool),
        num_steps,
    )
    return noise, latents, scheduler.sigmas


def flow_error(name, num_steps, noise_shift):
    """Root mean square difference to the exact solution of the flow from the first time on."""
    noise, latents, times = sample(name, num_steps, noise_shift, num_rows=64)
    t = times[0]
    exact = MEAN + STD * (noise - (1 - t) * MEAN) / (((1 - t) * STD) ** 2 + t**2).sqrt()
    return (latents - exact).square().mean().sqrt().item()


@pytest.mark.parametrize(("name", "tolerance"), [("euler", 0.04), ("heun", 3e-3), ("dpm++", 1e-2)])
def test_exact_denoiser_turns_each_noise_into_its_data(name, tolerance):
    """The flow of gaussian data maps noise z to MEAN + STD * z."""
    noise, latents, _ = sample(name, num_steps=64, noise_shift=4.0, num_rows=4096)
    assert torch.allclose(latents, MEAN + STD * noise, atol=4 * tolerance)
    assert (latents - MEAN - STD * noise).square().mean().sqrt() < tolerance


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpm++", 2)])
def test_error_falls_with_the_order_of_the_solver(name, order):
    """Without a shift, for heun's grid shifts its last time twice and ends with a floor."""
    coarse, fine = (flow_error(name, num_steps, noise_shift=1.0) for num_steps in (64, 256))
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.35)


def test_steps_closer_than_an_integer_timestep_are_all_made():
    """``dpm++`` rounds its timesteps; looked up by number, the first of two equal ones was lost."""
    assert flow_error("dpm++", num_steps=600, noise_shift=4.0) < 1e-3


def test_stochastic_dpm_lands_on_mean_and_deviation_of_the_data():
    _, latents, _ = sample("dpm++_sde", num_steps=200, noise_shift=4.0, num_rows=16384)
    # Standard errors of 16384 rows: 0.8 % of STD in the mean, 0.55 % in the deviation; the solver's
    # own error at 200 steps is 1 to 2 % of the deviation.
    assert torch.all(((latents.mean(dim=(0, 1)) - MEAN) / STD).abs() < 0.03)
    assert torch.allclose(latents.std(dim=(0, 1)) / STD, torch.ones(2), atol=0.035)


@pytest.mark.parametrize("num_steps", [1, 4, 64])
def test_renoising_keeps_the_mean_and_narrows_the_data_as_computed(num_steps):
    """``euler_stochastic`` replaces all noise at each step, so the variance of its predictions
    follows a recursion that ends below the data's however many steps there are."""
    _, latents, times = sample("euler_stochastic", num_steps, noise_shift=4.0, num_rows=16384)
    variance = torch.ones(2)  # of the noisy latents
    for now, after in pairwise(times):
        prediction_variance = gain(now) ** 2 * variance
        variance = (1 - after) ** 2 * prediction_variance + after**2
    assert torch.all(((latents.mean(dim=(0, 1)) - MEAN) / STD).abs() < 0.03)
    assert torch.allclose(latents.std(dim=(0, 1)), variance.sqrt(), rtol=0.025, atol=1e-6)
    assert torch.all(variance.sqrt() < 0.75 * STD)
