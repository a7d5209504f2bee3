"""What a decoder reads from latents, and how latents lie in their space.

Texts are token ids ``(N, S)``, the pad token behind their end, with masks ``(N, S)``, True at real
tokens. Latents ``(N, L, D)`` have the scale of ``TextAutoencoder.encode``. Nothing here knows where
the latents come from: they may be encoded, noised, predicted or sampled.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoencoder.model import TextAutoencoder

ACTIVE_VARIANCE = 0.01  # of a channel (Burda et al. 2016, section 5.1); latents have mean square 1


@torch.no_grad()
def encode_all(
    autoencoder: TextAutoencoder, input_ids: Tensor, attention_mask: Tensor, batch_size: int = 64
) -> Tensor:
    """Encode texts in batches: latents ``(N, L, D)``."""
    rows = zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True)
    return torch.cat([autoencoder.encode(ids, mask) for ids, mask in rows])


@torch.no_grad()
def decode_all(autoencoder: TextAutoencoder, latents: Tensor, batch_size: int = 64) -> Tensor:
    """Decode latents in batches to the likeliest token ids ``(N, S)``; no end cuts them."""
    return torch.cat(
        [autoencoder.decode(rows).argmax(dim=-1) for rows in latents.split(batch_size)]
    )


@torch.no_grad()
def score_decoder(
    autoencoder: TextAutoencoder,
    latents: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    batch_size: int = 64,
) -> dict[str, float]:
    """Measure how well the decoder reads given texts from given latents.

    Returns:
        ``cross_entropy`` in nats and ``token_accuracy`` in [0, 1], both means over all real tokens.
    """
    labels = input_ids.masked_fill(~attention_mask, -100)
    loss, correct = 0.0, 0
    for some_latents, some_labels in zip(
        latents.split(batch_size), labels.split(batch_size), strict=True
    ):
        logits = autoencoder.decode(some_latents).float()
        loss += F.cross_entropy(
            logits.flatten(0, 1), some_labels.flatten(), ignore_index=-100, reduction="sum"
        ).item()
        correct += int((logits.argmax(dim=-1) == some_labels).sum())  # never true at -100
    num_tokens = int(attention_mask.sum())
    return {"cross_entropy": loss / num_tokens, "token_accuracy": correct / num_tokens}


def draw_noise(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Draw gaussian noise of the shape of ``latents``, the same on every device."""
    noise = torch.randn(latents.shape, generator=generator, device=generator.device)
    return noise.to(latents)


def noise_recovery(
    autoencoder: TextAutoencoder,
    latents: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    times: Sequence[float],
    generator: torch.Generator,
    batch_size: int = 64,
    noise_mean: Tensor | None = None,
    noise_std: Tensor | None = None,
) -> list[dict[str, float | None]]:
    """Measure what the decoder alone recovers from noisy latents, at several amounts of noise.

    Noise has the mean and the standard deviation of the latents in each channel, as a denoiser
    meets it that works on standardized latents; all amounts share one draw. The empty latents
    behind a text are noised too. ``t = 1`` is noise alone.

    Args:
        autoencoder: The autoencoder.
        latents: Clean latents of the texts.
        input_ids: Token ids of the texts.
        attention_mask: Their masks.
        times: Shares of noise in [0, 1]; the noise-to-signal ratio is ``t / (1 - t)``.
        generator: Source of the noise.
        batch_size: Texts that are decoded together.
        noise_mean: Mean of the noise in each channel, ``(D,)``; by default what the autoencoder's
            statistics have measured of its latents.
        noise_std: Standard deviation of the noise in each channel, ``(D,)``; by default likewise.

    Returns:
        For each time ``t``, ``noise_ratio`` (``None`` where it is infinite), ``cross_entropy`` and
        ``token_accuracy``.
    """
    mean = autoencoder.statistics.latent_mean if noise_mean is None else noise_mean
    std = autoencoder.statistics.latent_std if noise_std is None else noise_std
    noise = mean + std * draw_noise(latents, generator)
    curve = []
    for t in times:
        # The same as to standardize, to mix with noise of mean 0 and spread 1, and to go back.
        noisy = (1 - t) * latents + t * noise
        score = score_decoder(autoencoder, noisy, input_ids, attention_mask, batch_size)
        curve.append({"t": t, "noise_ratio": t / (1 - t) if t < 1 else None} | score)
    return curve


