"""What the samplers of all families that step through a grid of times promise."""

import pytest
import torch

from ldm_text.baselines import D3PMAbsorbingModel, SEDDModel, UniformDiffusionModel
from ldm_text.baselines.sequences import TokenBatch

MASK = 2
SIZES = {"vocab_size": 40, "hidden_dim": 32, "num_layers": 2, "num_heads": 2}
FAMILIES = {
    "absorbing": (D3PMAbsorbingModel, {}),
    "uniform": (UniformDiffusionModel, {}),
    "uniform, denoising": (UniformDiffusionModel, {"posterior": "denoising"}),
    "sedd": (SEDDModel, {}),
}
FINITE = {name: family for name, family in FAMILIES.items() if name != "sedd"}
RANGES = [
    ({"num_inference_steps": 0}, "`num_inference_steps` must be between 1 and 1000, got 0"),
    ({"temperature": -1.0}, "`temperature` must be 0 or larger and finite, got -1.0"),
    ({"top_p": 0.0}, "`top_p` must be larger than 0 and at most 1, got 0.0"),
]


@pytest.fixture
def make_model(activate):
    def make(name, **options):
        model_class, own = FAMILIES[name]
        return activate(model_class(**SIZES | own | options)).eval()

    return make


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_p": 0.9, "guidance_scale": 2.0}, {"temperature": 0}]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_the_same_alone_or_in_any_batch(
    make_model, prompts, row_generators, name, options
):
    model = make_model(name)
    ids, calls = model.generate_ids(prompts, 12, row_generators(5), 5, **options)
    assert calls == 5
    assert not (ids == MASK).any()
    for row in range(5):
        alone = TokenBatch(*(getattr(prompts, name)[row : row + 1] for name in vars(prompts)))
        text, _ = model.generate_ids(alone, 12, row_generators(5)[row : row + 1], 5, **options)
        assert torch.equal(text[0], ids[row])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_sampler_option_has_an_effect(make_model, prompts, name):
    model, texts = make_model(name), []
    changes = ({}, {"temperature": 0.3}, {"top_p": 0.3}, {"guidance_scale": 4.0})
    assert {name for change in changes for name in change} == set(model.sampler_options)
    for options in changes:
        ids, _ = model.generate_ids(prompts, 12, torch.Generator().manual_seed(0), **options)
        texts.append(tuple(ids.flatten().tolist()))
    assert len(set(texts)) == len(changes)


@pytest.mark.parametrize(("options", "message"), RANGES)
@pytest.mark.parametrize("name", FAMILIES)
def test_options_out_of_range_are_refused(make_model, prompts, name, options, message):
    with pytest.raises(ValueError, match=message):
        make_model(name).generate_ids(prompts, 4, None, **options)


@pytest.mark.parametrize("name", FINITE)
def test_more_steps_than_the_model_has_are_refused(make_model, prompts, name):
    with pytest.raises(ValueError, match="at most the model's `num_train_steps`, 5, got 6"):
        make_model(name, num_train_steps=5).generate_ids(prompts, 4, None, 6)
