import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from ldm_text.baselines.masked import MaskedDiffusionModel, standard_error, stratified_counts
from ldm_text.baselines.masked_samplers import SAMPLERS
from ldm_text.baselines.sequences import TokenBatch, prompt_batch
from tests.ldm_text.baselines.markov_chain import MarkovChain, chi_square_p_value

VOCAB_SIZE, PAD, END, MASK = 40, 0, 1, 2
TOY = {"vocab_size": VOCAB_SIZE, "hidden_dim": 32, "num_layers": 2, "num_heads": 2}
CPU = torch.device("cpu")


class OracleModel(MaskedDiffusionModel):
    """A masked model that predicts the exact conditionals of a chain."""

    chain: MarkovChain

    def predict_logits(self, batch, noisy_ids, t):
        return self.chain.masked_posterior(noisy_ids, MASK).log().float()


@pytest.fixture
def make_model(activate):
    def make(active=True, **options):
        model = MaskedDiffusionModel(**TOY | options).eval()
        return activate(model) if active else model

    return make


def make_oracle(num_tokens=3, **options):
    model = OracleModel(vocab_size=4, hidden_dim=16, num_layers=1, num_heads=2, **options).eval()
    model.chain = MarkovChain(num_tokens, 4, MASK)
    return model


def text_batch(ids):
    """Texts without a source."""
    start = torch.full_like(ids[:, :1], END)
    return TokenBatch(start, start.bool(), ids, torch.ones_like(ids, dtype=torch.bool))


def weighted_losses(model, batch, weight_of):
    """Sum the losses over all sets of masked tokens, weighted by their number ``l`` of ``S``."""
    num_tokens, total = batch.input_ids.shape[1], 0
    for mask in product([False, True], repeat=num_tokens):
        if sum(mask):
            is_masked = torch.tensor(mask).expand(len(batch), -1)
            losses = model.masked_losses(batch, is_masked).double().sum(dim=1)
            total = total + weight_of(sum(mask), num_tokens) * losses
    return total


def beta(a, b):
    return math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))


WEIGHTS = {
    # A fixed count, uniform in 1 to S, of weight S / l; each set of that size alike.
    "fixed count": lambda count, size: 1 / size * (size / count) / math.comb(size, count),
    # The integral of t^l (1 - t)^(S - l) / t over t: masks drawn at time t, of weight 1 / t.
    "1/t": lambda count, size: beta(count, size - count + 1),
}


@pytest.mark.parametrize("weight_of", WEIGHTS.values(), ids=WEIGHTS)
def test_bound_of_an_oracle_is_the_likelihood_of_each_text(weight_of):
    model = make_oracle()
    bound = weighted_losses(model, text_batch(model.chain.texts), weight_of)
    assert torch.allclose(bound, -model.chain.probs.log(), atol=1e-6)


def test_loss_without_weight_lies_below_the_entropy():
    """The integral of t^l (1 - t)^(S - l): tempting as a perplexity, and no bound at all."""
    model = make_oracle()
    losses = weighted_losses(
        model, text_batch(model.chain.texts), lambda count, size: beta(count + 1, size - count + 1)
    )
    assert (model.chain.probs * losses).sum() < 0.6 * model.chain.entropy()


def test_uniform_weight_changes_the_loss_and_never_the_bound():
    texts = make_oracle().chain.sample(64)
    nats, losses = [], []
    for weight in ("bound", "uniform"):
        model = make_oracle(weight=weight)
        generator = torch.Generator().manual_seed(0)
        nats.append(model.negative_log_likelihood(text_batch(texts), generator, num_draws=2))
        torch.manual_seed(0)
        losses.append(model.loss(text_batch(texts)).item())
    assert torch.equal(*nats)
    assert losses[0] != losses[1]


def test_estimates_of_the_bound_have_the_likelihood_as_their_mean():
    """For each text there is, 2000 estimates agree with the exact value within their error."""
    model = make_oracle()
    texts = text_batch(model.chain.texts)
    for num_draws, num_repeats in [(1, 2000), (4, 500)]:
        many = text_batch(texts.input_ids.repeat_interleave(num_repeats, dim=0))
        nats = model.negative_log_likelihood(many, torch.Generator().manual_seed(0), num_draws)
        nats = nats.view(-1, num_repeats).double()
        error = nats.std(dim=1) / num_repeats**0.5
        assert ((nats.mean(dim=1) + model.chain.probs.log()).abs() < 4.5 * error + 1e-5).all()
        assert error.max() < 0.05


