import pytest
import torch

from denoiser.sampling import EditStart
from ldm_text.known_tokens import KnownTokens, nothing_known
from ldm_text.token_control import TokenControl, latent_confidence, least_certain, token_changes

PAD, END = 0, 1
NUM_ROWS = 6


def generators(rows=range(NUM_ROWS)):
    return [torch.Generator().manual_seed(row) for row in rows]


@pytest.fixture
def run(pipeline):
    def call(prompt=(None,) * NUM_ROWS, **options):
        defaults = {"num_inference_steps": 3, "generator": generators()}
        return pipeline(list(prompt), **defaults | options)

    return call


def random_known(num_rows=NUM_ROWS, share=0.4):
    """Make random known tokens; half of the rows end at a known place."""
    ids = torch.randint(3, 300, (num_rows, 16))
    is_known = torch.rand(num_rows, 16) < share
    ends = torch.randint(4, 16, (num_rows // 2,))
    for row, end in enumerate(ends.tolist()):
        ids[row, end], ids[row, end + 1 :] = END, PAD
        is_known[row, end:] = True
    return KnownTokens(ids, is_known)


@pytest.mark.parametrize("clamp_start", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_every_known_token_comes_out_and_the_rest_is_text(run, clamp_start, seed):
    torch.manual_seed(seed)
    known = random_known()
    output = run(known_tokens=known, clamp_start=clamp_start)
    expected = known.ids.masked_fill(known.ids == END, PAD)
    assert torch.equal(output.sequences[known.is_known], expected[known.is_known])
    assert (output.sequences[known.is_closed(PAD)] > 2).all()  # no end, no pad, no mask
    for row in range(NUM_ROWS // 2):
        assert (output.sequences[row] != PAD).sum() == (known.ids[row] == END).nonzero()[0]


def test_known_tokens_change_what_stands_beside_them(run):
    """They are not only written over the result: the other tokens are denoised with them."""
    known = nothing_known(NUM_ROWS, 16)
    known.ids[:, :6], known.is_known[:, :6] = torch.arange(20, 26), True
    free, held = run(clamp_start=0.0), run(clamp_start=0.0, known_tokens=known)
    assert not torch.equal(free.sequences[:, 8:], held.sequences[:, 8:])


def test_without_anything_known_the_texts_are_the_same_bit_for_bit(run):
    for options in ({}, {"clamp_start": 0.0}, {"guidance_scale": 1.0}):
        free = run(**options)
        held = run(known_tokens=nothing_known(NUM_ROWS, 16), self_correction=0.0, **options)
        assert torch.equal(held.latents, free.latents)
        assert torch.equal(held.sequences, free.sequences)
        assert held.texts == free.texts


def test_a_row_with_known_tokens_is_the_same_alone_and_in_a_batch(run):
    known = random_known()
    together = run(known_tokens=known)
    for row in range(NUM_ROWS):
        alone = run((None,), generator=generators([row]), known_tokens=known.select([row]))
        assert torch.equal(alone.sequences[0], together.sequences[row])


def test_samples_of_a_row_share_its_known_tokens(run):
    known = random_known(3)
    output = run((None,) * 3, num_samples=2, known_tokens=known)
    assert torch.equal(
        output.sequences[known.repeat(2).is_known],
        known.repeat(2).ids.masked_fill(known.repeat(2).ids == END, PAD)[known.repeat(2).is_known],
    )


def test_forbidden_tokens_never_come_out(run):
    free = run()
    forbidden = torch.zeros(300, dtype=torch.bool)
    forbidden[free.sequences[free.sequences > 2].unique()] = True
    known = nothing_known(NUM_ROWS, 16)
    output = run(known_tokens=KnownTokens(known.ids, known.is_known, forbidden))
    assert not forbidden[output.sequences].any()


def test_known_tokens_of_another_size_are_refused(run):
    with pytest.raises(ValueError, match=r"`known_tokens.ids` must have the shape \(6, 16\)"):
        run(known_tokens=nothing_known(NUM_ROWS, 12))


# Self-correction


def test_self_correction_tells_what_changed_at_which_step(run):
    output = run(self_correction=0.5, num_inference_steps=6)
    assert len(output.changes) == NUM_ROWS
    assert run().changes is None
    steps = [change.step for changes in output.changes for change in changes]
    assert steps
    assert set(steps) <= set(range(1, 6))
    assert all(change.before != change.after for changes in output.changes for change in changes)


def test_self_correction_gives_new_noise_to_the_least_certain_latents_only(pipeline):
    control = TokenControl(pipeline, 1.0, self_correction=0.3, generator=generators(range(2)))
    predictions, noisy = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    changed = control.renoise(noisy, predictions, torch.tensor(0.5))
    confidence, _ = latent_confidence(pipeline, predictions)
    is_doubtful = least_certain(confidence, 0.3)
    assert torch.equal(changed[~is_doubtful], noisy[~is_doubtful])
    assert (changed != noisy).any(dim=2).equal(is_doubtful)
    # At the time 0 there is no noise left to give.
    landed = control.renoise(noisy, predictions, torch.tensor(0.0))
    torch.testing.assert_close(landed[is_doubtful], predictions[is_doubtful])


def test_known_tokens_are_certain(pipeline):
    latents = torch.randn(2, 4, 8)
    known = nothing_known(2, 16)
    known.ids[:, :4], known.is_known[:, :4] = 7, True
    confidence, ids = latent_confidence(pipeline, latents, known)
    assert (confidence[:, 0] == 1).all()
    assert (ids[:, :4] == 7).all()


def test_what_stands_behind_the_end_of_a_text_is_certain(pipeline):
    """It means nothing, and would keep a text from being done or get new noise."""
    known = nothing_known(2, 16)
    known.ids[:, 3], known.is_known[:, 3] = END, True
    confidence, ids = latent_confidence(pipeline, torch.randn(2, 4, 8), known)
    assert (confidence[:, 0] < 1).all()
    assert (confidence[:, 1:] == 1).all()
    assert (ids[:, 3:] == PAD).all()


def test_a_share_of_the_open_latents_is_marked():
    confidence = torch.tensor([[0.9, 0.1, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert least_certain(confidence, 0.3).tolist() == [[False, True, False, False], [False] * 4]
    assert least_certain(confidence, 0.9).tolist() == [[True, True, True, False], [False] * 4]


def test_changes_are_the_positions_that_differ():
    changes = token_changes(3, [5, 6, 7], [5, 8, 7])
    assert [vars(change) for change in changes] == [
        {"step": 3, "position": 1, "before": 6, "after": 8}
    ]


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_self_correction_out_of_range_is_refused(run, value):
    with pytest.raises(ValueError, match="`self_correction` must be between 0 and below 1"):
        run(self_correction=value)


def test_an_edit_of_hardly_any_strength_returns_the_latents(pipeline, run):
    ids = torch.randint(3, 300, (NUM_ROWS, 16))
    start = EditStart(pipeline.encode_ids(ids), 1e-6)
    output = run(start=start, clamp_start=1.0)
    torch.testing.assert_close(output.latents, start.latents, atol=1e-3, rtol=1e-3)
