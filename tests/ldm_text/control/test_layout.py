import pytest

from ldm_text.control.layout import known_tokens_of, lay_out
from ldm_text.control.plan import gap_lengths, make_plan, spread
from ldm_text.control.request import around_gap
from ldm_text.control.template import Gap, parse_template
from ldm_text.control.token_sets import Only, token_sets

S, END = 16, 1


@pytest.fixture
def plan(toy_tokenizer):
    def make(parts, length_tokens=None):
        if isinstance(parts, str):
            parts = parse_template(parts)
        return make_plan(toy_tokenizer, parts, length_tokens, S - 1)

    return make


def layouts(plan, num_lengths=100):
    return [lay_out(plan, lengths, S, END) for lengths in gap_lengths(plan, num_lengths, 0)]


def test_known_text_its_gap_and_its_end_stand_in_order(plan, toy_tokenizer):
    (row,) = layouts(plan("The [MASK:3] is"))
    the, last = toy_tokenizer("The")["input_ids"], toy_tokenizer(" is")["input_ids"]
    length = len(the) + 3 + len(last)
    assert row.ids[:length] == [*the, None, None, None, *last]
    assert row.ids[length] == END
    assert row.only[len(the) : len(the) + 3] == [Only.TEXT | Only.SPACE, Only.TEXT, Only.TEXT]
    assert row.runs() == [range(len(the), len(the) + 3)]


def test_pads_are_known_behind_a_known_end(plan, toy_tokenizer):
    rows = layouts(plan("The [MASK:3] is")) + layouts(plan(("The", Gap(0))))
    known = known_tokens_of(rows, toy_tokenizer, None)
    end = rows[0].ids.index(END)
    assert known.is_known[0, end:].all()
    assert (known.ids[0, end + 1 :] == 0).all()
    assert not known.is_known[1, len(toy_tokenizer("The")["input_ids"]) :].any()


def test_a_bounded_gap_has_one_layout_for_each_length(plan):
    rows = layouts(plan("The [MASK:2-4] is"))
    assert [len(row.runs()[0]) for row in rows] == [2, 3, 4]


def test_a_text_that_ends_with_a_free_gap_ends_where_the_model_says(plan):
    (row,) = layouts(plan(("The", Gap(0))))
    assert END not in row.ids
    assert row.only[row.last] == Only.END  # at the latest there
    assert row.last == S - 1


def test_a_bounded_gap_at_the_end_leaves_the_length_to_the_model(plan, toy_tokenizer):
    (row,) = layouts(plan("The [MASK:2-4]"))
    start = len(toy_tokenizer("The")["input_ids"])
    assert row.only[start : start + 5] == [Only.TEXT | Only.SPACE, Only.TEXT, 0, 0, Only.END]


def test_a_length_closes_all_before_it_and_ends_there(plan):
    (row,) = layouts(plan((Gap(0),), (6, 6)))
    assert row.only[:6] == [Only.TEXT] * 6
    assert row.ids[6] == END
    (row,) = layouts(plan((Gap(0),), (4, 6)))
    assert row.only[:7] == [Only.TEXT] * 4 + [0, 0, Only.END]


def test_gaps_add_up_to_the_length_that_is_asked_for(plan, toy_tokenizer):
    parts = parse_template("The [MASK] is [MASK] pub")
    for row in layouts(plan(parts, (13, 13)), 5):
        assert row.ids.index(END) == 13
    assert len(layouts(plan(parts, (13, 13)), 3)) == 3


@pytest.mark.parametrize(
    ("template", "longest"),
    [
        ("The [MASK] is", 10),
        ("The [MASK] is [MASK] pub", 8),
        ("a [MASK] b [MASK] c [MASK] d [MASK] e", 16),  # too many lengths to list
    ],
)
def test_only_lengths_that_fit_are_taken_whatever_the_seed(toy_tokenizer, template, longest):
    """Some were drawn first, and where none of them had room the text was refused."""
    plan = make_plan(toy_tokenizer, parse_template(template), None, 63)
    for seed in range(10):
        found = gap_lengths(plan, 4, seed, lambda lengths: max(lengths) >= longest)
        assert 1 <= len(found) <= 4
        assert len(set(found)) == len(found)
        assert all(max(lengths) >= longest for lengths in found)
        assert all(plan.num_known + sum(lengths) <= 63 for lengths in found)


def test_nothing_asked_is_nothing_known(plan, toy_tokenizer):
    assert known_tokens_of(layouts(plan((Gap(0),))), toy_tokenizer, None).is_empty
    assert around_gap() == (Gap(0),)
    assert around_gap("a", "b") == ("a", Gap(1), "b")


def test_lengths_are_spread_with_the_short_ones_close_together():
    assert list(spread(range(1, 5), 8)) == [1, 2, 3, 4]
    assert list(spread(range(3, 17), 1)) == [3]
    lengths = spread(range(1, 17), 8)
    assert lengths[0] == 1
    assert lengths[-1] == 16
    assert sorted(set(lengths)) == list(lengths)


def test_sets_tell_the_tokens_that_may_stand(toy_tokenizer):
    sets = token_sets(toy_tokenizer)
    space, letter, stop = (toy_tokenizer(text)["input_ids"][0] for text in (" ", "a", "."))
    assert sets[0].all()
    assert not sets[Only.TEXT, :3].any()
    assert sets[Only.SPACE, [space, letter, stop]].tolist() == [True, False, False]
    assert sets[Only.NEW_WORD, [space, letter, stop, END]].tolist() == [True, False, True, True]
    assert sets[Only.END].nonzero().flatten().tolist() == [END]
    assert sets[Only.TEXT | Only.SPACE, :3].sum() == 0


@pytest.mark.parametrize(
    ("parts", "length", "message"),
    [
        ("The [MASK:14] is", None, "need at least .* tokens, the model's texts have at most 15"),
        ((Gap(0),), (16, 16), "asks for 16 tokens, the model's texts have at most 15"),
        ((Gap(0),), (5, 4), "`length_tokens` must be a length of at least 1 or a range"),
        ((Gap(0),), (0, 0), "`length_tokens` must be a length of at least 1"),
        ("The [MASK:6] is", (4, 5), "`length_tokens` allows 5 tokens, .* need at least"),
        ("The [MASK:1] is", (12, 13), "asks for at least 12 tokens, .* have at most"),
    ],
)
def test_impossible_lengths_are_refused(plan, parts, length, message):
    with pytest.raises(ValueError, match=message):
        plan(parts, length)
