"""Generation of block diffusion: a reader that keeps what is finished, and the loop over blocks."""

from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from autoencoder.transformer import KeyValueCache
from ldm_text.baselines.diffusion import guide
from ldm_text.baselines.masked_samplers import check_sampler, equal_quotas, run_sampler
from ldm_text.baselines.network import SOURCE, TEXT
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.token_predictor import TokenPredictor
from ldm_text.known_tokens import KnownTokens

if TYPE_CHECKING:
    from ldm_text.baselines.block_diffusion import BlockDiffusionModel

# Those that use the same amount of randomness in each block, whatever the rows of the batch are.
BlockSamplerName = Literal["ancestral", "first_hitting", "random", "confidence"]


class BlockReader:
    """Predict a block after the source and the finished blocks.

    Args:
        model: The model.
        batch: Sources.
        num_tokens: Most tokens of a text.
        guidance_scale: Weight of classifier-free guidance; 1 is off.
        use_cache: Keep keys and values of what is finished.
        known: Tokens that the texts must hold, ``(B, S)``.

    Attributes:
        num_rows: Rows to predict.
        num_calls: How often the network ran.
    """

    def __init__(
        self,
        model: "BlockDiffusionModel",
        batch: TokenBatch,
        num_tokens: int,
        guidance_scale: float = 1.0,
        use_cache: bool = True,
        known: KnownTokens | None = None,
    ) -> None:
        self.model = model
        self.known = None if known is None or known.is_empty else known
        self.num_rows = len(batch)
        self.guidance_scale = guidance_scale
        if guidance_scale != 1:
            batch = batch.beside_null(model.config.end_token_id)
        self.batch = batch
        self.finished_ids = batch.source_ids[:, :0]
        self.num_calls = 0
        self.cache: KeyValueCache | None = None
        if use_cache:
            length = batch.source_ids.shape[1] + num_tokens
            self.cache = KeyValueCache(model.config.num_layers, length)
            self.extend_cache(model.network.embed(batch.source_ids, SOURCE))

    def both_branches(self, ids: Tensor) -> Tensor:
        """Give ids ``(B, T)`` to the rows with their source, and again to those without."""
        return ids if self.guidance_scale == 1 else torch.cat((ids, ids))

    def run_after_cache(self, embedded: Tensor) -> Tensor:
        """Run the network on what comes next, all of which sees itself: ``(B, T, H)``."""
        num_source, num_kept = self.batch.source_ids.shape[1], len(self.cache or ())
        end = num_kept + embedded.shape[1] - num_source
        positions = torch.arange(num_kept - num_source, end, device=embedded.device)
        visible = F.pad(self.batch.source_mask, (0, end), value=True)
        self.num_calls += 1
        return self.model.network(embedded, positions, visible[:, None, None, :], cache=self.cache)

    def extend_cache(self, embedded: Tensor) -> None:
        """Keep the keys and values of what is finished, ``(B, T, H)``."""
        if self.cache is not None:
            self.cache.is_growing = True
            self.run_after_cache(embedded)
            self.cache.is_growing = False

    def read(self, block_ids: Tensor) -> None:
        """Take note of the finished block ``(B, T)``."""
        ids = self.both_branches(block_ids)
        self.finished_ids = torch.cat((self.finished_ids, ids), dim=1)
        if self.cache is not None:
            self.extend_cache(self.model.network.embed(ids, TEXT))

    def logits(self, block_ids: Tensor) -> Tensor:
        """Score the tokens of the next block, given its visible ones: ``(B, T, V)``."""
        if self.cache is not None:
            hidden = self.run_after_cache(self.model.network.embed(block_ids, TEXT))
            return self.model.token_logits(hidden)
        self.num_calls += 1
        start = self.finished_ids.shape[1]
        return self.model.predict_logits(self.batch, block_ids, self.finished_ids, start)

    def log_probs(self, block_ids: Tensor) -> Tensor:
        """Predict log-probabilities ``(B, T, V)`` under guidance, for each row of the sources.

        Tokens that must not come out have ``-inf``.
        """
        log_probs = self.logits(self.both_branches(block_ids)).log_softmax(dim=-1)
        if self.guidance_scale != 1:
            log_probs = guide(log_probs, self.guidance_scale).log_softmax(dim=-1)
        if self.known is None:
            return log_probs
        config, start = self.model.config, self.finished_ids.shape[1]
        special = (config.pad_token_id, config.end_token_id, config.mask_token_id)
        return self.known.mask_logits(log_probs, *special, start=start).log_softmax(dim=-1)

    def next_block(self) -> tuple[Tensor, Tensor]:
        """Lay out the next block: masked, and known tokens where there are any.

        Returns:
            Token ids ``(B, T)``, and True where a known pad token says that the text has ended.
        """
        config, start = self.model.config, self.finished_ids.shape[1]
        shape = (self.num_rows, config.block_length)
        ids = self.finished_ids.new_full(shape, config.mask_token_id)
        if self.known is not None:
            span = slice(start, start + config.block_length)
            ids = torch.where(self.known.is_known[:, span], self.known.ids[:, span], ids)
        return ids, (ids == config.pad_token_id).any(dim=1)