def intervened_latents(
    latents: Tensor, latent_mask: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Replace latents in five ways that tell what a decoder owes to them.

    Args:
        latents: Latents of at least two texts.
        latent_mask: True at latents that hold text, ``(N, L)``.
        generator: Source of the order and of the noise.

    Returns:
        ``matched``, the latents themselves; ``shuffled``, each text's those of another text;
        ``zero``; ``mean``, everywhere the mean of all that hold text; and ``noise``, gaussian with
        their mean and standard deviation in each channel. All ``(N, L, D)``.

    Raises:
        ValueError: If there are fewer than two texts, so that none is another.
    """
    if len(latents) < 2:
        raise ValueError(f"An intervention needs at least 2 texts, got {len(latents)}.")
    order = torch.randperm(len(latents), generator=generator, device=generator.device)
    order = order.to(latents.device)
    shuffled = torch.empty_like(latents)
    shuffled[order] = latents[order.roll(1)]  # along one cycle: no text keeps its own
    std, mean = torch.std_mean(latents[latent_mask], dim=0)
    return {
        "matched": latents,
        "shuffled": shuffled,
        "zero": torch.zeros_like(latents),
        "mean": mean.expand_as(latents),
        "noise": mean + std * draw_noise(latents, generator),
    }


def intervene(
    autoencoder: TextAutoencoder,
    latents: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    generator: torch.Generator,
    batch_size: int = 64,
) -> dict[str, dict[str, float]]:
    """Score the decoder on the texts under each intervention, see ``intervened_latents``.

    A decoder that ignores its latents has the same scores under all.
    """
    latent_mask = autoencoder.latent_mask(attention_mask)
    return {
        name: score_decoder(autoencoder, replaced, input_ids, attention_mask, batch_size)
        for name, replaced in intervened_latents(latents, latent_mask, generator).items()
    }


def latent_spectrum(latents: Tensor) -> dict[str, Any]:
    """Describe the covariance of latents ``(M, D)``, ``M >= 2``, without the empty ones.

    Returns:
        ``eigenvalues`` of the covariance, largest first; ``participation_ratio``, the square of
        their sum over the sum of their squares, in [1, D], a number of directions in use;
        ``num_directions_90`` and ``num_directions_99``, how many hold 90 and 99 % of the variance;
        ``num_channels``; and ``num_active_channels``, those of a variance above 0.01.

    Raises:
        ValueError: If there are fewer than two latents, or all are equal.
    """
    if len(latents) < 2:
        raise ValueError(f"A spectrum needs at least 2 latents, got {len(latents)}.")
    covariance = torch.atleast_2d(torch.cov(latents.double().T))
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
    total = eigenvalues.sum()
    if total == 0:
        raise ValueError("A spectrum needs latents that differ; all are equal.")
    shares = eigenvalues.cumsum(0) / total
    return {
        "eigenvalues": eigenvalues.tolist(),
        "participation_ratio": float(total.square() / eigenvalues.square().sum()),
        "num_directions_90": int((shares < 0.9).sum()) + 1,
        "num_directions_99": int((shares < 0.99).sum()) + 1,
        "num_channels": latents.shape[1],
        "num_active_channels": int((covariance.diagonal() > ACTIVE_VARIANCE).sum()),
    }


def nearest_neighbours(latents: Tensor, input_ids: Tensor) -> Tensor:
    """Find for each text the one with the nearest latents (Euclidean) among different texts.

    Args:
        latents: Latents of the texts.
        input_ids: Their token ids; rows that are equal are one text.

    Returns:
        Row numbers ``(N,)``.

    Raises:
        ValueError: If there are not two different texts.
    """
    _, text = torch.unique(input_ids, dim=0, return_inverse=True)
    if text.max() == 0:
        raise ValueError(f"Neighbours need at least 2 different texts, got {len(text)} equal ones.")
    flat = latents.flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.masked_fill(text[:, None] == text, torch.inf).argmin(dim=1)


def midpoint_agreement(
    midpoint_ids: Tensor, input_ids: Tensor, attention_mask: Tensor, neighbours: Tensor
) -> dict[str, float | None]:
    """Compare the texts decoded from midpoints with those at either end.

    Only positions count that hold a real token in both texts.

    Args:
        midpoint_ids: Token ids decoded from midpoints, ``(N, S)``.
        input_ids: Token ids of the texts.
        attention_mask: Their masks.
        neighbours: The row of each text's other end, ``(N,)``.

    Returns:
        ``ends_differ``, the share of positions where the two texts have different tokens;
        ``agreement``, the share where the midpoint has the token of either end; and the same where
        the ends differ, ``agreement_where_ends_differ``, and where they do not,
        ``agreement_where_ends_agree``; ``None`` without such positions.
    """
    other_ids = input_ids[neighbours]
    is_real = attention_mask & attention_mask[neighbours]
    is_either = (midpoint_ids == input_ids) | (midpoint_ids == other_ids)
    differ = input_ids != other_ids

    def share(found: Tensor, among: Tensor) -> float | None:
        return float(found[among].float().mean()) if among.any() else None

    return {
        "ends_differ": share(differ, is_real),
        "agreement": share(is_either, is_real),
        "agreement_where_ends_differ": share(is_either, is_real & differ),
        "agreement_where_ends_agree": share(is_either, is_real & ~differ),
    }


def score_own_texts(
    autoencoder: TextAutoencoder, latents: Tensor, batch_size: int = 64
) -> dict[str, float]:
    """Measure how far sampled latents are from those of the texts that they decode to.

    Sampled latents have no text of their own but the one that the decoder reads from them: its
    likeliest tokens up to the first end token, all of them where there is none.

    Args:
        autoencoder: The autoencoder.
        latents: Latents without a known text.
        batch_size: Rows that go through the network together.

    Returns:
        ``cross_entropy`` of the decoder on the latents against that text, which tells how sure it
        is; ``reencoded_cross_entropy``, the same on the latents that the encoder gives the text;
        ``reencoded_token_accuracy``, how much of the text survives this; and ``distance``, the mean
        squared difference of the two latents in standardized space, where text has variance 1.
    """
    config = autoencoder.config
    ids = decode_all(autoencoder, latents, batch_size)
    mask = autoencoder.text_mask(ids)
    ids = ids.masked_fill(~mask, config.pad_token_id)
    encoded = encode_all(autoencoder, ids, mask, batch_size)
    held = autoencoder.latent_mask(mask)
    own = score_decoder(autoencoder, latents, ids, mask, batch_size)
    reencoded = score_decoder(autoencoder, encoded, ids, mask, batch_size)
    # Distances are taken where there is text: what is behind it has no influence on it in training.
    difference = (latents - encoded)[held] / autoencoder.statistics.latent_std
    return {
        "cross_entropy": own["cross_entropy"],
        "reencoded_cross_entropy": reencoded["cross_entropy"],
        "reencoded_token_accuracy": reencoded["token_accuracy"],
        "distance": float(difference.square().mean()),
    }
