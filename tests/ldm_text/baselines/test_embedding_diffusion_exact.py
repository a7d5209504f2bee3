"""Embedding diffusion with the exact model of single tokens: bound and samples follow their law."""

import math
from dataclasses import replace

import pytest
import torch

from ldm_text.baselines.embedding_diffusion import EmbeddingDiffusionModel
from tests.ldm_text.baselines.families import SIZES
from tests.ldm_text.baselines.markov_chain import chi_square_p_value


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


@pytest.fixture
def single_tokens(rows_of):
    def make(prompts, ids):
        rows = rows_of(prompts, torch.zeros(len(ids), dtype=torch.long))
        return replace(rows, input_ids=ids[:, None], attention_mask=ids[:, None] > 0)

    return make


def test_bound_of_the_exact_model_falls_to_the_likelihood_of_each_token(prompts, single_tokens):
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
def test_the_exact_model_generates_its_distribution(prompts, sampler, single_tokens):
    rows = single_tokens(prompts, torch.zeros(3000, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 250, "sampler": sampler}
    ids, calls = exact_model().generate_ids(rows, 1, generator, **options)
    assert calls == 250
    counts = torch.bincount(ids[:, 0], minlength=8)
    assert chi_square_p_value(counts, ExactModel.probs) > 1e-3


def test_few_steps_are_not_the_distribution(prompts, single_tokens):
    """So the test above can fail."""
    rows = single_tokens(prompts, torch.zeros(3000, dtype=torch.long))
    ids, _ = exact_model().generate_ids(rows, 1, torch.Generator().manual_seed(0), 2)
    counts = torch.bincount(ids[:, 0], minlength=8)
    assert chi_square_p_value(counts, ExactModel.probs) < 1e-6
