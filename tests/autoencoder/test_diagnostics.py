import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm

from autoencoder import TextAutoencoder
from autoencoder.diagnostics import (
    decode_all,
    draw_noise,
    encode_all,
    intervene,
    intervened_latents,
    latent_spectrum,
    midpoint_agreement,
    nearest_neighbours,
    noise_recovery,
    score_decoder,
    score_own_texts,
)

WIDTH = 16
PAD, END = 0, 1


@pytest.fixture
def orthogonal():
    """A linear autoencoder with orthonormal tokens: its latents are 4 times a unit vector each."""
    autoencoder = TextAutoencoder(
        vocab_size=WIDTH,
        tokens_per_latent=1,
        latent_dim=WIDTH,
        token_dim=WIDTH,
        hidden_dim=WIDTH,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_heads=2,
    )
    with torch.no_grad():
        autoencoder.embedding.weight.copy_(torch.eye(WIDTH))
    return autoencoder.eval()


@pytest.fixture
def blind(make_autoencoder):
    """An autoencoder whose decoder ignores the latents: all logits are 0."""
    autoencoder = make_autoencoder().eval()
    torch.nn.init.zeros_(autoencoder.decoder.patch_projection.weight)
    return autoencoder


def full_texts(num_rows=200, length=8):
    ids = torch.randint(3, WIDTH, (num_rows, length))
    return ids, torch.ones_like(ids, dtype=torch.bool)


def seeded():
    return torch.Generator().manual_seed(3)


def right_token_share(ratio):
    """Chance that one gaussian of mean 4 exceeds 15 of mean 0, all of standard deviation ratio."""
    x = np.linspace(-9, 9, 4001)
    return np.trapezoid(norm.pdf(x) * norm.cdf(x + WIDTH**0.5 / ratio) ** (WIDTH - 1), x)


def test_recovery_of_an_orthogonal_codebook_is_the_closed_form(orthogonal):
    ids, mask = full_texts(num_rows=1000)
    latents = encode_all(orthogonal, ids, mask)
    ratios = [0.5, 1, 2, 4, 16]
    times = [0, *(ratio / (1 + ratio) for ratio in ratios), 1]
    curve = noise_recovery(orthogonal, latents, ids, mask, times, seeded(), batch_size=256)
    accuracies = [point["token_accuracy"] for point in curve]
    expected = [1, *map(right_token_share, ratios), 1 / WIDTH]
    assert 0.15 < expected[4] < 0.5 < expected[3] < 0.9  # the middle of the curve is tested
    assert accuracies == pytest.approx(expected, abs=0.02)
    assert [point["noise_ratio"] for point in curve] == [0, *map(pytest.approx, ratios), None]


def test_noise_has_the_spread_of_the_latents(orthogonal):
    """Noise is relative to the measured standard deviation, as in standardized space."""
    ids, mask = full_texts(num_rows=1000)
    latents = encode_all(orthogonal, ids, mask)
    orthogonal.statistics.latent_std.fill_(0.5)
    (point,) = noise_recovery(orthogonal, latents, ids, mask, [0.8], seeded())
    assert point["token_accuracy"] == pytest.approx(right_token_share(2), abs=0.02)


