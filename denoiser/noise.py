"""The noise process ``noisy = (1 - t) * latents + t * noise``, and conversions of predictions.

The straight path of flow matching (Lipman et al. 2023; Liu et al. 2023). The noise-to-signal ratio
is ``t / (1 - t)``. Everything here is float32 and a function of its arguments.
"""

import torch
from torch import Tensor


def shift_time(u: Tensor, noise_shift: float) -> Tensor:
    """Multiply the noise-to-signal ratio of times ``u`` by ``noise_shift``.

    The time shift of Esser et al. (2024, equation 23), which diffusers' flow schedulers call
    ``shift`` or ``flow_shift``. With uniform ``u`` the median noise-to-signal ratio of the result
    is ``noise_shift``.

    Args:
        u: Times in [0, 1], any shape.
        noise_shift: Positive factor; 1 changes nothing, larger means noisier.
    """
    return noise_shift * u / (1 + (noise_shift - 1) * u)


def sample_time(batch_size: int, noise_shift: float, device: torch.device | None = None) -> Tensor:
    """Draw training times ``(B,)``, stratified over the batch, in [0, 1].

    Row ``i`` draws from the ``i``-th of ``B`` equal parts of [0, 1), in random order (the low
    variance sampler of Kingma et al. 2021, appendix I.1), then the times are shifted.
    """
    parts = torch.randperm(batch_size, device=device)
    u = (parts + torch.rand(batch_size, device=device)) / batch_size
    return shift_time(u, noise_shift)


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Noise latents ``(B, L, D)`` to times ``t`` of shape ``(B,)``."""
    t = t[:, None, None]
    return (1 - t) * latents + t * noise


def linear_estimate(noisy_latents: Tensor, t: Tensor) -> Tensor:
    """Estimate clean latents ``(B, L, D)`` linearly, for data of mean 0 and variance 1.

    No other multiple of noisy latents at times ``t`` of shape ``(B,)`` has a smaller squared error.
    """
    t = t[:, None, None]
    return (1 - t) / ((1 - t) ** 2 + t**2) * noisy_latents


def latents_to_velocity(pred_latents: Tensor, noisy_latents: Tensor, t: Tensor) -> Tensor:
    """Convert predicted clean latents to the velocity ``noise - latents``, ``(B, L, D)``.

    Args:
        pred_latents: Predicted clean latents ``(B, L, D)``.
        noisy_latents: What the prediction was made from, same shape.
        t: Times ``(B,)``, above 0.
    """
    return (noisy_latents - pred_latents) / t[:, None, None]


def velocity_to_latents(velocity: Tensor, noisy_latents: Tensor, t: Tensor) -> Tensor:
    """Undo ``latents_to_velocity``."""
    return noisy_latents - t[:, None, None] * velocity


def flow_step(pred_latents: Tensor, noisy_latents: Tensor, t: Tensor, next_t: Tensor) -> Tensor:
    """Go along the straight line through a prediction, from times ``t`` down to ``next_t``.

    The Euler step of the flow: ``next_t / t`` of what is noisy is kept. At ``next_t = 0`` it is the
    prediction itself.

    Args:
        pred_latents: Predicted clean latents ``(B, L, D)``.
        noisy_latents: What the prediction was made from, same shape.
        t: Times ``(B,)``, above 0.
        next_t: Times ``(B,)``, from 0 to ``t``.
    """
    return pred_latents.lerp(noisy_latents, (next_t / t)[:, None, None])


def landing_to_latents(landing: Tensor, noisy_latents: Tensor, t: Tensor, next_t: Tensor) -> Tensor:
    """Tell which prediction would lead to ``landing`` in one step: undo ``flow_step``.

    Args:
        landing: Where the step is to end, ``(B, L, D)``.
        noisy_latents: Where it starts, same shape.
        t: Times ``(B,)``, above 0.
        next_t: Times ``(B,)``, from 0 to below ``t``.
    """
    kept = (next_t / t)[:, None, None]
    return (landing - kept * noisy_latents) / (1 - kept)
