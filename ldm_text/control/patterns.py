"""Regular expressions that no text can match, told before any text is written."""

import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

# Private modules, but all that makes texts for expressions stands on them.
PARSER: Any = import_module("re._parser")
CONSTANTS: Any = import_module("re._constants")


def check_pattern(name: str, pattern: str, max_characters: int) -> None:
    """Refuse a regular expression that does not compile, or that no text can match.

    Raises:
        ValueError: If it is such a one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            re.compile(pattern)
        except (re.error, Warning, OverflowError) as error:
            raise ValueError(f"`{name}`: {pattern!r} is no regular expression: {error}.") from error
        parsed = PARSER.parse(pattern)
    shortest = parsed.getwidth()[0]
    if shortest > max_characters:
        raise ValueError(
            f"`{name}`: {pattern!r} needs {shortest} characters, the longest text has "
            f"{max_characters}."
        )
    if not can_match(parsed):
        raise ValueError(f"`{name}`: {pattern!r} matches no text at all.")


def can_match(parsed: Any) -> bool:
    r"""Tell whether a parsed expression can match anything.

    It finds empty classes such as ``[^\s\S]``, impossible look-arounds such as ``(?!)``, and text
    before ``^`` or behind ``$``; contradictions beyond these are found by no candidate matching.
    """
    many_lines = bool(parsed.state.flags & re.MULTILINE)
    width_before, ended = 0, False
    for kind, value in parsed:
        width = PARSER.SubPattern(parsed.state, [(kind, value)]).getwidth()[0]
        if kind in (CONSTANTS.AT, CONSTANTS.ASSERT, CONSTANTS.ASSERT_NOT):
            width = 0
        begins = kind is CONSTANTS.AT and value in (
            CONSTANTS.AT_BEGINNING,
            CONSTANTS.AT_BEGINNING_STRING,
        )
        if begins and width_before and not many_lines:
            return False
        if ended and width and (kind, value) != (CONSTANTS.LITERAL, ord("\n")):
            return False
        if not item_can_match(kind, value):
            return False
        ended = ended or (kind is CONSTANTS.AT and value is CONSTANTS.AT_END_STRING)
        ended = ended or (kind is CONSTANTS.AT and value is CONSTANTS.AT_END and not many_lines)
        width_before += width
    return True


def item_can_match(kind: object, value: Any) -> bool:
    """Tell whether one item of a parsed expression can match anything, whatever is around it."""
    if kind is CONSTANTS.FAILURE or (kind is CONSTANTS.ASSERT_NOT and len(value[1]) == 0):
        return False
    if kind is CONSTANTS.IN:
        return not is_empty_class(value)
    if kind is CONSTANTS.BRANCH:
        return any(map(can_match, value[1]))
    if kind is CONSTANTS.SUBPATTERN:
        return can_match(value[3])
    if kind in (CONSTANTS.MAX_REPEAT, CONSTANTS.MIN_REPEAT, CONSTANTS.POSSESSIVE_REPEAT):
        return value[0] == 0 or can_match(value[2])
    return kind is not CONSTANTS.ASSERT or can_match(value[1])


def is_empty_class(members: Sequence) -> bool:
    """Tell whether a character class excludes every character by two complementary categories."""
    if members[0][0] is not CONSTANTS.NEGATE:
        return False
    categories = {value for kind, value in members[1:] if kind is CONSTANTS.CATEGORY}
    pairs = [
        {CONSTANTS.CATEGORY_SPACE, CONSTANTS.CATEGORY_NOT_SPACE},
        {CONSTANTS.CATEGORY_WORD, CONSTANTS.CATEGORY_NOT_WORD},
        {CONSTANTS.CATEGORY_DIGIT, CONSTANTS.CATEGORY_NOT_DIGIT},
    ]
    return any(pair <= categories for pair in pairs)
