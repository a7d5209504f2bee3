"""Block diffusion: blocks one after the other, masked diffusion within a block.

BD3-LM (Arriola et al. 2025, arXiv:2503.09573). Blocks of one token are the autoregressive baseline,
one block of the whole text is masked diffusion.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ldm_text.baselines.block_sampling import (
    BlockReader,
    BlockSamplerName,
    block_steps,
    sample_blocks,
)
from ldm_text.baselines.diffusion import sample_time
from ldm_text.baselines.masked import stratified_counts
from ldm_text.baselines.masked_samplers import ranks
from ldm_text.baselines.network import SOURCE, TEXT, TokenTransformer
from ldm_text.baselines.sampling import uniform
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.token_model import BoundKind, KnownTokenSupport, TokenModel
from ldm_text.baselines.token_predictor import TokenPredictor
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens
from ldm_text.sampler_options import check_number


class BlockDiffusionModel(TokenModel):
    """Predict the masked tokens of a block from the source, the blocks before and what is visible.

    The blocks up to that of the end token are modelled, and in it the pad tokens behind the end
    like any other token. No block begins with a pad token: it would not be there at all.
    """

    bound_kind: ClassVar[BoundKind | None] = "upper bound"
    known_token_support: ClassVar[KnownTokenSupport] = "any"
    sampler_options: ClassVar[tuple[str, ...]] = (
        "sampler",
        "temperature",
        "top_p",
        "guidance_scale",
        "use_cache",
    )

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 320,
        num_layers: int = 6,
        num_heads: int = 5,
        block_length: int = 4,
        min_mask_prob: float = 1e-3,
        max_mask_prob: float = 1.0,
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
            block_length: Tokens of a block; it must divide the length of the texts.
            min_mask_prob: Least share of masked tokens in training, above 0.
            max_mask_prob: Largest share of masked tokens in training, at most 1. A narrower range
                has less noise in its gradients; the bound is always estimated over the full one.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id of a masked token.

        Raises:
            ValueError: If ``block_length`` or a mask probability is out of range.
        """
        super().__init__()
        check_number("block_length", block_length)
        if not 0 < min_mask_prob <= max_mask_prob <= 1:
            raise ValueError(
                "`min_mask_prob` must be above 0 and at most `max_mask_prob`, and that at most 1, "
                f"got {min_mask_prob} and {max_mask_prob}."
            )
        self.network = TokenTransformer(vocab_size, hidden_dim, num_layers, num_heads)

    def count_blocks(self, num_tokens: int) -> int:
        """Count the blocks of a text.

        Raises:
            ValueError: If its length is no multiple of the length of a block.
        """
        length = self.config.block_length
        if num_tokens < 1 or num_tokens % length:
            raise ValueError(
                f"`block_length` must divide the length of the texts, got {length} and texts of "
                f"{num_tokens} tokens."
            )
        return num_tokens // length

    def attention_mask(
        self, source_mask: Tensor, num_noisy: int, num_clean: int, start: int = 0
    ) -> Tensor:
        """Tell which positions of ``[source, noisy text, clean text]`` see each other.

        A noisy block sees itself, the clean blocks before it and the source; a clean block sees
        itself, those before it and the source; the source sees itself.

        Args:
            source_mask: True at real tokens of the source, ``(B, K)``.
            num_noisy: Tokens of the noisy text.
            num_clean: Tokens of the clean text, which begins with the first block.
            start: Position of the first noisy token.

        Returns:
            ``(B, 1, T, T)`` with ``T`` for all positions.
        """
        num_source, device = source_mask.shape[1], source_mask.device
        noisy = torch.arange(start, start + num_noisy, device=device)
        clean = torch.arange(num_clean, device=device)
        is_noisy = F.pad(torch.ones_like(noisy, dtype=torch.bool), (num_source, num_clean))
        block = torch.cat((noisy, clean)) // self.config.block_length
        block = F.pad(block, (num_source, 0), value=-1)
        sees_noisy = is_noisy[:, None] & (block[:, None] == block)
        sees_clean = block + is_noisy[:, None].long() <= block[:, None]
        is_real = F.pad(source_mask, (0, num_noisy + num_clean), value=True)
        return torch.where(is_noisy, sees_noisy, sees_clean) & is_real[:, None, None, :]

    def predict_logits(
        self, batch: TokenBatch, noisy_ids: Tensor, clean_ids: Tensor, start: int = 0
    ) -> Tensor:
        """Score the tokens of whole blocks, in one pass without a cache.

        Args:
            batch: The sources; its texts are not looked at.
            noisy_ids: Noisy blocks ``(B, T)``.
            clean_ids: Clean blocks, from the first one on; those before each noisy one are seen.
            start: Position of the first noisy token.

        Returns:
            Logits ``(B, T, V)`` in float32.
        """
        num_source, num_noisy = batch.source_ids.shape[1], noisy_ids.shape[1]
        num_clean, device = clean_ids.shape[1], noisy_ids.device
        embedded = torch.cat(
            (
                self.network.embed(batch.source_ids, SOURCE),
                self.network.embed(noisy_ids, TEXT),
                self.network.embed(clean_ids, TEXT),
            ),
            dim=1,
        )
        ranges = ((-num_source, 0), (start, start + num_noisy), (0, num_clean))
        positions = torch.cat([torch.arange(*ends, device=device) for ends in ranges])
        mask = self.attention_mask(batch.source_mask, num_noisy, num_clean, start)
        hidden = self.network(embedded, positions, mask)
        return self.token_logits(hidden[:, num_source : num_source + num_noisy])

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Score the tokens of whole blocks; what cannot be there has ``-inf``."""
        logits = self.network.logits(hidden)
        logits[..., self.config.mask_token_id] = -torch.inf
        logits[:, :: self.config.block_length, self.config.pad_token_id] = -torch.inf
        return logits

    def is_modelled(self, batch: TokenBatch) -> Tensor:
        """Tell which tokens are modelled: all of the blocks that hold text, ``(B, S)``."""
        length = self.config.block_length
        has_text = batch.attention_mask.unflatten(1, (-1, length)).any(dim=-1)
        return has_text.repeat_interleave(length, dim=1)

    def masked_losses(self, batch: TokenBatch, is_masked: Tensor) -> Tensor:
        """Compute the cross-entropy of the masked tokens.

        Args:
            batch: Sources and texts.
            is_masked: Tokens that are not seen in their own block, ``(B, S)``.

        Returns:
            Nats ``(B, S)``; 0 at visible tokens and in blocks behind the text.
        """
        ids = batch.input_ids
        noisy_ids = ids.masked_fill(is_masked, self.config.mask_token_id)
        clean_ids = ids[:, : -self.config.block_length]  # no block comes after the last one
        logits = self.predict_logits(batch, noisy_ids, clean_ids)
        labels = ids.masked_fill(~(is_masked & self.is_modelled(batch)), -100)
        return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")

    def loss(self, batch: TokenBatch) -> Tensor:
        """Estimate the bound in nats per modelled token, with one share ``t`` for each block.

        Each token of a block is masked with probability ``t``, and its cross-entropy has the weight
        ``1 / t``; ``t`` is uniform in the range of the mask probability, stratified over all blocks
        of the batch.
        """
        low, high = self.config.min_mask_prob, self.config.max_mask_prob
        ids, num_blocks = batch.input_ids, self.count_blocks(batch.input_ids.shape[1])
        share = sample_time(len(batch) * num_blocks, ids.device).view(len(batch), num_blocks)
        t = (low + (high - low) * share).repeat_interleave(self.config.block_length, dim=1)
        is_masked = torch.rand(ids.shape, device=ids.device) < t
        return (self.masked_losses(batch, is_masked) / t).sum() / self.is_modelled(batch).sum()

    def likelihood_draws(
        self, batch: TokenBatch, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the bound several times, each time with a fixed count of masked tokens a block.

        As for ``MaskedDiffusionModel.likelihood_draws``, block by block; with blocks of one token
        the estimate is exact.

        Args:
            batch: Sources and texts.
            num_draws: Estimates for each row; the network runs once for each.
            generator: Randomness of the estimate.

        Returns:
            Nats of all modelled tokens ``(B, num_draws)``, in the order of rising counts.

        Raises:
            ValueError: If there is no draw.
        """
        if num_draws < 1:
            raise ValueError(f"`num_draws` must be 1 or larger, got {num_draws}.")
        ids, length = batch.input_ids, self.config.block_length
        shape = (len(batch) * self.count_blocks(ids.shape[1]), length)
        counts = stratified_counts(shape[0], num_draws, length, generator, ids.device)
        draws = []
        for count in counts.split(1, dim=1):  # one for each block, (B * S / length, 1)
            is_masked = ranks(uniform(shape, generator, ids.device)) < count
            losses = self.masked_losses(batch, is_masked.view_as(ids)).view(shape)
            draws.append((losses * (length / count)).view_as(ids).sum(dim=1))
        return torch.stack(draws, dim=1).float()

    def negative_log_likelihood(
        self, batch: TokenBatch, generator: torch.Generator | None = None, num_draws: int = 1
    ) -> Tensor:
        """Estimate an upper bound of ``-log p(text | source)`` of each row, see the draws."""
        return self.likelihood_draws(batch, num_draws, generator).mean(dim=1)

    def check_sampling(
        self,
        num_tokens: int,
        num_inference_steps: int | None = None,
        sampler: BlockSamplerName = "ancestral",
        **options: Any,
    ) -> None:
        """Refuse what the sampler cannot do; see ``TokenModel``."""
        num_blocks = self.count_blocks(num_tokens)
        block_steps(sampler, num_blocks, self.config.block_length, num_inference_steps)

    @torch.no_grad()
    def generate_ids(
        self,
        batch: TokenBatch,
        num_tokens: int,
        generator: Generators,
        num_inference_steps: int | None = None,
        sampler: BlockSamplerName = "ancestral",
        temperature: float = 1.0,
        top_p: float = 1.0,
        guidance_scale: float = 1.0,
        use_cache: bool = True,
        known_tokens: KnownTokens | None = None,
    ) -> tuple[Tensor, int]:
        """Reveal block after block, until every text has ended.

        A block does not see the tokens that are known in blocks behind it.

        Args:
            batch: Sources.
            num_tokens: Longest text, its end token included; a multiple of the block length.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Steps of the whole text, shared evenly by its blocks, at least one
                each; by default one for each token. With the cache there is one more call for the
                source and one for each finished block.
            sampler: Rule by which the tokens of a block are revealed, see ``masked_samplers``.
            temperature: Divides the log-probabilities; 0 always takes the likeliest token.
            top_p: Draw among the likeliest tokens that together have this probability.
            guidance_scale: Weight of classifier-free guidance; 1 is off and costs nothing.
            use_cache: Keep keys and values of the source and of finished blocks; without, all is
                computed again at each step.
            known_tokens: Tokens that the texts must hold, at any places, and those they must not.

        Raises:
            ValueError: If an argument is out of range or has no effect.
        """
        num_blocks = self.count_blocks(num_tokens)
        reader = BlockReader(self, batch, num_tokens, guidance_scale, use_cache, known_tokens)
        predictor = TokenPredictor(
            reader.log_probs, self.config.mask_token_id, generator, temperature, top_p
        )
        ids = sample_blocks(sampler, reader, predictor, num_blocks, num_inference_steps)
        return F.pad(ids, (0, num_tokens - ids.shape[1]), value=self.config.pad_token_id), (
            reader.num_calls
        )
