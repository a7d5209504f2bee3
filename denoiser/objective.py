"""The training loss of the denoiser: squared error of the predicted clean latents."""

import torch
from torch import Tensor

from denoiser.infilling import KnownLatents, predict
from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, sample_time

Losses = dict[str, Tensor]


def denoising_loss(
    denoiser: LatentDenoiser,
    latents: Tensor,
    known_latents: Tensor,
    known_mask: Tensor,
    noise_shift: float,
    cond_drop_prob: float,
    self_condition_prob: float,
    known: KnownLatents | None = None,
) -> dict[str, Tensor]:
    """Noise the latents, predict them, and compare in latent space without weights.

    Self-conditioning follows Chen et al. (2023, Analog Bits): a share of the rows sees its own
    first prediction, through which no gradient flows. Times are stratified and in random order, so
    that these rows are simply the first ones of the batch.

    Args:
        denoiser: The network.
        latents: Clean standardized latents ``(B, L, D)``.
        known_latents: Clean standardized latents of the source, ``(B, K, D)``.
        known_mask: True at known latents that hold text, ``(B, K)``.
        noise_shift: Median noise-to-signal ratio of the training noise.
        cond_drop_prob: Probability that a row is trained with the learned null as its source; rows
            without any known text always are.
        self_condition_prob: Share of rows that see an earlier prediction.
        known: Latents of the text that a denoiser with ``infill_prob`` is given clean; only the
            others are compared.

    Returns:
        ``loss``, the mean squared error, a scalar; ``t`` and ``row_error``, both ``(B,)``;
        ``latents`` as given and ``pred_latents``, both ``(B, L, D)``.
    """
    batch_size = len(latents)
    t = sample_time(batch_size, noise_shift, latents.device)
    noisy_latents = add_noise(latents, torch.randn_like(latents), t)
    is_null = torch.rand(batch_size, device=latents.device) < cond_drop_prob
    is_null = is_null | ~known_mask.any(dim=1)  # as in sampling

    self_condition = torch.zeros_like(latents)
    num_conditioned = round(self_condition_prob * batch_size)
    if num_conditioned:
        rows = slice(num_conditioned)
        inputs = (noisy_latents, t, known_latents, known_mask, is_null)
        first_known = None if known is None else known.map(lambda part: part[rows])
        with torch.no_grad():
            self_condition[rows] = predict(denoiser, first_known, *(part[rows] for part in inputs))
    prediction = predict(
        denoiser, known, noisy_latents, t, known_latents, known_mask, is_null, self_condition
    )
    losses = squared_error(prediction, latents, t, latents)
    return losses if known is None else losses | unknown_error(prediction, latents, known.mask)


def squared_error(prediction: Tensor, target: Tensor, t: Tensor, latents: Tensor) -> Losses:
    """Compare predictions ``(B, L, D)`` with targets; returns what ``denoising_loss`` returns."""
    row_error = (prediction - target).square().mean(dim=(1, 2))
    return {
        "loss": row_error.mean(),
        "t": t,
        "row_error": row_error.detach(),
        "latents": latents,
        "pred_latents": prediction,
    }


def unknown_error(prediction: Tensor, target: Tensor, known_mask: Tensor) -> Losses:
    """Compare predictions ``(B, L, D)`` where ``known_mask`` ``(B, L)`` is False.

    Returns:
        ``loss``, the mean over all unknown latents of the batch, and ``row_error``, that over those
        of each row, ``(B,)``; 0 where all are known.
    """
    is_open = (~known_mask).float()
    error = (prediction - target).square().mean(dim=2) * is_open
    row_error = error.sum(dim=1) / is_open.sum(dim=1).clamp(min=1)
    return {"loss": error.sum() / is_open.sum().clamp(min=1), "row_error": row_error.detach()}


def errors_by_time(t: Tensor, row_error: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum the errors of rows in four equal bins of time, and count the rows.

    Args:
        t: Times ``(B,)`` in [0, 1).
        row_error: Errors ``(B,)``.

    Returns:
        For each bin, such as ``loss_t_0.25_to_0.50``, the sum and the number of its rows, scalars.
    """
    bins = {}
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = ((t >= low) & (t < low + 0.25)).float()
        bins[f"loss_t_{low:.2f}_to_{low + 0.25:.2f}"] = (chosen @ row_error.float(), chosen.sum())
    return bins
