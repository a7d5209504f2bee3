import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from denoiser.noise import (
    add_noise,
    latents_to_velocity,
    sample_time,
    shift_time,
    velocity_to_latents,
)

SHIFTS = [0.3, 1.0, 4.0]
TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


def noise_to_signal(t):
    return t / (1 - t)


@pytest.mark.parametrize("noise_shift", SHIFTS)
def test_shift_multiplies_the_noise_to_signal_ratio(noise_shift):
    u = TIMES[:-1]
    expected = noise_shift * noise_to_signal(u)
    assert torch.allclose(noise_to_signal(shift_time(u, noise_shift)), expected, atol=1e-12)


@pytest.mark.parametrize("noise_shift", SHIFTS)
def test_shift_keeps_the_ends_and_the_order_of_times(noise_shift):
    shifted = shift_time(TIMES, noise_shift)
    assert shifted[0] == 0
    assert shifted[-1].item() == pytest.approx(1, abs=1e-12)
    assert torch.all(shifted.diff() > 0)


@pytest.mark.parametrize("noise_shift", SHIFTS)
def test_shift_is_undone_by_its_reciprocal(noise_shift):
    there_and_back = shift_time(shift_time(TIMES, noise_shift), 1 / noise_shift)
    assert torch.allclose(there_and_back, TIMES, atol=1e-12)


@pytest.mark.parametrize("noise_shift", SHIFTS)
def test_shift_is_the_one_of_diffusers(noise_shift):
    sigmas = FlowMatchEulerDiscreteScheduler(shift=noise_shift).sigmas
    uniform = torch.arange(1000, 0, -1) / 1000
    assert torch.allclose(shift_time(uniform, noise_shift), sigmas, atol=1e-6)


@pytest.mark.parametrize("noise_shift", SHIFTS)
def test_median_noise_to_signal_ratio_of_training_is_the_shift(noise_shift):
    t = sample_time(1001, noise_shift)
    assert noise_to_signal(t).median() == pytest.approx(noise_shift, rel=0.01)


def test_training_times_cover_each_equal_part_once():
    u = shift_time(sample_time(64, noise_shift=4.0), 1 / 4.0)
    assert torch.equal((64 * u).floor().sort().values, torch.arange(64.0))


def test_training_times_come_in_random_order_and_are_fresh():
    first, second = sample_time(64, 1.0), sample_time(64, 1.0)
    assert not torch.equal(first, first.sort().values)
    assert torch.all(first.sort().values != second.sort().values)


def test_time_zero_is_data_and_time_one_is_noise():
    latents, noise = torch.randn(2, 3, 4, 5)
    noisy = add_noise(latents, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(noisy[0], latents[0])
    assert torch.equal(noisy[1], noise[1])
    assert torch.allclose(noisy[2], 0.75 * latents[2] + 0.25 * noise[2])


def test_velocity_of_the_truth_is_noise_minus_latents():
    latents, noise = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    t = torch.rand(3, dtype=torch.float64)
    velocity = latents_to_velocity(latents, add_noise(latents, noise, t), t)
    assert torch.allclose(velocity, noise - latents, atol=1e-12)


def test_latents_and_velocity_convert_into_each_other():
    prediction, noisy = torch.randn(2, 50, 4, 5, dtype=torch.float64)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    velocity = latents_to_velocity(prediction, noisy, t)
    assert torch.allclose(velocity_to_latents(velocity, noisy, t), prediction, atol=1e-10)
