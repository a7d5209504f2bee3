"""Which tokens may stand where: inside a text, at the begin of a word, behind a word."""

from collections.abc import Iterable
from enum import IntFlag
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ldm_text.tokenizer import encode_text


class Only(IntFlag):
    """What a position may hold; several of them together all count."""

    TEXT = 1  # no end, no pad, no mask
    SPACE = 2  # a token that begins with a space
    NEW_WORD = 4  # nothing that goes on with the word before
    END = 8  # the end


@lru_cache(maxsize=8)
def token_sets(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """List the tokens that each union of ``Only`` leaves, ``(16, V)`` boolean, row 0 all."""
    size = len(tokenizer)
    special = torch.zeros(size, dtype=torch.bool)
    special[tokenizer.all_special_ids] = True
    is_end = torch.arange(size) == tokenizer.eos_token_id
    texts = tokenizer.batch_decode([[token] for token in range(size)])
    space = torch.tensor([text.startswith(" ") for text in texts]) & ~special
    # A token that is part of a character may go on with a word.
    goes_on = torch.tensor([bool(text) and is_word(text[0]) for text in texts]) & ~special
    sets = {Only.TEXT: ~special, Only.SPACE: space, Only.NEW_WORD: ~goes_on, Only.END: is_end}
    rows = torch.ones(16, size, dtype=torch.bool)
    for union in range(16):
        for only, allowed in sets.items():
            if union & only:
                rows[union] &= allowed
    return rows


def is_word(character: str) -> bool:
    """Tell whether a character belongs to a word, as far as one can see."""
    return character.isalnum() or character in ("_", "\ufffd")


def spellings(tokenizer: PreTrainedTokenizerFast, phrase: str) -> list[list[int]]:
    """Return the token ids of a phrase behind a space and at the begin of a text."""
    rows = [encode_text(tokenizer, text) for text in (" " + phrase, phrase)]
    return rows if rows[0] != rows[1] else rows[:1]


def forbidden_tokens(tokenizer: PreTrainedTokenizerFast, words: Iterable[str]) -> Tensor | None:
    """Mark the tokens ``(V,)`` that are a forbidden word by themselves; ``None`` if there are none.

    Words of several tokens cannot be told by a token; ``constraints.find_forbidden`` finds them.
    """
    single = [row[0] for word in words for row in spellings(tokenizer, word) if len(row) == 1]
    if not single:
        return None
    marked = torch.zeros(len(tokenizer), dtype=torch.bool)
    marked[single] = True
    return marked
