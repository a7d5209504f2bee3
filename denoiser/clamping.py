"""Clamping in a distillation: predictions become latents of texts, as in sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoencoder.model import TextAutoencoder
from denoiser.noise import shift_time


def clamp_latents(autoencoder: TextAutoencoder, latents: Tensor) -> Tensor:
    """Replace standardized latents ``(B, L, D)`` by those of the text that they decode to."""
    statistics = autoencoder.statistics
    ids = autoencoder.decode(statistics.unstandardize(latents)).argmax(dim=-1)
    return statistics.standardize(autoencoder.encode(ids, autoencoder.text_mask(ids)))


@dataclass(frozen=True)
class Clamping:
    """The clamping trick (Li et al. 2022, section 4.2) for rows that stand at any time.

    Attributes:
        autoencoder: Decodes predictions, and encodes their texts.
        start: Share of the way from noise to data after which predictions are clamped, in [0, 1),
            as ``clamp_start`` of a pipeline.
    """

    autoencoder: TextAutoencoder
    start: float

    @torch.no_grad()
    def __call__(self, pred_latents: Tensor, t: Tensor, noise_shift: float) -> Tensor:
        """Clamp the predictions ``(B, L, D)`` of rows whose time is past the start.

        Args:
            pred_latents: Predicted clean latents, standardized.
            t: Times ``(B,)`` at which they were made.
            noise_shift: Median noise-to-signal ratio of the grid.
        """
        first = shift_time(torch.tensor(1 - self.start), noise_shift)
        is_past = t <= float(first) * (1 + 1e-5)  # a time of the grid may be off by rounding
        clamped = clamp_latents(self.autoencoder, pred_latents)
        return torch.where(is_past[:, None, None], clamped, pred_latents)
