from itertools import count

import pytest
import torch

from ldm_text.baselines import AutoregressiveModel
from ldm_text.baselines.block_diffusion import BlockDiffusionModel
from ldm_text.baselines.masked import MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.evaluation.sweep_options import SweepPoint
from ldm_text.evaluation.timing import Stopwatch, TimedCall, TimingOptions, count_pieces
from ldm_text.generated_rows import generate_rows

PROMPTS = ["name[The Mill]", None, "The Punter"]
SIZES = {"hidden_dim": 32, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def make_stopwatch(toy_tokenizer, activate):
    def make(model_class, steps=None, sampling=None, **options):
        torch.manual_seed(0)
        model = activate(model_class(len(toy_tokenizer), **SIZES | options)).eval()
        pipeline = TokenPipeline(toy_tokenizer, model, 16, 24)
        point = SweepPoint(steps, None, sampling or {}, (0,))
        return Stopwatch(pipeline, PROMPTS, point, "float32")

    return make


@pytest.fixture
def count_calls(monkeypatch):
    """Let the clock tick once a reading: at the start, after each network call, at the end."""

    def use(stopwatch):
        ticks = count()
        monkeypatch.setattr(stopwatch, "now", lambda: next(ticks))
        return stopwatch

    return use


def test_the_tokens_of_the_texts_are_counted_and_nothing_behind_their_end(make_stopwatch):
    stopwatch = make_stopwatch(AutoregressiveModel)
    calls = [stopwatch.time_batch(1, seed=2, first_row=row) for row in range(3)]
    assert any(call.num_tokens < 15 for call in calls)  # a text ends early
    for call in calls:
        # One call a token and one for the end token, unless the text fills the row.
        assert call.num_network_calls == min(call.num_tokens + 1, 16)
    batch = stopwatch.time_batch(3, seed=2)
    assert batch.num_tokens == sum(call.num_tokens for call in calls)
    assert batch.num_network_calls == max(call.num_network_calls for call in calls)


def test_the_texts_timed_are_those_of_generate(make_stopwatch, monkeypatch):
    stopwatch = make_stopwatch(AutoregressiveModel)
    rows = next(generate_rows(stopwatch.pipeline, PROMPTS, seed=2, precision="float32"))
    generate, texts = stopwatch.pipeline.generate, []

    def spy(*arguments, **options):
        output = generate(*arguments, **options)
        texts.extend(output.texts)
        return output

    monkeypatch.setattr(stopwatch.pipeline, "generate", spy)
    stopwatch.time_single(1, seed=2)
    stopwatch.time_batch(2, seed=2, first_row=1)
    assert texts == [row.text for row in rows]


@pytest.mark.parametrize(
    ("model_class", "steps", "sampling", "first_call"),
    [
        (AutoregressiveModel, None, {}, 1),  # of as many as there are tokens
        (MaskedDiffusionModel, 8, {}, None),  # all tokens become final together
        (MaskedDiffusionModel, 8, {"sampler": "confidence", "block_length": 4}, 2),  # 8 / 4 blocks
    ],
)
def test_the_first_text_is_there_after_the_first_final_tokens(
    make_stopwatch, count_calls, model_class, steps, sampling, first_call
):
    stopwatch = count_calls(make_stopwatch(model_class, steps, sampling))
    call = stopwatch.time_batch(2, seed=0)
    assert call.seconds == call.num_network_calls + 1
    assert call.seconds_to_first_text == (first_call or call.seconds)


def test_the_first_block_of_block_diffusion_is_the_first_text(make_stopwatch, count_calls):
    """A call reads the source; two write a block, at eight steps for four blocks."""
    stopwatch = count_calls(make_stopwatch(BlockDiffusionModel, 8, block_length=4))
    call = stopwatch.time_batch(2, seed=0)
    assert call.num_network_calls > 3
    assert call.seconds_to_first_text == 3


@pytest.mark.parametrize(("longest", "num_pieces"), [(1, 1), (4, 1), (5, 2), (8, 2), (16, 4)])
def test_a_block_that_is_begun_is_written(make_stopwatch, longest, num_pieces):
    pipeline = make_stopwatch(BlockDiffusionModel, 8, block_length=4).pipeline
    assert count_pieces(pipeline, {}, longest) == num_pieces


def test_the_cache_changes_the_time_and_nothing_else(make_stopwatch, monkeypatch):
    monkeypatch.setattr(AutoregressiveModel, "sampler_options", ("temperature", "use_cache"))
    widths: dict[bool, list[int]] = {True: [], False: []}
    calls = {}
    for use_cache in (True, False):
        stopwatch = make_stopwatch(AutoregressiveModel, sampling={"use_cache": use_cache})
        stopwatch.pipeline.network.register_forward_pre_hook(
            lambda _, inputs, use_cache=use_cache: widths[use_cache].append(inputs[0].shape[1])
        )
        calls[use_cache] = stopwatch.time_batch(3, seed=2)
    assert calls[True].num_tokens == calls[False].num_tokens
    assert len(widths[True]) == len(widths[False]) == calls[True].num_network_calls
    assert set(widths[True][1:]) == {1}
    assert widths[False][-1] == widths[False][0] + len(widths[False]) - 1


def test_speeds_are_measured_for_one_text_and_for_many(make_stopwatch):
    stopwatch = make_stopwatch(MaskedDiffusionModel, 4)
    single, many = stopwatch.time_single(3, seed=0), stopwatch.time_saturated(4, seed=0)
    assert single["network_calls"] == 4
    assert single["seconds_to_first_text"] == single["seconds_per_text"] > 0
    assert single["tokens_per_second"] > 0
    full = many["saturated_seconds_to_full_text"]
    assert many["saturated_seconds_per_text"] == full / 4
    assert many["saturated_tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("num_prompts", "rows"), [(9, [0, 3, 6]), (11, [0, 3, 6]), (3, [0, 1, 2]), (1, [0, 1, 2])]
)
def test_texts_written_one_by_one_are_spread_over_the_prompts(
    make_stopwatch, monkeypatch, num_prompts, rows
):
    """The first ones were timed, whose sources may be the shortest."""
    stopwatch, timed = make_stopwatch(MaskedDiffusionModel, 4), []
    stopwatch.prompts = [None] * num_prompts

    def time_batch(size, seed, first_row):
        timed.append(first_row)
        return TimedCall(2.0, 1.0, 5, 4)

    monkeypatch.setattr(stopwatch, "time_batch", time_batch)
    stopwatch.time_single(3, seed=0)
    assert timed == rows


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({8: 10, 32: 20, 128: 30}, 128),
        ({8: 10, 32: 20, 128: 20.5}, 32),  # not worth its memory
        ({8: 10, 32: 9, 128: 99}, 8),  # the search ends where it first stops growing
        ({32: 7}, 32),
        ({}, None),
    ],
)
def test_the_saturated_batch_is_the_largest_that_pays(make_stopwatch, monkeypatch, rates, best):
    stopwatch = make_stopwatch(MaskedDiffusionModel, 4)
    monkeypatch.setattr(
        stopwatch,
        "time_batch",  # the first run of a size is slower than the second
        lambda size, seed: TimedCall(2.0 - seed, 1.0, rates[size], 4),
    )
    assert stopwatch.find_saturated_batch(tuple(rates)) == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rows": 0}, "`num_rows` must be at least 1, got 0"),
        ({"batch_sizes": (8, 4)}, r"`batch_sizes` must be 1 or larger and growing, got \[8, 4\]"),
        ({"batch_sizes": (0, 4)}, "`batch_sizes` must be 1 or larger"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TimingOptions(**options)
