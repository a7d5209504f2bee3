"""Tokens that a text must hold: the one primitive behind prompts, gaps, lengths and constraints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class KnownTokens:
    """Tokens that the texts of a batch must hold, and tokens that they must not.

    The end token is a token like others: a text of exactly ``N`` tokens has it known at position
    ``N``, and the pad token known behind it. Where a token that is no pad is known, the text cannot
    have ended before. In the ``sequences`` of an output a known end stands as the pad, as every
    end does.

    Attributes:
        ids: Token ids ``(B, S)``; void where nothing is known.
        is_known: True where ``ids`` holds a token of the text, ``(B, S)``.
        forbidden: True for tokens that must not come out where nothing is known, ``(V,)``.
        choices: Sets of tokens ``(K, V)``, True for the tokens of a set.
        choice: Number of the set that a position must draw from if it is not known, ``(B, S)``; -1
            draws from all tokens.
    """

    ids: Tensor
    is_known: Tensor
    forbidden: Tensor | None = None
    choices: Tensor | None = None
    choice: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Number of texts."""
        return len(self.ids)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is asked for."""
        nothing_chosen = self.choice is None or not bool((self.choice >= 0).any())
        return not bool(self.is_known.any()) and self.forbidden is None and nothing_chosen

    def repeat(self, num_samples: int) -> Self:
        """Repeat each row, samples side by side."""
        return self._map_rows(lambda rows: rows.repeat_interleave(num_samples, dim=0))

    def select(self, rows: Sequence[int]) -> Self:
        """Take some rows, in the given order."""
        return self._map_rows(lambda part: part[list(rows)])

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        parts = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: value.to(device) for name, value in parts.items()})

    def put(self, ids: Tensor) -> Tensor:
        """Write the known tokens over ids ``(B, S)``."""
        return torch.where(self.is_known, self.ids, ids)

    def is_closed(self, pad_token_id: int) -> Tensor:
        """Unknown positions where the text goes on, ``(B, S)``: neither end nor pad fits there."""
        is_text = self.is_known & (self.ids != pad_token_id)
        text_follows = is_text.flip(1).cumsum(dim=1).flip(1) > 0
        return text_follows & ~self.is_known

    def mask_logits(
        self,
        logits: Tensor,
        pad_token_id: int,
        end_token_id: int,
        mask_token_id: int | None = None,
        start: int = 0,
    ) -> Tensor:
        """Set the logits of tokens that may not be drawn to minus infinity.

        Known positions are not touched: ``put`` writes them.

        Args:
            logits: Logits ``(B, N, V)`` of the positions from ``start`` on.
            pad_token_id: The pad token, which like the end token stands only where a text may end.
            end_token_id: The end token.
            mask_token_id: A token that is no text, if the family has one.
            start: First position.

        Returns:
            The masked logits, a new tensor; the given one where nothing is asked for.
        """
        if self.is_empty:
            return logits
        span = slice(start, start + logits.shape[1])
        barred = logits.new_zeros(logits.shape, dtype=torch.bool)
        closed = self.is_closed(pad_token_id)[:, span]
        for token in (pad_token_id, end_token_id, mask_token_id):
            if token is not None:
                barred[..., token] = closed
        if self.forbidden is not None:
            barred = barred | self.forbidden
        if self.choices is not None and self.choice is not None:
            choice = self.choice[:, span]
            barred = barred | ((choice >= 0)[..., None] & ~self.choices[choice.clamp(min=0)])
        barred = barred & ~self.is_known[:, span, None]
        return logits.masked_fill(barred, float("-inf"))

    def check(self, num_rows: int, num_tokens: int, vocab_size: int, pad_token_id: int) -> None:
        """Make sure that the tokens are those of a batch of texts.

        Args:
            num_rows: Number of texts.
            num_tokens: Longest text with its end token, ``S``.
            vocab_size: Number of tokens, ``V``.
            pad_token_id: The pad token.

        Raises:
            ValueError: If the sizes are others, or no text can hold the tokens.
        """
        expected = (num_rows, num_tokens)
        for name in ("ids", "is_known", "choice"):
            part = getattr(self, name)
            if part is not None and tuple(part.shape) != expected:
                raise ValueError(
                    f"`known_tokens.{name}` must have the shape {expected}, one row for each "
                    f"prompt, got {tuple(part.shape)}."
                )
        if self.forbidden is not None and tuple(self.forbidden.shape) != (vocab_size,):
            raise ValueError(
                f"`known_tokens.forbidden` must have the shape {(vocab_size,)}, one entry for each "
                f"token, got {tuple(self.forbidden.shape)}."
            )
        known = self.ids[self.is_known]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < vocab_size:
            raise ValueError(f"`known_tokens.ids` must be tokens from 0 to {vocab_size - 1}.")
        is_pad = self.is_known & (self.ids == pad_token_id)
        is_text = self.is_known & (self.ids != pad_token_id)
        if bool((is_text & (is_pad.cumsum(dim=1) > 0)).any()):
            raise ValueError("`known_tokens` has a token of the text behind a pad token.")

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> Self:
        choice = None if self.choice is None else change(self.choice)
        return replace(self, ids=change(self.ids), is_known=change(self.is_known), choice=choice)


def nothing_known(
    num_rows: int, num_tokens: int, device: torch.device | None = None
) -> KnownTokens:
    """Make ``KnownTokens`` that ask for nothing, to be filled."""
    ids = torch.zeros(num_rows, num_tokens, dtype=torch.long, device=device)
    return KnownTokens(ids, torch.zeros_like(ids, dtype=torch.bool))


def known_prefix_lengths(known: KnownTokens) -> Tensor:
    """Count the known tokens that each row begins with, ``(B,)``."""
    return known.is_known.long().cumprod(dim=1).sum(dim=1)
