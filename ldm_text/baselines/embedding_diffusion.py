"""Continuous diffusion in the space of token embeddings: Diffusion-LM and DiffuSeq.

Li et al. 2022 (arXiv:2205.14217) and Gong et al. 2023 (arXiv:2210.08933). Shapes as in the package,
and ``D`` channels of an embedding.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ldm_text.baselines.diffusion import check_num_inference_steps, sample_time
from ldm_text.baselines.embedding_sampling import (
    EmbeddingSamplerName,
    sample_embeddings,
    spaced_timesteps,
)
from ldm_text.baselines.embedding_schedule import (
    add_noise,
    sqrt_alphas_cumprod,
    weighted_timesteps,
)
from ldm_text.baselines.network import TokenTransformer, text_positions
from ldm_text.baselines.sampling import uniform
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.token_model import BoundKind, KnownTokenSupport, TokenModel
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens


class EmbeddingDiffusionModel(TokenModel):
    """Predict the clean embeddings of a text from noisy ones, and round them to tokens.

    The source stands before the text without noise. Embeddings are learned with the rest; other
    than in the papers all have the length ``sqrt(D)`` (as in CDCD, Dieleman et al. 2022,
    arXiv:2211.15089), so that they cannot shrink, and the nearest is that of the largest inner
    product.
    """

    bound_kind: ClassVar[BoundKind | None] = "upper bound"
    known_token_support: ClassVar[KnownTokenSupport] = "any"
    sampler_options: ClassVar[tuple[str, ...]] = ("sampler", "clamp_start", "guidance_scale")

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 128,
        hidden_dim: int = 320,
        num_layers: int = 6,
        num_heads: int = 5,
        partial_noising: bool = False,
        self_condition: bool = False,
        anchor_weight: float = 0.0,
        num_train_timesteps: int = 2000,
        pad_token_id: int = 0,
        end_token_id: int = 1,
        mask_token_id: int = 2,
    ) -> None:
        """Create the model.

        Args:
            vocab_size: Number of token ids.
            embedding_dim: Channels of an embedding, ``D``.
            hidden_dim: Width of the transformer.
            num_layers: Number of transformer blocks.
            num_heads: Attention heads of each block.
            partial_noising: Treat source and text as one sequence of which only the text is noised,
                as in DiffuSeq: nothing tells them apart but position and noise, and the loss covers
                both. Without, the source is a condition, marked by a segment embedding.
            self_condition: Let the network see its last prediction (Chen et al. 2023,
                arXiv:2208.04202), in half of the training steps.
            anchor_weight: Weight of the cross-entropy of the rounded prediction at all timesteps
                (the anchor loss of Difformer, Gao et al. 2024, arXiv:2212.09412); the papers have
                none.
            num_train_timesteps: Timesteps from data to noise, 2 or more.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id that never stands in a text.

        Raises:
            ValueError: If an argument is out of range.
        """
        super().__init__()
        if num_train_timesteps < 2:
            raise ValueError(
                f"`num_train_timesteps` must be 2 or larger, got {num_train_timesteps}."
            )
        if not anchor_weight >= 0:
            raise ValueError(f"`anchor_weight` must be 0 or larger, got {anchor_weight}.")
        self.network = TokenTransformer(vocab_size, hidden_dim, num_layers, num_heads, True)
        # Tokens come in and go out by the embeddings below.
        del self.network.embedding, self.network.head
        if partial_noising:
            del self.network.segment_embedding
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.in_projection = nn.Linear(embedding_dim * (1 + self_condition), hidden_dim)
        self.out_projection = nn.Linear(hidden_dim, embedding_dim)
        nn.init.zeros_(self.out_projection.weight)  # a fresh network predicts the middle of all
        nn.init.zeros_(self.out_projection.bias)

    def table(self) -> Tensor:
        """Return the embeddings of all tokens, each of length ``sqrt(D)``: ``(V, D)``."""
        return F.normalize(self.embedding.weight, dim=-1) * math.sqrt(self.config.embedding_dim)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids ``(B, T)``: ``(B, T, D)``."""
        return F.embedding(ids, self.table())

    def rounding_logits(self, embeddings: Tensor) -> Tensor:
        """Score the tokens by the inner product with ``(B, T, D)``: ``(B, T, V)`` in float32."""
        # In bfloat16 the scores, up to D, would be wrong by whole nats.
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = F.linear(embeddings.float(), self.table().float())
        logits[..., self.config.mask_token_id] = -torch.inf
        return logits

    def rounding_losses(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Cross-entropy of tokens ``(B, T)`` given embeddings to round: nats ``(B, T)``."""
        logits = self.rounding_logits(embeddings).transpose(1, 2)
        return F.cross_entropy(logits, ids, reduction="none")

    def nearest_ids(self, embeddings: Tensor, known: KnownTokens | None = None) -> Tensor:
        """Find the tokens nearest to ``(B, S, D)``, ``(B, S)``; only what ``known`` allows."""
        logits = self.rounding_logits(embeddings)
        if known is None:
            return logits.argmax(dim=-1)
        config = self.config
        special = (config.pad_token_id, config.end_token_id, config.mask_token_id)
        return known.put(known.mask_logits(logits, *special).argmax(dim=-1))

    def alphas_cumprod(self, device: torch.device) -> Tensor:
        """Share of signal left at each timestep, float64 ``(num_train_timesteps,)``."""
        return sqrt_alphas_cumprod(self.config.num_train_timesteps, device)

    def predict_sequence(
        self,
        batch: TokenBatch,
        noisy: Tensor,
        timesteps: Tensor,
        self_condition: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean embeddings of source and text.

        Args:
            batch: The sources; its texts are not looked at.
            noisy: Noisy embeddings of the text, ``(B, S, D)``.
            timesteps: From 0 to ``num_train_timesteps - 1``, ``(B,)``.
            self_condition: An earlier prediction for the text ``(B, S, D)``; ``None`` is 0.

        Returns:
            Embeddings ``(B, K + S, D)`` in float32.
        """
        source = self.embed(batch.source_ids)
        sequence = torch.cat((source, noisy), dim=1)
        if self.config.self_condition:
            known = torch.zeros_like(noisy) if self_condition is None else self_condition
            sequence = torch.cat((sequence, torch.cat((source, known), dim=1)), dim=-1)
        embedded = self.in_projection(sequence)
        positions = text_positions(source.shape[1], noisy.shape[1], noisy.device)
        if not self.config.partial_noising:
            embedded = embedded + self.network.segment_embedding((positions >= 0).long())
        visible = F.pad(batch.source_mask, (0, noisy.shape[1]), value=True)
        t = timesteps / self.config.num_train_timesteps
        hidden = self.network(embedded, positions, visible[:, None, None, :], t)
        return self.out_projection(hidden).float()

    def predict_embeddings(
        self,
        batch: TokenBatch,
        noisy: Tensor,
        timesteps: Tensor,
        self_condition: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean embeddings of the text: ``(B, S, D)``, see ``predict_sequence``."""
        sequence = self.predict_sequence(batch, noisy, timesteps, self_condition)
        return sequence[:, batch.source_ids.shape[1] :]

    def loss(self, batch: TokenBatch) -> Tensor:
        """Compute the loss of the papers: squared error plus cross-entropy of rounding.

        Squared error of the predicted embeddings at a uniform timestep, averaged over channels, and
        the cross-entropy of tokens given their embeddings at the lowest noise, which keeps the
        embeddings apart (Li et al. 2022, section 4.1). The first noisy embeddings are the paper's
        ``x_0``, and what is predicted are the embeddings without any noise. With embeddings of one
        length the paper's term at the last timestep is a constant, and left out.
        """
        num_source = batch.source_ids.shape[1]
        ids = torch.cat((batch.source_ids, batch.input_ids), dim=1)
        weights = F.pad(batch.source_mask.float(), (0, batch.input_ids.shape[1]), value=1.0)
        clean = self.embed(ids)
        alphas_cumprod = self.alphas_cumprod(ids.device)
        timesteps = self.training_timesteps(len(batch), ids.device)
        text = clean[:, num_source:]
        noisy = add_noise(text, torch.randn_like(text), alphas_cumprod[timesteps])
        self_condition = None
        if self.config.self_condition and torch.rand(()) < 0.5:
            with torch.no_grad():
                self_condition = self.predict_embeddings(batch, noisy, timesteps)
        predicted = self.predict_sequence(batch, noisy, timesteps, self_condition)

        start = 0 if self.config.partial_noising else num_source
        predicted, clean, ids, weights = (
            part[:, start:] for part in (predicted, clean, ids, weights)
        )
        lowest = alphas_cumprod[torch.zeros_like(timesteps)]
        losses = (predicted - clean).square().mean(dim=-1)
        losses = losses + self.rounding_losses(
            add_noise(clean, torch.randn_like(clean), lowest), ids
        )
        if self.config.anchor_weight:
            anchor = self.rounding_losses(predicted, ids)
            losses = losses + self.config.anchor_weight * anchor
        return (losses * weights).sum() / weights.sum()

    def training_timesteps(self, batch_size: int, device: torch.device) -> Tensor:
        """Draw uniform timesteps, stratified over the batch: ``(B,)``."""
        num_timesteps = self.config.num_train_timesteps
        return (num_timesteps * (1 - sample_time(batch_size, device))).long()

    def negative_log_likelihood(
        self, batch: TokenBatch, generator: torch.Generator | None = None, num_draws: int = 1
    ) -> Tensor:
        """Estimate an upper bound of ``-log p(text | source)`` of each row, pad tokens included.

        The bound of the sampler ``ddpm`` with all timesteps, its last prediction rounded at random,
        without self-conditioning, clamping and guidance. All its terms are there: the divergence at
        the last timestep in closed form, the cross-entropy of rounding the prediction at timestep
        0, and of the divergences of the steps in between one, drawn by ``weighted_timesteps`` and
        stratified over the rows.

        Args:
            batch: Sources and texts.
            generator: Randomness of the estimate.
            num_draws: How many estimates are averaged; the network runs twice for each.

        Raises:
            ValueError: If there is no draw.
        """
        if num_draws < 1:
            raise ValueError(f"`num_draws` must be 1 or larger, got {num_draws}.")
        draws = [self.likelihood_draw(batch, generator) for _ in range(num_draws)]
        return torch.stack(draws).mean(dim=0)

    def likelihood_draw(self, batch: TokenBatch, generator: torch.Generator | None) -> Tensor:
        """Estimate the bound once: nats ``(B,)``."""
        ids, device = batch.input_ids, batch.input_ids.device
        clean = self.embed(ids).float()
        alphas_cumprod = self.alphas_cumprod(device)

        def noised(timesteps: Tensor) -> Tensor:
            noise = randn_tensor(clean.shape, generator=generator, device=device)
            return add_noise(clean, noise, alphas_cumprod[timesteps])

        last = alphas_cumprod[-1]
        prior = (last * clean.double().square() - last - torch.log1p(-last)).sum(dim=(1, 2)) / 2

        first = torch.zeros(len(batch), dtype=torch.long, device=device)
        predicted = self.predict_embeddings(batch, noised(first), first)
        reconstruction = self.rounding_losses(predicted, ids).sum(dim=1)

        rank = uniform((len(batch),), generator, device).argsort()
        share = (rank + uniform((len(batch),), generator, device)) / len(batch)
        timesteps, weights = weighted_timesteps(alphas_cumprod, share)
        predicted = self.predict_embeddings(batch, noised(timesteps), timesteps)
        error = (predicted - clean).double().square().sum(dim=(1, 2))
        return (prior + reconstruction + weights * error).float()

    def check_sampling(
        self, num_tokens: int, num_inference_steps: int | None = None, **options: Any
    ) -> None:
        """Refuse more steps than the model has; see ``TokenModel``."""
        if num_inference_steps is not None:
            spaced_timesteps(self.config.num_train_timesteps, num_inference_steps)

    def generate_ids(
        self,
        batch: TokenBatch,
        num_tokens: int,
        generator: Generators,
        num_inference_steps: int | None = None,
        sampler: EmbeddingSamplerName = "ddpm",
        clamp_start: float = 1.0,
        guidance_scale: float = 1.0,
        known_tokens: KnownTokens | None = None,
    ) -> tuple[Tensor, int]:
        """Turn noise into embeddings, and these into the nearest tokens.

        The embedding of a known token is the prediction at its position at each step.

        Args:
            batch: Sources.
            num_tokens: Length of the texts, ``S``; the model fills it with pad tokens.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Steps of the sampler, by default one for each token.
            sampler: ``ddpm`` draws from the posterior at each step, ``ddim`` adds no noise.
            clamp_start: Share of the steps, in [0, 1], after which each prediction is moved to the
                nearest embeddings (the clamping trick, Li et al. 2022, section 4.2); 1 is never.
            guidance_scale: Weight of classifier-free guidance; 1 is off and costs nothing.
            known_tokens: Tokens that the texts must hold, at any places, and those they must not.

        Raises:
            ValueError: If an argument is out of range.
        """
        num_train_timesteps = self.config.num_train_timesteps
        num_steps = check_num_inference_steps(
            num_inference_steps, default=min(num_tokens, num_train_timesteps)
        )
        embeddings = sample_embeddings(
            self,
            batch,
            num_tokens,
            generator,
            num_steps,
            sampler,
            clamp_start,
            guidance_scale,
            known_tokens,
        )
        return self.nearest_ids(embeddings, known_tokens), num_steps
