"""Samplers of block diffusion: what they have read is kept, and rows do not see each other."""

from functools import partial

import pytest
import torch

from ldm_text.baselines import block_sampling

PAD, END, MASK = 0, 1, 2


@pytest.fixture
def make_model(make_baseline):
    return partial(make_baseline, "block_diffusion")


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "random", "confidence"])
def test_cached_and_uncached_generation_agree(
    make_model, prompts, row_generators, sampler, guidance_scale
):
    model = make_model()
    options = {"sampler": sampler, "guidance_scale": guidance_scale}
    ids, calls = model.generate_ids(prompts, 12, row_generators(5), **options)
    uncached, fewer = model.generate_ids(prompts, 12, row_generators(5), use_cache=False, **options)
    assert torch.equal(ids, uncached)
    assert calls == fewer + 3  # the source and two of the three blocks
    assert fewer <= 12
    assert len(set(map(tuple, ids.tolist()))) == 5


@pytest.mark.parametrize("block_length", [1, 4])
def test_cached_logits_are_those_of_one_pass(make_model, make_batch, block_length):
    model, batch = make_model(block_length=block_length), make_batch()
    noisy = batch.input_ids.masked_fill(torch.rand(batch.input_ids.shape) < 0.5, MASK)
    at_once = model.predict_logits(batch, noisy, batch.input_ids[:, :-block_length])
    reader = block_sampling.BlockReader(model, batch, 12)
    cached = []
    for start in range(0, 12, block_length):
        block = slice(start, start + block_length)
        cached.append(reader.logits(noisy[:, block]))
        assert torch.equal(cached[-1], reader.logits(noisy[:, block]))  # nothing noisy was kept
        reader.read(batch.input_ids[:, block])
    cached = torch.cat(cached, dim=1)
    possible = at_once.isfinite()
    assert torch.equal(cached.isfinite(), possible)
    assert (cached - at_once)[possible].abs().max() < 1e-4


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_a_row_is_the_same_alone_or_in_any_batch(
    make_model, prompts, row_generators, sampler, rows_of
):
    model = make_model()
    options = {"num_inference_steps": 8, "sampler": sampler}
    ids, _ = model.generate_ids(prompts, 12, row_generators(5), **options)
    for row in range(5):
        alone = rows_of(prompts, slice(row, row + 1))
        text, _ = model.generate_ids(alone, 12, row_generators(5)[row : row + 1], **options)
        assert torch.equal(text[0], ids[row])


def test_generation_stops_when_all_texts_have_ended(make_model, prompts):
    model = make_model(block_length=2)
    token_logits = model.token_logits

    def ending(hidden):
        logits = token_logits(hidden)
        logits[:, -1, END] = 1e3
        return logits

    model.token_logits = ending
    ids, calls = model.generate_ids(prompts, 12, None, sampler="first_hitting")
    assert ids.shape == (5, 12)
    assert (ids[:, 1] == END).all()
    assert (ids[:, 2:] == PAD).all()
    assert calls == 3  # the source and the two tokens of the first block


def test_guidance_leads_away_from_the_unconditional_prediction(make_model, prompts):
    model = make_model()
    reader = block_sampling.BlockReader(model, prompts, 12, guidance_scale=2.0)
    block = torch.full((5, 4), MASK)
    guided = reader.log_probs(block)
    cond = block_sampling.BlockReader(model, prompts, 12).log_probs(block)
    null = prompts.without_sources(torch.ones(5) > 0, END)
    uncond = block_sampling.BlockReader(model, null, 12).log_probs(block)
    expected = (2 * cond.exp().log() - uncond).nan_to_num(nan=-torch.inf).log_softmax(-1)
    assert torch.allclose(guided.exp(), expected.exp(), atol=1e-5)
    assert torch.allclose(guided[1], cond[1], atol=1e-5)  # a row without a source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 2}, "`num_inference_steps` must be at least the number of blocks"),
        ({"sampler": "euler"}, "`sampler` must be one of ancestral, .*, got 'euler'"),
        (
            {"sampler": "first_hitting", "num_inference_steps": 6},
            "`num_inference_steps` has no effect",
        ),
        ({"temperature": -1.0}, "`temperature` must be 0 or larger and finite, got -1.0"),
        ({"num_tokens": 10}, "`block_length` must divide the length of the texts, got 4"),
    ],
)
def test_options_out_of_range_are_refused(make_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        make_model().generate_ids(prompts, options.pop("num_tokens", 12), None, **options)
