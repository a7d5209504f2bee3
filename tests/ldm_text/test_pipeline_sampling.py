"""Schedulers, guiders and noise of a pipeline, in batches of any size."""

from typing import ClassVar, get_args

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    SkipLayerGuidance,
)
from diffusers.guiders.guider_utils import BaseGuidance

from denoiser.schedulers import SchedulerName, make_scheduler, noise_shift_of
from ldm_text.pipeline import LatentTextPipeline

SCHEDULERS = [name for name in get_args(SchedulerName) if name != "flow_map"]  # for a student


class Unguided(BaseGuidance):
    """A guider without a scale."""

    _input_predictions: ClassVar[list[str]] = ["pred_cond"]

    @register_to_config
    def __init__(self):
        super().__init__()

    @property
    def num_conditions(self):
        return 1


def assert_other_texts(output, reference):
    assert len(output.texts) == len(reference.texts)
    assert output.texts != reference.texts


# Schedulers and guiders


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_can_be_swapped_on_a_loaded_pipeline(
    pipeline_folder, run, tmp_path, name, mixed_prompts, generators
):
    loaded = LatentTextPipeline.from_pretrained(pipeline_folder)
    loaded.scheduler = make_scheduler(name, noise_shift_of(loaded.scheduler))
    output = loaded(mixed_prompts, num_inference_steps=3, generator=generators())
    assert torch.isfinite(output.latents).all()
    assert (name == "euler") == torch.equal(output.latents, run().latents)
    loaded.save_pretrained(tmp_path / "other")
    again = LatentTextPipeline.from_pretrained(tmp_path / "other")
    assert type(again.scheduler) is type(loaded.scheduler)
    assert again(mixed_prompts, num_inference_steps=3, generator=generators()).texts == output.texts


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_call_with_a_noise_shift_is_one_with_that_scheduler(pipeline, run, name):
    pipeline.scheduler = make_scheduler(name, 4.0)
    own = run().latents
    shifted = run(noise_shift=9.0).latents
    assert not torch.allclose(shifted, own)
    assert torch.equal(run().latents, own)
    pipeline.scheduler = make_scheduler(name, 9.0)
    assert torch.equal(run().latents, shifted)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "4"])
def test_a_noise_shift_out_of_range_is_refused(run, value):
    with pytest.raises(ValueError, match=r"`noise_shift` must be (larger than 0|a number)"):
        run(noise_shift=value)


def test_a_scheduler_for_students_of_its_own_is_refused(pipeline, mixed_prompts):
    pipeline.scheduler = make_scheduler("flow_map", 4.0)
    with pytest.raises(ValueError, match="'flow_map', need a student of FlowMapDistillation"):
        pipeline(mixed_prompts, num_inference_steps=2)


def test_a_scheduler_of_another_noise_process_is_refused(pipeline):
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="DDIMScheduler does not follow the straight path"):
        pipeline()


@pytest.mark.parametrize(
    "guider",
    [
        ClassifierFreeGuidance(1.5),
        ClassifierFreeGuidance(3.0, start=0.4),
        ClassifierFreeGuidance(3.0, guidance_rescale=0.7),
        AdaptiveProjectedGuidance(3.0, eta=0.0),
    ],
)
def test_a_guider_can_be_swapped(pipeline, run, guider):
    default = run()
    pipeline.guider = guider
    output = run()
    assert torch.isfinite(output.latents).all()
    assert not torch.allclose(output.latents[0], default.latents[0], atol=1e-2)
    # The null stands in both branches of a row without a prompt.
    if guider.config.guidance_rescale == 0:
        assert torch.allclose(output.latents[2], default.latents[2], atol=1e-4)


@pytest.mark.parametrize(
    ("guider", "message"),
    [
        (AutoGuidance(auto_guidance_layers=[0], dropout=1.0), "AutoGuidance changes the layers"),
        (SkipLayerGuidance(skip_layer_guidance_layers=[0]), "SkipLayerGuidance changes the layers"),
        (
            AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5),
            "`adaptive_projected_guidance_momentum` is not supported",
        ),
    ],
)
def test_a_guider_that_would_have_no_effect_is_refused(pipeline, guider, message):
    pipeline.guider = guider
    with pytest.raises(ValueError, match=message):
        pipeline()


def test_guidance_scale_of_a_call_replaces_that_of_the_guider_once(pipeline, run):
    default = run()
    strong = run(guidance_scale=7.0)
    assert pipeline.guider.guidance_scale == 3.0
    assert torch.equal(run().latents, default.latents)
    pipeline.guider = ClassifierFreeGuidance(7.0)
    assert torch.equal(run().latents, strong.latents)
    assert_other_texts(strong, default)


def test_guidance_scale_needs_a_guider_that_has_one(pipeline, run):
    unguided = run(guidance_scale=1.0)
    pipeline.guider = Unguided()
    assert torch.equal(run().latents, unguided.latents)
    with pytest.raises(ValueError, match="`guidance_scale` has no effect: Unguided has none"):
        run(guidance_scale=3.0)


# Batches


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_text_of_a_row_is_the_same_alone_and_in_any_batch(
    pipeline, run, name, mixed_prompts, generators
):
    pipeline.scheduler = make_scheduler(name, 4.0)
    together = run()
    for rows in ([0], [2], [3, 1], [2, 3, 0]):
        output = run([mixed_prompts[row] for row in rows], generator=generators(rows))
        assert output.texts == [together.texts[row] for row in rows]
        assert torch.allclose(output.latents, together.latents[rows], atol=1e-3)


def test_one_generator_serves_all_rows_and_repeats(pipeline):
    first, again, other = (
        pipeline([None] * 3, num_inference_steps=3, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first.texts == again.texts
    assert len({*first.texts, *other.texts}) == 6
