"""Token embeddings to latents: join patches of tokens, mix them, project to the latent width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.transformer import Transformer


class TextEncoder(nn.Module):
    """Encode each patch of ``tokens_per_latent`` tokens, in context, as one latent.

    Fresh, it is a linear map with semi-orthogonal factors, see ``TextAutoencoder``.
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
        self.patch_projection = nn.Linear(tokens_per_latent * token_dim, hidden_dim, bias=False)
        self.transformer = Transformer(hidden_dim, num_layers, num_heads)
        self.latent_projection = nn.Linear(hidden_dim, latent_dim, bias=False)
        nn.init.orthogonal_(self.patch_projection.weight)
        nn.init.orthogonal_(self.latent_projection.weight)

    def forward(self, token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode embedded tokens ``(B, S, token_dim)``.

        Args:
            token_embeddings: Of the pad token wherever the text does not reach.
            attention_mask: Boolean ``(B, 1, L, L)``, True where a latent may look at another.

        Returns:
            Latents ``(B, L, D)`` in float32; each has a root mean square of 1.
        """
        patches = token_embeddings.unflatten(1, (-1, self.tokens_per_latent)).flatten(2)
        positions = torch.arange(patches.shape[1], device=patches.device)
        hidden = self.transformer(self.patch_projection(patches), positions, attention_mask)
        latents = self.latent_projection(hidden).float()  # (B, L, D)
        # No trainable scale here: what is added behind this line cannot be scaled away.
        return F.rms_norm(latents, latents.shape[-1:], eps=1e-6)
