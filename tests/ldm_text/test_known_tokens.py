import pytest
import torch

from ldm_text.known_tokens import KnownTokens, nothing_known

PAD, END, MASK = 0, 1, 2


def known(rows, **options):
    """Make known tokens; None is open."""
    ids = torch.tensor([[token or 0 for token in row] for row in rows])
    is_known = torch.tensor([[token is not None for token in row] for row in rows])
    return KnownTokens(ids, is_known, **options)


def test_tokens_are_put_where_they_are_known():
    tokens = known([[None, 7, None], [8, None, None]])
    assert tokens.put(torch.full((2, 3), 5)).tolist() == [[5, 7, 5], [8, 5, 5]]


def test_a_text_cannot_end_before_a_known_token_but_before_known_pads():
    tokens = known([[None, 7, None, None], [None, None, END, PAD], [None, None, PAD, PAD]])
    expected = [[True, False, False, False], [True, True, False, False], [False] * 4]
    assert tokens.is_closed(PAD).tolist() == expected


def test_masked_logits_leave_only_what_may_stand():
    forbidden = torch.arange(9) == 5
    choices = torch.stack((torch.ones(9, dtype=torch.bool), torch.arange(9) >= 6))
    tokens = known(
        [[None, None, 7, None]],
        forbidden=forbidden,
        choices=choices,
        choice=torch.tensor([[-1, 1, 1, 0]]),
    )
    allowed = tokens.mask_logits(torch.zeros(1, 4, 9), PAD, END, MASK).isfinite()[0]
    open_tokens = {3, 4, 6, 7, 8}
    assert set(allowed[0].nonzero().flatten().tolist()) == open_tokens
    assert set(allowed[1].nonzero().flatten().tolist()) == {6, 7, 8}
    assert allowed[2].all()  # known: `put` writes it
    assert set(allowed[3].nonzero().flatten().tolist()) == {PAD, END, MASK} | open_tokens


def test_logits_of_some_positions_are_masked_as_those_of_all():
    tokens = known([[None, None, 7, None]], forbidden=torch.arange(9) == 5)
    logits = torch.randn(1, 4, 9)
    whole = tokens.mask_logits(logits, PAD, END)
    for start in range(4):
        part = tokens.mask_logits(logits[:, start : start + 1], PAD, END, start=start)
        assert torch.equal(part, whole[:, start : start + 1])


def test_what_asks_for_nothing_changes_nothing():
    logits = torch.randn(2, 3, 9)
    tokens = nothing_known(2, 3)
    assert tokens.is_empty
    assert tokens.mask_logits(logits, PAD, END) is logits
    assert not known([[7, None]]).is_empty


def test_rows_are_repeated_side_by_side_and_selected():
    tokens = known([[7, None], [8, None]], choice=torch.tensor([[0, 1], [2, 3]]))
    assert tokens.repeat(2).ids[:, 0].tolist() == [7, 7, 8, 8]
    assert tokens.repeat(2).choice.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert tokens.select([1]).ids.tolist() == [[8, 0]]
    assert tokens.num_rows == 2
    assert tokens.to("cpu").choice.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (known([[7, 8]]), r"`known_tokens.ids` must have the shape \(1, 3\).* got \(1, 2\)"),
        (known([[7, 8, 9]]), "must be tokens from 0 to 8"),
        (known([[7, PAD, 8]]), "behind a pad token"),
        (known([[7, 8, 3]], forbidden=torch.zeros(4, dtype=torch.bool)), r"forbidden.*\(4,\)"),
        (known([[7, 8, 3]], choice=torch.zeros(1, 2)), "`known_tokens.choice` must have"),
    ],
)
def test_tokens_of_another_batch_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        tokens.check(1, 3, 9, PAD)
