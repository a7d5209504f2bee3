import pytest
import torch
from torch import Tensor

from autoencoder import TextAutoencoder

PAD, END = 0, 1


@pytest.fixture
def autoencoder(make_autoencoder):
    return make_autoencoder()


@pytest.mark.parametrize("tokens_per_latent", [1, 2, 4])
def test_fresh_model_is_a_nearly_lossless_linear_autoencoder(tokens_per_latent):
    autoencoder = TextAutoencoder(
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
    assert torch.allclose(latents.square().mean(-1).sqrt(), torch.tensor(1.0), atol=1e-3)
    token_norms = autoencoder.embedding.weight.detach().square().sum(-1)
    assert token_norms.mean() == pytest.approx(1.0, abs=0.02)


def test_fresh_decoder_is_the_transpose_of_the_encoder(make_autoencoder):
    fresh = make_autoencoder(active=False)
    encoder, decoder = fresh.encoder, fresh.decoder
    for name in ("patch_projection", "latent_projection"):
        down, up = getattr(encoder, name).weight, getattr(decoder, name).weight
        assert torch.equal(up, down.T)
        assert torch.allclose(down @ down.T, torch.eye(len(down)), atol=1e-5)


@pytest.mark.parametrize("tokens_per_latent", [1, 2, 4, 8])
def test_every_patch_size_gives_back_the_shape_of_its_texts(
    make_autoencoder, make_texts, tokens_per_latent
):
    autoencoder = make_autoencoder(tokens_per_latent=tokens_per_latent)
    texts = make_texts(num_rows=3, length=24)
    latents = autoencoder.encode(**texts)
    assert latents.shape == (3, 24 // tokens_per_latent, 8)
    assert autoencoder.latent_mask(texts["attention_mask"]).shape == latents.shape[:2]
    assert autoencoder.decode(latents).shape == (3, 24, 40)
    assert autoencoder.reconstruct(**texts).shape == (3, 24)


def test_latent_mask_is_true_where_a_patch_holds_a_token(autoencoder):
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1] + [0] * 11])
    expected = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(autoencoder.latent_mask(mask), expected)


def test_each_latent_has_root_mean_square_one(autoencoder, make_texts):
    latents = autoencoder.encode(**make_texts())
    assert latents.dtype == torch.float32
    assert torch.allclose(latents.square().mean(-1).sqrt(), torch.tensor(1.0), atol=1e-3)


def test_ids_behind_the_mask_have_no_influence(autoencoder, make_texts):
    ids, mask = make_texts().values()
    noisy_ids = torch.where(mask, ids, torch.randint(40, ids.shape))
    assert not torch.equal(noisy_ids, ids)
    latents = autoencoder.encode(ids, mask)
    assert torch.equal(autoencoder.encode(noisy_ids, mask), latents)
    assert torch.equal(autoencoder.encode(noisy_ids, mask.long()), latents)
    reconstructed = autoencoder.reconstruct(ids, mask)
    assert torch.equal(autoencoder.reconstruct(noisy_ids, mask), reconstructed)
    assert torch.all(reconstructed[~mask] == PAD)


def test_more_padding_changes_no_latent_of_the_text(autoencoder, make_texts):
    ids, mask = make_texts().values()
    wide_ids, wide_mask = (torch.cat((part, torch.zeros_like(part)), dim=1) for part in (ids, mask))
    wide = autoencoder.encode(wide_ids, wide_mask)
    assert torch.allclose(wide[:, :3], autoencoder.encode(ids, mask), atol=1e-5)


def test_empty_latents_are_one_constant_whatever_stands_before_them(autoencoder, make_texts):
    texts, others = make_texts(), make_texts()
    nothing = {"input_ids": torch.zeros(1, 12).long(), "attention_mask": torch.zeros(1, 12).bool()}
    empty = [
        autoencoder.encode(**batch)[~autoencoder.latent_mask(batch["attention_mask"])]
        for batch in (texts, others, nothing)
    ]
    assert min(map(len, empty)) > 2
    constant = empty[2][0]
    assert torch.allclose(torch.cat(empty), constant.expand(sum(map(len, empty)), -1), atol=1e-5)
    text_latents = autoencoder.encode(**texts)[autoencoder.latent_mask(texts["attention_mask"])]
    assert (text_latents - constant).abs().amax(dim=-1).min() > 0.1


