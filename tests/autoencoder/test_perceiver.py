import pytest
import torch

from autoencoder import PerceiverAutoencoder
from autoencoder.perceiver import TokenReading


@pytest.mark.parametrize("tokens_per_latent", [1, 2, 4])
def test_a_fresh_perceiver_is_a_nearly_lossless_linear_autoencoder(tokens_per_latent):
    autoencoder = PerceiverAutoencoder(
        vocab_size=500,
        tokens_per_latent=tokens_per_latent,
        latent_dim=128,
        token_dim=256,
        hidden_dim=256,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_heads=4,
    )
    ids = torch.randint(500, (32, 32))
    with torch.no_grad():
        latents = autoencoder.encode(ids, torch.ones_like(ids, dtype=torch.bool))
        predicted = autoencoder.decode(latents).argmax(dim=-1)
    assert (predicted == ids).float().mean() > 0.9


def test_a_fresh_reading_takes_one_token_a_head():
    reading = TokenReading(token_dim=16, hidden_dim=32, tokens_per_latent=4, is_first=True)
    tokens = torch.randn(2, 12, 16)
    visible = torch.ones(1, 1, 3, 12, dtype=torch.bool)
    read = reading(torch.randn(2, 3, 32), tokens, visible)
    expected = tokens.unflatten(1, (3, 4)).flatten(2) @ reading.patch_projection().T
    assert torch.allclose(read, expected, atol=0.2 * expected.std().item() * 3)
    assert torch.corrcoef(torch.stack((read.flatten(), expected.flatten())))[0, 1] > 0.99


def test_a_reading_sees_what_is_visible_alone():
    reading = TokenReading(token_dim=16, hidden_dim=32, tokens_per_latent=4, is_first=True)
    latents, tokens = torch.randn(1, 3, 32), torch.randn(1, 12, 16)
    visible = torch.zeros(1, 1, 3, 12, dtype=torch.bool)
    visible[..., :8] = True
    changed = tokens.clone()
    changed[:, 8:] = torch.randn(1, 4, 16)
    read = reading(latents, tokens, visible)
    assert torch.equal(reading(latents, changed, visible), read)
    changed[:, 7] = 5.0
    assert not torch.allclose(reading(latents, changed, visible)[:, 0], read[:, 0], atol=1e-4)


def test_a_width_that_does_not_split_into_heads_is_refused():
    with pytest.raises(ValueError, match=r"multiple of `tokens_per_latent` \(8\).* got 36"):
        TokenReading(token_dim=16, hidden_dim=36, tokens_per_latent=8, is_first=True)
