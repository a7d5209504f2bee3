"""The bound of uniform diffusion with posteriors that are known, and the formulas it stands on."""

import math

import pytest
import torch

from ldm_text.baselines.uniform import UniformDiffusionModel
from ldm_text.baselines.uniform_noise import (
    denoising_to_leave_one_out,
    leave_one_out_to_denoising,
    noise_level,
    previous_probs,
)
from tests.ldm_text.baselines.families import TINY

MASK = 2
STATES = torch.tensor([0, 1, 3, 4, 5])
PROBS = torch.tensor([0.45, 0.25, 0, 0.15, 0.10, 0.05])  # of golden_checks.py, none for the mask
CLEAN = 4  # has the probability 0.1


class GoldenModel(UniformDiffusionModel):
    """Knows the one token of golden_checks.py, or takes it for equally distributed."""

    sees_itself: bool

    def predict_logits(self, batch, noisy_ids, t):
        logits = PROBS.log().expand(*noisy_ids.shape, 6)
        if not self.sees_itself:
            return logits
        return leave_one_out_to_denoising(logits, noisy_ids, self.noise_level(t))


def make_golden(sees_itself, **options):
    model = GoldenModel(**TINY | options).eval()
    model.sees_itself = sees_itself
    return model


@pytest.fixture
def exact_bound(text_batch):
    """Sum the bound of the text that is the one token ``CLEAN`` over all noise."""

    @torch.no_grad()
    def total(model, num_times=20_000):
        num_steps = model.config.num_train_steps
        if num_steps is None:
            t = (torch.arange(num_times).double() + 0.5) / num_times
        else:
            t = torch.arange(1, num_steps + 1).double() / num_steps
        noisy_ids, t = STATES.repeat(len(t))[:, None], t.repeat_interleave(len(STATES))
        level = model.noise_level(t)
        chance = level.kept * (noisy_ids == CLEAN) + level.floor
        densities = model.densities(text_batch(torch.full_like(noisy_ids, CLEAN)), noisy_ids, t)
        return (chance * densities).sum().item() / (len(t) / len(STATES))

    return total


STEPS = [1, 10, 1000, None]
SCHEDULES = ["linear", "cosine"]


@pytest.mark.parametrize("num_train_steps", STEPS)
@pytest.mark.parametrize("noise_schedule", SCHEDULES)
def test_a_fresh_model_knows_nothing(num_train_steps, noise_schedule, exact_bound):
    options = {"num_train_steps": num_train_steps, "noise_schedule": noise_schedule}
    model = UniformDiffusionModel(**TINY | options).eval()
    assert exact_bound(model) == pytest.approx(math.log(5), rel=2e-5)


@pytest.mark.parametrize("num_train_steps", STEPS)
@pytest.mark.parametrize("noise_schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("sees_itself", "posterior"), [(False, "leave_one_out"), (True, "denoising")]
)
def test_the_bound_of_the_right_posterior_is_exact(
    num_train_steps, noise_schedule, sees_itself, posterior, exact_bound
):
    options = {"num_train_steps": num_train_steps, "noise_schedule": noise_schedule}
    model = make_golden(sees_itself, posterior=posterior, **options)
    assert exact_bound(model) == pytest.approx(2.302585, abs=5e-5)


@pytest.mark.parametrize(
    ("num_train_steps", "expected"), [(1, 2.3026), (10, 2.5534), (1000, 2.5873), (None, 2.5872)]
)
def test_a_denoising_posterior_plugged_in_costs_more(num_train_steps, expected, exact_bound):
    """Figures of golden_checks.py."""
    model = make_golden(True, num_train_steps=num_train_steps, posterior="leave_one_out")
    assert exact_bound(model) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("noise_schedule", SCHEDULES)
def test_continuous_time_is_the_limit_of_many_steps(noise_schedule, exact_bound):
    """The limit does not depend on the schedule; figures of golden_checks.py for linear."""
    options = {"noise_schedule": noise_schedule}
    assert exact_bound(make_golden(True, num_train_steps=None, **options)) == pytest.approx(
        2.587235, abs=4e-5
    )
    bounds = [exact_bound(make_golden(True, num_train_steps=n, **options)) for n in (100, 6400)]
    if noise_schedule == "linear":
        assert bounds == pytest.approx([2.58556200, 2.58726913], abs=1e-7)
    assert 20 * abs(bounds[1] - 2.587235) < abs(bounds[0] - 2.587235) < 0.005


def random_case(schedule, num_times):
    """A random prediction for each time and state."""
    t = (torch.arange(num_times).double() + 0.5) / num_times
    logits = 2 * torch.randn(num_times * len(STATES), 1, 6)
    logits[..., MASK] = -torch.inf
    noisy_ids = STATES.repeat(num_times)[:, None]
    t = t.repeat_interleave(len(STATES))
    return t, noisy_ids, logits, noise_level(t, schedule, 5)


