"""Block diffusion with the exact model of a Markov chain: bound and samples follow its law."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm_text.baselines.block_diffusion import BlockDiffusionModel
from tests.ldm_text.baselines.families import SIZES
from tests.ldm_text.baselines.markov_chain import MarkovChain, chi_square_p_value

MASK = 2
CHAIN = MarkovChain(num_tokens=4)


class ExactModel(BlockDiffusionModel):
    """Know the distribution of each token of a Markov chain given what is visible."""

    def predict_logits(self, batch, noisy_ids, clean_ids, start=0):
        logits = []
        length = self.config.block_length
        for first in range(0, noisy_ids.shape[1], length):
            seen = torch.full((len(noisy_ids), 4), MASK)
            end = start + first
            seen[:, :end] = clean_ids[:, :end]
            seen[:, end : end + length] = noisy_ids[:, first : first + length]
            posterior = CHAIN.masked_posterior(seen)[:, end : end + length]
            logits.append(F.pad(posterior, (0, 2)).log().float())
        return torch.cat(logits, dim=1)


@pytest.fixture
def make_exact_model():
    """Make a model of the chain; no token of it is taken for the end or for padding."""

    def make(block_length):
        ids = {"pad_token_id": 4, "end_token_id": 5}
        return ExactModel(**SIZES | {"vocab_size": 6}, **ids, block_length=block_length)

    return make


@pytest.mark.parametrize("block_length", [1, 2, 4])
def test_bound_of_the_exact_model_is_the_likelihood_of_each_text(
    make_exact_model, prompts, block_length, same_source
):
    model, num_draws = make_exact_model(block_length), 400
    texts = CHAIN.texts[::9]
    batch = same_source(
        prompts, texts.repeat(num_draws, 1), torch.ones(len(texts) * num_draws, 4) > 0
    )
    nats = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0))
    nats = nats.view(num_draws, -1)
    error = nats.std(dim=0) / math.sqrt(num_draws) + 1e-5
    assert torch.all((nats.mean(dim=0) + CHAIN.probs[::9].log()).abs() < 4 * error)


@pytest.mark.parametrize(
    ("block_length", "sampler", "num_steps"),
    [
        (1, "ancestral", 4),
        (2, "first_hitting", None),
        (4, "first_hitting", None),
        (2, "ancestral", 100),
    ],
)
def test_the_exact_model_generates_its_distribution(
    make_exact_model, prompts, block_length, sampler, num_steps, same_source
):
    model = make_exact_model(block_length)
    rows = same_source(prompts, torch.zeros(2000, 0, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    options = {"sampler": sampler, "use_cache": False}
    ids, _ = model.generate_ids(rows, 4, generator, num_steps, **options)
    assert chi_square_p_value(CHAIN.counts(ids), CHAIN.probs) > 1e-3


def test_two_tokens_at_once_are_not_the_distribution(make_exact_model, prompts, same_source):
    """So the test above can fail: one step a block takes its tokens as independent."""
    rows = same_source(prompts, torch.zeros(2000, 0, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    ids, _ = make_exact_model(4).generate_ids(rows, 4, generator, 1, use_cache=False)
    assert chi_square_p_value(CHAIN.counts(ids), CHAIN.probs) < 1e-3
