"""Per-channel mean and standard deviation of the latents, measured on held-out text."""

import torch
from torch import Tensor, nn


class LatentStatistics(nn.Module):
    """Standardize latents and back; the measured statistics are buffers, saved with the model."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))

    def measure(self, latents: Tensor) -> None:
        """Replace the statistics by those of ``latents``, of shape ``(N, D)`` with ``N >= 2``."""
        if len(latents) < 2:
            raise ValueError(f"Latent statistics need at least 2 latents, got {len(latents)}.")
        std, mean = torch.std_mean(latents.double(), dim=0)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp(min=1e-4))

    def standardize(self, latents: Tensor) -> Tensor:
        """Map latents ``(..., D)`` to mean 0 and standard deviation 1 in each channel."""
        return (latents - self.latent_mean) / self.latent_std

    def unstandardize(self, latents: Tensor) -> Tensor:
        """Undo ``standardize``."""
        return latents * self.latent_std + self.latent_mean
