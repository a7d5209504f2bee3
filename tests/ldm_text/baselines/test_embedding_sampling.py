"""How embedding diffusion generates: rows of their own, clamping and guidance."""

from functools import partial

import pytest
import torch

from ldm_text.baselines.embedding_sampling import guided_embeddings

VOCAB_SIZE, END, MASK = 40, 1, 2


@pytest.fixture
def make_model(make_baseline):
    return partial(make_baseline, "embedding_diffusion", embedding_dim=16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "ddim"},
        {"clamp_start": 0.5},
        {"guidance_scale": 2.0},
    ],
)
@pytest.mark.parametrize("self_condition", [False, True])
def test_a_row_is_the_same_alone_or_in_any_batch(
    make_model, prompts, row_generators, options, self_condition, rows_of
):
    model = make_model(self_condition=self_condition)
    ids, _ = model.generate_ids(prompts, 12, row_generators(5), 8, **options)
    assert len(set(map(tuple, ids.tolist()))) == 5
    for row in range(5):
        alone = rows_of(prompts, slice(row, row + 1))
        text, calls = model.generate_ids(alone, 12, row_generators(5)[row : row + 1], 8, **options)
        assert torch.equal(text[0], ids[row])
        assert calls == 8


def test_the_mask_token_is_never_written(make_model, prompts):
    model = make_model()
    with torch.no_grad():
        model.out_projection.weight.zero_()
        model.out_projection.bias.copy_(model.table()[MASK])
    ids, _ = model.generate_ids(prompts, 12, None, num_inference_steps=2)
    assert (ids != MASK).all()


def test_clamped_predictions_are_embeddings(make_model, prompts, monkeypatch):
    model, seen = make_model(self_condition=True), []
    predict = model.predict_embeddings

    def recorded(batch, noisy, timesteps, self_condition):
        seen.append(self_condition)
        return predict(batch, noisy, timesteps, self_condition)

    monkeypatch.setattr(model, "predict_embeddings", recorded)
    model.generate_ids(prompts, 12, None, num_inference_steps=6, clamp_start=0.5)
    assert seen[0] is None
    is_embedding = [torch.equal(model.embed(model.nearest_ids(known)), known) for known in seen[1:]]
    assert is_embedding == [False, False, False, True, True]
    nearest = torch.cdist(seen[1], model.table()[torch.arange(VOCAB_SIZE) != MASK]).min(-1).values
    moved = (model.embed(model.nearest_ids(seen[1])) - seen[1]).norm(dim=-1)
    assert torch.allclose(moved, nearest, atol=1e-4)


def test_guidance_leads_away_from_the_unconditional_prediction(make_model, prompts):
    model = make_model()
    noisy, timesteps = torch.randn(5, 12, 16), torch.full((5,), 900)
    cond = model.predict_embeddings(prompts, noisy, timesteps)
    null = prompts.without_sources(torch.ones(5) > 0, END)
    uncond = model.predict_embeddings(null, noisy, timesteps)
    guided = guided_embeddings(model, prompts, noisy, timesteps, None, 3.0)
    assert torch.allclose(guided, 3 * cond - 2 * uncond, atol=1e-4)
    assert torch.allclose(guided[1], cond[1], atol=1e-4)  # a row without a source
    assert not torch.allclose(guided[0], cond[0], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "`sampler` must be one of ddpm, ddim, got 'euler'"),
        ({"clamp_start": 1.5}, "`clamp_start` must be between 0 and 1, got 1.5"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be between 1 and 1000, got 0"),
        ({"num_inference_steps": 30}, "must be at most the number of timesteps .*, 20, got 30"),
    ],
)
def test_options_out_of_range_are_refused(make_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        make_model(num_train_timesteps=20).generate_ids(prompts, 4, None, **options)
