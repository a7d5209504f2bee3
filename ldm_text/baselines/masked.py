"""Masked diffusion: tokens are masked one by one until none is visible.

The objective of MDLM (Sahoo et al. 2024, arXiv:2406.07524), which is that of MD4, RADD and LLaDA.
At time ``t`` each token is masked with probability ``t``, exactly 0 at the data and 1 at the end:
so the bound has neither a reconstruction nor a prior term.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ldm_text.baselines.diffusion import TokenDiffusionModel, sample_time
from ldm_text.baselines.masked_samplers import SamplerName, check_sampler, ranks, run_sampler
from ldm_text.baselines.network import TokenTransformer
from ldm_text.baselines.sampling import uniform
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.token_model import BoundKind
from ldm_text.baselines.token_predictor import TokenPredictor
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens


class MaskedDiffusionModel(TokenDiffusionModel):
    """Predict the masked tokens of a text from its source and its visible tokens.

    Visible tokens stay what they are, and the network is not conditioned on time: how much is
    masked can be seen.
    """

    bound_kind: ClassVar[BoundKind | None] = "upper bound"
    sampler_options: ClassVar[tuple[str, ...]] = (
        "sampler",
        "temperature",
        "top_p",
        "guidance_scale",
        "block_length",
        "eta",
        "entropy_bound",
    )

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 320,
        num_layers: int = 6,
        num_heads: int = 5,
        weight: Literal["bound", "uniform"] = "bound",
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
            weight: Weight of a masked token in the training loss: ``bound`` for ``1 / t``, with
                which the loss is an upper bound; ``uniform`` for the plain mean, which is none.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id of a masked token.

        Raises:
            ValueError: If there is no such weight.
        """
        super().__init__()
        if weight not in ("bound", "uniform"):
            raise ValueError(f"`weight` must be 'bound' or 'uniform', got {weight!r}.")
        self.network = TokenTransformer(vocab_size, hidden_dim, num_layers, num_heads)

    def masked_losses(self, batch: TokenBatch, is_masked: Tensor) -> Tensor:
        """Compute the cross-entropy of the masked tokens.

        Args:
            batch: Sources and texts.
            is_masked: Tokens of the text that the network does not see, ``(B, S)``.

        Returns:
            Nats ``(B, S)``; 0 at visible tokens.
        """
        noisy_ids = batch.input_ids.masked_fill(is_masked, self.config.mask_token_id)
        logits = self.predict_logits(batch, noisy_ids, None).transpose(1, 2)
        losses = F.cross_entropy(logits, batch.input_ids, reduction="none")
        return losses.masked_fill(~is_masked, 0.0)

    def loss(self, batch: TokenBatch) -> Tensor:
        """Estimate the bound in nats per position, or with ``uniform`` average over masked tokens.

        The bound is ``1 / t`` times the cross-entropy of the masked tokens (MDLM, in continuous
        time), averaged over all ``B * S`` positions, with one time for each row.
        """
        device = batch.input_ids.device
        t = sample_time(len(batch), device)[:, None]
        is_masked = torch.rand(batch.input_ids.shape, device=device) < t
        losses = self.masked_losses(batch, is_masked)
        if self.config.weight == "uniform":
            return losses.sum() / is_masked.sum().clamp(min=1)
        return (losses / t).mean()

    def likelihood_draws(
        self, batch: TokenBatch, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the bound several times, each time with a fixed count of masked tokens.

        Masking ``l`` of ``S`` tokens, ``l`` uniform in 1 to S, with weight ``S / l``, has the mean
        of the loss with ``1 / t`` and no noise from the count (as LLaDA is evaluated, Nie et al.
        2025, arXiv:2502.09992). The counts are stratified over rows and draws.

        Args:
            batch: Sources and texts.
            num_draws: Estimates for each row; the network runs once for each.
            generator: Randomness of the estimate.

        Returns:
            Nats over all ``S`` positions ``(B, num_draws)``, in the order of rising counts. Only
            their mean estimates the bound: each stands for a part of the counts.

        Raises:
            ValueError: If there is no draw.
        """
        if num_draws < 1:
            raise ValueError(f"`num_draws` must be 1 or larger, got {num_draws}.")
        shape, device = tuple(batch.input_ids.shape), batch.input_ids.device
        counts = stratified_counts(shape[0], num_draws, shape[1], generator, device)
        draws = []
        for count in counts.split(1, dim=1):  # (B, 1)
            is_masked = ranks(uniform(shape, generator, device)) < count
            losses = self.masked_losses(batch, is_masked).sum(dim=1, keepdim=True)
            draws.append(losses * (shape[1] / count))
        return torch.cat(draws, dim=1).float()

    def negative_log_likelihood(
        self, batch: TokenBatch, generator: torch.Generator | None = None, num_draws: int = 1
    ) -> Tensor:
        """Estimate an upper bound of ``-log p(text | source)`` of each row, pad tokens included.

        Args:
            batch: Sources and texts.
            generator: Randomness of the estimate.
            num_draws: How many estimates are averaged, see ``likelihood_draws``.
        """
        return self.likelihood_draws(batch, num_draws, generator).mean(dim=1)

    def check_sampling(
        self,
        num_tokens: int,
        num_inference_steps: int | None = None,
        sampler: SamplerName = "ancestral",
        **options: Any,
    ) -> None:
        """Refuse what the sampler cannot do, or takes no notice of; see ``TokenModel``."""
        own = ("block_length", "eta", "entropy_bound")
        given = {name: value for name, value in options.items() if name in own}
        check_sampler(sampler, num_tokens, num_inference_steps, **given)

    def generate_ids(
        self,
        batch: TokenBatch,
        num_tokens: int,
        generator: Generators,
        num_inference_steps: int | None = None,
        sampler: SamplerName = "ancestral",
        temperature: float = 1.0,
        top_p: float = 1.0,
        guidance_scale: float = 1.0,
        block_length: int | None = None,
        eta: float | None = None,
        entropy_bound: float | None = None,
        known_tokens: KnownTokens | None = None,
    ) -> tuple[Tensor, int]:
        """Reveal the tokens of texts that are masked where nothing is known.

        Args:
            batch: Sources.
            num_tokens: Length of the texts, ``S``; the model fills it with pad tokens.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Steps of the sampler, by default one for each token. The network
                runs once a step at most, and not at all where nothing has changed.
            sampler: Rule by which tokens are revealed, see ``masked_samplers``.
            temperature: Divides the log-probabilities; 0 always takes the likeliest token.
            top_p: Draw among the likeliest tokens that together have this probability.
            guidance_scale: Weight of classifier-free guidance; 1 is off and costs nothing.
            block_length: Tokens of a block of ``confidence``; by default there is one block.
            eta: Strength of remasking of ``remdm_cap`` and ``remdm_rescale``, in [0, 1].
            entropy_bound: Nats that ``entropy_bound`` reveals at once.
            known_tokens: Tokens that the texts must hold, at any places, and those they must not.

        Raises:
            ValueError: If an argument is out of range or has no effect.
        """

        def predict(ids: Tensor) -> Tensor:
            log_probs = self.guided_log_probs(batch, ids, None, guidance_scale)
            return self.allowed_log_probs(log_probs, known_tokens)

        mask_token_id = self.config.mask_token_id
        predictor = TokenPredictor(predict, mask_token_id, generator, temperature, top_p)
        ids = batch.source_ids.new_full((len(batch), num_tokens), mask_token_id)
        if known_tokens is not None:
            ids = known_tokens.put(ids)
        ids = run_sampler(
            sampler,
            predictor,
            ids,
            num_inference_steps,
            block_length=block_length,
            eta=eta,
            entropy_bound=entropy_bound,
        )
        return ids, predictor.num_calls


def stratified_counts(
    num_rows: int,
    num_draws: int,
    num_tokens: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Draw counts from 1 to ``num_tokens``, ``(num_rows, num_draws)``, evenly spread.

    Each row has a count from each of ``num_draws`` equal parts of the range, and the rows of a draw
    share its part evenly; taken over the draws, each count of a row is uniform.
    """
    shape = (num_rows, num_draws)
    place = uniform(shape, generator, device).argsort(dim=0) + uniform(shape, generator, device)
    share = (torch.arange(num_draws, device=device) + place / num_rows) / num_draws  # in [0, 1)
    return (share * num_tokens).long().clamp(max=num_tokens - 1) + 1


def standard_error(draws: Tensor) -> Tensor:
    """Estimate the standard error of the mean of stratified draws.

    Each part of the range is drawn from once, so two neighbours stand for two draws from one part
    (collapsed strata, Cochran 1977, chapter 5A). That is too large by what their means differ.

    Args:
        draws: From ``likelihood_draws``, ``(B, num_draws)`` with an even number of draws.

    Returns:
        Nats, ``(B,)``.

    Raises:
        ValueError: If the number of draws is odd.
    """
    num_draws = draws.shape[1]
    if num_draws % 2:
        raise ValueError(f"`draws` must hold an even number of draws of a row, got {num_draws}.")
    return (draws[:, ::2] - draws[:, 1::2]).square().sum(dim=1).sqrt() / num_draws
