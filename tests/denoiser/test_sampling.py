import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

from denoiser.sampling import EditStart, StepControl, check_scheduler, denoise
from denoiser.schedulers import make_scheduler

NAMES = ["euler", "euler_stochastic", "dpm++", "dpm++_sde", "heun"]
NUM_STEPS = 5


@pytest.fixture
def inputs():
    """Three rows; the second has a shorter source, the third has none."""
    return {
        "noise": torch.randn(3, 4, 8),
        "known_latents": torch.randn(3, 5, 8),
        "known_mask": torch.arange(5) < torch.tensor([[5], [2], [0]]),
    }


@pytest.fixture
def sample(inputs):
    def run(denoiser, name="euler", guidance_scale=1.0, **options):
        guider = ClassifierFreeGuidance(guidance_scale)
        arguments = {
            "scheduler": make_scheduler(name, 4.0),
            "guider": guider,
            "num_inference_steps": NUM_STEPS,
        }
        return denoise(denoiser, **arguments | inputs | options)

    return run


class Recorder(nn.Module):
    """Pass calls on and keep their arguments and results."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.calls = []

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        prediction = self.denoiser(
            noisy_latents, t, known_latents, known_mask, is_null, self_condition
        )
        self.calls.append({**locals()})
        return prediction


@pytest.fixture
def denoiser(make_denoiser):
    return Recorder(make_denoiser())


def batch_sizes(denoiser):
    return [len(call["noisy_latents"]) for call in denoiser.calls]


def make_generators(rows):
    return [torch.Generator().manual_seed(row) for row in rows]


@pytest.mark.parametrize(("name", "num_calls"), [("euler", 5), ("dpm++", 5), ("heun", 9)])
def test_without_guidance_each_call_is_one_forward_of_the_batch(denoiser, sample, name, num_calls):
    sample(denoiser, name)
    assert batch_sizes(denoiser) == [3] * num_calls


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
def test_guidance_is_one_forward_of_a_doubled_batch(denoiser, sample, guidance_scale):
    sample(denoiser, guidance_scale=guidance_scale)
    assert batch_sizes(denoiser) == [6] * NUM_STEPS
    expected = torch.tensor([False, False, True, True, True, True])
    assert all(torch.equal(call["is_null"], expected) for call in denoiser.calls)


def test_guidance_costs_nothing_in_steps_outside_its_range(denoiser, sample):
    sample(denoiser, guider=ClassifierFreeGuidance(3.0, start=0.4))
    assert batch_sizes(denoiser) == [3, 3, 6, 6, 6]


def test_guidance_scale_zero_follows_the_null(denoiser, sample):
    unguided = sample(denoiser, known_mask=torch.zeros(3, 5, dtype=torch.bool))
    assert all(call["is_null"].all() for call in denoiser.calls)
    assert torch.allclose(sample(denoiser, guidance_scale=0.0), unguided, atol=1e-5)
    assert not torch.allclose(sample(denoiser)[0], unguided[0], atol=1e-2)


def test_guidance_extrapolates_from_the_null_to_the_source(denoiser, sample):
    predictions = []
    sample(
        denoiser,
        guidance_scale=3.0,
        num_inference_steps=1,
        on_step_end=lambda step, noisy, prediction: predictions.append(prediction),
    )
    conditional, unconditional = denoiser.calls[0]["prediction"].chunk(2)
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert torch.allclose(predictions[0], expected, atol=1e-5)


def test_guidance_costs_nothing_where_no_row_has_a_source(denoiser, sample, inputs):
    """The batch was doubled for two branches that are the same."""
    nothing = {"known_mask": torch.zeros_like(inputs["known_mask"])}
    guided = sample(denoiser, guidance_scale=3.0, **nothing)
    assert batch_sizes(denoiser) == [3] * NUM_STEPS
    assert torch.equal(guided, sample(denoiser, **nothing))


def test_a_row_without_source_is_not_changed_by_guidance(denoiser, sample):
    plain, guided = sample(denoiser), sample(denoiser, guidance_scale=3.0)
    assert torch.allclose(guided[2], plain[2], atol=1e-5)
    assert not torch.allclose(guided[0], plain[0], atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_row_is_the_same_alone_and_in_a_batch(denoiser, sample, inputs, name, guidance_scale):
    together = sample(denoiser, name, guidance_scale, generator=make_generators(range(3)))
    for row in range(3):
        alone = {part: values[row : row + 1] for part, values in inputs.items()}
        generator = make_generators([row])
        latents = sample(denoiser, name, guidance_scale, generator=generator, **alone)
        assert torch.allclose(latents[0], together[row], atol=1e-4)


@pytest.mark.parametrize("name", ["euler_stochastic", "dpm++_sde"])
def test_the_noise_of_stochastic_schedulers_comes_from_the_generator(denoiser, sample, name):
    first, again, other = (
        sample(denoiser, name, generator=make_generators(rows))
        for rows in ((0, 1, 2), (0, 1, 2), (3, 1, 2))
    )
    assert torch.equal(again, first)
    assert not torch.allclose(other[0], first[0], atol=1e-2)
    assert torch.allclose(other[1:], first[1:], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_can_be_used_again_even_after_an_interruption(denoiser, sample, name):
    """diffusers' schedulers carry the state of a run, which must not leak into the next."""

    def interrupt(step, *_):
        if step == 1:
            raise KeyboardInterrupt

    scheduler = make_scheduler(name, 4.0)
    first = sample(denoiser, scheduler=scheduler, generator=make_generators(range(3)))
    with pytest.raises(KeyboardInterrupt):
        sample(denoiser, scheduler=scheduler, on_step_end=interrupt)
    again = sample(denoiser, scheduler=scheduler, generator=make_generators(range(3)))
    assert torch.equal(again, first)