def test_noisy_latents_are_those_of_standardized_space(make_autoencoder, make_texts):
    """The mean was left out: the noise of a denoiser is not around zero where the latents are."""
    autoencoder, texts = make_autoencoder().eval(), make_texts(num_rows=16)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    latents = encode_all(autoencoder, ids, mask)
    statistics = autoencoder.statistics
    statistics.measure(3 + 0.5 * torch.randn(50, 8))
    noise = draw_noise(latents, seeded())
    times = [0.0, 0.3, 0.7, 1.0]
    curve = noise_recovery(autoencoder, latents, ids, mask, times, seeded())
    for t, point in zip(times, curve, strict=True):
        mixed = (1 - t) * statistics.standardize(latents) + t * noise
        expected = score_decoder(autoencoder, statistics.unstandardize(mixed), ids, mask)
        assert point["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-4)


def test_scores_are_means_over_real_tokens_in_any_batches(make_autoencoder, make_texts):
    autoencoder, texts = make_autoencoder().eval(), make_texts(num_rows=7)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    latents = encode_all(autoencoder, ids, mask, batch_size=3)
    losses, correct = [], []
    with torch.no_grad():
        logits = autoencoder.decode(latents)
    for row, position in mask.nonzero().tolist():
        one = logits[row, position]
        losses.append(-one.log_softmax(0)[ids[row, position]].item())
        correct.append(one.argmax().item() == ids[row, position].item())
    for batch_size in (2, 7):
        score = score_decoder(autoencoder, latents, ids, mask, batch_size)
        assert score["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert score["token_accuracy"] == pytest.approx(np.mean(correct))


def test_a_decoder_that_ignores_latents_scores_the_same_under_all_interventions(blind, make_texts):
    texts = make_texts()
    ids, mask = texts["input_ids"], texts["attention_mask"]
    scores = intervene(blind, encode_all(blind, ids, mask), ids, mask, seeded())
    assert list(scores) == ["matched", "shuffled", "zero", "mean", "noise"]
    for score in scores.values():
        assert score["cross_entropy"] == pytest.approx(math.log(40), rel=1e-5)


def test_interventions_on_an_orthogonal_codebook_give_what_they_must(orthogonal):
    ids, mask = full_texts()
    scores = intervene(orthogonal, encode_all(orthogonal, ids, mask), ids, mask, seeded())
    assert scores["matched"]["token_accuracy"] == 1
    assert scores["zero"]["cross_entropy"] == pytest.approx(math.log(WIDTH), rel=1e-5)
    # Another text has the right token by chance, one of 13; the mean is the same everywhere.
    assert scores["shuffled"]["token_accuracy"] == pytest.approx(1 / 13, abs=0.03)
    assert scores["mean"]["token_accuracy"] == pytest.approx(1 / 13, abs=0.03)
    assert scores["noise"]["token_accuracy"] == pytest.approx(1 / 13, abs=0.03)


def test_matched_latents_beat_all_others_once_an_autoencoder_is_trained(
    make_autoencoder, make_texts
):
    autoencoder, texts = make_autoencoder(), make_texts(num_rows=32)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=1e-2)
    for _ in range(60):
        logits = autoencoder.decode(autoencoder.encode(ids, mask))
        loss = F.cross_entropy(logits[mask], ids[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latents = encode_all(autoencoder.eval(), ids, mask)
    scores = intervene(autoencoder, latents, ids, mask, seeded())
    matched = scores.pop("matched")
    for score in scores.values():
        assert matched["cross_entropy"] < score["cross_entropy"] - 1
        assert matched["token_accuracy"] > score["token_accuracy"] + 0.3


def test_replaced_latents_are_of_other_texts_or_have_their_moments():
    latents = 3 + 2 * torch.randn(500, 4, 8)
    latent_mask = torch.ones(500, 4, dtype=torch.bool)
    latent_mask[:, 3] = False
    latents[:, 3] = 100.0  # the empty latents have no part in the moments
    replaced = intervened_latents(latents, latent_mask, seeded())
    origin = (replaced["shuffled"][:, None, 0] == latents[None, :, 0]).all(-1).float().argmax(1)
    assert not (origin == torch.arange(500)).any()
    assert origin.unique().numel() == 500
    assert replaced["mean"].flatten(0, 1).mean(0) == pytest.approx([3] * 8, abs=0.2)
    assert replaced["noise"].mean().item() == pytest.approx(3, abs=0.1)
    assert replaced["noise"].std().item() == pytest.approx(2, abs=0.1)
    with pytest.raises(ValueError, match="at least 2 texts, got 1"):
        intervened_latents(latents[:1], latent_mask[:1], seeded())


def with_covariance(eigenvalues, num_rows=64):
    """Rows whose covariance is exactly diagonal, with these values."""
    rows = torch.randn(num_rows, len(eigenvalues), dtype=torch.double)
    rows = torch.linalg.qr(rows - rows.mean(0))[0]
    return rows * ((num_rows - 1) * torch.tensor(eigenvalues)).sqrt()


def test_spectrum_of_a_known_covariance():
    eigenvalues = [6.0, 3.0, 0.95, 0.05, 0.004]
    latents = with_covariance(eigenvalues)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.double))[0]
    for rows in (latents + 1, latents @ rotation):
        found = latent_spectrum(rows)
        assert found["eigenvalues"] == pytest.approx(eigenvalues, rel=1e-6)
        ratio = sum(eigenvalues) ** 2 / sum(value**2 for value in eigenvalues)
        assert found["participation_ratio"] == pytest.approx(ratio)
        assert (found["num_directions_90"], found["num_directions_99"]) == (3, 3)
    assert latent_spectrum(latents)["num_active_channels"] == 4
    assert found["num_channels"] == found["num_active_channels"] == 5  # rotated: all in use


def test_participation_ratio_counts_equal_directions():
    found = latent_spectrum(with_covariance([1.0] * 3 + [0.0] * 5))
    assert found["participation_ratio"] == pytest.approx(3)
    assert found["num_directions_90"] == 3
    with pytest.raises(ValueError, match="all are equal"):
        latent_spectrum(torch.ones(4, 8))


def test_neighbours_are_the_nearest_different_texts(orthogonal):
    ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 6], [3, 4, 5, 7], [8, 9, 10, 7], [8, 9, 11, 12]])
    latents = encode_all(orthogonal, ids, torch.ones_like(ids, dtype=torch.bool))
    neighbours = nearest_neighbours(latents, ids).tolist()
    assert neighbours[:2] == [2, 2]
    assert neighbours[2] in (0, 1)
    assert neighbours[3:] == [4, 3]
    with pytest.raises(ValueError, match="2 equal ones"):
        nearest_neighbours(latents[:2], ids[:2])


