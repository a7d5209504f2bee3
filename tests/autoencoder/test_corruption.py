import pytest
import torch

from autoencoder.corruption import LatentCorruption, mask_tokens

MASK = 2


@pytest.fixture
def ids():
    return torch.randint(3, 40, (400, 200))


def test_each_row_draws_its_own_share_of_masked_tokens(ids):
    shares = (mask_tokens(ids, 0.4, MASK) == MASK).float().mean(dim=1)
    # U(0, 0.4) over 400 rows: mean 0.2 +- 0.006, deviation 0.115; counting adds 0.035 at most.
    assert shares.mean() == pytest.approx(0.2, abs=0.025)
    assert shares.std() == pytest.approx(0.4 / 12**0.5, abs=0.02)
    assert shares.min() < 0.03
    assert 0.35 < shares.max() < 0.4 + 4 * 0.035


def test_tokens_that_are_not_masked_stay(ids):
    masked = mask_tokens(ids, 0.5, MASK)
    assert torch.equal(masked[masked != MASK], ids[masked != MASK])
    assert torch.equal(mask_tokens(ids, 0.0, MASK), ids)


def test_noise_ratio_of_a_row_is_uniform_up_to_its_limit():
    latents = torch.randn(1000, 20, 50)
    noise = LatentCorruption(max_noise_ratio=1.5)(latents) - latents
    ratios = noise.square().mean(dim=(1, 2)).sqrt()  # each measured to 2.3 %
    assert ratios.mean() == pytest.approx(0.75, abs=0.06)
    assert ratios.std() == pytest.approx(1.5 / 12**0.5, abs=0.03)
    assert ratios.max() < 1.5 * 1.08


def test_all_latents_of_a_row_get_noise_of_one_ratio():
    latents = torch.zeros(50, 2, 5000)
    first, second = LatentCorruption()(latents).square().mean(dim=2).sqrt().unbind(1)
    assert torch.allclose(first, second, rtol=0.06)


def test_noise_cannot_be_scaled_away(make_autoencoder, make_texts):
    """Behind the fixed norm the latents have size 1, however large the encoder makes its output."""
    autoencoder, texts = make_autoencoder(), make_texts()
    latents = autoencoder.encode(**texts)
    with torch.no_grad():
        autoencoder.encoder.latent_projection.weight *= 1000
    assert torch.allclose(latents.square().mean(-1).sqrt(), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(autoencoder.encode(**texts), latents, atol=1e-3)


def test_dropout_zeroes_its_share_and_leaves_the_rest():
    latents = torch.randn(100, 20, 50)
    corrupted = LatentCorruption(dropout_prob=0.3, max_noise_ratio=0.0)(latents)
    kept = corrupted != 0
    assert kept.float().mean() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(corrupted[kept], latents[kept])


def test_corruption_of_size_zero_changes_nothing():
    latents = torch.randn(4, 3, 8)
    assert torch.equal(LatentCorruption(0.0, max_noise_ratio=0.0)(latents), latents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_prob": 1.0}, r"`dropout_prob` must be in \[0, 1\), got 1.0"),
        ({"dropout_prob": -0.1}, r"`dropout_prob` must be in \[0, 1\), got -0.1"),
        ({"max_noise_ratio": -1.0}, "`max_noise_ratio` must not be negative, got -1.0"),
    ],
)
def test_corruption_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LatentCorruption(**options)
