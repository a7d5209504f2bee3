"""The autoencoders of other kinds keep the contract of ``TextAutoencoder``."""

import pytest
import torch

from autoencoder import KLPenalty, TextAutoencoder, load_autoencoder
from autoencoder.corruption import LatentCorruption
from autoencoder.loading import VARIANTS

KINDS = ("perceiver", "variational", "frozen")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def autoencoder(make_variant, kind):
    return make_variant(kind)


def pack(*texts):
    """Put texts, padded to whole latents of 4 tokens, into one row that ends with a free latent."""
    padded = [torch.cat((text, text.new_zeros(-len(text) % 4))) for text in texts]
    ids = torch.cat((*padded, torch.zeros(4, dtype=torch.long)))[None]
    numbers = [number for number, text in enumerate(padded) for _ in range(len(text) // 4)]
    documents = torch.tensor([[*numbers, -1]])
    return {"input_ids": ids, "attention_mask": ids != 0, "document_ids": documents}


@pytest.mark.parametrize("tokens_per_latent", [1, 2, 4, 8])
def test_a_text_has_a_latent_for_each_group_of_tokens(
    make_variant, make_texts, kind, tokens_per_latent
):
    autoencoder = make_variant(kind, tokens_per_latent=tokens_per_latent)
    texts = make_texts(num_rows=3, length=24)
    latents = autoencoder.encode(**texts)
    assert latents.shape == (3, 24 // tokens_per_latent, 8)
    assert latents.dtype == torch.float32
    assert torch.allclose(latents.square().mean(-1).sqrt(), torch.tensor(1.0), atol=1e-3)
    assert autoencoder.decode(latents).shape == (3, 24, 40)


def test_padding_changes_no_latent_of_a_text(autoencoder, make_texts):
    ids, mask = make_texts().values()
    latents = autoencoder.encode(ids, mask)
    noisy_ids = torch.where(mask, ids, torch.randint(40, ids.shape))
    assert torch.equal(autoencoder.encode(noisy_ids, mask), latents)
    wide_ids, wide_mask = (torch.cat((part, torch.zeros_like(part)), dim=1) for part in (ids, mask))
    assert torch.allclose(autoencoder.encode(wide_ids, wide_mask)[:, :3], latents, atol=1e-5)


def test_a_packed_text_is_encoded_as_if_alone_and_sees_no_other(autoencoder):
    texts = [torch.randint(3, 40, (length,)) for length in (7, 4, 10)]
    for text in texts:
        text[-1] = 1
    packed = pack(*texts)
    latents = autoencoder.encode(**packed)
    for number, text in enumerate(texts):
        row = pack(text)
        alone = autoencoder.encode(row["input_ids"], row["attention_mask"])[:, :-1]
        place = packed["document_ids"][0] == number
        assert torch.allclose(latents[:, place], alone, atol=1e-5)


def test_empty_latents_are_one_constant(autoencoder, make_texts):
    texts = make_texts()
    nothing = {"input_ids": torch.zeros(1, 12).long(), "attention_mask": torch.zeros(1, 12).bool()}
    empty = [
        autoencoder.encode(**batch)[~autoencoder.latent_mask(batch["attention_mask"])]
        for batch in (texts, nothing)
    ]
    constant = empty[1][0]
    assert torch.allclose(torch.cat(empty), constant.expand(sum(map(len, empty)), -1), atol=1e-5)
    held = autoencoder.encode(**texts)[autoencoder.latent_mask(texts["attention_mask"])]
    assert (held - constant).abs().amax(dim=-1).min() > 0.1


def test_each_latent_knows_the_whole_text(autoencoder):
    ids = torch.randint(3, 40, (1, 12))
    mask = torch.ones_like(ids, dtype=torch.bool)
    changed = ids.clone()
    changed[0, 10] = 3 + (ids[0, 10] - 2) % 37
    difference = (autoencoder.encode(ids, mask) - autoencoder.encode(changed, mask)).abs()
    assert difference[0, 0].max() > 1e-4


def test_gradients_reach_every_weight(make_variant, kind, packed):
    autoencoder = make_variant(kind)
    autoencoder.decode(autoencoder.encode(**packed)).square().sum().backward()
    without = [name for name, weight in autoencoder.named_parameters() if weight.grad is None]
    variances = ["encoder.log_variance.weight", "encoder.log_variance.bias"]
    assert without == []
    idle = [name for name, weight in autoencoder.named_parameters() if not weight.grad.any()]
    assert idle == (variances if kind == "variational" else [])


def test_a_saved_one_is_loaded_bit_for_bit(autoencoder, assert_same_model, make_texts, tmp_path):
    autoencoder.statistics.measure(torch.randn(50, 8))
    autoencoder.save_pretrained(tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    assert type(loaded) is type(autoencoder)
    assert_same_model(loaded, autoencoder)
    texts = make_texts()
    with torch.no_grad():
        assert torch.equal(loaded.encode(**texts), autoencoder.encode(**texts))


def test_a_few_training_steps_lower_the_loss(make_variant, make_lit_autoencoder, fit, packed, kind):
    module = make_lit_autoencoder(
        autoencoder=make_variant(kind, active=False),
        corruption=LatentCorruption(max_noise_ratio=0.5),
        max_token_mask_prob=0.0,
        kl=KLPenalty() if kind == "variational" else None,
    )
    ids, mask = packed["input_ids"], packed["attention_mask"]

    def accuracy():
        return (module.autoencoder.reconstruct(ids, mask) == ids)[mask].float().mean()

    before = accuracy()
    fit(module, packed, max_steps=60)
    assert accuracy() > max(0.9, before)


def test_an_unknown_kind_in_a_folder_is_named(make_autoencoder, tmp_path):
    make_autoencoder().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("TextAutoencoder", "OtherAutoencoder"))
    with pytest.raises(
        ValueError, match=r"`_class_name` must be one of TextAutoencoder, .* got Oth"
    ):
        load_autoencoder(str(tmp_path))
    assert set(VARIANTS.values()) >= {TextAutoencoder}
