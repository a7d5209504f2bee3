"""The text autoencoder: token ids to latents and back."""

from typing import Literal

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from autoencoder.decoder import ParallelDecoder
from autoencoder.encoder import LatentEncoder, TextEncoder
from autoencoder.latent_statistics import LatentStatistics


class TextAutoencoder(ModelMixin, ConfigMixin):
    """Compress patches of tokens into latents and decode all tokens at once.

    A fresh model is an exact linear autoencoder: embedding rows drawn with standard deviation
    ``1 / sqrt(token_dim)``, residual branches zero, semi-orthogonal projections, the decoder their
    transposes, the output tied to the embedding. Training starts from nearly perfect reconstruction
    and is spent on the shape of the latent space.

    Behind the end of a text all latents are one constant, the *empty* latent: padding carries
    no information in either direction.
    """

    _repeated_blocks = ("TransformerBlock",)  # what `compile_repeated_blocks` compiles

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        tokens_per_latent: Literal[1, 2, 4, 8] = 4,
        latent_dim: int = 128,
        token_dim: int = 256,
        hidden_dim: int = 384,
        num_encoder_layers: int = 3,
        num_decoder_layers: int = 3,
        num_heads: int = 6,
        pad_token_id: int = 0,
        end_token_id: int = 1,
        mask_token_id: int = 2,
    ) -> None:
        """Create the model.

        Args:
            vocab_size: Number of token ids.
            tokens_per_latent: Tokens joined into one latent: 1, 2, 4 or 8.
            latent_dim: Channels of one latent.
            token_dim: Channels of a token embedding.
            hidden_dim: Width of encoder and decoder.
            num_encoder_layers: Transformer blocks of the encoder.
            num_decoder_layers: Transformer blocks of the decoder.
            num_heads: Attention heads of each block.
            pad_token_id: Id that stands behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id that stands for a hidden token.
        """
        super().__init__()
        if tokens_per_latent not in (1, 2, 4, 8):
            raise ValueError(f"`tokens_per_latent` must be 1, 2, 4 or 8, got {tokens_per_latent}.")
        self.embedding = nn.Embedding(vocab_size, token_dim)  # reads and writes tokens
        nn.init.normal_(self.embedding.weight, std=token_dim**-0.5)
        widths = (token_dim, tokens_per_latent, latent_dim, hidden_dim)
        self.encoder = self.make_encoder(*widths, num_encoder_layers, num_heads)
        self.decoder = ParallelDecoder(*widths, num_decoder_layers, num_heads)
        self.decoder.transpose_of(*self.encoder.linear_maps())
        self.statistics = LatentStatistics(latent_dim)

    def make_encoder(self, *sizes: int) -> LatentEncoder:
        """Make the encoder; a variant of the model has one of its own.

        Args:
            sizes: The arguments of ``TextEncoder``.
        """
        return TextEncoder(*sizes)

    def latent_mask(self, attention_mask: Tensor) -> Tensor:
        """Tell which latents hold at least one real token: ``(B, S)`` to ``(B, L)``, boolean."""
        return attention_mask.bool().unflatten(1, (-1, self.config.tokens_per_latent)).any(dim=2)

    def text_mask(self, input_ids: Tensor) -> Tensor:
        """Mark each row's text in ids ``(B, S)``: up to its first end token, that one included.

        Where there is none, as decoded rows may have it, all of the row is text.
        """
        is_end = (input_ids == self.config.end_token_id).long()
        return is_end.cumsum(dim=1) - is_end == 0

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor, document_ids: Tensor | None = None
    ) -> Tensor:
        """Encode texts.

        Args:
            input_ids: Token ids ``(B, S)``, ``S`` a multiple of ``tokens_per_latent``. What stands
                where ``attention_mask`` is False has no influence.
            attention_mask: True at real tokens, ``(B, S)``.
            document_ids: Number of the text each latent belongs to, ``(B, L)``, where several are
                packed into a row; texts do not see each other.

        Returns:
            Latents ``(B, L, D)``, float32, root mean square 1 each; the empty latent wherever
            no real token stands.

        Raises:
            ValueError: If ``S`` is not a multiple of ``tokens_per_latent``.
        """
        return self.encoder(*self.encoder_inputs(input_ids, attention_mask, document_ids))

    def encoder_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, document_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what the encoder reads: tokens ``(B, S, W)``, and which latent sees which.

        The second is boolean, ``(B, 1, L, L)``. Arguments and errors are those of ``encode``.
        """
        if input_ids.shape[1] % self.config.tokens_per_latent:
            raise ValueError(
                f"`input_ids` must be padded to a multiple of {self.config.tokens_per_latent} "
                f"tokens, got {input_ids.shape[1]}."
            )
        input_ids = input_ids.masked_fill(~attention_mask.bool(), self.config.pad_token_id)
        is_text = self.latent_mask(attention_mask)
        # Empty latents see only empty ones, all alike, so that all come out as the same constant.
        visible = is_text[:, :, None] == is_text[:, None, :]  # (B, L, L)
        if document_ids is not None:
            visible = visible & (document_ids[:, :, None] == document_ids[:, None, :])
        return self.embed(input_ids, attention_mask, document_ids), visible[:, None]

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor, document_ids: Tensor | None
    ) -> Tensor:
        """Turn each token into a vector: ``(B, S, token_dim)``; arguments as in ``encode``."""
        return self.embedding(input_ids)

    def decode(self, latents: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Decode all tokens at once.

        Args:
            latents: Latents ``(B, L, D)`` as ``encode`` returns them, or noisy or predicted ones.
            document_ids: As in ``encode``.

        Returns:
            Logits ``(B, S, V)``. The text ends before the first end token.
        """
        visible = None
        if document_ids is not None:
            visible = (document_ids[:, :, None] == document_ids[:, None, :])[:, None]
        tokens = self.decoder(latents, visible)
        return F.linear(tokens, self.embedding.weight)  # (B, S, V)

    def reconstruct(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode and decode ``(B, S)`` token ids; what is behind the end stays the pad token."""
        latents = self.encode(input_ids, attention_mask)
        predicted = self.decode(latents).argmax(dim=-1)
        return predicted.masked_fill(~attention_mask.bool(), self.config.pad_token_id)
