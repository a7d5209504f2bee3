import pytest

from ldm_text.control.template import Gap, parse_template


def test_gaps_have_a_fixed_a_bounded_or_a_free_length():
    assert parse_template("The [MASK:3-8] sat on [MASK:2], [MASK].") == [
        "The ",
        Gap(3, 8),
        " sat on ",
        Gap(2, 2),
        ", ",
        Gap(1, None),
        ".",
    ]


@pytest.mark.parametrize(
    ("template", "first"),
    [
        (r"\[MASK] is [MASK]", "[MASK] is "),
        (r"[x] \] \\ [MASK]", r"[x] ] \ "),
        ("a [MASKED] b [MASK]", "a [MASKED] b "),
        (r"C:\dir [MASK]", r"C:\dir "),
    ],
)
def test_brackets_can_be_text(template, first):
    assert parse_template(template) == [first, Gap()]


def test_gaps_may_stand_side_by_side():
    assert parse_template("a[MASK:1][MASK]") == ["a", Gap(1, 1), Gap()]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("no gap", "There is no gap in 'no gap'"),
        ("", "There is no gap"),
        ("[MASK]", "There is no text around the gap"),
        ("[MASK] [MASK:3]", "There is no text around the gap"),
        ("a [MASK:x]", r"\[MASK:x\] is no gap: write \[MASK\]"),
        ("a [MASK:]", r"\[MASK:\] is no gap"),
        ("a [MASK:8-3]", r"\[MASK:8-3\] is impossible"),
        ("a [MASK:0]", r"\[MASK:0\] is impossible: a gap has at least 1 token"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(template, message):
    with pytest.raises(ValueError, match=message):
        parse_template(template)
