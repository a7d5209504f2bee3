import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from denoiser.clamping import Clamping, clamp_latents
from denoiser.noise import add_noise, flow_step, landing_to_latents
from denoiser.sampling import StepControl, denoise, set_timesteps
from denoiser.schedulers import make_scheduler
from denoiser.teacher import DistillationRows, Teacher, draw_points, grid_time


@pytest.fixture
def rows():
    """Three rows; the second has a shorter source, the third has none."""
    known_mask = torch.arange(5) < torch.tensor([[5], [2], [0]])
    return DistillationRows(torch.randn(3, 4, 8), torch.randn(3, 5, 8), known_mask)


def test_flow_step_and_its_inverse():
    latents, noisy = torch.randn(2, 6, 4, 8, dtype=torch.double)
    t = torch.rand(6, dtype=torch.double).clamp(min=0.1)
    next_t = t * torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 0.95], dtype=torch.double)
    landing = flow_step(latents, noisy, t, next_t)
    assert torch.equal(landing[0], latents[0])
    assert torch.allclose(landing_to_latents(landing, noisy, t, next_t), latents)


def test_a_step_along_the_true_line_stays_on_it():
    latents, noise = torch.randn(2, 6, 4, 8)
    t = torch.linspace(0.2, 1, 6)
    noisy = add_noise(latents, noise, t)
    assert torch.allclose(
        flow_step(latents, noisy, t, t / 2), add_noise(latents, noise, t / 2), atol=1e-6
    )


@pytest.mark.parametrize("num_steps", [1, 4, 7])
def test_the_grid_is_that_of_the_sampler(num_steps):
    scheduler = make_scheduler("euler", 4.0)
    set_timesteps(scheduler, num_steps, torch.device("cpu"))
    times = grid_time(torch.arange(num_steps, -1, -1), num_steps, 4.0)
    assert torch.allclose(scheduler.sigmas, times, atol=1e-6)


def test_each_point_is_drawn_as_often_as_the_others():
    points = draw_points(12, 4)
    assert points.unique(return_counts=True)[1].tolist() == [3, 3, 3, 3]
    few = torch.cat([draw_points(2, 4) for _ in range(400)])
    assert few.min() == 1
    assert few.max() == 4
    assert few.bincount()[1:].float().std() < 30  # of 200 each: a binomial's deviation is 12


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_walk_from_noise_to_data_is_the_sampler(make_denoiser, rows, guidance_scale):
    """Also in what it feeds back as self-condition: nothing at the first step, then its own."""
    teacher = Teacher(make_denoiser(), 4.0, guidance_scale)
    noise, point = torch.randn(3, 4, 8), torch.full((3,), 6)
    walked = teacher.walk(rows, noise, point, num_steps=6, length=6)
    sampled = denoise(
        teacher.denoiser,
        make_scheduler("euler", 4.0),
        ClassifierFreeGuidance(guidance_scale=guidance_scale),
        noise,
        rows.known_latents,
        rows.known_mask,
        6,
    )
    assert torch.allclose(walked, sampled, atol=1e-4)


@pytest.mark.parametrize("clamp_start", [0.0, 0.3, 0.5])
def test_a_walk_that_clamps_is_the_sampler_that_clamps(
    make_denoiser, make_autoencoder, rows, clamp_start
):
    """Ten steps: 0.3 of them is where floating-point times could fall on either side."""
    autoencoder, num_clamped = make_autoencoder(), []

    class Clamp(StepControl):
        def adjust(self, pred_latents, step, num_steps):
            if step < clamp_start * num_steps:
                return pred_latents
            num_clamped.append(step)
            return clamp_latents(autoencoder, pred_latents)

    clamping = Clamping(autoencoder, clamp_start)
    teacher = Teacher(make_denoiser(), 4.0, 2.0, clamping)
    noise, point = torch.randn(3, 4, 8), torch.full((3,), 10)
    with torch.no_grad():
        walked = teacher.walk(rows, noise, point, num_steps=10, length=10)
        sampled = denoise(
            teacher.denoiser,
            make_scheduler("euler", 4.0),
            ClassifierFreeGuidance(guidance_scale=2.0),
            noise,
            rows.known_latents,
            rows.known_mask,
            10,
            control=Clamp(),
        )
    assert len(num_clamped) == 10 - 10 * clamp_start
    assert torch.allclose(walked, sampled, atol=1e-4)
    free = Teacher(teacher.denoiser, 4.0, 2.0)
    assert not torch.allclose(free.walk(rows, noise, point, 10, 10), walked, atol=1e-2)


def test_a_teacher_clamps_what_it_predicts_earlier_too(make_denoiser, make_autoencoder, rows):
    autoencoder, denoiser = make_autoencoder(), make_denoiser()
    noise, point = torch.randn(3, 4, 8), torch.tensor([3, 2, 1])
    clamped, free = (
        Teacher(denoiser, 4.0, 1.0, clamping).earlier_prediction(rows, noise, point, 4)
        for clamping in (Clamping(autoencoder, 0.0), None)
    )
    with torch.no_grad():
        assert torch.allclose(clamped, clamp_latents(autoencoder, free), atol=1e-5)
    assert not torch.allclose(clamped, free, atol=1e-2)


def test_guidance_is_one_forward_only_where_it_is_off(make_denoiser, rows):
    sizes = []
    for scale in (1.0, 2.0):
        teacher = Teacher(make_denoiser(), 4.0, scale)
        teacher.denoiser.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
        teacher.predict(rows, torch.randn(3, 4, 8), torch.rand(3), torch.zeros(3, 4, 8))
    assert sizes == [3, 6]


def test_an_earlier_prediction_is_none_at_pure_noise(make_denoiser, rows):
    teacher = Teacher(make_denoiser(), 4.0, 1.0)
    earlier = teacher.earlier_prediction(rows, torch.randn(3, 4, 8), torch.tensor([4, 3, 1]), 4)
    assert not earlier[0].any()
    assert earlier[1:].abs().amax(dim=(1, 2)).min() > 0


def test_teacher_is_frozen_for_good(make_denoiser):
    teacher = Teacher(make_denoiser(), 4.0, 1.0).train()
    assert not any(part.training for part in teacher.modules())
    assert not any(weight.requires_grad for weight in teacher.parameters())
