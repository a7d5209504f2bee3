"""Uniform diffusion in training, and what its sampler draws; see also test_uniform_bound.py."""

import math

import pytest
import torch

from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.uniform import UniformDiffusionModel
from tests.ldm_text.baselines.families import TINY
from tests.ldm_text.baselines.markov_chain import MarkovChain, chi_square_p_value

VOCAB_SIZE, MASK = 40, 2
TOY = {"vocab_size": VOCAB_SIZE, "hidden_dim": 32, "num_layers": 2, "num_heads": 2}


class OracleModel(UniformDiffusionModel):
    """Predicts the exact posteriors of a chain; ``sees_itself`` makes them denoising ones."""

    chain: MarkovChain
    sees_itself: bool

    def predict_logits(self, batch, noisy_ids, t):
        level = self.noise_level(t)
        is_same = torch.nn.functional.one_hot(noisy_ids, self.chain.vocab_size)
        likelihood = level.kept[..., None] * is_same + level.floor[..., None]
        posterior = self.chain.posterior(likelihood)
        if not self.sees_itself:
            posterior = posterior / likelihood
            posterior = posterior / posterior.sum(dim=-1, keepdim=True)
        return posterior.log().float()


@pytest.fixture
def make_model(activate):
    def make(active=True, **options):
        model = UniformDiffusionModel(**TOY | options).eval()
        return activate(model) if active else model

    return make


def make_oracle(chain, sees_itself, **options):
    model = OracleModel(**TINY | {"vocab_size": chain.vocab_size} | options).eval()
    model.chain, model.sees_itself = chain, sees_itself
    return model


@pytest.mark.parametrize("num_train_steps", [4, None])
@pytest.mark.parametrize("posterior", ["leave_one_out", "denoising"])
def test_losses_and_gradients_are_finite_at_both_ends(
    make_model, num_train_steps, posterior, text_batch
):
    """The predictions are sure of themselves: most of their probabilities are 0 in float32."""
    model = make_model(num_train_steps=num_train_steps, posterior=posterior)
    model.network.head.weight.data.mul_(300)
    ids = torch.randint(3, VOCAB_SIZE, (4, 12))
    t = model.model_times(torch.tensor([0.0, 1e-7, 1 - 1e-7, 1.0]))
    densities = model.densities(text_batch(ids), model.add_noise(ids, t), t)
    assert densities.isfinite().all()
    assert (densities >= -1e-5).all()
    densities.mean().backward()
    assert all(
        weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None
    )


@pytest.mark.parametrize(
    ("sees_itself", "posterior", "num_train_steps"),
    [(False, "leave_one_out", None), (True, "denoising", 1000)],
)
def test_many_steps_draw_from_the_truth_and_one_step_from_its_marginals(
    sees_itself, posterior, num_train_steps, text_batch
):
    chain, num_rows = MarkovChain(2, 5, MASK), 6000
    marginals = [torch.zeros(5).double().index_add(0, ids, chain.probs) for ids in chain.texts.T]
    independent = marginals[0][chain.texts[:, 0]] * marginals[1][chain.texts[:, 1]]
    model = make_oracle(chain, sees_itself, posterior=posterior, num_train_steps=num_train_steps)
    batch = text_batch(torch.zeros(num_rows, 2, dtype=torch.long))
    p_values = {}
    for num_steps in (1, 60):
        generator = torch.Generator().manual_seed(0)
        ids, calls = model.generate_ids(batch, 2, generator, num_inference_steps=num_steps)
        assert calls == num_steps
        counts = chain.counts(ids)
        p_values[num_steps] = [chi_square_p_value(counts, p) for p in (chain.probs, independent)]
    assert p_values[60][0] > 0.001
    assert p_values[60][1] < 1e-6
    assert p_values[1][0] < 1e-6
    assert p_values[1][1] > 0.001


def test_a_denoising_posterior_plugged_in_draws_from_something_else(text_batch):
    """The evidence of each token counts twice, so likely texts become too likely."""
    chain = MarkovChain(2, 5, MASK)
    model = make_oracle(chain, True, posterior="leave_one_out", num_train_steps=None)
    batch = text_batch(torch.zeros(6000, 2, dtype=torch.long))
    ids, _ = model.generate_ids(batch, 2, torch.Generator().manual_seed(0), 60)
    assert chi_square_p_value(chain.counts(ids), chain.probs) < 1e-6


def test_noise_is_uniform_and_never_the_mask(make_model):
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    ids = model.random_ids((200, 100), generator, torch.device("cpu"))
    counts = torch.bincount(ids.flatten(), minlength=VOCAB_SIZE)
    assert counts[MASK] == 0
    probs = torch.full((VOCAB_SIZE,), 1 / (VOCAB_SIZE - 1)).double()
    probs[MASK] = 0
    assert chi_square_p_value(counts, probs) > 0.001
    clean = torch.full((1000, 20), 7)
    for schedule, kept in (("linear", 0.75), ("cosine", math.cos(math.pi / 8))):
        model = make_model(noise_schedule=schedule)
        noisy = model.add_noise(clean, torch.full((1000,), 0.25), generator)
        assert (noisy == 7).double().mean() == pytest.approx(kept + (1 - kept) / 39, abs=0.01)
        assert not (noisy == MASK).any()


def test_no_text_of_the_sampler_holds_the_mask(make_model, prompts, monkeypatch):
    model, seen = make_model(), []
    predict = model.predict_logits
    monkeypatch.setattr(
        model, "predict_logits", lambda *inputs: seen.append(inputs[1]) or predict(*inputs)
    )
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        seen.append(model.generate_ids(prompts, 12, generator, num_inference_steps=3)[0])
    assert len(seen) == 80
    assert not (torch.stack(seen) == MASK).any()


def test_bad_settings_are_refused(make_model):
    with pytest.raises(ValueError, match="`num_train_steps` must be at least 1, or None, got 0"):
        make_model(num_train_steps=0)


@pytest.mark.parametrize("num_train_steps", [1000, None])
def test_a_tiny_model_learns_its_sentences(make_model, make_batch, num_train_steps):
    model = make_model(active=False, num_train_steps=num_train_steps)
    batch = make_batch(2, 6, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    many = TokenBatch(*(value.repeat(16, 1) for value in vars(batch).values()))
    before = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0), 16).mean()
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(many).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    after = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0), 16).mean()
    assert after < 0.8 * before