def test_loss_has_the_likelihood_per_position_as_its_mean():
    model = make_oracle()
    texts = text_batch(model.chain.sample(20000))
    exact = -model.chain.probs.log()[model.chain.numbers(texts.input_ids)].mean().item() / 3
    losses = torch.stack([model.loss(texts) for _ in range(10)])
    assert losses.mean().item() == pytest.approx(exact, abs=4 * losses.std().item() / 10**0.5)
    assert losses.std() < 0.02


def test_standard_error_is_that_of_the_mean():
    model = make_oracle(num_tokens=6)
    text = text_batch(model.chain.texts[123].expand(1000, -1))
    draws = model.likelihood_draws(text, num_draws=6)
    true_error = draws.mean(dim=1).std().item()
    estimate = standard_error(draws).square().mean().sqrt().item()
    assert 0.93 < estimate / true_error < 1.2  # 1000 rows know both to 3 %


@pytest.mark.parametrize("num_draws", [1, 4])
def test_counts_are_spread_over_rows_and_draws(num_draws):
    num_rows = 12 // num_draws
    counts = stratified_counts(num_rows, num_draws, 12, None, CPU)
    assert sorted(counts.flatten().tolist()) == list(range(1, 13))
    assert torch.equal((counts - 1) // (12 // num_draws), torch.arange(num_draws).expand_as(counts))


def test_each_count_of_a_row_is_uniform():
    counts = torch.cat([stratified_counts(3, 2, 5, None, CPU)[0] for _ in range(2000)])
    assert chi_square_p_value(torch.bincount(counts, minlength=6)[1:], torch.full((5,), 0.2)) > 1e-3


def test_a_fresh_model_knows_nothing(make_model, make_batch):
    """It predicts all tokens but the mask alike, so each count of masks has the same estimate."""
    model, batch = make_model(active=False, weight="uniform"), make_batch()
    nats = model.likelihood_draws(batch, num_draws=5)
    assert torch.allclose(nats, torch.tensor(12 * math.log(VOCAB_SIZE - 1)), rtol=1e-6)
    assert model.loss(batch).item() == pytest.approx(math.log(VOCAB_SIZE - 1), rel=1e-6)


def test_loss_of_a_fresh_model_is_that_of_a_guess(make_model, make_batch):
    model, batch = make_model(active=False, hidden_dim=8, num_layers=1), make_batch(2048)
    # The number of masked tokens alone makes 2 % of noise.
    assert model.loss(batch).item() == pytest.approx(math.log(VOCAB_SIZE - 1), rel=0.08)


def test_visible_tokens_cost_nothing_and_masked_ones_are_not_seen(make_model, make_batch):
    model, batch = make_model(), make_batch()
    is_masked = torch.rand(batch.input_ids.shape) < 0.5
    losses = model.masked_losses(batch, is_masked)
    assert (losses[~is_masked] == 0).all()
    assert (losses[is_masked] > 0).all()
    noisy_ids = batch.input_ids.masked_fill(is_masked, MASK)
    log_probs = model.predict_logits(batch, noisy_ids, None).log_softmax(dim=-1)
    expected = -log_probs.gather(-1, batch.input_ids[..., None])[..., 0]
    assert torch.allclose(losses[is_masked], expected[is_masked], atol=1e-5)


def test_padding_is_a_token_like_any_other(make_model, make_batch):
    model, batch = make_model(), make_batch()
    losses = model.masked_losses(batch, torch.ones_like(batch.attention_mask))
    assert (losses[batch.input_ids == PAD] > 0).all()
    everything = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))
    nats = [
        model.negative_log_likelihood(rows, torch.Generator().manual_seed(0))
        for rows in (batch, everything)
    ]
    assert torch.equal(*nats)


def test_gradients_are_finite_under_autocast(make_model, make_batch):
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(make_batch())
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    loss.backward()
    gradients = [weight.grad for weight in model.parameters()]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


