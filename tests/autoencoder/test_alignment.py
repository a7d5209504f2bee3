import pytest
import torch

from autoencoder import LatentAlignment, LatentCorruption
from autoencoder.frozen_encoder import load_frozen_encoder
from autoencoder.token_states import SpecialTokens


@pytest.fixture
def alignment(pretrained):
    return LatentAlignment(pretrained, weight=0.5, hidden_dim=32)


@pytest.fixture
def loss(alignment, token_texts):
    loss = alignment.make_loss(8, 4, SpecialTokens(0, 1, 2))
    loss.set_token_texts(token_texts)
    return loss


def test_targets_are_the_mean_states_of_the_real_tokens(loss, packed):
    ids, mask, documents = packed.values()
    states = loss.states(ids, mask, documents.repeat_interleave(4, dim=1))
    targets = loss.targets(packed)
    for row in range(len(ids)):
        for latent in range(3):
            place = slice(4 * latent, 4 * latent + 4)
            own = states[row, place][mask[row, place]]
            expected = own.mean(dim=0) if len(own) else torch.zeros(16)
            assert torch.allclose(targets[row, latent], expected, atol=1e-5)


def test_the_loss_is_weighted_one_minus_cosine_over_latents_with_text(loss, packed):
    latents = torch.randn(8, 3, 8)
    is_text = packed["document_ids"] >= 0
    pairs = zip(loss.projector(latents)[is_text], loss.targets(packed)[is_text], strict=True)
    cosines = [first @ second / first.norm() / second.norm() for first, second in pairs]
    expected = 0.5 * (1 - sum(cosines) / len(cosines))
    assert loss(latents, packed, is_text).item() == pytest.approx(expected.item(), rel=1e-4)


def test_gradients_reach_latents_and_projector_and_not_the_frozen_encoder(
    loss, packed, make_autoencoder, pretrained
):
    autoencoder = make_autoencoder()
    latents = autoencoder.encode(**packed)
    loss(latents, packed, autoencoder.latent_mask(packed["attention_mask"])).backward()
    assert autoencoder.encoder.patch_projection.weight.grad.abs().sum() > 0
    assert all(weight.grad.abs().sum() > 0 for weight in loss.projector.parameters())
    frozen = load_frozen_encoder(pretrained, torch.device("cpu"))
    assert all(weight.grad is None for weight in frozen.parameters())


def test_training_aligns_latents_and_leaves_the_frozen_weights(
    make_lit_autoencoder, fit, packed, alignment, pretrained, token_texts
):
    frozen = load_frozen_encoder(pretrained, torch.device("cpu"))
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    module = make_lit_autoencoder(
        alignment=alignment, corruption=LatentCorruption(max_noise_ratio=0.0)
    )
    module.alignment_loss.set_token_texts(token_texts)

    def value():
        with torch.no_grad():
            latents = module.autoencoder.encode(**packed)
            return module.alignment_loss(latents, packed, packed["document_ids"] >= 0).item()

    first = value()
    fit(module, packed, max_steps=60)
    assert value() < 0.5 * first
    assert all(torch.equal(frozen.state_dict()[name], before[name]) for name in before)


def test_the_projector_is_no_part_of_the_autoencoder(make_lit_autoencoder, alignment):
    module = make_lit_autoencoder(alignment=alignment)
    plain = make_lit_autoencoder()
    assert module.autoencoder.state_dict().keys() == plain.autoencoder.state_dict().keys()
    added = module.state_dict().keys() - plain.state_dict().keys()
    assert added == {
        f"alignment_loss.projector.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")
    }


def test_without_the_texts_of_the_tokens_one_line_says_so(alignment, packed):
    loss = alignment.make_loss(8, 4, SpecialTokens(0, 1, 2))
    with pytest.raises(ValueError, match="the data module must have `token_texts`"):
        loss.targets(packed)


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"`weight` must be positive, got 0\.0"):
        LatentAlignment(weight=0.0)
