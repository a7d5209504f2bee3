"""Score entropy discrete diffusion (SEDD) with an absorbing state."""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ldm_text.baselines.bounds import (
    BoundEstimate,
    TimeAveragedModel,
    estimate_bound,
    stratified_times,
)
from ldm_text.baselines.diffusion import guide, sample_time
from ldm_text.baselines.network import TokenTransformer
from ldm_text.baselines.sampling import draw_categories, token_probs, uniform
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.time_grid import sampling_times
from ldm_text.baselines.token_model import BoundKind
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens

# No token is masked at time 0, but a row that has one near 0 pays for it in proportion to 1 / t.
MIN_TIME = 1e-6


class SEDDModel(TimeAveragedModel):
    """Learn the ratios of probabilities between texts (Lou et al. 2024, arXiv:2310.16834).

    The noise is log-linear, ``sigma(t) = -log(1 - t)``: a token is masked with probability ``t``.
    The score of token ``y`` at a masked position is ``s_y = p_t(text with y) / p_t(text)``. It is
    ``p(x_0 = y | x_t) / (exp(sigma) - 1)``, but nothing makes the scores of a position sum to
    what they should: they are learnt without normalization, by the score entropy.

    The network's output is scaled by sigma and by the number of real tokens:
    ``log s_y = output_y - log(exp(sigma) - 1) - log(V - 1)``. As ``exp(sigma) - 1`` drops out of
    loss and sampler, all here is written with ``r_y = (exp(sigma) - 1) s_y``, which stays finite
    at both ends; the authors keep sigma finite by ``1 - 0.999 t`` in place of ``1 - t``.
    """

    bound_kind: ClassVar[BoundKind | None] = "upper bound"
    sampler_options: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "guidance_scale")

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 320,
        num_layers: int = 6,
        num_heads: int = 5,
        pad_token_id: int = 0,
        end_token_id: int = 1,
        mask_token_id: int = 2,
    ) -> None:
        """Create the model.

        Args:
            vocab_size: Number of token ids.
            hidden_dim: Width of the transformer.
            num_layers: Number of transformer blocks.
            num_heads: Attention heads of each block.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id of the absorbing state.
        """
        super().__init__()
        self.network = TokenTransformer(
            vocab_size, hidden_dim, num_layers, num_heads, time_conditioned=True
        )

    def log_ratios(
        self, batch: TokenBatch, noisy_ids: Tensor, t: Tensor, guidance_scale: float = 1.0
    ) -> Tensor:
        """Predict log-scores without their factor ``1 / (exp(sigma) - 1)``.

        Guidance extrapolates the log-scores themselves (Nisonoff et al. 2025, arXiv:2406.01572),
        so it changes how fast a position is unmasked, too.

        Args:
            batch: Sources.
            noisy_ids: Noisy texts ``(B, S)``.
            t: Times ``(B,)`` in [0, 1].
            guidance_scale: Weight of classifier-free guidance, 1 is off.

        Returns:
            ``log r_y``, ``(B, S, V)`` in float32, not normalized; ``-inf`` for the mask. Only
            those at masked positions have a meaning.
        """
        offset = math.log(self.config.vocab_size - 1)
        if guidance_scale == 1:
            return self.predict_logits(batch, noisy_ids, t) - offset
        both = batch.beside_null(self.config.end_token_id)
        output = self.predict_logits(both, noisy_ids.repeat(2, 1), t.repeat(2))
        return guide(output, guidance_scale) - offset

    def add_noise(
        self, input_ids: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mask each token of ``(B, S)`` with probability ``t`` ``(B,)``."""
        drawn = uniform(tuple(input_ids.shape), generator, input_ids.device)
        return input_ids.masked_fill(drawn < t[:, None], self.config.mask_token_id)

    def densities(self, batch: TokenBatch, noisy_ids: Tensor, t: Tensor) -> Tensor:
        """Compute the denoising score entropy, weighted by the rate of noise, ``(B, S)``.

        At a masked position, with ``q = 1 / (exp(sigma) - 1)``, it is
        ``sigma' (sum_y s_y - q log s_{x_0} + q (log q - 1))``, which is
        ``(sum_y r_y - log r_{x_0} - 1) / t``; elsewhere zero. Its average over time and noise is
        the bound.

        Args:
            batch: Sources and clean texts.
            noisy_ids: Texts at time ``t``, ``(B, S)``.
            t: Times ``(B,)`` above 0.
        """
        log_ratios = self.log_ratios(batch, noisy_ids, t.float())
        of_clean = log_ratios.gather(-1, batch.input_ids[..., None])[..., 0]
        entropies = log_ratios.exp().sum(dim=-1) - of_clean - 1
        is_masked = noisy_ids == self.config.mask_token_id
        return entropies.masked_fill(~is_masked, 0) / t[:, None].float()

    def loss(self, batch: TokenBatch) -> Tensor:
        """Average the bound over all positions, at one random time a row."""
        t = sample_time(len(batch), batch.input_ids.device).double().clamp(min=MIN_TIME)
        return self.densities(batch, self.add_noise(batch.input_ids, t), t).mean()

    @torch.no_grad()
    def estimate_likelihood(
        self, batch: TokenBatch, num_draws: int, generator: torch.Generator | None = None
    ) -> BoundEstimate:
        """Estimate the bound of each row with its standard error, from stratified times."""
        device = batch.input_ids.device

        def nats(t: Tensor) -> Tensor:
            t = t.clamp(min=MIN_TIME)
            noisy_ids = self.add_noise(batch.input_ids, t, generator)
            return self.densities(batch, noisy_ids, t).sum(dim=1)

        return estimate_bound(nats, stratified_times(num_draws, len(batch), generator, device))

    def generate_ids(
        self,
        batch: TokenBatch,
        num_tokens: int,
        generator: Generators,
        num_inference_steps: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        guidance_scale: float = 1.0,
        known_tokens: KnownTokens | None = None,
    ) -> tuple[Tensor, int]:
        """Unmask a text by analytic (Tweedie) steps; the last one denoises what is left.

        For log-linear noise Euler steps have the same probabilities, as
        ``sigma'(t) (t - s) = exp(sigma_t - sigma_s) - 1``; see ``stay_weight``.

        Args:
            batch: Sources.
            num_tokens: Longest text, its end token included.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Steps, the last one included; ``None`` takes one for each token.
            temperature: Divides the log-scores; 0 takes the likeliest token. It decides which
                token a position becomes, not when.
            top_p: Draw among the likeliest tokens that together have this share of the scores.
            guidance_scale: Weight of classifier-free guidance, 1 is off.
            known_tokens: Tokens that the texts must hold, at any places, and those they must not.
                They, too, decide which token a position becomes, not when.

        Raises:
            ValueError: If an argument is out of range.
        """
        mask = self.config.mask_token_id
        times = sampling_times(num_inference_steps, num_tokens, None)
        ids = batch.source_ids.new_full((len(batch), num_tokens), mask)
        if known_tokens is not None:
            ids = known_tokens.put(ids)
        for t, next_t in pairwise(times):
            now = torch.full((len(batch),), t, device=ids.device)
            log_ratios = self.log_ratios(batch, ids, now, guidance_scale).double()
            weights = log_ratios.exp().sum(dim=-1, keepdim=True)
            log_probs = self.allowed_log_probs(log_ratios, known_tokens)
            weights = weights * token_probs(log_probs, temperature, top_p)
            weights[..., mask] = stay_weight(weights, t, next_t)
            ids = torch.where(ids == mask, draw_categories(weights, generator), ids)
        return ids, len(times) - 1


def stay_weight(ratios: Tensor, t: float, next_t: float) -> Tensor:
    """Weigh staying masked against becoming one of the tokens, which have the weights ``r_y``.

    From ``t`` to ``s`` a position becomes ``y`` with probability
    ``(exp(sigma_t - sigma_s) - 1) s_y = (t - s) / t r_y``, else it stays masked. Scores that sum
    to more than they should leave no chance for that, and the step to 0 leaves none on purpose.

    Args:
        ratios: ``r_y``, ``(B, S, V)``, 0 for the mask.
        t: Time now.
        next_t: Time after the step, ``s``.

    Returns:
        Weights ``(B, S)``.
    """
    if next_t == 0:
        return torch.zeros_like(ratios[..., 0])
    return (t / (t - next_t) - ratios.sum(dim=-1)).clamp(min=0)
