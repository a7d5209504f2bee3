import math

import pytest

from ldm_text.baselines import BlockDiffusionModel, MaskedDiffusionModel
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.evaluator import TextEvaluator
from ldm_text.evaluation.sweep import SamplerSetting, Sweep, check_grid, make_grid, summarize

SOURCES = ["name[The Mill]", "name[Zizzi]"]


@pytest.fixture
def make_sweep(pipeline):
    def make(generator=None, has_sources=True, sources=SOURCES, **options):
        records = [TextRecord("a pub", source if has_sources else None) for source in sources]
        evaluator = TextEvaluator(records)
        return Sweep(pipeline if generator is None else generator, evaluator, **options)

    return make


def test_the_grid_of_a_latent_pipeline_crosses_steps_and_scales(make_sweep):
    grid = make_grid(make_sweep(), (4, 2), (1.0, 3.0), ("heun",))
    points = [(point.num_inference_steps, point.guidance_scale) for point in grid]
    assert points == [(4, 1), (4, 3), (2, 1), (2, 3), (4, 3)]
    assert [point.scheduler for point in grid] == [None] * 4 + ["heun"]


def test_by_default_nothing_is_guided_where_there_are_no_sources(make_sweep):
    assert len(make_grid(make_sweep(), None, None, ())) == 9
    grid = make_grid(make_sweep(has_sources=False), None, None, ())
    assert [point.num_inference_steps for point in grid] == [16, 8, 4]
    assert {point.guidance_scale for point in grid} == {1.0}


def test_a_pipeline_without_steps_and_guidance_has_one_point(make_sweep, token_pipeline):
    assert make_grid(make_sweep(token_pipeline), None, None, ()) == [SamplerSetting()]


@pytest.mark.parametrize(
    ("model_class", "sampling", "steps"),
    [
        (BlockDiffusionModel, None, [16, 8]),  # 8 blocks of 2 tokens
        (MaskedDiffusionModel, {"sampler": "confidence", "block_length": 1}, [16]),
        (MaskedDiffusionModel, {"sampler": "first_hitting"}, [16]),  # each token has its call
        (MaskedDiffusionModel, None, [16, 8, 4]),
    ],
)
def test_default_steps_are_those_that_the_sampler_takes(
    make_sweep, make_token_pipeline, model_class, sampling, steps
):
    """A block-diffusion model was measured for a while and refused at the fourth setting."""
    options = {"block_length": 2} if model_class is BlockDiffusionModel else {}
    pipeline = make_token_pipeline(model_class=model_class, **options)
    sweep = make_sweep(pipeline, sampling=sampling)
    grid = make_grid(sweep, None, (1.0,), ())
    assert [point.num_inference_steps for point in grid] == steps
    check_grid(sweep, grid)


def test_where_no_default_fits_the_steps_are_the_pipelines_own(make_sweep, make_token_pipeline):
    pipeline = make_token_pipeline(model_class=MaskedDiffusionModel)
    pipeline.register_to_config(max_length_tokens=12)
    sweep = make_sweep(pipeline, sampling={"sampler": "first_hitting"})
    assert [point.num_inference_steps for point in make_grid(sweep, None, (1.0,), ())] == [12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (((4,), None, ()), "`--num_inference_steps` has no effect for this pipeline"),
        ((None, (1.0,), ()), "`--guidance_scale` has no effect for this pipeline"),
        ((None, None, ("heun",)), "`--schedulers` has no effect for this pipeline"),
        (((), None, ()), "`--num_inference_steps` must hold at least one number, got none"),
    ],
)
def test_options_without_effect_are_refused(make_sweep, token_pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        make_grid(make_sweep(token_pipeline), *options)


def test_sampling_options_are_checked_against_the_pipeline(make_sweep, token_pipeline):
    check_grid(make_sweep(token_pipeline, sampling={"temperature": 0.5}), [SamplerSetting()])
    with pytest.raises(ValueError, match=r"`--sampling.clamp_start` has no effect here"):
        make_sweep(token_pipeline, sampling={"clamp_start": 0.5})
    sweep = make_sweep(token_pipeline, sources=["a", "Zizzi " * 20])
    with pytest.raises(ValueError, match=r"prompt\[1\] has .* tokens"):
        check_grid(sweep, [SamplerSetting()])


def test_what_only_generation_refuses_is_refused_by_the_check(
    make_sweep, make_token_pipeline, pipeline
):
    """A late setting was refused after the others had been measured, and no report was written."""
    masked = make_token_pipeline(model_class=MaskedDiffusionModel)
    sweep = make_sweep(masked, sampling={"sampler": "confidence", "block_length": 4})
    with pytest.raises(ValueError, match=r"must be a multiple of the number of blocks, 4, got 3"):
        check_grid(sweep, [SamplerSetting(8), SamplerSetting(3)])
    with pytest.raises(ValueError, match="flow"):
        check_grid(make_sweep(), [SamplerSetting(4), SamplerSetting(4, 1.0, "flow_map")])


def test_another_scheduler_is_for_its_own_setting_alone(make_sweep, pipeline, monkeypatch):
    own, generate, seen = pipeline.scheduler, pipeline.generate, []

    def spy(*arguments, **options):
        seen.append(pipeline.scheduler)
        return generate(*arguments, **options)

    monkeypatch.setattr(pipeline, "generate", spy)
    check_grid(make_sweep(), [SamplerSetting(2, 1.0, "heun"), SamplerSetting(2, 1.0)])
    assert type(seen[0]) is not type(own)
    assert seen[1] is pipeline.scheduler is own


def test_figures_are_averaged_over_the_seeds_of_a_setting():
    results = [
        {"scheduler": "pipeline", "num_inference_steps": steps, "guidance_scale": 1.0}
        | {"seed": seed, "bleu": bleu, "examples": ["a"]}
        for steps, seed, bleu in [(4, 0, 10.0), (4, 1, 14.0), (2, 0, 7.0)]
    ]
    two_seeds, one_seed = summarize(results)
    assert two_seeds["num_seeds"] == 2
    assert two_seeds["num_inference_steps"] == 4
    error = math.sqrt(8) / math.sqrt(2)  # the variance of 10 and 14 is 8
    assert two_seeds["bleu"] == {"mean": 12, "standard_error": pytest.approx(error)}
    assert one_seed["bleu"] == {"mean": 7, "standard_error": None}
    assert "examples" not in two_seeds