def test_a_midpoint_of_orthogonal_tokens_is_one_of_its_ends(orthogonal):
    ids, mask = full_texts(num_rows=20)
    latents = encode_all(orthogonal, ids, mask)
    neighbours = nearest_neighbours(latents, ids)
    decoded = decode_all(orthogonal, (latents + latents[neighbours]) / 2)
    found = midpoint_agreement(decoded, ids, mask, neighbours)
    assert found["agreement"] == found["agreement_where_ends_differ"] == 1
    assert found["ends_differ"] == pytest.approx(
        (ids != ids[neighbours]).float().mean().item(), abs=1e-6
    )


def test_agreement_counts_only_where_both_texts_reach():
    ids = torch.tensor([[5, 6, 7, END], [5, 8, END, PAD]])
    mask = ids != PAD
    neighbours = torch.tensor([1, 0])
    midpoint_ids = torch.tensor([[5, 6, 9, 9], [9, 8, 7, 9]])
    found = midpoint_agreement(midpoint_ids, ids, mask, neighbours)
    assert found["ends_differ"] == pytest.approx(2 / 3)
    assert found["agreement"] == pytest.approx(4 / 6)
    assert found["agreement_where_ends_differ"] == pytest.approx(3 / 4)
    assert found["agreement_where_ends_agree"] == pytest.approx(1 / 2)


def test_latents_of_texts_are_their_own_texts_latents(orthogonal):
    ids, mask = full_texts()
    latents = encode_all(orthogonal, ids, mask)
    found = score_own_texts(orthogonal, latents)
    clean = score_decoder(orthogonal, latents, ids, mask)
    assert found["distance"] == pytest.approx(0, abs=1e-6)
    assert found["cross_entropy"] == pytest.approx(clean["cross_entropy"], rel=1e-5)
    assert found["reencoded_cross_entropy"] == found["cross_entropy"]
    assert found["reencoded_token_accuracy"] == 1
    noisy = latents + 1.5 * torch.randn_like(latents)
    worse = score_own_texts(orthogonal, noisy)
    assert worse["cross_entropy"] > 2 * found["cross_entropy"]
    assert worse["distance"] > 1


def test_what_is_behind_the_end_of_a_sampled_text_does_not_count(orthogonal):
    ids, mask = full_texts()
    ids[:, 4] = END
    latents = encode_all(orthogonal, ids, mask)
    found = score_own_texts(orthogonal, latents)
    latents[:, 5:] = torch.randn(len(ids), 3, WIDTH)
    assert score_own_texts(orthogonal, latents) == pytest.approx(found, abs=1e-6)
