"""Batches of source and text as all baselines see them: the source stands before the text."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Sources and texts.

    A source is right-aligned and ends with the end token; the lone end token is the empty source.
    So whatever the width of the source, the token before the text is always the same.

    Attributes:
        source_ids: Token ids ``(B, K)``, ``K >= 1``.
        source_mask: True at real tokens of the source, ``(B, K)``; the last one always is.
        input_ids: Token ids of the text ``(B, S)``: text, end token, pad tokens.
        attention_mask: True at real tokens of the text, the end token included, ``(B, S)``.
    """

    source_ids: Tensor
    source_mask: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    def without_sources(self, is_dropped: Tensor, end_token_id: int) -> "TokenBatch":
        """Leave only the end token of the sources where ``is_dropped`` ``(B,)`` is True."""
        last = torch.arange(self.source_ids.shape[1], device=is_dropped.device)
        is_last = (last == self.source_ids.shape[1] - 1)[None]
        kept = is_last | ~is_dropped[:, None]
        ids = torch.where(is_dropped[:, None] & is_last, end_token_id, self.source_ids)
        return replace(self, source_ids=ids, source_mask=self.source_mask & kept)

    def beside_null(self, end_token_id: int) -> "TokenBatch":
        """Double the batch: first the rows as they are, then again without their sources.

        That is what classifier-free guidance predicts from.
        """
        dropped = torch.ones(len(self), dtype=torch.bool, device=self.source_ids.device)
        null = self.without_sources(dropped, end_token_id)
        return TokenBatch(*(torch.cat((vars(self)[name], vars(null)[name])) for name in vars(self)))


def right_aligned(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real tokens of each row of ``(B, K)`` to its right end, gaps before them."""
    order = mask.byte().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def token_batch(batch: dict[str, Tensor], end_token_id: int) -> TokenBatch:
    """Arrange a batch of ``TextDataModule`` in the layout ``rows``.

    Args:
        batch: With ``input_ids`` and ``attention_mask``, and ``source_ids`` and ``source_mask``
            where there are sources; a source without tokens counts as empty.
        end_token_id: Id that closes a source.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    if "source_ids" not in batch:
        start = torch.full_like(ids[:, :1], end_token_id)
        return TokenBatch(start, torch.ones_like(start, dtype=torch.bool), ids, mask)
    source_ids, source_mask = right_aligned(batch["source_ids"], batch["source_mask"].bool())
    is_empty = ~source_mask.any(dim=1)
    source_mask = source_mask.clone()
    source_mask[:, -1] = True
    arranged = TokenBatch(source_ids, source_mask, ids, mask)
    return arranged.without_sources(is_empty, end_token_id)


def prompt_batch(rows: list[list[int]], end_token_id: int, device: torch.device) -> TokenBatch:
    """Arrange tokenized prompts; the text is still empty, ``(B, 0)``.

    Args:
        rows: Token ids of each source with its end token; no ids at all for no source.
        end_token_id: Id that closes a source.
        device: Where the tensors go.
    """
    rows = [row or [end_token_id] for row in rows]
    width = max(map(len, rows))
    ids = [[end_token_id] * (width - len(row)) + row for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, 0, -1, device=device) <= lengths[:, None]
    text = torch.zeros(len(rows), 0, dtype=torch.long, device=device)
    return TokenBatch(torch.tensor(ids, device=device), mask, text, text.bool())
