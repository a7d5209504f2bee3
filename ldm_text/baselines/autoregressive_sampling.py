"""Generation of the autoregressive baseline: the texts that still run, and the loop over tokens."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoencoder.transformer import KeyValueCache
from ldm_text.baselines.network import SOURCE, TEXT, text_positions
from ldm_text.baselines.sampling import categories_at, token_probs, uniform
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens, known_prefix_lengths

if TYPE_CHECKING:
    from ldm_text.baselines.autoregressive import AutoregressiveModel

# To leave the batch costs a copy of the keys and values of those that stay.
SHARE_THAT_STAYS = 0.75


class RunningTexts:
    """The texts of a batch that have not ended, and what the network keeps of them.

    Args:
        model: The model.
        batch: Sources.
        num_tokens: Most tokens of a text.
        use_cache: Keep keys and values.

    Attributes:
        rows: Number of each running text in the batch, ``(R,)``.
        num_rows: Texts of the batch.
        num_calls: How often the network ran.
    """

    def __init__(
        self, model: "AutoregressiveModel", batch: TokenBatch, num_tokens: int, use_cache: bool
    ) -> None:
        num_source, device = batch.source_ids.shape[1], batch.source_ids.device
        self.model = model
        self.num_rows = len(batch)
        self.rows = torch.arange(len(batch), device=device)
        self.positions = text_positions(num_source, num_tokens, device)
        self.mask = model.attention_mask(batch.source_mask, num_tokens)
        self.has_padding = not bool(batch.source_mask.all())
        self.cache = None
        if use_cache:
            self.cache = KeyValueCache(model.config.num_layers, len(self.positions))
        self.embedded = model.network.embed(batch.source_ids, SOURCE)  # not yet in the cache
        self.num_calls = 0

    def next_logits(self) -> Tensor:
        """Score the next token of each running text, ``(R, V)``."""
        start = len(self.cache or ())
        end = start + self.embedded.shape[1]
        mask = None  # a single position sees all before it
        if self.has_padding or end - start > 1:
            mask = self.mask[:, :, start:end, :end]
        hidden = self.model.network(
            self.embedded, self.positions[start:end], mask, cache=self.cache
        )
        self.num_calls += 1
        if self.cache is not None:
            self.embedded = self.embedded[:, :0]
        return self.model.token_logits(hidden[:, -1])

    def append(self, ids: Tensor) -> None:
        """Continue each running text by tokens ``(R, T)``."""
        new = self.model.network.embed(ids, TEXT)
        self.embedded = torch.cat((self.embedded, new), dim=1)

    def drop(self, has_ended: Tensor) -> None:
        """Take texts ``(R,)`` out of the batch."""
        kept = (~has_ended).nonzero()[:, 0]
        self.rows, self.mask, self.embedded = (
            part[kept] for part in (self.rows, self.mask, self.embedded)
        )
        if self.cache is not None:
            self.cache.keep_rows(kept)


def write_texts(
    texts: RunningTexts,
    num_tokens: int,
    generator: Generators,
    temperature: float,
    top_p: float,
    known: KnownTokens | None = None,
) -> tuple[Tensor, int]:
    """Draw one token after the other until every text has ended.

    Args:
        texts: The texts, all of them still empty.
        num_tokens: Longest text, its end token included, ``S``.
        generator: One source of randomness, or one for each row.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_p: Draw among the likeliest tokens that together have this probability.
        known: Tokens that the texts must hold, see ``check_prefix``.

    Returns:
        Token ids ``(B, S)``, pad tokens behind the end; and how often the network ran.
    """
    config, device = texts.model.config, texts.rows.device
    ids = torch.full((texts.num_rows, num_tokens), config.pad_token_id, device=device)
    has_ended = torch.zeros(texts.num_rows, dtype=torch.bool, device=device)
    num_read = 0
    if known is not None:
        num_read = int(known_prefix_lengths(known).min())
        ids[:, :num_read] = known.ids[:, :num_read]
        has_ended = is_end(ids[:, :num_read], texts.model).any(dim=1)
        texts.append(ids[:, :num_read])
    for step in range(num_read, num_tokens):
        num_running = int((~has_ended).sum())
        if num_running == 0:
            break
        if num_running <= SHARE_THAT_STAYS * len(has_ended):
            texts.drop(has_ended)
            known = None if known is None else known.select((~has_ended).nonzero()[:, 0].tolist())
            has_ended = has_ended[~has_ended]
        logits = texts.next_logits()
        is_open = torch.ones_like(has_ended)
        if known is not None:
            is_open = ~known.is_known[:, step]
            logits = known.mask_logits(
                logits[:, None], config.pad_token_id, config.end_token_id, start=step
            )[:, 0]
        drawn = draw_next(logits, texts, is_open, generator, temperature, top_p)
        if known is not None:
            drawn = torch.where(is_open, drawn, known.ids[:, step])
        drawn = drawn.masked_fill(has_ended, config.pad_token_id)
        ids[texts.rows, step] = drawn
        has_ended = has_ended | is_end(drawn, texts.model)
        texts.append(drawn[:, None])
    return ids, texts.num_calls


def is_end(ids: Tensor, model: "AutoregressiveModel") -> Tensor:
    """Tell which tokens end a text: the end token, or a pad token that was known."""
    return (ids == model.config.end_token_id) | (ids == model.config.pad_token_id)


def draw_next(
    logits: Tensor,
    texts: RunningTexts,
    is_open: Tensor,
    generator: Generators,
    temperature: float,
    top_p: float,
) -> Tensor:
    """Draw a token for each running text.

    From a list of generators, each draws for its own row, and only where the token is not known:
    so a text is the same in any batch.

    Args:
        logits: Scores of the tokens ``(R, V)``.
        texts: The running texts.
        is_open: Texts whose next token is not known, ``(R,)``.
        generator: One source of randomness, or one for each row of the batch.
        temperature: Divides the logits.
        top_p: Probability of the tokens among which one is drawn.

    Returns:
        Tokens ``(R,)``; void where the token is known.
    """
    probs = token_probs(logits, temperature, top_p)
    if isinstance(generator, list):
        share = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
        own = [generator[row] for row in texts.rows[is_open].tolist()]
        if own:
            share[is_open] = uniform((len(own),), own, logits.device)
    else:
        share = uniform((texts.num_rows,), generator, logits.device)[texts.rows]
    return categories_at(probs, share)
