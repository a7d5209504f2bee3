import re

import pytest

from ldm_text.control.constraints import Constraints, check_required, find_forbidden, find_phrase
from ldm_text.control.patterns import check_pattern


def test_a_phrase_stands_by_itself():
    assert find_phrase("a pub, cheap", "pub")
    assert not find_phrase("a public house", "pub")
    assert not find_phrase("a Pub", "pub")
    assert find_phrase("it is (nice)", "(nice)")
    assert find_forbidden("a nice pub", ("bar", "nice pub")) == ("nice pub", 2, 10)
    assert find_forbidden("a nice pub", ("bar",)) is None


def test_a_text_matches_if_everything_holds():
    constraints = Constraints(("pub",), ("bar",), (r"\d+",), ("x$",))
    assert constraints.matches("a pub at 5")
    for text in ("a bar at 5", "a pub and bar 5", "a pub", "a pub at 5x"):
        assert not constraints.matches(text)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(("a pub",), ("pub",)), "contradicts what is known or required: 'pub'"),
        (Constraints((), ("known",)), "'known' stands in 'a known text'"),
        (Constraints((" pub",)), "`required` takes words and phrases, got ' pub'"),
        (Constraints((), ("",)), "`forbidden` takes words and phrases, got ''"),
        (Constraints((), (), ("(",)), r"`required_patterns`: '\(' is no regular expression"),
        (Constraints((), (), (), ("[",)), r"`forbidden_patterns`: '\[' is no regular expression"),
        (Constraints((), (), (".{200}",)), "needs 200 characters, the longest text has 100"),
    ],
)
def test_what_cannot_be_satisfied_is_refused(constraints, message):
    with pytest.raises(ValueError, match=message):
        constraints.check(["a known text"], 100)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[^\s\S]",
        r"a[^\d\D]",
        "a^b",
        r"a$b",
        r"(?!)",
        r"(x[^\w\W])+",
        r"[^\s\S]|(?!)",
        r"(?=[^\s\S])a",
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    assert not any(re.search(pattern, text) for text in ("", "a", "ab", "a\nb", "1 x"))
    with pytest.raises(ValueError, match="matches no text at all"):
        check_pattern("required_patterns", pattern, 100)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^a.*b$", "axb"),
        (r"(?m)a\n^b", "a\nb"),
        ("a$\n", "a\n"),
        (r"x*^b", "b"),
        (r"([^\s\S])?b", "b"),
        (r"(a)\1(?!c)", "aab"),
        (r"(?<=a)b|(?!)", "ab"),
        (r"[^\s]", "a"),
    ],
)
def test_a_pattern_that_matches_something_is_not(pattern, text):
    assert re.search(pattern, text)
    check_pattern("required_patterns", pattern, 100)


def test_required_phrases_need_room(toy_tokenizer):
    with pytest.raises(ValueError, match=r"`required` needs .* tokens, and only 2 are not known"):
        check_required(toy_tokenizer, ("nice", "cheap"), 2)