@pytest.mark.parametrize("name", NAMES)
def test_result_is_the_last_prediction(denoiser, sample, name):
    steps, predictions = [], []

    def record(step, noisy, prediction):
        steps.append(step)
        predictions.append(prediction)

    latents = sample(denoiser, name, guidance_scale=3.0, on_step_end=record)
    assert steps == list(range(len(denoiser.calls)))
    assert torch.allclose(latents, predictions[-1], atol=1e-4)
    assert latents.dtype == torch.float32


def test_each_step_sees_the_prediction_before_it(denoiser, sample):
    predictions = []
    sample(
        denoiser,
        guidance_scale=3.0,
        on_step_end=lambda step, noisy, prediction: predictions.append(prediction),
    )
    seen = [call["self_condition"] for call in denoiser.calls]
    assert seen[0] is None
    for before, now in zip(predictions, seen[1:], strict=False):
        assert torch.equal(now, torch.cat((before, before)))


@pytest.mark.parametrize("name", NAMES)
def test_denoiser_is_called_at_the_times_of_the_scheduler(denoiser, sample, inputs, name):
    scheduler = make_scheduler(name, 4.0)
    sample(denoiser, scheduler=scheduler)
    times = torch.stack([call["t"] for call in denoiser.calls])
    assert torch.equal(times, scheduler.sigmas[:-1, None].expand(-1, 3))
    assert torch.equal(denoiser.calls[0]["noisy_latents"], inputs["noise"])


def test_a_scheduler_of_another_noise_process_is_refused(denoiser, sample):
    with pytest.raises(ValueError, match="DDIMScheduler does not follow the straight path"):
        sample(denoiser, scheduler=DDIMScheduler())
    assert denoiser.calls == []


def test_a_flow_scheduler_of_another_prediction_is_refused():
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True)
    with pytest.raises(ValueError, match="needs prediction_type='flow_prediction', got 'epsilon'"):
        check_scheduler(scheduler)


class Recording(StepControl):
    """Replace predictions by a constant, and keep what the loop tells."""

    def __init__(self, latents):
        self.latents = latents
        self.adjusted, self.renoised = [], []

    def adjust(self, pred_latents, step, num_steps):
        self.adjusted.append((step, num_steps, pred_latents))
        return self.latents

    def renoise(self, noisy_latents, pred_latents, t):
        self.renoised.append((noisy_latents, pred_latents, t))
        return noisy_latents


def test_an_adjusted_prediction_takes_the_place_of_the_denoisers(denoiser, sample):
    control = Recording(torch.full((3, 4, 8), 0.5))
    result = sample(denoiser, control=control)
    assert [entry[:2] for entry in control.adjusted] == [(step, 5) for step in range(5)]
    torch.testing.assert_close(control.adjusted[0][2], denoiser.calls[0]["prediction"])
    torch.testing.assert_close(denoiser.calls[3]["self_condition"], control.latents)
    torch.testing.assert_close(result, control.latents)  # the last step lands on the prediction


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_known_latents_stay_on_the_line_from_their_noise(denoiser, sample, inputs, name):
    """Replacing predictions is replacing noisy latents at the noise level of each step."""
    control = Recording(torch.randn(3, 4, 8))
    sample(denoiser, name, control=control)
    for noisy_latents, pred_latents, t in control.renoised:
        assert pred_latents is control.latents
        expected = (1 - t) * control.latents + t * inputs["noise"]
        torch.testing.assert_close(noisy_latents, expected, atol=1e-4, rtol=1e-4)
    assert control.renoised[-1][2] == 0