def block_steps(
    sampler: BlockSamplerName,
    num_blocks: int,
    block_length: int,
    num_inference_steps: int | None,
) -> list[int]:
    """Share the steps out among the blocks.

    Args:
        sampler: Rule by which the tokens of a block are revealed.
        num_blocks: Most blocks of a text.
        block_length: Tokens of a block.
        num_inference_steps: Steps of all blocks together; ``None`` takes one for each token.

    Raises:
        ValueError: If there is no such sampler, or it cannot take so many steps, or there are fewer
            than blocks.
    """
    if sampler not in get_args(BlockSamplerName):
        names = ", ".join(get_args(BlockSamplerName))
        raise ValueError(f"`sampler` must be one of {names}, got {sampler!r}.")
    # Shared evenly, they are too many for a block exactly where they are for the whole text.
    num_steps = check_sampler(sampler, num_blocks * block_length, num_inference_steps)
    if num_steps < num_blocks:
        raise ValueError(
            f"`num_inference_steps` must be at least the number of blocks, {num_blocks}, got "
            f"{num_inference_steps}."
        )
    return equal_quotas(num_steps, num_blocks)


def sample_blocks(
    sampler: BlockSamplerName,
    reader: BlockReader,
    predictor: TokenPredictor,
    num_blocks: int,
    num_inference_steps: int | None,
) -> Tensor:
    """Reveal block after block until every text has ended.

    Args:
        sampler: Rule by which the tokens of a block are revealed.
        reader: What predicts blocks.
        predictor: What draws their tokens, from the predictions of ``reader``.
        num_blocks: Most blocks of a text.
        num_inference_steps: Steps of all blocks together; ``None`` takes one for each token.

    Returns:
        Token ids ``(B, T)`` of the blocks up to the one in which the last text ended, pad tokens in
        those behind the end of a text.

    Raises:
        ValueError: If there is no such sampler, or it cannot take so many steps.
    """
    config, source_ids = reader.model.config, reader.batch.source_ids
    quotas = block_steps(sampler, num_blocks, config.block_length, num_inference_steps)
    ended = torch.zeros(reader.num_rows, dtype=torch.bool, device=source_ids.device)
    blocks: list[Tensor] = []
    for steps in quotas:
        if blocks:
            reader.read(blocks[-1])
        masked, ends_here = reader.next_block()
        drawn = run_sampler(sampler, predictor, masked, steps)
        blocks.append(drawn.masked_fill(ended[:, None], config.pad_token_id))
        ended = ended | ends_here | (drawn == config.end_token_id).any(dim=1)
        if bool(ended.all()):
            break
    return torch.cat(blocks, dim=1)
