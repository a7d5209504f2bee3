import pytest
import torch
from torch.distributions import Normal, kl_divergence

from autoencoder import KLPenalty
from autoencoder.variational import Posterior


@pytest.fixture
def posterior():
    return Posterior(torch.randn(4, 3, 8), torch.randn(4, 3, 8))


def test_divergence_is_that_of_gaussians(posterior):
    expected = kl_divergence(
        Normal(posterior.mean, (posterior.log_variance / 2).exp()), Normal(0.0, 1.0)
    )
    assert torch.allclose(posterior.divergence(), expected, atol=1e-5)


def test_samples_have_the_mean_and_the_spread(posterior):
    wide = Posterior(*(part.expand(4000, 4, 3, 8) for part in vars(posterior).values()))
    samples = wide.sample()
    assert torch.allclose(samples.mean(dim=0), posterior.mean, atol=0.3)
    std = (posterior.log_variance / 2).exp()
    assert torch.allclose(samples.std(dim=0) / std, torch.ones(4, 3, 8), atol=0.08)


def test_the_penalty_counts_nats_a_token_of_latents_with_text(posterior):
    is_text = torch.tensor([[True, True, False]]).expand(4, 3)
    penalty = KLPenalty(weight=0.1, free_nats=0.0)(posterior, is_text, torch.tensor(20))
    expected = 0.1 * posterior.divergence()[:, :2].sum() / 20
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_channel_below_its_free_nats_has_no_gradient():
    mean = torch.tensor([[[0.1, 3.0]]], requires_grad=True)
    posterior = Posterior(mean, torch.zeros(1, 1, 2))
    penalty = KLPenalty(weight=1.0, free_nats=0.5)
    penalty(posterior, torch.ones(1, 1, dtype=torch.bool), torch.tensor(1)).backward()
    assert mean.grad[0, 0, 0] == 0
    assert mean.grad[0, 0, 1] == pytest.approx(3.0)


def test_variances_learn_and_a_fresh_mean_has_size_one(make_variant, make_texts):
    autoencoder = make_variant("variational", active=False, token_dim=64, hidden_dim=64)
    texts = make_texts()
    posterior = autoencoder.posterior(**texts)
    held = autoencoder.latent_mask(texts["attention_mask"])
    assert 0.5 < posterior.mean[held].square().mean() < 2
    KLPenalty()(posterior, held, torch.tensor(30)).backward()
    assert autoencoder.encoder.log_variance.bias.grad.abs().min() > 0


def test_a_high_weight_brings_latents_near_the_standard_gaussian(
    make_variant, make_lit_autoencoder, fit, packed
):
    module = make_lit_autoencoder(
        autoencoder=make_variant("variational", active=False), kl=KLPenalty(10.0, free_nats=0.0)
    )

    def divergence():
        with torch.no_grad():
            found = module.autoencoder.posterior(**packed).divergence()
        return found[module.autoencoder.latent_mask(packed["attention_mask"])].mean()

    before = divergence()
    fit(module, packed, max_steps=60)
    assert divergence() < 0.2 * before


def test_noise_that_is_trained_with_has_the_scale_of_the_latents(
    make_variant, make_lit_autoencoder, packed
):
    """Without it large means would scale the noise of the posterior and of the corruption away."""
    module = make_lit_autoencoder(autoencoder=make_variant("variational"), kl=KLPenalty())
    latents, terms = module.training_latents(packed["input_ids"], packed)
    assert "kl" in terms
    torch.testing.assert_close(latents.square().mean(dim=-1), torch.ones(8, 3), atol=1e-3, rtol=0)
    again, _ = module.training_latents(packed["input_ids"], packed)
    assert not torch.allclose(latents, again, atol=0.1)  # they are samples


def test_penalty_and_variational_autoencoder_need_each_other(make_variant, make_lit_autoencoder):
    with pytest.raises(ValueError, match="got TextAutoencoder with `kl`"):
        make_lit_autoencoder(kl=KLPenalty())
    with pytest.raises(ValueError, match="got VariationalAutoencoder without `kl`"):
        make_lit_autoencoder(autoencoder=make_variant("variational"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight` must be positive, got 0.0"),
        ({"free_nats": -1.0}, "`free_nats` must not be negative, got -1.0"),
    ],
)
def test_penalties_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KLPenalty(**options)