def test_what_a_control_does_to_noisy_latents_is_what_the_next_step_sees(denoiser, sample):
    class Zero(StepControl):
        def renoise(self, noisy_latents, pred_latents, t):
            return torch.zeros_like(noisy_latents)

    result = sample(denoiser, control=Zero())
    assert not denoiser.calls[1]["noisy_latents"].any()
    assert not result.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_an_edit_goes_its_share_of_the_way(denoiser, sample, inputs, name, strength):
    latents = torch.randn(3, 4, 8)
    scheduler = make_scheduler(name, 4.0)
    sample(denoiser, name, scheduler=scheduler, start=EditStart(latents, strength))
    first = denoiser.calls[0]
    t = first["t"][0]
    expected = (1 - t) * latents + t * inputs["noise"]
    torch.testing.assert_close(first["noisy_latents"], expected)
    num_steps = len({call["t"][0].item() for call in denoiser.calls})
    assert num_steps == {0.2: 1, 0.5: 3, 1.0: 5}[strength]
    if "euler" in name:  # takes any time, the others one of their grid
        assert t == pytest.approx(4 * strength / (1 + 3 * strength), abs=1e-4)


def test_an_edit_of_full_strength_is_a_text_from_noise(denoiser, sample):
    edited = sample(denoiser, start=EditStart(torch.randn(3, 4, 8), 1.0))
    torch.testing.assert_close(edited, sample(denoiser))


class Finishing(StepControl):
    """Let rows go after given steps, and keep which rows it is asked about."""

    def __init__(self, last_steps):
        self.last_steps = last_steps  # of each row
        self.rows = list(range(len(last_steps)))
        self.step = 0
        self.sizes = []

    def adjust(self, pred_latents, step, num_steps):
        self.step = step
        return pred_latents

    def renoise(self, noisy_latents, pred_latents, t):
        self.sizes.append((len(noisy_latents), len(pred_latents)))
        return noisy_latents

    def finished(self, pred_latents):
        is_done = torch.tensor([self.last_steps[row] == self.step for row in self.rows])
        self.rows = [row for row in self.rows if self.last_steps[row] != self.step]
        return is_done


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_rows_that_are_done_leave_the_batch_and_change_no_other(
    denoiser, sample, name, guidance_scale
):
    options = {"guidance_scale": guidance_scale, "num_inference_steps": NUM_STEPS}
    seen = []
    whole = sample(
        denoiser,
        name,
        generator=make_generators(range(3)),
        on_step_end=lambda step, noisy, prediction: seen.append(prediction),
        **options,
    )
    denoiser.calls.clear()
    control = Finishing([1, 99, 0])
    left = sample(denoiser, name, generator=make_generators(range(3)), control=control, **options)
    torch.testing.assert_close(left[1], whole[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left[0], seen[1][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left[2], seen[0][2], atol=1e-4, rtol=1e-4)
    branches = 1 if guidance_scale == 1 else 2
    assert batch_sizes(denoiser) == [branches * rows for rows in [3, 2] + [1] * (len(seen) - 2)]
    assert control.sizes == [(3, 3), (2, 2)] + [(1, 1)] * (len(seen) - 2)


def test_when_all_rows_are_done_no_step_is_left(denoiser, sample):
    steps = []
    options = {"on_step_end": lambda step, noisy, prediction: steps.append(len(prediction))}
    left = sample(denoiser, control=Finishing([2, 1, 1]), **options)
    assert batch_sizes(denoiser) == [3, 3, 1]
    assert steps == [3, 3, 3]  # watched whole, those that are done as they were
    torch.testing.assert_close(left[0], denoiser.calls[2]["prediction"][0])
    torch.testing.assert_close(left[1:], denoiser.calls[1]["prediction"][1:])


def test_nobody_is_asked_to_stop_after_the_last_step(denoiser, sample):
    control = Finishing([NUM_STEPS - 1] * 3)
    whole = sample(denoiser)
    assert torch.equal(sample(denoiser, control=control), whole)
    assert control.rows == [0, 1, 2]
