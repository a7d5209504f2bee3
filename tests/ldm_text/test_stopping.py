import json
from itertools import pairwise

import pytest
import torch

from denoiser.schedulers import make_scheduler
from ldm_text.control.edit import edit_texts
from ldm_text.control.edit_request import EditRequest
from ldm_text.control.trace import Trace
from ldm_text.generated_rows import TextSettings, generate_batch
from ldm_text.known_tokens import nothing_known
from ldm_text.stopping import TokenPatience, token_patience
from ldm_text.token_control import TokenControl

NUM_ROWS, NUM_STEPS = 8, 12
PROMPTS = ["name[The Mill]", None, "", "a pub", None, "name[Zizzi]", "cheap", None]


def generators(rows=range(NUM_ROWS)):
    return [torch.Generator().manual_seed(row) for row in rows]


@pytest.fixture
def run(pipeline):
    def call(prompts=PROMPTS, **options):
        defaults = {"num_inference_steps": NUM_STEPS, "generator": generators()}
        return pipeline(list(prompts), **defaults | options)

    return call


def update(patience, *rows, confidence=1.0):
    ids = torch.tensor(rows)
    return patience.update(ids, torch.full((len(ids), 2), confidence)).tolist()


def test_a_text_is_done_after_it_has_not_changed_for_some_steps():
    patience = TokenPatience(2)
    assert update(patience, [1, 2], [3, 4]) == [False, False]
    assert update(patience, [1, 2], [3, 5]) == [False, False]
    assert update(patience, [1, 2], [3, 5]) == [True, False]
    assert update(patience, [3, 5]) == [True]


def test_a_change_begins_the_count_anew():
    patience = TokenPatience(2)
    texts = [[1, 2], [1, 2], [1, 3], [1, 3], [1, 3]]
    assert [update(patience, text) for text in texts] == [[False]] * 4 + [[True]]


def test_an_uncertain_text_is_not_done_and_goes_on_counting():
    patience = TokenPatience(1, min_confidence=0.5)
    for confidence, is_done in ((0.9, False), (0.4, False), (0.4, False), (0.5, True)):
        assert update(patience, [1, 2], confidence=confidence) == [is_done]


def test_a_text_is_as_certain_as_its_least_certain_latent():
    patience = TokenPatience(1, min_confidence=0.5)
    ids, confidence = torch.tensor([[1, 2], [1, 2]]), torch.tensor([[0.9, 0.4], [0.9, 0.6]])
    patience.update(ids, confidence)
    assert patience.update(ids, confidence).tolist() == [False, True]


# In a pipeline


def texts_by_step(run, **options):
    """Texts that the predictions of each step read, ``(steps, rows)``."""
    seen = []

    def watch(pipeline, step, pred_latents):
        seen.append(pipeline.decode_latents(pred_latents))

    run(callback_on_step_end=watch, **options)
    return seen


@pytest.mark.parametrize(("patience", "num_steps"), [(1, 12), (2, 30)])
@pytest.mark.parametrize("name", ["euler", "dpm++", "heun"])
def test_each_row_stops_at_the_step_at_which_its_text_has_settled(
    pipeline, run, name, patience, num_steps
):
    pipeline.scheduler = make_scheduler(name, 4.0)
    seen = texts_by_step(run, num_inference_steps=num_steps)
    expected, calls = [], []
    for row in range(NUM_ROWS):
        same = [torch.equal(left[row], right[row]) for left, right in pairwise(seen)]
        ends = range(patience, len(seen))
        step = min([end for end in ends if all(same[end - patience : end])] + [len(seen) - 1])
        expected.append(seen[step][row])
        calls.append(step + 1)
    output = run(stop_patience=patience, num_inference_steps=num_steps)
    assert torch.equal(output.sequences, torch.stack(expected))
    assert output.row_network_calls == calls
    assert len(set(calls)) > 1
    assert output.num_network_calls == max(calls)


def test_without_the_option_nothing_changes(run):
    plain, never = run(), run(stop_patience=1000)
    assert plain.row_network_calls is None
    assert never.row_network_calls == [NUM_STEPS] * NUM_ROWS
    assert torch.equal(never.latents, plain.latents)
    assert never.texts == plain.texts


def test_certainty_that_no_text_has_lets_none_stop_early(run):
    assert run(stop_patience=1, stop_confidence=1.0).row_network_calls == [NUM_STEPS] * NUM_ROWS
    some = run(stop_patience=1, stop_confidence=0.0)
    assert some.row_network_calls == run(stop_patience=1).row_network_calls


@pytest.mark.parametrize(
    "options", [{}, {"self_correction": 0.3}, {"clamp_start": 0.5}, {"guidance_scale": 1.0}]
)
@pytest.mark.parametrize("name", ["euler", "dpm++_sde", "lcm"])
def test_a_row_is_the_same_alone_and_in_a_batch(pipeline, run, name, options):
    pipeline.scheduler = make_scheduler(name, 4.0)
    together = run(stop_patience=1, **options)
    for row in range(NUM_ROWS):
        alone = run(PROMPTS[row : row + 1], generator=generators([row]), stop_patience=1, **options)
        assert alone.texts == together.texts[row : row + 1]
        assert alone.row_network_calls == together.row_network_calls[row : row + 1]
        assert alone.num_network_calls == alone.row_network_calls[0]
        if "self_correction" in options:
            assert alone.changes == together.changes[row : row + 1]


