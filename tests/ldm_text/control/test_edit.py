import pytest
import torch

from ldm_text.control import near
from ldm_text.control import refine as refining
from ldm_text.control.edit import EditedText, changed_share, edit, edit_texts
from ldm_text.control.edit_request import EditRequest, text_ids
from ldm_text.control.near import interpolate, slerp, variations
from ldm_text.control.refine import refine
from ldm_text.generated_rows import TextSettings

TEXT, OTHER = "The Vaults is cheap.", "It is a nice pub."
SETTINGS = TextSettings(num_inference_steps=4, precision="float32")


def test_strength_zero_returns_the_text_as_it_is(pipeline):
    text = TEXT + " \u00e9"  # what the untrained autoencoder would not return
    assert edit(pipeline, text, 0.0, settings=SETTINGS).text == text
    assert edit(pipeline, text, 0.0, settings=SETTINGS).changed == 0


def test_the_share_of_changed_tokens_grows_with_the_strength(pipeline):
    def mean(strength):
        requests = [EditRequest(TEXT, row=row) for row in range(16)]
        edited = edit_texts(pipeline, requests, strength, SETTINGS)
        return sum(text.changed for text in edited) / 16

    shares = [mean(strength) for strength in (0.0, 0.1, 0.5, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] == 0 < shares[-1]


def test_protected_characters_stay(pipeline):
    first = TEXT.index("Vaults")
    for row in range(4):
        request = EditRequest(TEXT, protect=((first, first + 6),), row=row)
        (text,) = edit_texts(pipeline, [request], 1.0, SETTINGS)
        assert " Vaults" in text.text
        assert text.text != TEXT


def test_nothing_changes_outside_the_characters_to_change(pipeline):
    first = TEXT.index("is")
    text = edit(pipeline, TEXT, 1.0, change=[(first, first + 2)], settings=SETTINGS).text
    assert text.startswith("The Vaults")
    assert text.endswith(" cheap.")
    assert text != TEXT


def test_a_condition_leads_elsewhere(pipeline):
    plain = edit(pipeline, TEXT, 1.0, settings=SETTINGS)
    sourced = edit(pipeline, TEXT, 1.0, source="name[The Mill]", settings=SETTINGS)
    assert plain.text != sourced.text


def test_an_edit_is_the_same_alone_and_in_a_batch(pipeline):
    requests = [EditRequest(TEXT, row=0), EditRequest(OTHER, protect=((0, 2),), row=1)]
    together = edit_texts(pipeline, requests, 0.7, SETTINGS)
    assert [edit_texts(pipeline, [request], 0.7, SETTINGS)[0] for request in requests] == together


def test_the_changed_share_is_an_edit_distance():
    assert changed_share([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert changed_share([1, 2, 3, 4], [1, 9, 3, 4]) == 0.25
    assert changed_share([1, 2, 3, 4], [1, 3, 4]) == 0.25
    assert changed_share([1, 2], [3, 4, 5, 6]) == 1
    assert changed_share([1, 2], []) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 1.5}, "`strength` must be between 0 and 1, got 1.5"),
        ({"strength": float("nan")}, "`strength` must be between 0 and 1, got nan"),
        ({"text": "", "strength": 0.5}, "has 0 tokens, the model changes texts of 1 to 15"),
        ({"text": "x" * 40, "strength": 0.5}, "has 40 tokens"),
        ({"strength": 0.5, "protect": [(0, 99)]}, "`protect` must name characters of the text"),
        ({"strength": 0.5, "change": [(4, 4)]}, "`change` must name characters of the text"),
        ({"strength": 0.5, "protect": [(0, 20)]}, "leave nothing of the text to change"),
        ({"strength": 0.5, "source": "x" * 40}, "the model takes at most 23"),
    ],
)
def test_impossible_edits_are_refused_before_any_computation(pipeline, arguments, message):
    calls = []
    pipeline.autoencoder.encoder.register_forward_pre_hook(lambda *_: calls.append(None))
    with pytest.raises(ValueError, match=message):
        edit(pipeline, settings=SETTINGS, **{"text": TEXT} | arguments)
    assert not calls


