"""D3PM with an absorbing state: masked diffusion in a finite number of steps."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ldm_text.baselines.bounds import (
    BoundEstimate,
    TimeAveragedModel,
    estimate_bound,
    stratified_times,
)
from ldm_text.baselines.diffusion import sample_time
from ldm_text.baselines.network import TokenTransformer
from ldm_text.baselines.sampling import draw_categories, token_probs, uniform
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.time_grid import on_grid, sampling_times
from ldm_text.baselines.token_model import BoundKind
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens


class D3PMAbsorbingModel(TimeAveragedModel):
    """Unmask a text in ``T`` steps (Austin et al. 2021, arXiv:2107.03006).

    After step ``i`` a token is masked with probability ``t = i / T``, so at ``t = 1`` nothing is
    left of the text and the bound has no prior term. The network predicts the clean tokens, and
    the step back is the posterior with this prediction in the place of the text. The mask is never
    predicted, so the posterior of a masked token keeps the mask with the true probability and each
    Kullback-Leibler divergence is a weighted cross-entropy; a visible token stays what it is.

    The last step is the exception: there the paper reads the prediction itself, which has to
    repeat the visible tokens. With ``masked_model_tricks`` they are carried over here, too, as in
    masked diffusion models (Sahoo et al. 2024, arXiv:2406.07524).
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
        num_train_steps: int = 1000,
        masked_model_tricks: bool = True,
        auxiliary_weight: float = 0.0,
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
            num_train_steps: Steps of the diffusion, ``T``.
            masked_model_tricks: Carry visible tokens over in the last step.
            auxiliary_weight: Weight of a cross-entropy of the clean tokens that is added to the
                training loss: of all tokens, or of the masked ones where the others are carried
                over.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id of the absorbing state.
        """
        super().__init__()
        if num_train_steps < 1:
            raise ValueError(f"`num_train_steps` must be at least 1, got {num_train_steps}.")
        if auxiliary_weight < 0:
            raise ValueError(f"`auxiliary_weight` must be 0 or larger, got {auxiliary_weight}.")
        self.network = TokenTransformer(
            vocab_size, hidden_dim, num_layers, num_heads, time_conditioned=True
        )

    def add_noise(
        self, input_ids: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mask each token of ``(B, S)`` with probability ``t`` ``(B,)``."""
        drawn = uniform(tuple(input_ids.shape), generator, input_ids.device)
        return input_ids.masked_fill(drawn < t[:, None], self.config.mask_token_id)

    def cross_entropies(self, batch: TokenBatch, noisy_ids: Tensor, t: Tensor) -> Tensor:
        """Compute ``-log`` of the predicted probability of each clean token, ``(B, S)``."""
        logits = self.predict_logits(batch, noisy_ids, t.float())
        return F.cross_entropy(logits.transpose(1, 2), batch.input_ids, reduction="none")

    def divergence_weights(self, noisy_ids: Tensor, t: Tensor) -> Tensor:
        """Weigh cross-entropies ``(B, S)`` so that they become ``T`` times the term of step ``t``.

        A masked token is revealed with probability ``(1 / T) / t``, and no other outcome tells the
        prediction from the truth: ``T`` times the divergence is the cross-entropy over ``t``.

        Args:
            noisy_ids: Noisy texts ``(B, S)``.
            t: Times on the grid, ``(B,)``.
        """
        is_paid = noisy_ids == self.config.mask_token_id
        if not self.config.masked_model_tricks:
            is_last_step = t * self.config.num_train_steps < 1.5
            is_paid = is_paid | is_last_step[:, None]
        return is_paid / t[:, None].float()

    def loss(self, batch: TokenBatch) -> Tensor:
        """Average the bound over all positions, at one random step a row."""
        t = on_grid(sample_time(len(batch), batch.input_ids.device), self.config.num_train_steps)
        noisy_ids = self.add_noise(batch.input_ids, t)
        weights = self.divergence_weights(noisy_ids, t)
        if self.config.auxiliary_weight:
            is_predicted = torch.ones_like(weights)
            if self.config.masked_model_tricks:
                is_predicted = (noisy_ids == self.config.mask_token_id).float()
            weights = weights + self.config.auxiliary_weight * is_predicted
        return (weights * self.cross_entropies(batch, noisy_ids, t)).mean()

    @torch.no_grad()
    def estimate_likelihood(
        self, batch: TokenBatch, num_draws: int, generator: torch.Generator | None = None
    ) -> BoundEstimate:
        """Estimate the bound of each row with its standard error.

        With ``T`` draws or more it is the sum over all steps, of which only the noise is drawn.
        Without ``masked_model_tricks`` the visible tokens of the last step are paid in one more
        call; its noise, masks with probability ``1 / T``, is not in the standard error.
        """
        config, device = self.config, batch.input_ids.device
        num_terms = min(num_draws, config.num_train_steps)

        def masked_nats(t: Tensor) -> Tensor:
            t = on_grid(t, config.num_train_steps)
            noisy_ids = self.add_noise(batch.input_ids, t, generator)
            nats = self.cross_entropies(batch, noisy_ids, t)
            is_masked = noisy_ids == config.mask_token_id
            return nats.masked_fill(~is_masked, 0).sum(dim=1) / t

        estimate = estimate_bound(
            masked_nats, stratified_times(num_terms, len(batch), generator, device)
        )
        if config.masked_model_tricks:
            return estimate
        # A random step would meet the last one in one of T cases, with a weight of T.
        t = torch.full((len(batch),), 1 / config.num_train_steps, device=device).double()
        noisy_ids = self.add_noise(batch.input_ids, t, generator)
        nats = self.cross_entropies(batch, noisy_ids, t)
        visible = nats.masked_fill(noisy_ids == config.mask_token_id, 0).sum(dim=1)
        return replace(estimate, nats=estimate.nats + visible)

    def check_sampling(
        self, num_tokens: int, num_inference_steps: int | None = None, **options: Any
    ) -> None:
        """Refuse more steps than the model has; see ``TokenModel``."""
        sampling_times(num_inference_steps, num_tokens, self.config.num_train_steps)

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
        """Unmask a text by ancestral sampling.

        Args:
            batch: Sources.
            num_tokens: Longest text, its end token included.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Steps, evenly chosen among the model's; ``None`` takes one for
                each token.
            temperature: Divides the logits of the clean tokens; 0 takes the likeliest.
            top_p: Draw among the likeliest tokens that together have this probability.
            guidance_scale: Weight of classifier-free guidance, 1 is off.
            known_tokens: Tokens that the texts must hold, at any places, and those they must not.

        Raises:
            ValueError: If an argument is out of range.
        """
        config = self.config
        times = sampling_times(num_inference_steps, num_tokens, config.num_train_steps)
        ids = batch.source_ids.new_full((len(batch), num_tokens), config.mask_token_id)
        if known_tokens is not None:
            ids = known_tokens.put(ids)
        for t, next_t in pairwise(times):
            log_probs = self.guided_log_probs(
                batch, ids, torch.full((len(batch),), t, device=ids.device), guidance_scale
            )
            log_probs = self.allowed_log_probs(log_probs, known_tokens)
            weights = (t - next_t) * token_probs(log_probs, temperature, top_p)
            weights[..., config.mask_token_id] = next_t  # all relative to t
            drawn = draw_categories(weights, generator)
            is_drawn = ids == config.mask_token_id
            if next_t == 0 and not config.masked_model_tricks:
                is_drawn = torch.ones_like(is_drawn)
            if known_tokens is not None:
                is_drawn = is_drawn & ~known_tokens.is_known
            ids = torch.where(is_drawn, drawn, ids)
        return ids, len(times) - 1
