"""Token embeddings to latents: join patches of tokens, mix them, project to the latent width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.transformer import Transformer


class LatentEncoder(nn.Module):
    """What all encoders end with: a projection to latents, and their fixed norm."""

    latent_projection: nn.Linear  # the last map of every encoder

    def hidden(self, token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        """Turn tokens into states of latents, ``(B, L, hidden_dim)``; arguments as in ``forward``.

        Raises:
            NotImplementedError: Each encoder has its own way.
        """
        raise NotImplementedError

    def linear_maps(self) -> tuple[Tensor, Tensor]:
        """Return the maps to latents and from patches of tokens; a fresh decoder reverses them.

        Shapes ``(D, hidden_dim)`` and ``(hidden_dim, tokens_per_latent * token_dim)``.

        Raises:
            NotImplementedError: Each encoder has its own.
        """
        raise NotImplementedError

    def forward(self, token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode embedded tokens ``(B, S, token_dim)``.

        Args:
            token_embeddings: Of the pad token wherever the text does not reach.
            attention_mask: Boolean ``(B, 1, L, L)``, True where a latent may look at another.

        Returns:
            Latents ``(B, L, D)`` in float32; each has a root mean square of 1.
        """
        latents = self.latent_projection(self.hidden(token_embeddings, attention_mask)).float()
        # No trainable scale here: what is added behind this line cannot be scaled away.
        return F.rms_norm(latents, latents.shape[-1:], eps=1e-6)


class TextEncoder(LatentEncoder):
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

    def linear_maps(self) -> tuple[Tensor, Tensor]:
        """Return the two maps; see ``LatentEncoder.linear_maps``."""
        return self.latent_projection.weight, self.patch_projection.weight

    def hidden(self, token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        """Join patches of tokens and mix them: ``(B, L, hidden_dim)``."""
        patches = token_embeddings.unflatten(1, (-1, self.tokens_per_latent)).flatten(2)
        positions = torch.arange(patches.shape[1], device=patches.device)
        return self.transformer(self.patch_projection(patches), positions, attention_mask)
