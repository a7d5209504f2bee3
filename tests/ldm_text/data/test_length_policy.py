import pytest

from ldm_text.data.length_policy import LengthPolicy

TEXT = list(range(10, 17))


def policy(long_texts, **options):
    return LengthPolicy(long_texts, max_length_tokens=4, max_source_length_tokens=6, **options)


@pytest.mark.parametrize("long_texts", ["error", "drop", "truncate"])
def test_a_record_that_just_fits_is_kept_whole(long_texts):
    kept = policy(long_texts)
    assert kept.apply([1, 2, 3], [1, 2, 3, 4, 5], "x") == [([1, 2, 3], [1, 2, 3, 4, 5])]
    assert kept.apply([], None, "x") == [([], None)]
    assert (kept.num_dropped, kept.num_truncated) == (0, 0)


def test_error_names_place_length_and_option():
    with pytest.raises(
        ValueError, match=r"f, record 3: the text has 5 tokens .*`max_length_tok.* 4"
    ):
        policy("error").apply([1, 2, 3, 4], [1], "f, record 3")
    with pytest.raises(
        ValueError, match=r"the source has 7 tokens .*`max_source_length_tokens` is 6"
    ):
        policy("error").apply([1], TEXT[:6], "f")


def test_drop_leaves_out_and_counts():
    dropping = policy("drop")
    assert dropping.apply([1, 2, 3, 4], [1], "x") == []
    assert dropping.apply([1], TEXT, "x") == []
    assert dropping.num_dropped == 2


def test_truncate_keeps_the_beginning_and_counts():
    truncating = policy("truncate")
    assert truncating.apply(TEXT, TEXT, "x") == [(TEXT[:3], TEXT[:5])]
    assert truncating.num_truncated == 1


def test_split_makes_windows_that_add_up_to_the_text():
    splitting = policy("split")
    windows = [text for text, source in splitting.apply(TEXT, None, "x") if source is None]
    assert windows == [TEXT[:3], TEXT[3:6], TEXT[6:]]
    assert splitting.apply(TEXT[:3], None, "x") == [(TEXT[:3], None)]
    assert splitting.apply([], None, "x") == [([], None)]
    assert splitting.num_split == 1


def test_previous_as_source_gives_the_window_before_and_first_the_empty_one():
    splitting = policy("split", previous_as_source=True)
    assert splitting.apply(TEXT, None, "x") == [
        (TEXT[:3], []),
        (TEXT[3:6], TEXT[:3]),
        (TEXT[6:], TEXT[3:6]),
    ]
    assert splitting.apply([], None, "x") == [([], [])]
