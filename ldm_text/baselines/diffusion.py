"""What the discrete diffusion baselines share: a network that sees source and noisy text."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_text.baselines.network import SOURCE, TEXT, text_positions
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.token_model import KnownTokenSupport, TokenModel
from ldm_text.known_tokens import KnownTokens


class TokenDiffusionModel(TokenModel):
    """A baseline that predicts all tokens of a text at once from a noisy version of it.

    All ``S`` positions of a row are modelled, the pad tokens behind the end like any other token:
    where the text ends is part of what is generated.
    """

    known_token_support: ClassVar[KnownTokenSupport] = "any"

    def predict_logits(self, batch: TokenBatch, noisy_ids: Tensor, t: Tensor | None) -> Tensor:
        """Score the tokens at each position of the text.

        Args:
            batch: The sources; its texts are not looked at.
            noisy_ids: Noisy texts ``(B, S)``.
            t: Diffusion times ``(B,)`` of a network conditioned on them, else ``None``.

        Returns:
            Logits ``(B, S, V)`` in float32. The mask token has ``-inf``: no text holds it.
        """
        num_source, num_text = batch.source_ids.shape[1], noisy_ids.shape[1]
        source = self.network.embed(batch.source_ids, SOURCE)
        embedded = torch.cat((source, self.network.embed(noisy_ids, TEXT)), dim=1)
        visible = F.pad(batch.source_mask, (0, num_text), value=True)
        hidden = self.network(
            embedded,
            text_positions(num_source, num_text, noisy_ids.device),
            visible[:, None, None, :],
            t,
        )
        logits = self.network.logits(hidden[:, num_source:])
        logits[..., self.config.mask_token_id] = -torch.inf
        return logits

    def guided_log_probs(
        self, batch: TokenBatch, noisy_ids: Tensor, t: Tensor | None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Predict log-probabilities ``(B, S, V)``, guided away from those without a source.

        Classifier-free guidance in log-probabilities (Ho and Salimans 2022; for discrete diffusion
        Schiff et al. 2025, arXiv:2412.10193): both predictions come from one doubled batch, and at
        scale 1 there is one prediction only.
        """
        if guidance_scale == 1:
            return self.predict_logits(batch, noisy_ids, t).log_softmax(dim=-1)
        both = batch.beside_null(self.config.end_token_id)
        times = None if t is None else t.repeat(2)
        logits = self.predict_logits(both, noisy_ids.repeat(2, 1), times)
        return guide(logits.log_softmax(dim=-1), guidance_scale).log_softmax(dim=-1)

    def allowed_log_probs(self, log_probs: Tensor, known: KnownTokens | None) -> Tensor:
        """Leave only what ``known`` allows of log-probabilities ``(B, S, V)``, and normalize it."""
        if known is None or known.is_empty:
            return log_probs
        config = self.config
        masked = known.mask_logits(
            log_probs, config.pad_token_id, config.end_token_id, config.mask_token_id
        )
        return masked.log_softmax(dim=-1)


def guide(scores: Tensor, guidance_scale: float) -> Tensor:
    """Extrapolate from unconditional to conditional scores of tokens.

    Args:
        scores: Of the rows of ``TokenBatch.beside_null``, ``(2 B, S, V)``; ``-inf`` forbids a
            token, and what the condition forbids stays forbidden.
        guidance_scale: Weight of the guidance; 1 gives the conditional scores.

    Returns:
        Scores ``(B, S, V)``, not normalized.

    Raises:
        ValueError: If the scale is no finite number.
    """
    if not math.isfinite(guidance_scale):
        raise ValueError(f"`guidance_scale` must be a finite number, got {guidance_scale}.")
    cond, uncond = scores.chunk(2)
    guided = uncond + guidance_scale * (cond - uncond)
    # Where both forbid a token, the difference of two infinities is no number.
    return torch.where(cond.isneginf(), -torch.inf, guided)


def sample_time(batch_size: int, device: torch.device) -> Tensor:
    """Draw times in (0, 1], one from each of ``B`` equal intervals, in random order: ``(B,)``."""
    # `1 - rand` is in (0, 1]: rounding can make it neither 0 nor push a time out of its interval.
    offsets = torch.randperm(batch_size, device=device) + (
        1 - torch.rand(batch_size, device=device)
    )
    return offsets / batch_size


def check_num_inference_steps(num_inference_steps: int | None, default: int) -> int:
    """Return the number of steps, the default where there is none.

    Raises:
        ValueError: If it is out of range.
    """
    steps = default if num_inference_steps is None else num_inference_steps
    if steps not in range(1, 1001):
        raise ValueError(f"`num_inference_steps` must be between 1 and 1000, got {steps}.")
    return steps
