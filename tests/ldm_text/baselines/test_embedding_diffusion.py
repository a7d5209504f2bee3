import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ldm_text.baselines.embedding_diffusion import EmbeddingDiffusionModel
from ldm_text.baselines.embedding_sampling import (
    guided_embeddings,
    make_scheduler,
    spaced_timesteps,
)
from ldm_text.baselines.embedding_schedule import (
    add_noise,
    sqrt_alphas_cumprod,
    weighted_timesteps,
)
from ldm_text.baselines.sequences import TokenBatch
from tests.ldm_text.baselines.markov_chain import chi_square_p_value

VOCAB_SIZE, PAD, END, MASK = 40, 0, 1, 2
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "embedding_dim": 16,
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
}


@pytest.fixture
def make_model(activate):
    def make(active=True, **options):
        model = EmbeddingDiffusionModel(**SIZES | options).eval()
        return activate(model) if active else model

    return make


def rows_of(batch, rows):
    return TokenBatch(*(getattr(batch, name)[rows] for name in vars(batch)))


# The schedule.


def test_noise_follows_the_square_root():
    """At the middle of the way the share of noise is that of the paper's formula."""
    alphas_cumprod = sqrt_alphas_cumprod(2000)
    t = torch.arange(1, 2001, dtype=torch.float64) / 2000
    closed = (1 - (t + 1e-4).sqrt()) / (1 - 0.01)
    assert torch.allclose(alphas_cumprod[:-1], closed[:-1], rtol=1e-9)
    assert 0 < alphas_cumprod[-1] < 1e-5  # where the formula falls below 0
    assert (alphas_cumprod.diff() < 0).all()
    assert (1 - alphas_cumprod[0]).sqrt().item() == pytest.approx(0.121, abs=1e-3)


@pytest.mark.parametrize("timestep", [0, 50, 99])
def test_noising_has_the_variance_of_the_schedule(timestep):
    alphas_cumprod = sqrt_alphas_cumprod(100)
    share = alphas_cumprod[timestep].expand(4)
    clean = torch.tensor([-2.0, -0.5, 0.5, 3.0])[:, None, None].expand(4, 100, 400)
    noisy = add_noise(clean, torch.randn_like(clean), share)
    # 40,000 numbers: standard errors of 0.5 % in the mean and 0.7 % in the variance.
    mean = alphas_cumprod[timestep].sqrt().float() * clean[:, 0, 0]
    assert torch.allclose(noisy.mean(dim=(1, 2)), mean, atol=0.02)
    variance = (1 - alphas_cumprod[timestep]).float()
    assert torch.allclose(noisy.var(dim=(1, 2)), variance.expand(4), rtol=0.03)


def test_all_divergences_have_their_weight():
    """Drawn evenly, the mean of any error times its weight is the sum over all steps."""
    alphas_cumprod = sqrt_alphas_cumprod(5)
    ratio = alphas_cumprod / (1 - alphas_cumprod)
    share = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    timesteps, weights = weighted_timesteps(alphas_cumprod, share)
    for error in torch.eye(5, dtype=torch.float64)[1:]:
        step = int(error.argmax())
        expected = (ratio[step - 1] - ratio[step]).item() / 2
        assert (weights * error[timesteps]).mean().item() == pytest.approx(expected, rel=1e-3)
    assert timesteps.min() == 1


def test_draws_of_the_best_linear_prediction_are_nearly_equal():
    """Its error for embeddings of unit variance is the variance of noise: so the noise of the
    estimate is that of the error alone."""
    alphas_cumprod = sqrt_alphas_cumprod(2000)
    share = torch.rand(10_000, dtype=torch.float64)
    timesteps, weights = weighted_timesteps(alphas_cumprod, share)
    draws = weights * (1 - alphas_cumprod[timesteps])
    assert draws.std() / draws.mean() < 0.1


