import pytest
import torch
from torch import nn

from denoiser.noise import sample_time
from denoiser.objective import denoising_loss


class Recorder(nn.Module):
    """Predict whatever ``predict`` returns and keep the arguments of each call."""

    def __init__(self, predict):
        super().__init__()
        self.predict = predict
        self.calls = []

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        prediction = self.predict(noisy_latents)
        call = {**locals(), "has_gradient": torch.is_grad_enabled()}
        self.calls.append(call)
        return prediction


@pytest.fixture
def latents():
    return torch.randn(8, 3, 8)


@pytest.fixture
def make_loss(latents):
    def make(denoiser, latents=latents, **options):
        defaults = {
            "latents": latents,
            "known_latents": torch.zeros(len(latents), 2, 8),
            "known_mask": torch.ones(len(latents), 2, dtype=torch.bool),
            "noise_shift": 1.0,
            "cond_drop_prob": 0.0,
            "self_condition_prob": 0.0,
        }
        return denoising_loss(denoiser, **defaults | options)

    return make


def test_loss_of_the_truth_is_zero(make_loss, latents):
    losses = make_loss(Recorder(lambda _: latents))
    assert losses["loss"] == 0
    assert torch.equal(losses["row_error"], torch.zeros(8))


def test_loss_of_zero_is_the_mean_square(make_loss, latents):
    losses = make_loss(Recorder(torch.zeros_like))
    assert losses["loss"] == pytest.approx(latents.square().mean().item())
    assert torch.allclose(losses["row_error"], latents.square().mean(dim=(1, 2)))


def test_loss_of_the_best_linear_estimate_is_its_analytic_value(make_loss, make_denoiser):
    """For data of variance 1 the error at time t is t^2 / ((1 - t)^2 + t^2)."""
    latents = torch.randn(4000, 1, 8)
    losses = make_loss(make_denoiser(active=False), latents=latents, noise_shift=4.0)
    t = losses["t"]
    expected = t**2 / ((1 - t) ** 2 + t**2)
    # 32,000 squared gaussians: a standard error of 0.8 %.
    assert losses["loss"].item() == pytest.approx(expected.mean().item(), rel=0.03)


def test_noise_is_gaussian_at_the_reported_times(make_loss):
    latents = torch.randn(500, 4, 8)
    recorder = Recorder(torch.zeros_like)
    t = make_loss(recorder, latents=latents, noise_shift=4.0)["t"]
    (call,) = recorder.calls
    assert torch.equal(call["t"], t)
    t = t[:, None, None]
    noise = ((call["noisy_latents"] - (1 - t) * latents) / t)[t[:, 0, 0] > 0.05]
    assert noise.mean() == pytest.approx(0, abs=0.04)  # of 15,000 numbers
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert (noise * latents[t[:, 0, 0] > 0.05]).mean() == pytest.approx(0, abs=0.04)


def test_times_are_those_of_the_noise_shift(make_loss):
    torch.manual_seed(1)
    t = make_loss(Recorder(torch.zeros_like), noise_shift=4.0)["t"]
    torch.manual_seed(1)
    assert torch.equal(t, sample_time(8, 4.0))


def test_a_share_of_the_rows_sees_its_own_prediction(make_loss):
    recorder = Recorder(lambda noisy: 2 * noisy)
    make_loss(recorder, self_condition_prob=0.5, known_latents=torch.randn(8, 2, 8))
    first, second = recorder.calls
    for name in ("noisy_latents", "t", "known_latents", "known_mask", "is_null"):
        assert torch.equal(first[name], second[name][:4]), name
    assert first["self_condition"] is None
    assert torch.equal(second["self_condition"][:4], first["prediction"])
    assert torch.equal(second["self_condition"][4:], torch.zeros(4, 3, 8))


def test_no_gradient_flows_through_the_self_condition(make_loss):
    weight = torch.ones((), requires_grad=True)
    recorder = Recorder(lambda noisy: weight * noisy)
    make_loss(recorder, self_condition_prob=1.0)
    first, second = recorder.calls
    assert not first["has_gradient"]
    assert second["has_gradient"]
    assert not second["self_condition"].requires_grad


def test_rows_of_single_ones_see_their_own_prediction_as_often_as_those_of_many(make_loss):
    """A half of one row was once none."""
    recorder = Recorder(torch.zeros_like)
    for _ in range(200):
        make_loss(recorder, latents=torch.randn(1, 1, 8), self_condition_prob=0.5)
    num_first = sum(call["self_condition"] is None for call in recorder.calls)
    assert num_first == pytest.approx(100, abs=28)  # a standard error of 7


@pytest.mark.parametrize(("prob", "num_calls"), [(0.0, 1), (1.0, 2)])
def test_the_first_prediction_is_made_only_where_it_is_seen(make_loss, prob, num_calls):
    recorder = Recorder(torch.zeros_like)
    make_loss(recorder, self_condition_prob=prob)
    assert len(recorder.calls) == num_calls


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_a_share_of_the_rows_loses_its_source(make_loss, prob):
    recorder = Recorder(torch.zeros_like)
    make_loss(recorder, latents=torch.zeros(4000, 1, 8), cond_drop_prob=prob)
    # 0.3 of 4000 rows: a standard error of 0.007.
    assert recorder.calls[0]["is_null"].float().mean() == pytest.approx(prob, abs=0.03 * (prob < 1))


def gradients(make_loss, denoiser, known_latents, cond_drop_prob):
    torch.manual_seed(1)
    denoiser.zero_grad()
    losses = make_loss(
        denoiser,
        known_latents=known_latents,
        cond_drop_prob=cond_drop_prob,
        self_condition_prob=0.5,
    )
    losses["loss"].backward()
    return [losses["loss"], *(weight.grad.clone() for weight in denoiser.parameters())]


def test_rows_that_all_lose_their_source_train_as_if_there_were_none(make_loss, make_denoiser):
    denoiser, sources = make_denoiser(), torch.randn(2, 8, 2, 8)
    first, second = (gradients(make_loss, denoiser, source, 1.0) for source in sources)
    assert all(map(torch.equal, first, second))
    first, second = (gradients(make_loss, denoiser, source, 0.0) for source in sources)
    assert not torch.equal(first[0], second[0])


def test_rows_without_known_text_train_the_null(make_loss):
    """They once saw nothing in training, and the null in sampling."""
    recorder = Recorder(torch.zeros_like)
    known_mask = torch.ones(8, 2, dtype=torch.bool)
    known_mask[2] = False
    make_loss(recorder, known_mask=known_mask, self_condition_prob=1.0)
    for call in recorder.calls:
        assert torch.equal(call["is_null"].nonzero(), torch.tensor([[2]]))
