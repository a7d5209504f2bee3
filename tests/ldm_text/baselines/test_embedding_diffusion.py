"""Embedding diffusion: its network and its losses; see also test_embedding_sampling.py."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ldm_text.baselines.embedding_diffusion import EmbeddingDiffusionModel
from ldm_text.baselines.embedding_schedule import sqrt_alphas_cumprod

VOCAB_SIZE, MASK = 40, 2


@pytest.fixture
def make_model(make_baseline):
    return partial(make_baseline, "embedding_diffusion", embedding_dim=16)


# The network.


def test_all_embeddings_have_one_length(make_model):
    lengths = make_model().table().norm(dim=-1)
    assert torch.allclose(lengths, torch.full((VOCAB_SIZE,), 4.0))


@pytest.mark.parametrize("partial_noising", [False, True])
def test_every_parameter_is_trained(make_model, make_batch, partial_noising):
    options = {"partial_noising": partial_noising, "self_condition": True}
    model = make_model(**options, anchor_weight=1.0)
    model.loss(make_batch()).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("partial_noising", [False, True])
def test_the_source_is_not_noised(make_model, make_batch, monkeypatch, partial_noising):
    model, batch, sequences = make_model(partial_noising=partial_noising), make_batch(), []
    model.in_projection.register_forward_pre_hook(lambda _, inputs: sequences.append(inputs[0]))
    model.loss(batch)
    num_source = batch.source_ids.shape[1]
    assert torch.equal(sequences[0][:, :num_source], model.embed(batch.source_ids))
    noise = sequences[0][:, num_source:] - model.embed(batch.input_ids)
    assert (noise.std(dim=(1, 2)) > 0.1).all()
    model.generate_ids(batch, 12, None, num_inference_steps=2)
    for sequence in sequences[1:]:
        assert torch.equal(sequence[:, :num_source], model.embed(batch.source_ids))


def test_only_a_condition_has_a_segment_of_its_own(make_model):
    segments = [hasattr(make_model(partial_noising=p).network, "segment_embedding") for p in (0, 1)]
    assert segments == [True, False]


@pytest.mark.parametrize("partial_noising", [False, True])
def test_padding_of_the_source_changes_nothing(make_model, make_batch, partial_noising):
    model, batch = make_model(partial_noising=partial_noising, anchor_weight=1.0), make_batch()
    wide = torch.full((len(batch), 5), 7)
    padded = replace(
        batch,
        source_ids=torch.cat((wide, batch.source_ids), dim=1),
        source_mask=torch.cat((torch.zeros_like(wide, dtype=torch.bool), batch.source_mask), 1),
    )
    noisy, timesteps = torch.randn(8, 12, 16), torch.arange(8) * 200
    predicted = model.predict_embeddings(batch, noisy, timesteps)
    assert torch.allclose(model.predict_embeddings(padded, noisy, timesteps), predicted, atol=1e-5)
    other = replace(padded, source_ids=torch.cat((wide + 1, batch.source_ids), dim=1))
    losses = []
    for rows in (padded, other):
        torch.manual_seed(0)
        losses.append(model.loss(rows))
    assert torch.allclose(*losses, atol=1e-5)


def test_source_time_and_last_prediction_matter(make_model, make_batch):
    model, batch = make_model(self_condition=True), make_batch()
    noisy, timesteps = torch.randn(8, 12, 16), torch.full((8,), 700)
    predicted = model.predict_embeddings(batch, noisy, timesteps)
    sources = batch.source_ids.clone()
    sources[:, -2] = 3 + (sources[:, -2] + 1) % 30
    others = [
        model.predict_embeddings(replace(batch, source_ids=sources), noisy, timesteps)[1:-1],
        model.predict_embeddings(batch, noisy, timesteps - 300)[1:-1],
        model.predict_embeddings(batch, noisy, timesteps, torch.ones_like(noisy))[1:-1],
    ]
    assert not any(torch.allclose(other, predicted[1:-1], atol=1e-4) for other in others)


# Losses and the bound.


def test_a_fresh_model_rounds_at_random(make_model, make_batch):
    """Its prediction is the middle of all embeddings, from which all tokens but the mask are
    equally far: with the anchor that is the number of nats it adds to the loss."""
    batch = make_batch()
    losses = []
    for anchor_weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = make_model(active=False, anchor_weight=anchor_weight)
        losses.append(model.loss(batch))
    predicted = model.predict_embeddings(batch, torch.randn(8, 12, 16), torch.arange(8))
    rounding = model.rounding_losses(predicted, batch.input_ids)
    assert torch.allclose(rounding, torch.full((8, 12), math.log(VOCAB_SIZE - 1)))
    assert (losses[1] - losses[0]).item() == pytest.approx(math.log(VOCAB_SIZE - 1), rel=1e-5)


def test_bound_of_a_fresh_model_is_known(make_model, make_batch):
    """Its squared error is the squared length of the embeddings, at any timestep."""
    model = make_model(active=False, num_train_timesteps=50)
    batch = make_batch(num_rows=1000, length=3, source_length=2)
    alphas_cumprod = sqrt_alphas_cumprod(50)
    ratio = alphas_cumprod / (1 - alphas_cumprod)
    last = alphas_cumprod[-1]
    prior = (last * 16 - 16 * last - 16 * (-last).log1p()) / 2
    nats = math.log(VOCAB_SIZE - 1) + (ratio[0] - ratio[-1]) / 2 * 16 + prior
    bound = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0))
    assert bound.mean().item() == pytest.approx(3 * nats.item(), rel=2e-3)  # stratified


@pytest.mark.parametrize("partial_noising", [False, True])
def test_loss_of_partial_noising_covers_the_source(
    make_model, make_batch, monkeypatch, partial_noising
):
    model, batch, asked = make_model(partial_noising=partial_noising), make_batch(), []
    monkeypatch.setattr(
        model, "rounding_losses", lambda x, ids: asked.append(ids) or torch.zeros(ids.shape)
    )
    model.loss(batch)
    texts = (batch.source_ids, batch.input_ids) if partial_noising else (batch.input_ids,)
    assert torch.equal(asked[0], torch.cat(texts, dim=1))


def test_rounding_is_not_done_in_bfloat16(make_model, make_batch):
    model, batch = make_model(), make_batch()
    noisy = torch.randn(8, 12, 16)
    logits = model.rounding_logits(noisy)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.rounding_logits(noisy), logits)
        assert model.loss(batch).dtype == torch.float32
        assert model.negative_log_likelihood(batch).isfinite().all()


def test_a_saved_model_is_the_same(make_model, tmp_path, assert_same_model):
    model = make_model(partial_noising=True, self_condition=True)
    model.save_pretrained(tmp_path)
    assert_same_model(EmbeddingDiffusionModel.from_pretrained(tmp_path), model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_timesteps": 1}, "`num_train_timesteps` must be 2 or larger, got 1"),
        ({"anchor_weight": -1.0}, "`anchor_weight` must be 0 or larger, got -1.0"),
    ],
)
def test_models_that_make_no_sense_are_refused(make_model, options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


@pytest.mark.parametrize("options", [{}, {"partial_noising": True, "self_condition": True}])
def test_a_tiny_model_learns_its_sentences(make_model, make_batch, options, rows_of):
    model, batch = make_model(active=False, **options), make_batch(num_rows=4)
    four_of_each = rows_of(batch, torch.arange(4).repeat(4))  # with noise of their own
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(four_of_each).backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(0)
    ids, _ = model.generate_ids(batch, 12, generator, num_inference_steps=20)
    assert torch.equal(ids, batch.input_ids)


def test_loss_is_the_same_as_term_by_term(make_model, make_batch, monkeypatch, rows_of):
    """Squared error and rounding of the text, written out for one row after the other."""
    model, batch = make_model(anchor_weight=0.5), make_batch()
    torch.manual_seed(0)
    loss = model.loss(batch)
    torch.manual_seed(0)
    timesteps = model.training_timesteps(8, torch.device("cpu"))
    clean = model.embed(batch.input_ids)
    alphas_cumprod = sqrt_alphas_cumprod(2000).float()
    noise, other_noise = torch.randn_like(clean), torch.randn_like(clean)
    total = 0.0
    for row in range(8):
        share = alphas_cumprod[timesteps[row]]
        noisy = share.sqrt() * clean[row] + (1 - share).sqrt() * noise[row]
        predicted = model.predict_embeddings(
            rows_of(batch, slice(row, row + 1)), noisy[None], timesteps[row : row + 1]
        )[0]
        lowest = alphas_cumprod[0].sqrt() * clean[row]
        lowest = lowest + (1 - alphas_cumprod[0]).sqrt() * other_noise[row]
        for position in range(12):
            target = batch.input_ids[row, position]
            total += (predicted[position] - clean[row, position]).square().mean()
            for weight, embedding in ((1.0, lowest), (0.5, predicted)):
                logits = model.table() @ embedding[position]
                logits[MASK] = -torch.inf
                total += weight * F.cross_entropy(logits, target)
    assert loss.item() == pytest.approx(total.item() / 96, rel=1e-4)