# Texts near a text


def test_variations_tell_their_distance(make_pipeline, make_autoencoder):
    exact = {"tokens_per_latent": 1, "token_dim": 8, "vocab_size": 300}
    pipeline = make_pipeline(autoencoder=make_autoencoder(active=False, **exact).eval())
    near, far = (
        variations(pipeline, TEXT, 3, distance, settings=SETTINGS) for distance in (0.3, 1.0)
    )
    assert len(near) == len({text.text for text in near}) == 3
    assert sum(text.changed for text in near) < sum(text.changed for text in far)


def test_the_strength_of_a_distance_is_searched_by_bisection(pipeline, monkeypatch):
    """A search that went the other way passed all tests."""
    strengths = []

    def edited(pipeline, requests, strength, settings):
        strengths.append(strength)
        return [EditedText(f"{strength} {each.sample}", strength) for each in requests]

    monkeypatch.setattr(near, "edit_texts", edited)
    found = variations(pipeline, TEXT, 2, 0.3)
    assert strengths == [0.5, 0.25, 0.375, 0.3125, 0.28125]
    assert [text.changed for text in found] == [0.3125, 0.3125]


def test_the_ends_of_an_interpolation_are_exact(pipeline):
    texts = interpolate(pipeline, TEXT, OTHER, 5, settings=SETTINGS)
    assert (texts[0].text, texts[-1].text) == (TEXT, OTHER)
    assert len(texts) == 5
    assert [text.text for text in interpolate(pipeline, TEXT, OTHER, 2)] == [TEXT, OTHER]


def test_the_sphere_is_crossed_at_an_even_pace():
    first, last = torch.randn(4, 8), torch.randn(4, 8)
    first, last = first / first.norm(), last / last.norm()
    points = slerp(first, last, torch.linspace(0, 1, 5))
    torch.testing.assert_close(points[0], first)
    torch.testing.assert_close(points[-1], last)
    torch.testing.assert_close(points.flatten(1).norm(dim=1), torch.ones(5))
    steps = (points[1:] - points[:-1]).flatten(1).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(4))
    torch.testing.assert_close(slerp(first, first, torch.tensor([0.5]))[0], first)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: variations(p, TEXT, 0, 0.5), "`n` must be at least 1, got 0"),
        (lambda p: variations(p, TEXT, 2, 0.0), "`distance` must be above 0 and at most 1"),
        (lambda p: interpolate(p, TEXT, OTHER, 1), "`n` must be at least 2"),
        (lambda p: interpolate(p, TEXT, OTHER, 3, strength=2.0), "`strength` must be between"),
        (lambda p: refine(p, TEXT, num_rounds=0), "`num_rounds` must be at least 1"),
        (lambda p: refine(p, TEXT, share=0.0), "`share` must be above 0 and at most 1 and"),
    ],
)
def test_impossible_calls_are_refused(pipeline, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipeline)


# Refinement


def test_refining_never_makes_a_text_less_probable_and_tells_what_changed(pipeline):
    refined = refine(pipeline, TEXT, num_rounds=4, share=0.5, strength=1.0, settings=SETTINGS)
    assert list(refined.scores) == sorted(refined.scores)
    assert len(refined.scores) == 5
    assert bool(refined.changes) == (refined.text != TEXT)
    assert refined.changes
    assert {change.step for change in refined.changes} <= set(range(4))


def test_a_round_that_makes_a_text_less_probable_is_taken_back(pipeline, monkeypatch):
    """No random text became less probable, and all rounds could have been kept."""
    scores = iter([-1.0, -3.0, -0.5, -2.0])
    measure = refining.measure
    monkeypatch.setattr(refining, "measure", lambda *call: (measure(*call)[0], next(scores)))
    refined = refine(pipeline, TEXT, num_rounds=3, share=1.0, strength=1.0, settings=SETTINGS)
    assert refined.scores == (-1.0, -1.0, -0.5, -0.5)
    assert {change.step for change in refined.changes} == {1}
    ids = text_ids(pipeline, TEXT)
    assert all(change.before == ids[change.position] for change in refined.changes)