@pytest.mark.parametrize(("num_train", "num_steps"), [(2000, 2000), (2000, 30), (7, 3), (5, 1)])
def test_steps_start_at_the_noisiest_timestep_and_are_even(num_train, num_steps):
    timesteps = spaced_timesteps(num_train, num_steps)
    assert len(timesteps) == num_steps
    assert timesteps[-1] == num_train - 1
    assert torch.all((timesteps.diff() - num_train / num_steps).abs() < 1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_of_the_scheduler_keep_the_marginals(eta):
    """With the clean embeddings known, a step leads from one share of signal to the next, also
    where the number of steps does not divide that of the timesteps."""
    alphas_cumprod = sqrt_alphas_cumprod(2000)[spaced_timesteps(2000, 30)]
    scheduler = make_scheduler(alphas_cumprod)
    clean = torch.full((20_000,), 1.5)
    noisy = torch.randn(20_000)
    for index in scheduler.timesteps[:-1]:
        noisy = scheduler.step(clean, index, noisy, eta=eta, return_dict=False)[0]
        share = alphas_cumprod[index - 1]
        assert noisy.mean().item() == pytest.approx(1.5 * share.sqrt().item(), abs=0.03)
        assert noisy.var().item() == pytest.approx(1 - share.item(), rel=0.05)
    last = scheduler.step(clean, scheduler.timesteps[-1], noisy, eta=eta, return_dict=False)[0]
    assert torch.allclose(last, clean, atol=1e-6)


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


class ExactModel(EmbeddingDiffusionModel):
    """Predict the posterior mean of texts of one token whose distribution is known."""

    probs = torch.tensor([0.0, 0.0, 0.0, 0.4, 0.3, 0.2, 0.07, 0.03], dtype=torch.float64)

    def table(self):
        """Return orthogonal embeddings, of length 4 instead of ``sqrt(8)``: none is ambiguous."""
        return 4 * torch.eye(8)

    def predict_embeddings(self, batch, noisy, timesteps, self_condition=None):
        share = self.alphas_cumprod(noisy.device)[timesteps][:, None, None, None]
        distance = (noisy[:, :, None].double() - share.sqrt() * self.table()).square().sum(-1)
        posterior = (self.probs.log() - distance / (2 * (1 - share[..., 0]))).softmax(dim=-1)
        return (posterior @ self.table().double()).float()


def exact_model(num_train_timesteps=2000):
    sizes = SIZES | {"vocab_size": 8, "embedding_dim": 8}
    return ExactModel(**sizes, num_train_timesteps=num_train_timesteps)


def single_tokens(prompts, ids):
    rows = rows_of(prompts, torch.zeros(len(ids), dtype=torch.long))
    return replace(rows, input_ids=ids[:, None], attention_mask=ids[:, None] > 0)


def test_bound_of_the_exact_model_falls_to_the_likelihood_of_each_token(prompts):
    """With more timesteps; over the data it never falls below the entropy."""
    tokens, num_draws, probs = torch.arange(3, 8), 16_000, ExactModel.probs[3:]
    batch = single_tokens(prompts, tokens.repeat(num_draws))
    gaps = []
    for num_timesteps in (10, 30, 2000):
        model = exact_model(num_timesteps)
        nats = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0))
        gap = nats.view(num_draws, 5).double() + probs.log()
        error = gap.std(dim=0) / math.sqrt(num_draws)
        assert (error < 0.15).all()
        gaps.append((probs * gap.mean(dim=0)).sum())
        assert gaps[-1] > -4 * (probs * error).square().sum().sqrt()
    assert gaps[0] > gaps[1] + 0.1
    assert gaps[1] > gaps[2] + 0.05
    assert torch.all(gap.mean(dim=0).abs() < 4 * error + 0.01)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_exact_model_generates_its_distribution(prompts, sampler):
    rows = single_tokens(prompts, torch.zeros(3000, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 250, "sampler": sampler}
    ids, calls = exact_model().generate_ids(rows, 1, generator, **options)
    assert calls == 250
    counts = torch.bincount(ids[:, 0], minlength=8)
    assert chi_square_p_value(counts, ExactModel.probs) > 1e-3


def test_few_steps_are_not_the_distribution(prompts):
    """So the test above can fail."""
    rows = single_tokens(prompts, torch.zeros(3000, dtype=torch.long))
    ids, _ = exact_model().generate_ids(rows, 1, torch.Generator().manual_seed(0), 2)
    counts = torch.bincount(ids[:, 0], minlength=8)
    assert chi_square_p_value(counts, ExactModel.probs) < 1e-6


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


# Generation.


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
    make_model, prompts, row_generators, options, self_condition
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
def test_a_tiny_model_learns_its_sentences(make_model, make_batch, options):
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


def test_loss_is_the_same_as_term_by_term(make_model, make_batch, monkeypatch):
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
