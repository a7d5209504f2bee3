"""The one transformer block of the project: of the autoencoder, the denoiser and all baselines.

Pre-RMSNorm, rotary positions, normalized queries and keys, SwiGLU, scaled-dot-product attention.
The output projection of each residual branch starts at zero, so a fresh stack is the identity.
What may look at what is a mask; what was computed before may come from a cache.

Shapes: ``B`` batch, ``T`` positions, ``H`` hidden width, ``A`` attention heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rotary = tuple[Tensor, Tensor]


def rotary_embedding(positions: Tensor, head_dim: int, base: float = 10_000.0) -> Rotary:
    """Compute the cosines and sines of rotary positions (Su et al. 2021, section 3.4.2).

    Args:
        positions: Integer positions ``(T,)``. Attention depends on their differences only.
        head_dim: Channels of one attention head, an even number.
        base: Wavelength base; the longest wavelength is ``2 * pi * base`` positions.

    Returns:
        Cosines and sines, each ``(T, head_dim / 2)`` in float32.
    """
    frequencies = base ** -(
        torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    )
    angles = positions.float()[:, None] * frequencies
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate channel pairs of ``(B, A, T, head_dim)`` by their position's angle."""
    cos, sin = (part.to(x.dtype) for part in rotary)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class KeyValueCache:
    """Keys and values of positions that a stack has already seen, for each of its layers.

    The memory for all positions is taken at the first use, so nothing is copied to make room.

    Args:
        num_layers: Blocks of the stack.
        max_length: Most positions, those that are only looked at included.
    """

    def __init__(self, num_layers: int, max_length: int) -> None:
        self.max_length = max_length
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.lengths = [0] * num_layers
        self.is_growing = True

    def __len__(self) -> int:
        return self.lengths[0]

    def join(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the kept keys and values before new ones, ``(B, A, T, H / A)``.

        The new ones are kept too, unless ``is_growing`` was set to False. What is returned looks
        into the cache, and is valid until the next call.
        """
        start, end = self.lengths[layer], self.lengths[layer] + key.shape[2]
        kept = self.layers[layer]
        if kept is None:
            shape = (*key.shape[:2], self.max_length, key.shape[3])
            kept = self.layers[layer] = (key.new_empty(shape), value.new_empty(shape))
        keys, values = kept
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        if self.is_growing:
            self.lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all rows of the batch but those with the given numbers."""
        self.layers = [
            None if kept is None else (kept[0][rows], kept[1][rows]) for kept in self.layers
        ]


class RMSNorm(nn.RMSNorm):
    """Root mean square normalization over the last dimension, in the type of its input."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(..., num_channels)``; autocast leaves the weight in float32, so cast it."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Linear(nn.Linear):
    """A linear map that can keep its weight in the type of autocast, too.

    Autocast casts the weight anew in each context, and in compiled code at each call: a seventh of
    the time of a denoiser of 11.5 M parameters where a single text is written.

    Attributes:
        cast_weight: The cast weight, or ``None``; no part of what is saved.
    """

    cast_weight: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("cast_weight", None, persistent=False)

    def keep_cast(self, dtype: torch.dtype) -> None:
        """Cast the weight once and for all: it must not change any more."""
        self.cast_weight = self.weight.detach().to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(..., in_features)``; the result is the same with a kept weight and without."""
        kept, device = self.cast_weight, input.device.type
        if kept is None or not torch.is_autocast_enabled(device):
            return super().forward(input)
        if torch.get_autocast_dtype(device) != kept.dtype:
            return super().forward(input)
        return F.linear(input, kept, self.bias)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and RMS-normalized queries and keys."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        if hidden_dim % (2 * num_heads):
            raise ValueError(
                f"hidden_dim must be a multiple of 2 * num_heads, got {hidden_dim} and {num_heads}."
            )
        self.num_heads = num_heads
        self.qkv = Linear(hidden_dim, 3 * hidden_dim, bias=False)
        self.out = Linear(hidden_dim, hidden_dim, bias=False)
        self.query_norm = RMSNorm(hidden_dim // num_heads)
        self.key_norm = RMSNorm(hidden_dim // num_heads)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        attention_mask: Tensor | None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attend within ``x`` of shape ``(B, T, H)``, and to what ``cache`` holds of ``layer``.

        ``attention_mask`` is True where allowed.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, A, T, H / A)
        query = apply_rotary(self.query_norm(query), rotary)
        key = apply_rotary(self.key_norm(key), rotary)
        if cache is not None:
            key, value = cache.join(layer, key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020) with about ``8 / 3 * H`` inner channels."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        inner_dim = -(-8 * hidden_dim // 3 // 32) * 32
        self.gate_and_value = Linear(hidden_dim, 2 * inner_dim, bias=False)
        self.out = Linear(inner_dim, hidden_dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of ``(B, T, H)`` by itself."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class TransformerBlock(nn.Module):
    """One pre-norm block; with ``time_conditioned`` it adds a projection of the time embedding."""

    def __init__(self, hidden_dim: int, num_heads: int, time_conditioned: bool = False) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(hidden_dim)
        self.attention = Attention(hidden_dim, num_heads)
        self.feed_forward_norm = RMSNorm(hidden_dim)
        self.feed_forward = SwiGLU(hidden_dim)
        self.time_projection = Linear(hidden_dim, hidden_dim) if time_conditioned else None
        if self.time_projection is not None:
            nn.init.zeros_(self.time_projection.weight)
            nn.init.zeros_(self.time_projection.bias)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        attention_mask: Tensor | None = None,
        time_embedding: Tensor | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Update ``x`` of shape ``(B, T, H)``; ``time_embedding`` is ``(B, H)``."""
        if self.time_projection is not None and time_embedding is not None:
            x = x + self.time_projection(time_embedding)[:, None]
        x = x + self.attention(self.attention_norm(x), rotary, attention_mask, cache, layer)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A stack of blocks over ``(B, T, H)``; the identity when freshly made."""

    def __init__(
        self, hidden_dim: int, num_layers: int, num_heads: int, time_conditioned: bool = False
    ) -> None:
        super().__init__()
        self.head_dim = hidden_dim // num_heads
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_dim, num_heads, time_conditioned) for _ in range(num_layers)
        )

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        time_embedding: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Run the stack.

        Args:
            x: Input of shape ``(B, T, H)``.
            positions: Integer positions ``(T,)``, shared by the batch.
            attention_mask: Boolean, True where a query (next to last dimension) may look at a key
                (last dimension, those in the cache first), broadcastable to ``(B, A, T, T)``. Each
                query needs one key.
            time_embedding: Embedded diffusion time ``(B, H)``.
            cache: Keys and values of earlier positions, which ``x`` then continues.

        Returns:
            Output of the last block, ``(B, T, H)``.
        """
        rotary = rotary_embedding(positions, self.head_dim)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, attention_mask, time_embedding, cache, layer)
        return x
