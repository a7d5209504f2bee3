"""What to do with texts that are longer than a row."""

from dataclasses import dataclass, field
from typing import Literal

LongTexts = Literal["error", "drop", "truncate", "split"]

# One row of token ids: the text's, and the source's where there is one. No end tokens yet.
TokenRow = tuple[list[int], list[int] | None]


@dataclass
class LengthPolicy:
    """Turn the token ids of one record into rows that fit, and count what that cost.

    Attributes:
        long_texts: ``error`` stops, ``drop`` leaves the record out, ``truncate`` cuts the end off,
            ``split`` makes consecutive windows of the text.
        max_length_tokens: Longest text, its end token included.
        max_source_length_tokens: Longest source, its end token included.
        previous_as_source: With ``split``, make each window's source the window before it; the
            first window's source is empty.
        num_dropped: Records left out so far.
        num_truncated: Records cut so far.
        num_split: Records that became more than one row so far.
    """

    long_texts: LongTexts
    max_length_tokens: int
    max_source_length_tokens: int
    previous_as_source: bool = False
    num_dropped: int = field(default=0, init=False)
    num_truncated: int = field(default=0, init=False)
    num_split: int = field(default=0, init=False)

    def apply(
        self, text_ids: list[int], source_ids: list[int] | None, place: str
    ) -> list[TokenRow]:
        """Return the rows of one record, none if it is dropped.

        Args:
            text_ids: Token ids of the text, without end token.
            source_ids: Token ids of the source, None without one.
            place: Names the record in an error message.

        Raises:
            ValueError: If the record is too long and ``long_texts`` is ``error``.
        """
        if self.long_texts == "split":
            return self._split(text_ids)
        limits = (self.max_length_tokens - 1, self.max_source_length_tokens - 1)
        too_long = len(text_ids) > limits[0], len(source_ids or ()) > limits[1]
        if not any(too_long):
            return [(text_ids, source_ids)]
        if self.long_texts == "drop":
            self.num_dropped += 1
            return []
        if self.long_texts == "truncate":
            self.num_truncated += 1
            cut_source = None if source_ids is None else source_ids[: limits[1]]
            return [(text_ids[: limits[0]], cut_source)]
        name, ids, option, limit = (
            ("text", text_ids, "max_length_tokens", self.max_length_tokens)
            if too_long[0]
            else ("source", source_ids or [], "max_source_length_tokens", limits[1] + 1)
        )
        raise ValueError(
            f"{place}: the {name} has {len(ids) + 1} tokens with its end token, `{option}` is "
            f'{limit}. Raise it, or set `long_texts` to "drop", "truncate" or "split".'
        )

    def _split(self, text_ids: list[int]) -> list[TokenRow]:
        size = self.max_length_tokens - 1
        windows = [text_ids[start : start + size] for start in range(0, len(text_ids), size)]
        windows = windows or [[]]
        self.num_split += len(windows) > 1
        if not self.previous_as_source:
            return [(window, None) for window in windows]
        return list(zip(windows, [[], *windows[:-1]], strict=True))
