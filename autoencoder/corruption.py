"""Corruptions that shape the latent space: masked tokens, dropped latents, gaussian noise.

They act on tokens, or behind the fixed norm of the latents, where no trainable scale can undo them.
"""

import torch
from torch import Tensor, nn


def mask_tokens(input_ids: Tensor, max_prob: float, mask_token_id: int) -> Tensor:
    """Replace tokens by the mask token, each row with a rate drawn from U(0, ``max_prob``).

    Args:
        input_ids: Token ids ``(B, S)``.
        max_prob: Largest share of masked tokens, in [0, 1].
        mask_token_id: Id that stands for a hidden token.

    Returns:
        Token ids ``(B, S)``.
    """
    prob = max_prob * torch.rand(len(input_ids), 1, device=input_ids.device)
    hidden = torch.rand(input_ids.shape, device=input_ids.device) < prob
    return input_ids.masked_fill(hidden, mask_token_id)


class LatentCorruption(nn.Module):
    """Zero channels and add noise to latents during training.

    Args:
        dropout_prob: Share of latent channels set to zero without rescaling (AURORA-LM), in [0, 1).
        max_noise_ratio: Largest standard deviation of the noise relative to the latents' root mean
            square, which is 1; each row draws its ratio from U(0, ``max_noise_ratio``).
    """

    def __init__(self, dropout_prob: float = 0.0, max_noise_ratio: float = 1.5) -> None:
        super().__init__()
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"`dropout_prob` must be in [0, 1), got {dropout_prob}.")
        if max_noise_ratio < 0:
            raise ValueError(f"`max_noise_ratio` must not be negative, got {max_noise_ratio}.")
        self.dropout_prob = dropout_prob
        self.max_noise_ratio = max_noise_ratio

    def forward(self, latents: Tensor) -> Tensor:
        """Corrupt latents ``(B, L, D)``."""
        if self.dropout_prob:
            latents = latents * (torch.rand_like(latents) >= self.dropout_prob)
        if self.max_noise_ratio:
            row_ratio = self.max_noise_ratio * torch.rand_like(latents[:, :1, :1])
            latents = latents + row_ratio * torch.randn_like(latents)
        return latents
