"""The training loss of the denoiser: squared error of the predicted clean latents."""

from functools import partial

import torch
from torch import Tensor

from denoiser.infilling import KnownLatents, predict
from denoiser.loss_options import LossOptions, guided_target
from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, flow_step, sample_time
from denoiser.shares import draw_numbers

Losses = dict[str, Tensor]
PLAIN = LossOptions()


def denoising_loss(
    denoiser: LatentDenoiser,
    latents: Tensor,
    known_latents: Tensor,
    known_mask: Tensor,
    noise_shift: float,
    cond_drop_prob: float,
    self_condition_prob: float,
    known: KnownLatents | None = None,
    options: LossOptions = PLAIN,
    consistency_weight: float = 0.0,
    target_denoiser: LatentDenoiser | None = None,
) -> dict[str, Tensor]:
    """Noise the latents, predict them, and compare in latent space, by default without weights.

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
        options: Weighting of rows, guidance folded in, and the grid of consistency.
        consistency_weight: Weight of consistency at this training step; 0 is off.
        target_denoiser: Network that gives the target of consistency.

    Returns:
        ``loss``, the mean squared error, a scalar; ``t`` and ``row_error``, without weights, both
        ``(B,)``; ``latents`` as given and ``pred_latents``, both ``(B, L, D)``. With consistency
        its error is in ``loss``, with its weight, and ``consistency``, without.
    """
    batch_size = len(latents)
    t = sample_time(batch_size, noise_shift, latents.device)
    noisy_latents = add_noise(latents, torch.randn_like(latents), t)
    is_null = torch.rand(batch_size, device=latents.device) < cond_drop_prob
    is_null = is_null | ~known_mask.any(dim=1)  # as in sampling

    self_condition = torch.zeros_like(latents)
    [num_conditioned] = draw_numbers(batch_size, self_condition_prob)
    if num_conditioned:
        rows = slice(num_conditioned)
        inputs = (noisy_latents, t, known_latents, known_mask, is_null)
        first_known = None if known is None else known.map(lambda part: part[rows])
        with torch.no_grad():
            self_condition[rows] = predict(denoiser, first_known, *(part[rows] for part in inputs))
    source = (known_latents, known_mask)
    prediction = predict(denoiser, known, noisy_latents, t, *source, is_null, self_condition)
    target = latents
    if options.guidance_weight:
        with torch.no_grad():
            nothing = torch.ones_like(is_null)
            of_null = predict(denoiser, known, noisy_latents, t, *source, nothing, self_condition)
        weight = options.guidance_weight * (~is_null).float()
        target = guided_target(latents, prediction, of_null, weight)

    known_places = None if known is None else known.mask
    compare = partial(compare_rows, prediction, t=t, latents=latents, known_mask=known_places)
    losses = compare(target, weights=options.row_weights(t))
    if consistency_weight:
        at_prediction = prediction.detach()
        next_t = options.previous_time(t, noise_shift)
        landing = flow_step(at_prediction, noisy_latents, t.clamp(min=torch.finfo().tiny), next_t)
        with torch.no_grad():
            network = denoiser if target_denoiser is None else target_denoiser
            goal = predict(network, known, landing, next_t, *source, is_null, at_prediction)
        consistency = compare(goal)["loss"]
        total = losses["loss"] + consistency_weight * consistency
        losses = losses | {"loss": total, "consistency": consistency.detach()}
    return losses


def compare_rows(
    prediction: Tensor,
    target: Tensor,
    t: Tensor,
    latents: Tensor,
    known_mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> Losses:
    """Compare predictions ``(B, L, D)`` with targets, at unknown latents if any are known.

    Args:
        prediction: Predictions.
        target: What they should be.
        t: Times ``(B,)``.
        latents: Clean latents, which are passed on.
        known_mask: True at known latents, ``(B, L)``; ``None`` compares all.
        weights: Weights of the rows in ``loss``, ``(B,)``; ``row_error`` has none.

    Returns:
        What ``denoising_loss`` returns.
    """
    losses = squared_error(prediction, target, t, latents, weights)
    if known_mask is None:
        return losses
    return losses | unknown_error(prediction, target, known_mask, weights)


def squared_error(
    prediction: Tensor,
    target: Tensor,
    t: Tensor,
    latents: Tensor,
    weights: Tensor | None = None,
) -> Losses:
    """Compare predictions ``(B, L, D)`` with targets; returns what ``denoising_loss`` returns."""
    row_error = (prediction - target).square().mean(dim=(1, 2))
    return {
        "loss": (row_error if weights is None else row_error * weights).mean(),
        "t": t,
        "row_error": row_error.detach(),
        "latents": latents,
        "pred_latents": prediction,
    }


def unknown_error(
    prediction: Tensor, target: Tensor, known_mask: Tensor, weights: Tensor | None = None
) -> Losses:
    """Compare predictions ``(B, L, D)`` where ``known_mask`` ``(B, L)`` is False.

    Returns:
        ``loss``, the mean over all unknown latents of the batch, and ``row_error``, that over those
        of each row, ``(B,)``; 0 where all are known.
    """
    is_open = (~known_mask).float()
    error = (prediction - target).square().mean(dim=2) * is_open
    row_error = error.sum(dim=1) / is_open.sum(dim=1).clamp(min=1)
    if weights is not None:
        error = error * weights[:, None]
    return {"loss": error.sum() / is_open.sum().clamp(min=1), "row_error": row_error.detach()}
