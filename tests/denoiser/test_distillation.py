import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

from denoiser.distillation import ConsistencyDistillation, ProgressiveDistillation
from denoiser.noise import add_noise
from denoiser.sampling import denoise
from denoiser.schedulers import make_scheduler
from denoiser.teacher import DistillationRows, Teacher

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.5, 1.2])
NOISE_SHIFT = 4.0


class ExactDenoiser(nn.Module):
    """The expected latents of data ~ N(MEAN, STD^2), given the noisy ones."""

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        t = t[:, None, None]
        gain = (1 - t) * STD**2 / (((1 - t) * STD) ** 2 + t**2)
        return MEAN + gain * (noisy_latents - (1 - t) * MEAN)


class ExactConsistency(nn.Module):
    """Where the exact flow of the same data ends."""

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        t = t[:, None, None]
        deviation = (((1 - t) * STD) ** 2 + t**2).sqrt()
        return MEAN + STD * (noisy_latents - (1 - t) * MEAN) / deviation


class SourceOrNull(nn.Module):
    """Predict 2 for rows with a source and 0.5 for the null, whatever is noisy."""

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        value = torch.where(is_null, 0.5, 2.0)[:, None, None]
        return value.expand_as(noisy_latents)


class Recorder(nn.Module):
    """Pass calls on and keep what they were given."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.calls, self.noisy_latents = denoiser, [], []

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        inputs = (noisy_latents, t, known_latents, known_mask, is_null, self_condition)
        self.calls.append((t, self_condition))
        self.noisy_latents.append(noisy_latents)
        return self.denoiser(*inputs)


def gaussian_rows(num_rows=512):
    latents = MEAN + STD * torch.randn(num_rows, 1, 2)
    return DistillationRows(
        latents, torch.zeros(num_rows, 1, 2), torch.ones(num_rows, 1, dtype=torch.bool)
    )


@pytest.fixture
def rows():
    known_mask = torch.ones(16, 5, dtype=torch.bool)
    known_mask[::4] = False
    return DistillationRows(torch.randn(16, 4, 8), torch.randn(16, 5, 8), known_mask)


def test_one_step_target_of_exact_gaussian_data_is_where_its_flow_ends():
    """Noise z flows to MEAN + STD * z; 256 steps of the Euler scheduler end near it."""
    objective = ProgressiveDistillation([1], [1], teacher_steps=256)
    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    losses = objective.loss(ExactConsistency(), teacher, gaussian_rows(), 0, 0.5)
    assert torch.equal(losses["t"], torch.ones(512))
    assert losses["loss"] < 1e-3
    worse = objective.loss(ExactDenoiser(), teacher, gaussian_rows(), 0, 0.5)
    assert worse["loss"] > 0.5  # from pure noise it predicts the mean


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "objective", [ProgressiveDistillation([1], [2], 8), ConsistencyDistillation(4, 2)]
)
def test_guidance_is_folded_in_where_there_is_a_source(rows, objective, guidance_scale):
    class Student(SourceOrNull):
        def forward(
            self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None
        ):
            guided = 0.5 + guidance_scale * 1.5
            return torch.where(is_null, 0.5, guided)[:, None, None].expand_as(noisy_latents)

    teacher = Teacher(SourceOrNull(), NOISE_SHIFT, guidance_scale)
    for student, is_equal in ((Student(), True), (SourceOrNull(), guidance_scale == 1)):
        error = objective.loss(student, teacher, rows, 0, 0.5)["row_error"]
        assert (error < 1e-6)[::4].all()  # rows without a source follow the null
        assert (error < 1e-6).all() == is_equal


def test_self_condition_of_the_student_is_its_own_prediction_one_coarse_step_before(
    make_denoiser, rows
):
    student = Recorder(make_denoiser())
    objective = ProgressiveDistillation([1], [4], teacher_steps=8)
    losses = objective.loss(student, Teacher(make_denoiser(), NOISE_SHIFT, 1.0), rows, 0, 0.5)
    (earlier_t, none), (t, self_condition) = student.calls
    assert none is None
    assert len(earlier_t) == 8
    assert torch.equal(t, losses["t"])
    is_first = t[:8] == 1
    assert is_first.any()
    assert (earlier_t > t[:8])[~is_first].all()
    is_given = self_condition.abs().amax(dim=(1, 2)) > 0
    assert torch.equal(is_given[:8], ~is_first)
    assert not is_given[8:].any()


@pytest.mark.parametrize(
    ("objective", "is_same"),
    [(ProgressiveDistillation([1], [4], 8), True), (ConsistencyDistillation(4, 8), False)],
)
def test_the_earlier_prediction_has_the_noise_that_the_sampler_would_have(
    make_denoiser, rows, objective, is_same
):
    """The Euler scheduler keeps it; LCM noises each prediction anew."""
    student = Recorder(make_denoiser())
    objective.loss(student, Teacher(make_denoiser(), NOISE_SHIFT, 1.0), rows, 0, 0.5)
    noises = []
    for call in (0, -1):
        t = student.calls[call][0][:8, None, None]
        latents = rows.latents[:8]
        noises.append((student.noisy_latents[call][:8] - (1 - t) * latents) / t)
    assert torch.allclose(*noises, atol=1e-3) == is_same
    assert noises[0].std() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "objective", [ProgressiveDistillation([1], [4], teacher_steps=8), ConsistencyDistillation(4, 8)]
)
def test_a_student_whose_teacher_clamps_sees_its_own_predictions_clamped(
    make_denoiser, rows, objective
):
    def clamping(pred_latents, t, noise_shift):
        return torch.full_like(pred_latents, 7.0)

    student = Recorder(make_denoiser())
    objective.loss(student, Teacher(make_denoiser(), NOISE_SHIFT, 1.0, clamping), rows, 0, 0.5)
    _, self_condition = student.calls[-1]
    given = self_condition[self_condition.abs().amax(dim=(1, 2)) > 0]
    assert 4 <= len(given) <= 8
    assert (given == 7).all()


@pytest.mark.parametrize(
    "objective", [ProgressiveDistillation([1], [4], teacher_steps=8), ConsistencyDistillation(4, 8)]
)
def test_a_single_row_sees_an_earlier_prediction_as_often_as_many(make_denoiser, rows, objective):
    student, teacher = Recorder(make_denoiser()), Teacher(make_denoiser(), NOISE_SHIFT, 1.0)
    num_first = 0
    with torch.no_grad():
        for _ in range(60):
            objective.loss(student, teacher, rows.first(1), 0, 0.5)
            num_first += student.calls[0][1] is None
            student.calls.clear()
    assert num_first == pytest.approx(30, abs=16)  # a standard error of 4


def test_a_student_of_one_step_sees_no_self_condition(make_denoiser, rows):
    student = Recorder(make_denoiser())
    teacher = Teacher(make_denoiser(), NOISE_SHIFT, 1.0)
    ProgressiveDistillation([1], [1], 4).loss(student, teacher, rows, 0, 1.0)
    ((_, self_condition),) = student.calls
    assert not self_condition.any()


def test_exact_consistency_is_where_the_loss_is_least():
    objective = ConsistencyDistillation(teacher_steps=128)
    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    losses = [
        objective.loss(student, teacher, gaussian_rows(), 0, 0.5)["loss"]
        for student in (ExactConsistency(), ExactDenoiser())
    ]
    assert losses[0] < losses[1] / 10


def test_last_point_before_the_data_learns_the_prediction_of_the_teacher():
    """Without this boundary a constant would have no loss."""

    class Constant(ExactDenoiser):
        def forward(self, noisy_latents, *others):
            return torch.full_like(noisy_latents, 3.0)

    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    losses = ConsistencyDistillation(teacher_steps=8).loss(
        Constant(), teacher, gaussian_rows(), 0, 0.0
    )
    is_last = losses["t"] == losses["t"].min()
    assert (losses["row_error"][is_last] > 1).all()
    assert not losses["row_error"][~is_last].any()


def test_target_and_student_see_the_same_self_condition_and_no_gradient_flows_to_the_target(
    make_denoiser, rows
):
    student = Recorder(make_denoiser())
    teacher = Teacher(make_denoiser(), NOISE_SHIFT, 1.0)
    losses = ConsistencyDistillation(teacher_steps=8).loss(student, teacher, rows, 0, 0.5)
    _, (target_t, of_target), (t, of_student) = student.calls
    assert torch.equal(of_target, of_student)
    assert (target_t < t).all()
    losses["loss"].backward()
    assert all(weight.grad is not None for weight in student.denoiser.out.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_exact_consistency_samples_the_data_in_any_number_of_steps_with_lcm(num_steps):
    noise = torch.randn(16384, 1, 2)
    latents = denoise(
        ExactConsistency(),
        make_scheduler("lcm", NOISE_SHIFT),
        ClassifierFreeGuidance(guidance_scale=1.0),
        noise,
        torch.zeros(len(noise), 1, 2),
        torch.ones(len(noise), 1, dtype=torch.bool),
        num_steps,
    )
    assert torch.all(((latents.mean(dim=(0, 1)) - MEAN) / STD).abs() < 0.03)
    assert torch.allclose(latents.std(dim=(0, 1)), STD, rtol=0.03)


def test_the_exact_flow_is_what_both_helpers_say():
    rows, noise = gaussian_rows(8), torch.randn(8, 1, 2)
    t = torch.full((8,), 1e-4)
    assert torch.allclose(
        ExactConsistency()(add_noise(rows.latents, noise, t), t, None, None, None),
        rows.latents,
        atol=1e-2,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([10],), r"`round_steps` must have a positive number for each .* \[8, 4, 2, 1\], got"),
        (([10, 0], [8, 4]), "`round_steps` must have a positive number"),
        (([10, 10], [8, 3]), "each a divisor of the one before, got 3 after 8"),
        (([10], [32]), "must fall from `teacher_steps`.* got 32 after 32"),
    ],
)
def test_rounds_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveDistillation(*arguments)


def test_consistency_needs_a_grid():
    with pytest.raises(ValueError, match="`teacher_steps` must be at least 2, got 1"):
        ConsistencyDistillation(teacher_steps=1)
