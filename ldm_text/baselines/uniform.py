"""Diffusion with uniform noise: D3PM in a finite number of steps, UDLM in continuous time."""

from itertools import pairwise
from typing import Any, ClassVar, Literal

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
from ldm_text.baselines.uniform_noise import (
    NoiseLevel,
    NoiseSchedule,
    PredictionCost,
    denoising_to_leave_one_out,
    noise_level,
    previous_probs,
)
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens

# Both ends of continuous time are limits: at 0 and 1 factors of the density are infinite.
MIN_TIME = 1e-6


class UniformDiffusionModel(TimeAveragedModel):
    """Turn random tokens into a text, all of them at once and each as often as needed.

    With ``num_train_steps`` this is D3PM with uniform transitions (Austin et al. 2021,
    arXiv:2107.03006), without, its limit in continuous time, UDLM (Schiff et al. 2025,
    arXiv:2412.10193). The states are the ``K = V - 1`` real tokens; there is no mask. The
    schedules end in pure noise, so the prior term of the bound is zero.

    Plugging a prediction into the posterior of a step is exact for the leave-one-out posterior
    ``p(x_0 at l | x_t at the other positions)`` (arXiv:2605.22765). What the network learns there
    is therefore this one, though it sees all positions; with ``posterior="denoising"`` it
    predicts ``p(x_0 | x_t)`` and is converted first.
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
        num_train_steps: int | None = 1000,
        noise_schedule: NoiseSchedule = "linear",
        posterior: Literal["denoising", "leave_one_out"] = "leave_one_out",
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
            num_train_steps: Steps of the diffusion, ``T``; ``None`` for continuous time.
            noise_schedule: Course of the probability that a token is untouched.
            posterior: What the network's logits stand for.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id that is no state: neither noise nor prediction.
        """
        super().__init__()
        if num_train_steps is not None and num_train_steps < 1:
            raise ValueError(
                f"`num_train_steps` must be at least 1, or None, got {num_train_steps}."
            )
        self.network = TokenTransformer(
            vocab_size, hidden_dim, num_layers, num_heads, time_conditioned=True
        )

    def noise_level(self, t: Tensor) -> NoiseLevel:
        """Compute the noise at times ``(B,)``."""
        return noise_level(t, self.config.noise_schedule, self.config.vocab_size - 1)

    def model_times(self, t: Tensor) -> Tensor:
        """Move times in [0, 1] to those that the model knows; float64."""
        if self.config.num_train_steps is None:
            return t.double().clamp(MIN_TIME, 1 - MIN_TIME)
        return on_grid(t, self.config.num_train_steps)

    def random_ids(
        self, shape: tuple[int, ...], generator: Generators, device: torch.device
    ) -> Tensor:
        """Draw real tokens uniformly."""
        num_states = self.config.vocab_size - 1
        ids = (uniform(shape, generator, device) * num_states).long().clamp(max=num_states - 1)
        return ids + (ids >= self.config.mask_token_id)  # steps over the mask

    def add_noise(
        self, input_ids: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Replace tokens of ``(B, S)`` by random ones, as far as ``t`` ``(B,)`` demands."""
        shape, device = tuple(input_ids.shape), input_ids.device
        is_kept = uniform(shape, generator, device) >= self.noise_level(t).noised
        return torch.where(is_kept, input_ids, self.random_ids(shape, generator, device))

    def densities(self, batch: TokenBatch, noisy_ids: Tensor, t: Tensor) -> Tensor:
        """Compute the bound per unit of time at each position, ``(B, S)``.

        Its average over time and noise is the bound. With ``T`` steps it is ``T`` times the
        divergence of the step that begins at ``t``.

        Args:
            batch: Sources and clean texts.
            noisy_ids: Texts at time ``t``, ``(B, S)``.
            t: Times that the model knows, ``(B,)``.
        """
        level = self.noise_level(t)
        log_probs = self.predict_logits(batch, noisy_ids, t.float()).log_softmax(dim=-1)
        if self.config.posterior == "denoising":
            log_probs = denoising_to_leave_one_out(log_probs, noisy_ids, level)
        cost = PredictionCost(log_probs, batch.input_ids, noisy_ids)
        num_steps = self.config.num_train_steps
        if num_steps is None:
            return cost.of_rate(level)
        # On the grid, so that the last step ends at exactly 0.
        next_t = (t * num_steps - 1).round() / num_steps
        return num_steps * cost.of_step(level, self.noise_level(next_t))

    def loss(self, batch: TokenBatch) -> Tensor:
        """Average the bound over all positions, at one random time a row."""
        t = self.model_times(sample_time(len(batch), batch.input_ids.device))
        noisy_ids = self.add_noise(batch.input_ids, t)
        return self.densities(batch, noisy_ids, t).mean().float()

    @torch.no_grad()
    def estimate_likelihood(
        self, batch: TokenBatch, num_draws: int, generator: torch.Generator | None = None
    ) -> BoundEstimate:
        """Estimate the bound of each row with its standard error.

        With ``T`` draws or more it is the sum over all steps, of which only the noise is drawn.
        """
        num_terms = min(num_draws, self.config.num_train_steps or num_draws)

        def nats(t: Tensor) -> Tensor:
            t = self.model_times(t)
            noisy_ids = self.add_noise(batch.input_ids, t, generator)
            return self.densities(batch, noisy_ids, t).sum(dim=1)

        device = batch.input_ids.device
        return estimate_bound(nats, stratified_times(num_terms, len(batch), generator, device))

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
        """Denoise random tokens by ancestral sampling; the last step leaves no noise.

        A known token is the prediction at its position, with certainty: so there, too, are noisy
        tokens of the right level at each step, and the token itself at the end.

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
        config, device = self.config, batch.source_ids.device
        times = sampling_times(num_inference_steps, num_tokens, config.num_train_steps)
        ids = self.random_ids((len(batch), num_tokens), generator, device)
        for t, next_t in pairwise(times):
            now = torch.full((len(batch),), t, device=device, dtype=torch.float64)
            log_probs = self.guided_log_probs(batch, ids, now.float(), guidance_scale)
            log_probs = self.allowed_log_probs(log_probs, known_tokens)
            probs = token_probs(log_probs, temperature, top_p)
            level = self.noise_level(now)
            if config.posterior == "denoising":
                probs = denoising_to_leave_one_out(probs.log(), ids, level).exp()
            if known_tokens is not None:
                certain = F.one_hot(known_tokens.put(torch.zeros_like(ids)), config.vocab_size)
                probs = torch.where(known_tokens.is_known[..., None], certain.double(), probs)
            next_level = self.noise_level(torch.full_like(now, next_t))
            weights = previous_probs(probs, ids, level, next_level)
            weights[..., config.mask_token_id] = 0
            ids = draw_categories(weights, generator)
        return ids, len(times) - 1
