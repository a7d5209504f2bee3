"""Latents to tokens, all positions at once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.transformer import Transformer


class ParallelDecoder(nn.Module):
    """Read each latent, in the context of the others, as ``tokens_per_latent`` tokens.

    ``transpose_of`` makes its linear maps the transposes of the encoder's.
    """

    def __init__(
        self,
        token_dim: int,
        tokens_per_latent: int,
        latent_dim: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.tokens_per_latent = tokens_per_latent
        self.latent_projection = nn.Linear(latent_dim, hidden_dim, bias=False)
        self.transformer = Transformer(hidden_dim, num_layers, num_heads)
        self.patch_projection = nn.Linear(hidden_dim, tokens_per_latent * token_dim, bias=False)

    @torch.no_grad()
    def transpose_of(self, latent_projection: Tensor, patch_projection: Tensor) -> None:
        """Start as the transpose of the encoder's two linear maps."""
        self.latent_projection.weight.copy_(latent_projection.T)
        self.patch_projection.weight.copy_(patch_projection.T)

    def forward(self, latents: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Decode latents of any scale.

        Args:
            latents: Latents ``(B, L, D)``. Only the direction of each is read, so a prediction that
                is shorter than the latents of training is read the same.
            attention_mask: Boolean, True where a latent may look at another, broadcastable to
                ``(B, 1, L, L)``. ``None`` allows all.

        Returns:
            Tokens ``(B, S, token_dim)``, to be compared with the token embeddings.
        """
        hidden = self.latent_projection(F.rms_norm(latents, latents.shape[-1:], eps=1e-6))
        positions = torch.arange(latents.shape[1], device=latents.device)
        hidden = self.transformer(hidden, positions, attention_mask)
        patches = self.patch_projection(hidden)  # (B, L, tokens_per_latent * token_dim)
        return patches.unflatten(2, (self.tokens_per_latent, -1)).flatten(1, 2)
