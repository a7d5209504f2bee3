import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from denoiser.guiders import (
    ProjectedGuidance,
    WeakerModelGuidance,
    make_guider,
    weak_denoiser_of,
)
from denoiser.sampling import denoise
from denoiser.schedulers import make_scheduler


@pytest.fixture
def sample(make_denoiser):
    denoiser = make_denoiser()
    inputs = {
        "noise": torch.randn(3, 4, 8),
        "known_latents": torch.randn(3, 5, 8),
        "known_mask": torch.ones(3, 5, dtype=torch.bool),
    }
    predictions = []

    def run(guider, num_steps=4):
        predictions.clear()
        denoise(
            denoiser,
            make_scheduler("euler", 4.0),
            guider,
            **inputs,
            num_inference_steps=num_steps,
            on_step_end=lambda step, noisy, prediction: predictions.append(prediction),
        )
        return list(predictions)

    run.denoiser, run.inputs = denoiser, inputs
    return run


def test_guidance_of_an_interval_is_off_outside_of_it(sample):
    free = sample(make_guider("constant", 1.0))
    guided = sample(make_guider("interval", 3.0, start=0.5, stop=0.75))
    assert torch.equal(guided[0], free[0])
    assert torch.equal(guided[1], free[1])
    assert not torch.allclose(guided[2], free[2], atol=1e-3)


def test_projected_guidance_moves_at_right_angles_to_the_prediction(sample):
    cond = sample(make_guider("constant", 1.0), 1)[0].flatten(1)
    uncond = sample(make_guider("constant", 0.0), 1)[0].flatten(1)
    guided = sample(make_guider("projected", 3.0), 1)[0].flatten(1)
    along = (cond - uncond).mul(cond).sum(dim=1, keepdim=True) / cond.square().sum(1, keepdim=True)
    assert (along.abs() > 0.01).all()  # there is something to take away
    torch.testing.assert_close(guided, cond + 2 * (cond - uncond - along * cond))


def test_projected_guidance_comes_near_no_guidance(sample):
    """Also of a copy with another scale, as a call of the pipeline makes one."""
    free = sample(make_guider("constant", 1.0))[-1]
    guider = make_guider("projected", 3.0)
    assert torch.equal(sample(guider.new(guidance_scale=1.0))[-1], free)
    near = sample(guider.new(guidance_scale=1.001))[-1]
    torch.testing.assert_close(near, free, atol=0.02, rtol=0)
    assert not torch.allclose(sample(guider)[-1], free, atol=0.1)


def test_autoguidance_extrapolates_from_the_weaker_denoiser(sample, make_denoiser):
    weak = make_denoiser(hidden_dim=16, num_layers=1)
    guided = sample(make_guider("autoguidance", 2.0, weak_denoiser=weak), 1)[0]
    inputs = (
        sample.inputs["noise"],
        torch.ones(3),
        sample.inputs["known_latents"],
        sample.inputs["known_mask"],
        torch.zeros(3, dtype=torch.bool),
    )
    with torch.no_grad():
        strong, weaker = sample.denoiser(*inputs), weak(*inputs)
    torch.testing.assert_close(guided, weaker + 2.0 * (strong - weaker))


def test_a_weaker_denoiser_stays_with_a_copy_of_its_guider(make_denoiser):
    weak = make_denoiser()
    guider = make_guider("autoguidance", 2.0, weak_denoiser=weak).new(guidance_scale=3.0)
    assert guider.guidance_scale == 3.0
    assert weak_denoiser_of(guider) is weak


def test_guiders_have_their_classes():
    assert type(make_guider("constant", 2.0)) is ClassifierFreeGuidance
    assert type(make_guider("projected", 2.0)) is ProjectedGuidance
    assert weak_denoiser_of(make_guider("constant", 2.0)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "none"}, "`guider` must be one of constant, interval, .* got 'none'"),
        ({"name": "autoguidance"}, "'autoguidance' needs a weaker denoiser"),
        ({"name": "interval"}, "'interval' needs `start` or `stop`"),
        ({"name": "interval", "start": 1.5}, "`start` to be between 0.0 and 1.0, but got 1.5"),
    ],
)
def test_a_guider_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_guider(guidance_scale=2.0, **arguments)


def test_a_loaded_guider_without_its_weaker_denoiser_is_refused():
    with pytest.raises(ValueError, match="has no weaker denoiser, which is not saved"):
        weak_denoiser_of(WeakerModelGuidance(2.0))
