"""Words and patterns that a text must hold or must not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from ldm_text.control.patterns import check_pattern
from ldm_text.control.token_sets import is_word, spellings


@dataclass(frozen=True)
class Constraints:
    """What all texts of a call must satisfy.

    Attributes:
        required: Words or phrases that are placed into the text and kept, as they are typed.
        forbidden: Words or phrases that must not stand in it, as they are typed.
        required_patterns: Regular expressions that must match somewhere in the text. They are
            not placed: candidates without a match fall away.
        forbidden_patterns: Regular expressions that must match nowhere, likewise.
    """

    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    required_patterns: tuple[str, ...] = ()
    forbidden_patterns: tuple[str, ...] = ()

    def check(self, known_texts: Sequence[str], max_characters: int) -> None:
        """Refuse what no text can satisfy.

        Args:
            known_texts: Texts that are known beside the required ones.
            max_characters: Length of the longest text.

        Raises:
            ValueError: If it cannot be satisfied.
        """
        for name in ("required", "forbidden"):
            for phrase in getattr(self, name):
                if not phrase.strip() or phrase != phrase.strip():
                    raise ValueError(f"`{name}` takes words and phrases, got {phrase!r}.")
        for text in (*known_texts, *self.required):
            if found := find_forbidden(text, self.forbidden):
                raise ValueError(
                    f"`forbidden` contradicts what is known or required: {found[0]!r} stands in "
                    f"{text!r}."
                )
        for name in ("required_patterns", "forbidden_patterns"):
            for pattern in getattr(self, name):
                check_pattern(name, pattern, max_characters)

    def matches(self, text: str) -> bool:
        """Tell whether a text satisfies everything."""
        return (
            all(find_phrase(text, phrase) for phrase in self.required)
            and not find_forbidden(text, self.forbidden)
            and all(re.search(pattern, text) for pattern in self.required_patterns)
            and not any(re.search(pattern, text) for pattern in self.forbidden_patterns)
        )


def phrase_pattern(phrase: str) -> re.Pattern[str]:
    """Compile a phrase that stands by itself, not inside a longer word."""
    before = r"(?<!\w)" if is_word(phrase[0]) else ""
    after = r"(?!\w)" if is_word(phrase[-1]) else ""
    return re.compile(before + re.escape(phrase) + after)


def find_phrase(text: str, phrase: str) -> re.Match[str] | None:
    """Find a phrase in a text."""
    return phrase_pattern(phrase).search(text)


def find_forbidden(text: str, forbidden: Sequence[str]) -> tuple[str, int, int] | None:
    """Find the first forbidden phrase: the phrase, and where it begins and ends in the text."""
    for phrase in forbidden:
        if found := find_phrase(text, phrase):
            return phrase, found.start(), found.end()
    return None


def check_required(
    tokenizer: PreTrainedTokenizerFast, required: Sequence[str], num_free: int
) -> None:
    """Refuse required phrases that are longer than all gaps together.

    Raises:
        ValueError: If they are.
    """
    needed = sum(min(map(len, spellings(tokenizer, phrase))) for phrase in required)
    if needed > num_free:
        raise ValueError(
            f"`required` needs {needed} tokens, and only {num_free} are not known: leave some out, "
            "or make the gaps longer."
        )
