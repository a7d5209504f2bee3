"""Sources of several fields, each of which begins with a latent of its own."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from ldm_text.tokenizer import encode_texts, encode_with_offsets


@dataclass(frozen=True)
class SourceFields:
    """Pad the fields of a source to whole latents.

    A latent is a patch of tokens. Where fields follow each other without a gap, one value falls
    into patches in as many ways as there are places for it to begin, each time with other
    neighbours, and the denoiser has to learn them all. With a gap it is always the same patches.
    The padding is hidden from the networks, as it is behind the end of a text.

    Attributes:
        separator: What stands at the end of a field, such as ``],``; ``None`` for no fields.
        tokens_per_latent: Tokens of a patch.

    Raises:
        ValueError: If the separator is empty.
    """

    separator: str | None = None
    tokens_per_latent: int = 1

    def __post_init__(self) -> None:
        if self.separator == "":
            raise ValueError("`source_separator` must hold at least one character, got none.")

    @property
    def key(self) -> list[str | int]:
        """What tells apart two ways to pad; empty without fields."""
        return [] if self.separator is None else [self.separator, self.tokens_per_latent]

    def encode(self, tokenizer: PreTrainedTokenizerFast, sources: Sequence[str]) -> list[list[int]]:
        """Return the token ids of sources, fields padded with the pad token, without end token.

        The last field is not padded. A token that reaches from one field into the next is a part of
        the next. Without a separator these are the ids of ``encode_texts``.
        """
        if self.separator is None or self.tokens_per_latent == 1:
            return encode_texts(tokenizer, sources)
        rows = []
        for source, (ids, offsets) in zip(
            sources, encode_with_offsets(tokenizer, sources), strict=True
        ):
            field_ends = [match.end() for match in re.finditer(re.escape(self.separator), source)]
            padded: list[int] = []
            num_ended = 0
            for token_id, (_, end) in zip(ids, offsets, strict=True):
                num_before, num_ended = num_ended, bisect_left(field_ends, end)
                if num_ended > num_before:  # the first token of a field
                    missing = -len(padded) % self.tokens_per_latent
                    padded += [tokenizer.pad_token_id] * missing
                padded.append(token_id)
            rows.append(padded)
        return rows
