from typing import get_args

import pytest
import torch

from denoiser.noise import shift_time
from denoiser.sampling import check_scheduler, set_timesteps
from denoiser.schedulers import (
    SchedulerName,
    make_scheduler,
    noise_shift_of,
    with_noise_shift,
)

NAMES = get_args(SchedulerName)


@pytest.mark.parametrize("name", NAMES)
def test_scheduler_is_accepted_and_tells_its_noise_shift(name):
    scheduler = make_scheduler(name, 4.0)
    check_scheduler(scheduler)
    assert noise_shift_of(scheduler) == 4.0


@pytest.mark.parametrize("name", NAMES)
def test_saved_scheduler_is_the_same(name, tmp_path):
    scheduler = make_scheduler(name, 4.0)
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    for made in (scheduler, loaded):
        set_timesteps(made, 8, torch.device("cpu"))
    assert torch.equal(loaded.sigmas, scheduler.sigmas)
    assert noise_shift_of(loaded) == 4.0


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_with_another_noise_shift_differs_in_its_grid_alone(name):
    first, expected = make_scheduler(name, 4.0), make_scheduler(name, 9.0)
    other = with_noise_shift(first, 9.0)
    assert type(other) is type(first)
    assert dict(other.config) == dict(expected.config)
    for scheduler in (other, expected):
        set_timesteps(scheduler, 8, torch.device("cpu"))
    assert torch.equal(other.sigmas, expected.sigmas)
    assert noise_shift_of(first) == 4.0


@pytest.mark.parametrize("name", ["euler", "euler_stochastic", "flow_map"])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_grid_of_euler_is_uniform_time_shifted_once(name, num_steps):
    scheduler = make_scheduler(name, 4.0)
    set_timesteps(scheduler, num_steps, torch.device("cpu"))
    uniform = 1 - torch.arange(num_steps + 1) / num_steps
    assert len(scheduler.timesteps) == num_steps
    assert torch.allclose(scheduler.sigmas.float(), shift_time(uniform, 4.0), atol=1e-6)
    assert scheduler.sigmas[0] == 1
    assert scheduler.sigmas[-2] == pytest.approx(shift_time(torch.tensor(1 / num_steps), 4.0))


def test_grid_of_dpm_is_nearly_the_same():
    """Its solver cannot start at pure noise, so it starts at 0.999, shifted."""
    scheduler = make_scheduler("dpm++", 4.0)
    set_timesteps(scheduler, 8, torch.device("cpu"))
    uniform = 0.999 * (1 - torch.arange(9) / 8)
    assert torch.allclose(scheduler.sigmas, shift_time(uniform, 4.0), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_grid_falls_from_noise_to_data(name):
    scheduler = make_scheduler(name, 4.0)
    set_timesteps(scheduler, 8, torch.device("cpu"))
    sigmas = scheduler.sigmas.unique_consecutive()  # heun names each inner time twice
    assert len(sigmas) == 9
    assert sigmas[0] > 0.999
    assert sigmas[-1] == 0
    assert torch.all(sigmas.diff() < 0)


def test_unknown_scheduler_is_refused():
    message = r"`scheduler` must be one of euler, euler_stochastic, .*, got 'ddim'"
    with pytest.raises(ValueError, match=message):
        make_scheduler("ddim", 1.0)
