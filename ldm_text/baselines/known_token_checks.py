"""Refuse known tokens that a baseline cannot keep, before anything is computed."""

import torch

from ldm_text.baselines.token_model import TokenModel
from ldm_text.known_tokens import KnownTokens, known_prefix_lengths


def check_known_tokens(
    known: KnownTokens, model: TokenModel, num_prompts: int, num_tokens: int
) -> None:
    """Make sure that there are texts with these tokens, and that the model can write them.

    Args:
        known: The tokens, a row for each prompt.
        model: The baseline.
        num_prompts: Number of prompts.
        num_tokens: Longest text, its end token included, ``S``.

    Raises:
        ValueError: If there are none, or it cannot.
    """
    if model.known_token_support == "none" and not known.is_empty:
        raise ValueError(
            f"`known_tokens` has no effect: {type(model).__name__} keeps none. Leave it out."
        )
    config = model.config
    pad, end, mask = config.pad_token_id, config.end_token_id, config.mask_token_id
    known.check(num_prompts, num_tokens, config.vocab_size, pad)
    if bool((known.is_known & (known.ids == mask)).any()):
        raise ValueError(
            f"`known_tokens.ids` must not hold the mask token, {mask}: leave what is open unknown."
        )
    is_end = (known.is_known & (known.ids == end)).long()
    is_behind = known.is_known & (known.ids != pad) & (is_end.cumsum(dim=1) - is_end > 0)
    if bool(is_behind.any()):
        raise ValueError("`known_tokens` has a token of the text behind an end token.")
    check_open_positions(known, config.vocab_size, pad, end, mask)


def check_open_positions(
    known: KnownTokens, vocab_size: int, pad_token_id: int, end_token_id: int, mask_token_id: int
) -> None:
    """Make sure that at each unknown position a token is left to be drawn.

    A pad token alone is none: a text has ended before it, so it can be known.

    Raises:
        ValueError: If all tokens are excluded somewhere.
    """
    is_closed = known.is_closed(pad_token_id)
    choice = torch.full_like(known.ids, -1) if known.choice is None else known.choice
    kinds = torch.stack((is_closed.long(), choice), dim=-1)[~known.is_known].unique(dim=0)
    for closed, number in kinds.tolist():
        is_left = torch.ones(vocab_size, dtype=torch.bool, device=known.ids.device)
        is_left[[pad_token_id, mask_token_id]] = False
        if closed:
            is_left[end_token_id] = False
        if known.forbidden is not None:
            is_left &= ~known.forbidden
        if known.choices is not None and number >= 0:
            is_left &= known.choices[number]
        if not bool(is_left.any()):
            raise ValueError(
                "`known_tokens` leaves no token for an unknown position: `forbidden`, `choices` "
                "and what is known behind it exclude all of them."
            )


def check_prefix(known: KnownTokens, pad_token_id: int, end_token_id: int) -> None:
    """Make sure that tokens are known that a text begins with, its end, or pad tokens behind it.

    Raises:
        ValueError: If a token of a text is known behind one that is not.
    """
    is_text = known.is_known & (known.ids != pad_token_id) & (known.ids != end_token_id)
    lengths = known_prefix_lengths(known)
    position = torch.arange(is_text.shape[1], device=is_text.device)
    is_behind = (is_text & (position >= lengths[:, None])).nonzero().tolist()
    if is_behind:
        row, column = is_behind[0]
        raise ValueError(
            "`known_tokens` must be what the text begins with, as an autoregressive model writes "
            f"from left to right: row {row} knows token {column} but only {int(lengths[row])} "
            "tokens from the first one on. Take a diffusion model, or leave out what is behind."
        )