class RandomModel(UniformDiffusionModel):
    """Predicts what it is told."""

    logits: torch.Tensor

    def predict_logits(self, batch, noisy_ids, t):
        return self.logits


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_continuous_density_is_the_formula_of_udlm(schedule, text_batch):
    t, noisy_ids, logits, level = random_case(schedule, 20)
    model = RandomModel(**TINY, num_train_steps=None, noise_schedule=schedule)
    model.logits = logits
    clean_ids = torch.full_like(noisy_ids, CLEAN)
    found = model.densities(text_batch(clean_ids), noisy_ids, t)[:, 0]
    probs = logits.double().softmax(dim=-1)[:, 0, STATES]
    clean, noisy = (ids == STATES for ids in (clean_ids, noisy_ids))
    bar, bar_model = (5 * level.kept * x + level.noised for x in (clean.double(), probs))
    at, at_model = bar[noisy][:, None], bar_model[noisy][:, None]
    terms = bar / at * (at_model.log() - bar_model.log() + bar.log() - at.log())
    bracket = (5 / at - 5 / at_model)[:, 0] - terms.sum(dim=1)
    expected = -level.rate[:, 0] / 5 * bracket
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def matrix_divergence(probs, clean, noisy, alpha_t, alpha_s):
    """Compute a step's divergence from D3PM's transition matrices, in float64."""

    def transition(kept):
        return kept * torch.eye(5, dtype=torch.float64) + (1 - kept) / 5

    once = transition(alpha_t / alpha_s)[:, noisy]
    truth = once * transition(alpha_s)[clean]
    predicted = once * (probs @ transition(alpha_s))
    truth, predicted = truth / truth.sum(), predicted / predicted.sum()
    seen = truth > 0
    return (truth[seen] * (truth[seen] / predicted[seen]).log()).sum().item()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_of_a_step_is_the_divergence_of_the_posteriors(schedule, text_batch):
    num_steps = 8
    _, noisy_ids, logits, _ = random_case(schedule, num_steps)
    t = torch.arange(1, num_steps + 1).double().repeat_interleave(5) / num_steps
    model = RandomModel(**TINY, num_train_steps=num_steps, noise_schedule=schedule)
    model.logits = logits
    batch = text_batch(torch.full_like(noisy_ids, CLEAN))
    found = model.densities(batch, noisy_ids, t)[:, 0] / num_steps
    probs = logits.double().softmax(dim=-1)[:, 0, STATES]
    levels = [model.noise_level(time).kept[:, 0] for time in (t, t - 1 / num_steps)]
    for row, (alpha_t, alpha_s) in enumerate(zip(*levels, strict=True)):
        noisy = int((noisy_ids[row] == STATES).nonzero())
        expected = matrix_divergence(probs[row], 3, noisy, alpha_t, alpha_s)
        assert found[row].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_conversion_between_posteriors_is_bayes_and_its_own_inverse(schedule):
    _, noisy_ids, logits, level = random_case(schedule, 20)
    leave_one_out = logits.double().log_softmax(dim=-1)
    is_same = noisy_ids[..., None] == torch.arange(6)
    likelihood = level.kept[..., None] * is_same + level.floor[..., None]
    expected = (leave_one_out + likelihood.log()).log_softmax(dim=-1)
    denoising = leave_one_out_to_denoising(leave_one_out, noisy_ids, level)
    possible = torch.arange(6) != MASK
    assert (denoising - expected)[..., possible].abs().max() < 1e-12
    back = denoising_to_leave_one_out(denoising, noisy_ids, level)
    assert (back - leave_one_out)[..., possible].abs().max() < 1e-12
    assert back[..., MASK].isneginf().all()


def test_a_step_back_mixes_the_true_posteriors_by_the_denoising_posterior():
    """Sum over all clean tokens what D3PM's matrices give for each."""
    _, noisy_ids, logits, level = random_case("linear", 10)
    next_level = noise_level((1 - level.kept[:, 0]) / 3, "linear", 5)
    leave_one_out = logits.double().log_softmax(dim=-1)
    found = previous_probs(leave_one_out.exp(), noisy_ids, level, next_level)[:, 0, STATES]
    found = found / found.sum(dim=-1, keepdim=True)
    denoising = leave_one_out_to_denoising(leave_one_out, noisy_ids, level).exp()[:, 0, STATES]
    is_noisy = (noisy_ids == STATES).double()
    survival = level.kept / next_level.kept
    once = survival * is_noisy + (1 - survival) / 5  # q(x_t | x_s = y)
    expected = torch.zeros_like(found)
    for state in range(5):
        before = next_level.kept * (torch.arange(5) == state) + next_level.floor
        posterior = once * before
        expected += denoising[:, state, None] * posterior / posterior.sum(dim=-1, keepdim=True)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_noise_begins_at_nothing_and_ends_at_everything(schedule):
    """So neither end of the diffusion adds a term to the bound."""
    level = noise_level(torch.tensor([0.0, 0.3, 1.0]), schedule, 5)
    assert level.kept[[0, 2], 0].tolist() == [1, 0]
    assert level.noised[[0, 2], 0].tolist() == [0, pytest.approx(1)]
    assert torch.allclose(level.kept + level.noised, torch.ones(3, 1).double(), atol=1e-15)
    t = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    level = noise_level(t, schedule, 5)
    (slope,) = torch.autograd.grad(level.kept.log().sum(), t)
    assert -slope.item() == pytest.approx(level.rate.item())


@pytest.mark.parametrize("num_train_steps", [20, None])
def test_estimates_have_the_mean_and_the_error_they_say(num_train_steps, text_batch, exact_bound):
    num_rows = 4000
    model = make_golden(True, num_train_steps=num_train_steps)
    batch = text_batch(torch.full((num_rows, 1), CLEAN))
    estimate = model.estimate_likelihood(batch, 4, torch.Generator().manual_seed(0))
    spread = estimate.nats.double().std().item()
    claimed = estimate.standard_error.double().square().mean().sqrt().item()
    assert spread * 0.95 < claimed < 2 * spread
    error = estimate.nats.double().mean().item() - exact_bound(model)
    assert abs(error) < 4 * spread / math.sqrt(num_rows)
    losses = torch.stack([model.loss(batch) for _ in range(10)])
    assert abs(losses.mean() - exact_bound(model)) < 5 * losses.std() / math.sqrt(10)
