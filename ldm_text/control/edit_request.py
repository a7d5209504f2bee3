"""What is asked of an edit, and the tokens that it leaves as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ldm_text.control.token_sets import Only, token_sets
from ldm_text.known_tokens import KnownTokens
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import encode_text

Span = tuple[int, int]


@dataclass(frozen=True)
class EditRequest:
    """One text to change.

    Attributes:
        text: The text.
        source: Condition under which it is written anew; ``None`` for none.
        protect: Stretches of characters, from and to, whose tokens stay as they are and where they
            are; the rest may change in length only behind the last of them.
        change: Stretches outside of which all stays, in the place of all; their number of tokens
            stays, too.
        row: Number of the row, of which the noise is made.
        sample: Number of the sample of this row, likewise.
    """

    text: str
    source: str | None = None
    protect: tuple[Span, ...] = ()
    change: tuple[Span, ...] = ()
    row: int = 0
    sample: int = 0


def text_ids(pipeline: LatentTextPipeline, text: str) -> list[int]:
    """Tokenize a text to be changed.

    Raises:
        ValueError: If it has no token, or too many.
    """
    ids = encode_text(pipeline.tokenizer, text)
    most = pipeline.config.max_length_tokens - 1
    if not 1 <= len(ids) <= most:
        raise ValueError(
            f"The text has {len(ids)} tokens, the model changes texts of 1 to {most}. It begins "
            f"with {text[:60]!r}."
        )
    return ids


def padded(pipeline: LatentTextPipeline, rows: Sequence[list[int]]) -> Tensor:
    """Write token ids with the end and pads to full length, ``(B, S)``."""
    config = pipeline.autoencoder.config
    length = pipeline.config.max_length_tokens
    full = [
        [*row, config.end_token_id] + [config.pad_token_id] * (length - len(row) - 1)
        for row in rows
    ]
    return torch.tensor(full, device=pipeline.device)


def known_of_edits(
    pipeline: LatentTextPipeline, requests: Sequence[EditRequest], rows: Sequence[list[int]]
) -> KnownTokens | None:
    """Make the tokens that must not change known; ``None`` if all may.

    Raises:
        ValueError: If a stretch is not one of the text, or nothing is left to change.
    """
    ids = padded(pipeline, rows)
    is_known = torch.zeros_like(ids, dtype=torch.bool)
    only = torch.full_like(ids, -1)
    sets = token_sets(pipeline.tokenizer)
    for index, request in enumerate(requests):
        stays = kept_tokens(pipeline.tokenizer, request)
        is_known[index, : len(stays)] = torch.tensor(stays, device=ids.device)
        if request.change:
            is_known[index, len(stays) :] = True  # the end, and the pads behind it
        if all(stays) and any(stays):
            raise ValueError("`protect` and `change` leave nothing of the text to change.")
        for place in range(1, len(stays)):
            if stays[place - 1] and not stays[place] and sets[Only.NEW_WORD, rows[index][place]]:
                only[index, place] = Only.NEW_WORD  # no letters may come behind a kept word
    known = KnownTokens(ids, is_known, None, sets.to(ids.device), only)
    return None if known.is_empty else known


def kept_tokens(tokenizer: PreTrainedTokenizerFast, request: EditRequest) -> list[bool]:
    """Tell for each token of a text whether it must stay.

    Raises:
        ValueError: If a stretch is not one of the text.
    """
    for name in ("protect", "change"):
        for first, last in getattr(request, name):
            if not 0 <= first < last <= len(request.text):
                raise ValueError(
                    f"`{name}` must name characters of the text, 0 to {len(request.text)}, got "
                    f"{first} to {last}."
                )
    encoding = tokenizer(
        request.text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )

    def overlaps(token: Span, spans: Sequence[Span]) -> bool:
        return any(token[0] < last and first < token[1] for first, last in spans)

    # A space that is a token by itself keeps a word apart from what comes before it.
    protect = [
        (first - 1 if request.text[first - 1 : first] == " " else first, last)
        for first, last in request.protect
    ]
    return [
        overlaps(token, protect) or bool(request.change and not overlaps(token, request.change))
        for token in encoding["offset_mapping"]
    ]
