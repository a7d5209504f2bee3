"""A Perceiver resampler: latents read tokens by cross-attention, not as fixed patches.

Learned queries attend to all tokens of a text (Jaegle et al. 2022; in text diffusion LD4LG and
COSMOS). There is one query for each ``tokens_per_latent`` tokens, so a text has as many latents as
with patches, each with a place in the text, and packed texts and padding do not change them.
"""

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor, nn

from autoencoder.encoder import LatentEncoder
from autoencoder.model import TextAutoencoder
from autoencoder.transformer import RMSNorm, Transformer

MAX_DISTANCE = 32  # tokens; all that are farther away share one bias
OWN_TOKEN_BIAS = 8.0  # fresh, about 97 % of the weight of a head in a text of 64 tokens


class TokenReading(nn.Module):
    """Cross-attention from latents to tokens, with a learned bias for each relative position.

    There is a head for each token of a latent's own group. The bias is that of T5 (Raffel et al.
    2020), a number for each head and distance, as queries without content know places only by it.

    Args:
        token_dim: Channels of a token.
        hidden_dim: Channels of a latent's state, a multiple of ``tokens_per_latent``.
        tokens_per_latent: Tokens of a group, and heads.
        is_first: Start by reading each token of the own group with one head; others start at zero.
    """

    def __init__(
        self, token_dim: int, hidden_dim: int, tokens_per_latent: int, is_first: bool
    ) -> None:
        super().__init__()
        if hidden_dim % tokens_per_latent:
            raise ValueError(
                f"`hidden_dim` must be a multiple of `tokens_per_latent` ({tokens_per_latent}) for "
                f"a Perceiver, got {hidden_dim}."
            )
        self.num_heads = tokens_per_latent
        head_dim = hidden_dim // tokens_per_latent
        self.norm = RMSNorm(hidden_dim)
        self.query = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.key = nn.Linear(token_dim, hidden_dim, bias=False)
        self.value = nn.Linear(token_dim, hidden_dim, bias=False)
        self.out = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.query_norm = RMSNorm(head_dim)
        self.key_norm = RMSNorm(head_dim)
        self.bias = nn.Parameter(torch.zeros(tokens_per_latent, 2 * MAX_DISTANCE + 1))
        for head in self.value.weight.split(head_dim):
            nn.init.orthogonal_(head)
        if is_first:
            nn.init.eye_(self.out.weight)
            heads = torch.arange(tokens_per_latent)
            with torch.no_grad():
                self.bias[heads, MAX_DISTANCE + heads] = OWN_TOKEN_BIAS
        else:
            nn.init.zeros_(self.out.weight)

    def patch_projection(self) -> Tensor:
        """Return the map of patches that a fresh first reading nearly is.

        Each head reads one token: ``(hidden_dim, tokens_per_latent * token_dim)``, block-diagonal.
        """
        return torch.block_diag(*self.value.weight.chunk(self.num_heads))

    def forward(self, latents: Tensor, tokens: Tensor, is_visible: Tensor) -> Tensor:
        """Read tokens.

        Args:
            latents: States of latents, ``(B, L, hidden_dim)``.
            tokens: ``(B, S, token_dim)``.
            is_visible: True where a latent may read a token, ``(B, 1, L, S)``.

        Returns:
            What is read, ``(B, L, hidden_dim)``.
        """
        query = self.query(self.norm(latents)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        key = self.key(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        value = self.value(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        bias = self.relative_bias(latents.shape[1], tokens.shape[1])
        allowed = torch.where(is_visible, bias, -torch.inf)  # (B, heads, L, S)
        read = F.scaled_dot_product_attention(
            self.query_norm(query), self.key_norm(key), value, attn_mask=allowed.to(query.dtype)
        )
        return self.out(read.transpose(1, 2).flatten(2))

    def relative_bias(self, num_latents: int, num_tokens: int) -> Tensor:
        """Look the biases up, by a token's distance from the first of a latent's own group."""
        device = self.bias.device
        starts = torch.arange(num_latents, device=device)[:, None] * self.num_heads
        distance = torch.arange(num_tokens, device=device) - starts  # (L, S)
        return self.bias[:, distance.clamp(-MAX_DISTANCE, MAX_DISTANCE) + MAX_DISTANCE]


class PerceiverEncoder(LatentEncoder):
    """Read all tokens of a text into latents, once and before each block.

    Fresh it is nearly a linear map with semi-orthogonal factors, see ``TextAutoencoder``.
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
        self.query = nn.Parameter(torch.randn(hidden_dim))
        self.first_reading = TokenReading(token_dim, hidden_dim, tokens_per_latent, is_first=True)
        self.readings = nn.ModuleList(
            TokenReading(token_dim, hidden_dim, tokens_per_latent, is_first=False)
            for _ in range(num_layers)
        )
        self.blocks = nn.ModuleList(
            Transformer(hidden_dim, 1, num_heads) for _ in range(num_layers)
        )
        self.latent_projection = nn.Linear(hidden_dim, latent_dim, bias=False)
        nn.init.orthogonal_(self.latent_projection.weight)

    def linear_maps(self) -> tuple[Tensor, Tensor]:
        """Return the maps of a fresh encoder, see ``LatentEncoder.linear_maps``."""
        return self.latent_projection.weight, self.first_reading.patch_projection()

    def hidden(self, token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        """Read tokens into latents; a latent sees the tokens of the latents that it sees."""
        is_visible = attention_mask.repeat_interleave(self.tokens_per_latent, dim=3)
        num_latents = attention_mask.shape[2]
        positions = torch.arange(num_latents, device=token_embeddings.device)
        queries = self.query.expand(len(token_embeddings), num_latents, -1)
        # The queries hold no text: the state is what they read.
        hidden = self.first_reading(queries, token_embeddings, is_visible)
        for reading, block in zip(self.readings, self.blocks, strict=True):
            hidden = hidden + reading(hidden, token_embeddings, is_visible)
            hidden = block(hidden, positions, attention_mask)
        return hidden


# diffusers looks for `ModelMixin` in the module of a component, hence the second base.
class PerceiverAutoencoder(TextAutoencoder, ModelMixin):
    """An autoencoder whose latents read the whole text by cross-attention."""

    def make_encoder(self, *sizes: int) -> LatentEncoder:
        """Make an encoder that reads tokens by queries."""
        return PerceiverEncoder(*sizes)
