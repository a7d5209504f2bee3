"""Known tokens with a denoiser that is given known latents."""

import pytest
import torch

from denoiser.guiders import make_guider
from ldm_text.control.request import TextRequest, around_gap
from ldm_text.control.write import WriteOptions, write_texts
from ldm_text.generated_rows import TextSettings
from ldm_text.known_tokens import KnownTokens, nothing_known
from ldm_text.pipeline import LatentTextPipeline

PAD, END = 0, 1
NUM_ROWS = 6


def generators(rows=range(NUM_ROWS)):
    return [torch.Generator().manual_seed(row) for row in rows]


@pytest.fixture
def pipeline(make_pipeline, make_denoiser):
    return make_pipeline(denoiser=make_denoiser(infill_prob=0.5).eval())


@pytest.fixture
def run(pipeline):
    def call(prompt=(None,) * NUM_ROWS, **options):
        defaults = {"num_inference_steps": 3, "generator": generators()}
        return pipeline(list(prompt), **defaults | options)

    return call


@pytest.fixture
def clean_masks(pipeline, monkeypatch):
    """What the denoiser is told to be known, call by call."""
    masks, forward = [], type(pipeline.denoiser).forward

    def record(self, *inputs, clean_mask=None):
        masks.append(clean_mask)
        return forward(self, *inputs, clean_mask=clean_mask)

    monkeypatch.setattr(type(pipeline.denoiser), "forward", record)
    return masks


def some_known():
    """Six texts: a prefix, a suffix with the end, both, one token, all, nothing."""
    known = nothing_known(NUM_ROWS, 16)
    ids, is_known = torch.randint(3, 300, (NUM_ROWS, 16)), known.is_known
    ids[:, 10], ids[:, 11:] = END, PAD
    is_known[0, :6] = True
    is_known[1, 7:] = True
    is_known[2, :4], is_known[2, 8:] = True, True
    is_known[3, 5] = True
    is_known[4] = True
    return KnownTokens(ids.masked_fill(~is_known, 0), is_known)


def test_latents_with_known_tokens_only_are_given(run, clean_masks):
    run(known_tokens=some_known(), guidance_scale=1.0)
    expected = torch.tensor(
        [
            [True, False, False, False],
            [False, False, True, True],
            [True, False, True, True],
            [False, False, False, False],
            [True, True, True, True],
            [False, False, False, False],
        ]
    )
    assert len(clean_masks) == 3
    assert all(torch.equal(mask, expected) for mask in clean_masks)


@pytest.mark.parametrize("options", [{}, {"self_correction": 0.3}, {"stop_patience": 1}])
def test_every_known_token_comes_out(run, options):
    known = some_known()
    output = run(known_tokens=known, **options)
    expected = known.ids.masked_fill(known.ids == END, PAD)
    assert torch.equal(output.sequences[known.is_known], expected[known.is_known])


@pytest.mark.parametrize("options", [{}, {"stop_patience": 1, "num_inference_steps": 12}])
def test_a_row_is_the_same_alone_and_in_a_batch(run, options):
    known = some_known()
    together = run(known_tokens=known, **options)
    for row in range(NUM_ROWS):
        alone = run(
            (None,), generator=generators([row]), known_tokens=known.select([row]), **options
        )
        assert torch.equal(alone.sequences[0], together.sequences[row])
        if options:
            assert alone.row_network_calls == together.row_network_calls[row : row + 1]


def test_without_known_latents_the_denoiser_is_called_as_any_other(run, clean_masks):
    known = nothing_known(NUM_ROWS, 16)
    known.ids[:, 2], known.is_known[:, 2] = 9, True  # of a latent only in part
    run(known_tokens=known)
    run()
    assert clean_masks == [None] * 6


def test_a_denoiser_without_it_is_never_told(make_pipeline, make_denoiser):
    pipeline = make_pipeline()
    assert pipeline.denoiser.config.infill_prob == 0
    assert pipeline.clean_latents(some_known()) is None


def test_a_loaded_pipeline_does_the_same(pipeline, run, tmp_path):
    known = some_known()
    pipeline.save_pretrained(tmp_path)
    loaded = LatentTextPipeline.from_pretrained(tmp_path)
    again = loaded(
        [None] * NUM_ROWS, num_inference_steps=3, generator=generators(), known_tokens=known
    )
    assert torch.equal(again.latents, run(known_tokens=known).latents)


def test_a_folder_of_before_loads_as_one_without_it(make_pipeline, tmp_path):
    """Checkpoints of before do not name the option."""
    make_pipeline().save_pretrained(tmp_path)
    config = tmp_path / "denoiser" / "config.json"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if "infill_prob" not in line))
    assert len(config.read_text().splitlines()) == len(lines) - 1
    loaded = LatentTextPipeline.from_pretrained(tmp_path)
    assert loaded.denoiser.config.infill_prob == 0
    assert loaded.clean_latents(some_known()) is None


def test_autoguidance_may_go_away_from_a_denoiser_without_it(pipeline, run, make_denoiser):
    pipeline.guider = make_guider("autoguidance", 2.0, weak_denoiser=make_denoiser().eval())
    known = some_known()
    output = run(known_tokens=known)
    expected = known.ids.masked_fill(known.ids == END, PAD)
    assert torch.equal(output.sequences[known.is_known], expected[known.is_known])


def test_the_verbs_of_control_give_it_what_they_know(pipeline, clean_masks):
    options = WriteOptions(settings=TextSettings(num_inference_steps=2, precision="float32"))
    (text,) = write_texts(pipeline, [TextRequest(around_gap("The Vaults is a "))], options)
    assert text.text.startswith("The Vaults is a")
    assert clean_masks[0][:, 0].all()
