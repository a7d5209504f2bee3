"""Put required phrases where the model finds them most probable."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ldm_text.control.layout import Layout
from ldm_text.control.token_sets import Only, is_word, spellings, token_sets


def place_phrases(
    layout: Layout,
    phrases: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    rng: Random | None = None,
    num_tokens: int | None = None,
    log_probs: Tensor | None = None,
) -> Layout | None:
    """Place phrases into the open positions of a text, long ones first.

    Args:
        layout: The text.
        phrases: Phrases, each to be placed once.
        tokenizer: The model's tokenizer.
        rng: Source of random places; ``None`` takes the first ones.
        num_tokens: Number of tokens of a draft of the text; phrases stand inside of it where there
            is room. What a model thinks of places behind the end of a text means nothing.
        log_probs: Log-probabilities ``(S, V)`` of the draft: each phrase stands where its tokens
            have the largest sum, in place of a random one.

    Returns:
        The layout with the phrases known, or ``None`` if they do not all fit.
    """
    for phrase in sorted(phrases, key=len, reverse=True):
        slots = find_slots(layout, phrase, tokenizer)
        if not slots:
            return None
        if num_tokens is not None:
            inside = [slot for slot in slots if slot[0] + len(slot[1]) <= num_tokens]
            slots = inside or slots
        if log_probs is None:
            start, ids = rng.choice(slots) if rng else slots[0]
        else:
            start, ids = max(slots, key=lambda slot: slot_log_prob(slot, log_probs))
        layout = put_phrase(layout, phrase, start, ids)
    return layout


def slot_log_prob(slot: tuple[int, list[int]], log_probs: Tensor) -> float:
    """Add up the log-probabilities of a slot's tokens."""
    start, ids = slot
    return float(log_probs[range(start, start + len(ids)), ids].sum())


def find_slots(
    layout: Layout, phrase: str, tokenizer: PreTrainedTokenizerFast
) -> list[tuple[int, list[int]]]:
    """List where a phrase fits by itself: its first position, and its tokens there."""
    sets = token_sets(tokenizer)
    behind_space, *at_begin = spellings(tokenizer, phrase)
    slots = []
    for run in layout.runs():
        for start in run:
            ids = at_begin[0] if start == 0 and at_begin else behind_space
            end = start + len(ids)
            if end > run.stop or (end == run.stop and not _may_follow(layout, end, phrase, sets)):
                continue
            if all(sets[layout.only[start + i], token] for i, token in enumerate(ids)):
                slots.append((start, ids))
    return slots


def put_phrase(layout: Layout, phrase: str, start: int, ids: list[int]) -> Layout:
    """Make the tokens of a phrase known, and keep the next token from going on with its word."""
    row, only = list(layout.ids), list(layout.only)
    end = start + len(ids)
    row[start:end] = ids
    only[start:end] = [0] * len(ids)
    if end < len(row) and row[end] is None and is_word(phrase[-1]):
        only[end] |= Only.NEW_WORD
    return replace(layout, ids=row, only=only)


def _may_follow(layout: Layout, place: int, phrase: str, sets: Tensor) -> bool:
    """Tell whether the token at a place does not go on with the phrase before it."""
    token = layout.ids[place] if place < len(layout.ids) else None
    return token is None or not is_word(phrase[-1]) or bool(sets[Only.NEW_WORD, token])