def test_known_tokens_stay_with_their_rows(run):
    known = nothing_known(NUM_ROWS, 16)
    known.ids[:, :6] = torch.arange(20, 20 + 6 * NUM_ROWS).reshape(NUM_ROWS, 6)
    known.is_known[:, :6] = True
    output = run(known_tokens=known, stop_patience=1)
    assert torch.equal(output.sequences[:, :6], known.ids[:, :6])
    assert len(set(output.row_network_calls)) > 1
    for row in range(NUM_ROWS):
        alone = run(
            PROMPTS[row : row + 1],
            generator=generators([row]),
            known_tokens=known.select([row]),
            stop_patience=1,
        )
        assert torch.equal(alone.sequences[0], output.sequences[row])


def test_rows_that_go_on_keep_their_own_noise(pipeline):
    """They drew from the sources of rows that were done, in cases that no other test meets."""
    predictions = torch.randn(3, 4, 8)
    options = {"clamp_start": 1.0, "self_correction": 0.5}
    control = TokenControl(
        pipeline, generator=generators(range(3)), patience=TokenPatience(1), **options
    )
    assert control.finished(predictions).tolist() == [False] * 3
    predictions[1] = torch.randn(4, 8)
    assert control.finished(predictions).tolist() == [True, False, True]
    alone = TokenControl(pipeline, generator=generators([1]), **options)
    noisy, t = torch.randn(1, 4, 8), torch.tensor(0.5)
    expected = alone.renoise(noisy, predictions[1:2], t)
    assert not torch.equal(expected, noisy)
    assert torch.equal(control.renoise(noisy, predictions[1:2], t), expected)


def test_rows_say_what_they_took(main, pipeline_folder, tmp_path):
    prompts, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    sources = [prompt or "" for prompt in PROMPTS]
    prompts.write_text("".join(json.dumps({"source": source}) + "\n" for source in sources))
    common = ["--pipeline", pipeline_folder, "--num_inference_steps", NUM_STEPS]
    common += ["--prompts", prompts, "--precision", "float32", "--output", output]
    stop = ["--sampling.stop_patience", 1, "--sampling.stop_confidence", 0.01]
    records = {}
    for batch_size in (1, 8):
        options = ["--batch_size", batch_size, "--start_over"]
        code, _, error = main("generate", *common, *stop, *options)
        assert code == 0, error
        records[batch_size] = [json.loads(line) for line in output.read_text().splitlines()]
    assert records[1] == records[8]
    calls = [record["num_network_calls"] for record in records[1]]
    assert 2 <= min(calls) < max(calls) <= NUM_STEPS
    controlled = ["--control.num_candidates", 2, "--start_over"]
    assert main("generate", *common, *stop, *controlled)[0] == 0
    first = json.loads(output.read_text().splitlines()[0])
    assert 2 <= first["num_network_calls"] <= NUM_STEPS
    assert main("generate", *common, "--start_over")[0] == 0
    assert "num_network_calls" not in json.loads(output.read_text().splitlines()[0])


def test_batches_of_rows_pass_the_options_on(pipeline):
    settings = TextSettings(NUM_STEPS, precision="float32", sampling={"stop_patience": 1})
    _, output = generate_batch(pipeline, [None] * 3, [(row, 0) for row in range(3)], settings)
    assert len(output.row_network_calls) == 3


def test_edits_stop_too(pipeline):
    settings = TextSettings(NUM_STEPS, precision="float32", sampling={"stop_patience": 1})
    sizes = []
    pipeline.denoiser.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    requests = [EditRequest("The Vaults is cheap.", row=row, source="a pub") for row in range(4)]
    together = edit_texts(pipeline, requests, 0.9, settings)
    assert sizes[0] == 8  # both branches of guidance
    assert sizes[-1] < 8
    for request, edited in zip(requests, together, strict=True):
        assert edit_texts(pipeline, [request], 0.9, settings) == [edited]


def test_a_trace_stands_still_where_its_text_has_stopped(run):
    calls = run(stop_patience=1).row_network_calls
    row = calls.index(min(calls))
    trace = Trace(row=row)
    output = run(stop_patience=1, callback_on_step_end=trace)
    assert len(trace.frames) == output.num_network_calls > calls[row]
    assert all(frame == trace.frames[calls[row] - 1] for frame in trace.frames[calls[row] :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_patience": 0}, "`stop_patience` must be between 1 and 1000 steps, got 0"),
        ({"stop_patience": 1.5}, "`stop_patience` must be between 1 and 1000 steps, got 1.5"),
        ({"stop_confidence": 0.5}, "`stop_confidence` has no effect without `stop_patience`"),
        ({"stop_patience": 1, "stop_confidence": 1.1}, "`stop_confidence` must be between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    with pytest.raises(ValueError, match=message):
        token_patience(options.get("stop_patience"), options.get("stop_confidence"))