def pack(*texts: Tensor) -> dict[str, Tensor]:
    """Put texts, padded to whole latents of 4 tokens, into one row that ends with a free latent."""
    padded = [torch.cat((text, text.new_zeros(-len(text) % 4))) for text in texts]
    ids = torch.cat((*padded, torch.zeros(4, dtype=torch.long)))[None]
    numbers = [number for number, text in enumerate(padded) for _ in range(len(text) // 4)]
    return {
        "input_ids": ids,
        "attention_mask": ids != PAD,
        "document_ids": torch.tensor([[*numbers, -1]]),
    }


@pytest.fixture
def documents():
    texts = [torch.randint(3, 40, (length,)) for length in (7, 4, 10)]
    for text in texts:
        text[-1] = END
    return texts


def test_a_packed_document_is_encoded_and_decoded_as_if_alone(autoencoder, documents):
    packed = pack(*documents)
    latents = autoencoder.encode(**packed)
    logits = autoencoder.decode(latents, document_ids=packed["document_ids"])
    for number, document in enumerate(documents):
        row = pack(document)
        alone = autoencoder.encode(row["input_ids"], row["attention_mask"])[:, :-1]
        place = packed["document_ids"][0] == number
        assert torch.allclose(latents[:, place], alone, atol=1e-5)
        logits_alone = autoencoder.decode(alone)
        assert torch.allclose(logits[:, place.repeat_interleave(4)], logits_alone, atol=1e-4)


def test_packed_documents_do_not_see_each_other(autoencoder, documents):
    packed = pack(*documents)
    changed = pack(documents[0], torch.randint(3, 40, (4,)), documents[2])
    others = packed["document_ids"] != 1
    latents, changed_latents = (autoencoder.encode(**row) for row in (packed, changed))
    assert torch.equal(changed_latents[others], latents[others])
    assert not torch.allclose(changed_latents[~others], latents[~others], atol=1e-2)

    tokens = others.repeat_interleave(4, dim=1)
    logits, changed_logits = (
        autoencoder.decode(part, document_ids=packed["document_ids"])
        for part in (latents, changed_latents)
    )
    assert torch.equal(changed_logits[tokens], logits[tokens])

    mixed = autoencoder.encode(changed["input_ids"], changed["attention_mask"])
    unmixed = autoencoder.encode(packed["input_ids"], packed["attention_mask"])
    assert not torch.allclose(mixed[others], unmixed[others], atol=1e-3)


def test_decoding_ignores_the_scale_of_latents(autoencoder):
    latents = torch.randn(2, 3, 8)
    sizes = torch.tensor([0.1, 1.0, 20.0])[:, None]
    logits = autoencoder.decode(latents)
    assert torch.allclose(autoencoder.decode(sizes * latents), logits, atol=1e-3)


def test_saved_model_is_loaded_bit_for_bit(autoencoder, assert_same_model, tmp_path):
    autoencoder.statistics.measure(torch.randn(50, 8))
    autoencoder.save_pretrained(tmp_path)
    loaded = TextAutoencoder.from_pretrained(tmp_path, use_safetensors=True)
    assert_same_model(loaded, autoencoder)


@pytest.mark.parametrize("tokens_per_latent", [0, 3, 16])
def test_other_patch_sizes_are_refused(make_autoencoder, tokens_per_latent):
    message = f"`tokens_per_latent` must be 1, 2, 4 or 8, got {tokens_per_latent}"
    with pytest.raises(ValueError, match=message):
        make_autoencoder(tokens_per_latent=tokens_per_latent)


def test_length_that_does_not_split_into_patches_is_refused(autoencoder):
    ids = torch.zeros(1, 10, dtype=torch.long)
    with pytest.raises(ValueError, match="multiple of 4 tokens, got 10"):
        autoencoder.encode(ids, ids == 0)