def test_rows_and_seeds_decide_the_estimate(make_model, make_batch):
    model, batch = make_model(), make_batch()
    first, again, other = (
        model.negative_log_likelihood(batch, torch.Generator().manual_seed(seed), num_draws=3)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.shape == (8,)
    assert first.dtype == torch.float32


def sampling_options(name):
    own = {
        "confidence": {"block_length": 6},
        "remdm_cap": {"eta": 0.3},
        "remdm_rescale": {"eta": 0.3},
    }
    return {"sampler": name, "num_inference_steps": 12} | own.get(name, {})


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_is_the_same_alone_or_in_any_batch(make_model, row_generators, name):
    model = make_model()
    rows = [[5, 6, 7, 8, END], [], [9, END], [END], [20, 21, 22, END], [3, END], [], [30, 31, END]]
    options = sampling_options(name) | {"guidance_scale": 1.5, "temperature": 0.8}
    ids, _ = model.generate_ids(prompt_batch(rows, END, CPU), 12, row_generators(8), **options)
    assert not (ids == MASK).any()
    assert len(set(map(tuple, ids.tolist()))) == 8
    for row, generator in enumerate(row_generators(8)):
        alone = prompt_batch(rows[row : row + 1], END, CPU)
        text, _ = model.generate_ids(alone, 12, [generator], **options)
        assert torch.equal(text[0], ids[row])


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_doubles_the_batch_and_is_free_at_scale_one(make_model, prompts, name):
    model, sizes = make_model(), []
    model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for scale, size in [(1.0, 5), (2.0, 10)]:
        sizes.clear()
        _, num_calls = model.generate_ids(
            prompts, 12, None, guidance_scale=scale, **sampling_options(name)
        )
        assert sizes == [size] * num_calls
        assert num_calls <= 12


def test_guidance_extrapolates_log_probabilities(make_model, make_batch):
    model, batch = make_model(), make_batch()
    noisy_ids = batch.input_ids.masked_fill(torch.rand(batch.input_ids.shape) < 0.5, MASK)
    null = batch.without_sources(torch.ones(8, dtype=torch.bool), END)
    cond, uncond = (
        model.predict_logits(rows, noisy_ids, None).log_softmax(dim=-1) for rows in (batch, null)
    )
    assert not torch.allclose(cond, uncond)
    for scale, expected in [(0.0, uncond), (1.0, cond), (3.0, 3 * cond - 2 * uncond)]:
        guided = model.guided_log_probs(batch, noisy_ids, None, scale)
        assert (guided[..., MASK] == -torch.inf).all()
        real = torch.arange(VOCAB_SIZE) != MASK
        expected = expected[..., real].log_softmax(dim=-1)
        assert torch.allclose(guided[..., real], expected, atol=1e-4)


def test_an_oracle_generates_its_chain():
    model = make_oracle()
    sources = prompt_batch([[]] * 8192, END, CPU)
    generator = torch.Generator().manual_seed(0)
    ids, num_calls = model.generate_ids(sources, 3, generator, sampler="first_hitting")
    assert num_calls == 3
    assert chi_square_p_value(model.chain.counts(ids), model.chain.probs) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.1}, "`eta` has no effect with the sampler 'ancestral'"),
        ({"sampler": "gibbs"}, "`sampler` must be one of ancestral"),
        ({"temperature": -1.0}, "`temperature` must be 0 or larger and finite, got -1.0"),
        ({"top_p": 0.0}, "`top_p` must be larger than 0 and at most 1, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(make_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        make_model().generate_ids(prompts, 4, None, **options)


def test_settings_out_of_range_are_refused(make_model, make_batch):
    with pytest.raises(ValueError, match="`weight` must be 'bound' or 'uniform', got 'elbo'"):
        make_model(weight="elbo")
    with pytest.raises(ValueError, match="`num_draws` must be 1 or larger, got 0"):
        make_model().likelihood_draws(make_batch(), 0)
    with pytest.raises(ValueError, match=r"`draws` must hold an even number .*, got 3"):
        standard_error(torch.zeros(2, 3))


def test_a_tiny_model_learns_its_sentences(make_model, make_batch):
    model, batch = make_model(active=False), make_batch(num_rows=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # Each row eight times: a text must be seen with few and with many masks.
    rows = TokenBatch(*(getattr(batch, name).repeat(8, 1) for name in vars(batch)))
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for name in ("ancestral", "confidence"):
        ids, _ = model.generate_ids(batch, 12, None, sampler=name, temperature=0)
        assert torch.equal(ids, batch.input_ids)
    assert model.negative_log_likelihood(batch, num_draws=8).mean() < 4


def test_saved_model_is_the_same(make_model, tmp_path, assert_same_model):
    model = make_model(weight="uniform")
    model.save_pretrained(tmp_path)
    assert_same_model(MaskedDiffusionModel.from_pretrained(tmp_path), model)
