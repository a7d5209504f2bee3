"""What the training loss of the denoiser may be beside the plain squared error."""

from typing import Literal, get_args

import torch
from torch import Tensor

from denoiser.noise import shift_time

Weighting = Literal["latents", "velocity"]
MIN_TIME = 0.05


class LossOptions:
    """Weighting by time, guidance folded in, consistency along the path, and decoded tokens.

    As it is made, the loss is the mean squared error of the predicted clean latents. Validation
    always measures that, whatever is trained, so that trainings can be compared.

    Guidance folded in ("Diffusion Models without Classifier-free Guidance", Tang et al. 2025): a
    row with a source learns ``latents + guidance_weight * (prediction - prediction_of_null)``, both
    without gradient. What it converges to is the prediction under classifier-free guidance of scale
    ``1 / (1 - guidance_weight)``, at one call a step. It costs one forward without gradient.

    Self-trajectory consistency (AURORA-LM, Liang et al. 2026, equations 12 to 15): the prediction
    leads one step down a sampler's grid, without gradient; what the averaged weights predict there,
    with the prediction as their self-condition, as in sampling, is a second target. It costs one
    forward without gradient.

    Decoded tokens (the anchor loss of Difformer, Gao et al. 2022, with the frozen decoder in place
    of the rounding): the cross-entropy of what the decoder reads in the predicted latents. Squared
    error minds all latents alike; this minds those that are not readable yet. It costs one forward
    and one backward through the decoder.

    Args:
        weighting: ``latents`` compares clean latents without weights; ``velocity`` compares
            velocities, which weighs the squared error of clean latents with ``1 / t^2``, from
            ``t`` 0.05 on.
        guidance_weight: Weight of the guidance that is folded in, from 0, which is off, to below 1.
        consistency_weight: Weight of the second target; 0 is off.
        consistency_steps: Steps of its grid.
        consistency_warmup_steps: Training steps over which its weight grows linearly.
        decoder_weight: Weight of the cross-entropy of decoded tokens, in nats a token; 0 is off.

    Raises:
        ValueError: If one is out of its range, or there is a warm-up of nothing.
    """

    def __init__(
        self,
        weighting: Weighting = "latents",
        guidance_weight: float = 0.0,
        consistency_weight: float = 0.0,
        consistency_steps: int = 16,
        consistency_warmup_steps: int = 0,
        decoder_weight: float = 0.0,
    ) -> None:
        if weighting not in get_args(Weighting):
            raise ValueError(f"`weighting` must be latents or velocity, got '{weighting}'.")
        if not 0 <= guidance_weight < 1:
            raise ValueError(f"`guidance_weight` must be in [0, 1), got {guidance_weight}.")
        for name, value, least in (
            ("consistency_weight", consistency_weight, 0),
            ("consistency_steps", consistency_steps, 2),
            ("consistency_warmup_steps", consistency_warmup_steps, 0),
            ("decoder_weight", decoder_weight, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if consistency_warmup_steps and not consistency_weight:
            raise ValueError("`consistency_warmup_steps` has no effect at `consistency_weight` 0.")
        self.weighting = weighting
        self.guidance_weight = guidance_weight
        self.consistency_weight = consistency_weight
        self.consistency_steps = consistency_steps
        self.consistency_warmup_steps = consistency_warmup_steps
        self.decoder_weight = decoder_weight

    def row_weights(self, t: Tensor) -> Tensor | None:
        """Weigh the squared errors of rows at times ``(B,)``: ``(B,)``, or ``None`` for all 1."""
        if self.weighting == "latents":
            return None
        return t.clamp(min=MIN_TIME) ** -2

    def consistency_weight_at(self, step: int) -> float:
        """Return the weight of the second target at a training step."""
        if step >= self.consistency_warmup_steps:
            return self.consistency_weight
        return self.consistency_weight * step / self.consistency_warmup_steps

    def previous_time(self, t: Tensor, noise_shift: float) -> Tensor:
        """Go one step down the grid of a sampler from any times ``(B,)``, at the last step to 0."""
        u = shift_time(t, 1 / noise_shift)
        return shift_time((u - 1 / self.consistency_steps).clamp(min=0), noise_shift)


def guided_target(target: Tensor, prediction: Tensor, of_null: Tensor, weight: Tensor) -> Tensor:
    """Move targets ``(B, L, D)`` as guidance would, by a weight for each row, ``(B,)``."""
    return torch.addcmul(target, weight[:, None, None], prediction.detach() - of_null)
