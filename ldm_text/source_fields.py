"""Sources of several fields, each of which begins with a latent of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from ldm_text.tokenizer import encode_texts


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
        if self.separator is None or self.tokens_per_latent == 1 or not sources:
            return encode_texts(tokenizer, sources)
        encoded = tokenizer(
            list(sources),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [
            self._padded(ids, offsets, source, tokenizer.pad_token_id)
            for ids, offsets, source in zip(
                encoded["input_ids"], encoded["offset_mapping"], sources, strict=True
            )
        ]

    def _padded(
        self, ids: list[int], offsets: list[tuple[int, int]], source: str, pad_token_id: int
    ) -> list[int]:
        """Put pad tokens before the first token of each field but the first."""
        assert self.separator is not None, "without a separator nothing is padded"
        padded: list[int] = []
        place = 0  # of the source, up to which separators were looked for
        field_end = self._field_end(source, place)
        for token_id, (_, end) in zip(ids, offsets, strict=True):
            if end > field_end:
                padded += [pad_token_id] * (-len(padded) % self.tokens_per_latent)
                while end > field_end:
                    place, field_end = field_end, self._field_end(source, field_end)
            padded.append(token_id)
        return padded

    def _field_end(self, source: str, start: int) -> int:
        """Return where the field that begins at a place ends, behind its separator."""
        assert self.separator is not None, "without a separator there are no fields"
        found = source.find(self.separator, start)
        return len(source) if found < 0 else found + len(self.separator)
