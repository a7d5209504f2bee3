import copy

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

from denoiser import LatentDenoiser
from denoiser.distillation_training import trainable_copy
from denoiser.flow_map import FlowMapDistillation
from denoiser.noise import landing_to_latents
from denoiser.sampling import denoise
from denoiser.schedulers import make_scheduler
from denoiser.teacher import DistillationRows, Teacher

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.5, 1.2])
NOISE_SHIFT = 4.0


def deviation(t):
    return (((1 - t[:, None, None]) * STD) ** 2 + t[:, None, None] ** 2).sqrt()


def centred(noisy_latents, t):
    return noisy_latents - (1 - t[:, None, None]) * MEAN


class ExactDenoiser(nn.Module):
    """The expected latents of data ~ N(MEAN, STD^2), given the noisy ones."""

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        gain = (1 - t[:, None, None]) * STD**2 / deviation(t) ** 2
        return MEAN + gain * centred(noisy_latents, t)


class ExactFlowMap(ExactDenoiser):
    """Where the exact flow of the same data leads, from any time to any other."""

    def forward(self, noisy_latents, t, *others, next_t=None):
        instant = super().forward(noisy_latents, t, *others)
        if next_t is None:
            return instant
        scaled = centred(noisy_latents, t) * deviation(next_t) / deviation(t)
        landing = (1 - next_t[:, None, None]) * MEAN + scaled
        average = landing_to_latents(landing, noisy_latents, t, next_t)
        return torch.where((next_t == t)[:, None, None], instant, average)


class Forgetful(ExactDenoiser):
    """The exact denoiser, whatever length its step has."""

    def forward(self, noisy_latents, t, *others, next_t=None):
        return super().forward(noisy_latents, t, *others)


def gaussian_rows(num_rows=512):
    latents = MEAN + STD * torch.randn(num_rows, 1, 2)
    return DistillationRows(
        latents, torch.zeros(num_rows, 1, 2), torch.ones(num_rows, 1, dtype=torch.bool)
    )


def sample(denoiser, noise, num_steps, name="flow_map"):
    return denoise(
        denoiser,
        make_scheduler(name, NOISE_SHIFT),
        ClassifierFreeGuidance(guidance_scale=1.0),
        noise,
        torch.zeros(len(noise), 1, 2),
        torch.ones(len(noise), 1, dtype=torch.bool),
        num_steps,
    )


@pytest.mark.parametrize("num_steps", [1, 2, 4, 7])
def test_the_exact_flow_map_takes_noise_to_the_end_of_its_flow_in_any_number_of_steps(num_steps):
    noise = torch.randn(16, 1, 2)
    assert torch.allclose(sample(ExactFlowMap(), noise, num_steps), MEAN + STD * noise, atol=1e-5)


def test_the_exact_flow_map_has_the_least_loss():
    """What is left is the error of one step of the teacher, which is not that of the exact flow."""
    objective, rows = FlowMapDistillation(teacher_steps=128), gaussian_rows()
    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    errors = [
        objective.loss(student, teacher, rows, 0, 0.5)["loss"]
        for student in (ExactFlowMap(), Forgetful())
    ]
    assert errors[0] < 1e-4
    assert errors[1] > 10 * errors[0]


def test_steps_of_one_point_and_of_none_learn_the_prediction_of_the_teacher():
    """Else a constant would have no loss; times of the end are those that the student is told."""
    told = []

    class Constant(nn.Module):
        def forward(self, noisy_latents, t, *others, next_t):
            told.append((t, next_t))
            return torch.full_like(noisy_latents, 3.0)

    objective = FlowMapDistillation(teacher_steps=8)
    losses = objective.loss(
        Constant(), Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0), gaussian_rows(), 0, 0.0
    )
    _, (t, end_t) = told  # of the target, of the prediction
    assert torch.equal(t, losses["t"])
    point, end = (
        (8 * time / (NOISE_SHIFT - (NOISE_SHIFT - 1) * time)).round() for time in (t, end_t)
    )
    assert set((point - end).tolist()) == set(range(9))
    is_short, error = point - end <= 1, losses["row_error"]
    assert error[is_short].min() > 1
    assert error[~is_short & (end == 0)].max() < 1e-6
    assert (error[~is_short & (end > 0)] > 1e-6).all()  # part of the way is the teacher's


def test_self_condition_of_the_student_is_its_own_step_to_where_it_stands():
    calls = []

    class Recorder(ExactFlowMap):
        def forward(self, noisy_latents, t, *others, next_t=None):
            calls.append((t, next_t, others[-1]))
            return super().forward(noisy_latents, t, *others, next_t=next_t)

    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    losses = FlowMapDistillation(2, 8).loss(Recorder(), teacher, gaussian_rows(16), 0, 0.5)
    (earlier_t, next_t, none), (*_, of_target), (t, _, of_student) = calls
    assert none is None
    assert torch.equal(next_t, losses["t"][:8])
    assert (earlier_t > next_t)[next_t < 1].all()
    assert torch.equal(of_target, of_student)
    assert torch.equal(of_student.any(dim=2)[:, 0], (t < 1) & (torch.arange(16) < 8))


def test_a_single_row_sees_an_earlier_prediction_as_often_as_many():
    firsts = []

    class Recorder(ExactFlowMap):
        def forward(self, noisy_latents, t, *others, next_t=None):
            firsts.append(others[-1] is None)
            return super().forward(noisy_latents, t, *others, next_t=next_t)

    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    for _ in range(200):
        FlowMapDistillation(2, 8).loss(Recorder(), teacher, gaussian_rows(1), 0, 0.5)
    assert sum(firsts) == pytest.approx(100, abs=28)  # a standard error of 7


@pytest.fixture
def student_of(make_denoiser):
    teacher = make_denoiser(latent_dim=2).eval()
    return teacher, trainable_copy(teacher, 2, flow_map=True)


@pytest.fixture
def inputs():
    rows = gaussian_rows(4)
    t = torch.tensor([0.2, 0.5, 0.9, 1.0])
    is_null = torch.zeros(4, dtype=torch.bool)
    return torch.randn(4, 1, 2), t, rows.known_latents, rows.known_mask, is_null


def test_a_student_starts_as_its_teacher_for_steps_of_any_length(student_of, inputs):
    teacher, student = student_of
    assert student.config.flow_map
    assert all(weight.requires_grad for weight in student.parameters())
    expected = teacher(*inputs)
    for next_t in (None, inputs[1], torch.zeros(4)):
        assert torch.equal(student(*inputs, next_t=next_t), expected)


def test_a_trained_flow_map_tells_lengths_apart_and_none_is_a_length_of_zero(
    student_of, inputs, activate
):
    student = activate(student_of[1])
    assert torch.equal(student(*inputs), student(*inputs, next_t=inputs[1]))
    assert not torch.allclose(student(*inputs), student(*inputs, next_t=torch.zeros(4)))


def test_a_copy_of_a_flow_map_stays_one(student_of):
    assert trainable_copy(student_of[1], 2, flow_map=True).config.flow_map


def test_saved_flow_map_is_the_same(student_of, activate, tmp_path, assert_same_model):
    student = activate(student_of[1])
    student.save_pretrained(tmp_path)
    assert_same_model(LatentDenoiser.from_pretrained(tmp_path), student)


def test_only_a_flow_map_samples_with_its_scheduler(student_of):
    teacher, student = student_of
    noise = torch.randn(3, 1, 2)
    as_taught = sample(student, noise, 2, "euler")
    assert torch.allclose(sample(student, noise, 2), as_taught, atol=1e-5)
    with pytest.raises(ValueError, match="'flow_map', need a student of FlowMapDistillation"):
        sample(teacher, noise, 2)


def test_other_schedulers_ask_a_flow_map_for_the_velocity_where_it_stands():
    given = []

    class Recorder(ExactDenoiser):
        def forward(self, *inputs, **options):
            given.append(options)
            return super().forward(*inputs)

    sample(Recorder(), torch.randn(3, 1, 2), 2, "heun")
    assert given == [{}] * 3


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_guidance_is_folded_in_where_there_is_a_source(guidance_scale):
    class SourceOrNull(nn.Module):
        def forward(
            self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None
        ):
            value = torch.where(is_null, 0.5, 2.0)[:, None, None]
            return value.expand_as(noisy_latents)

    class Student(nn.Module):
        def forward(self, noisy_latents, t, _, known_mask, is_null, *others, next_t=None):
            value = torch.where(is_null, 0.5, 0.5 + guidance_scale * 1.5)
            return value[:, None, None].expand_as(noisy_latents)

    known_mask = torch.ones(32, 5, dtype=torch.bool)
    known_mask[::3] = False
    rows = DistillationRows(torch.randn(32, 4, 8), torch.randn(32, 5, 8), known_mask)
    teacher = Teacher(SourceOrNull(), NOISE_SHIFT, guidance_scale)
    assert FlowMapDistillation().loss(Student(), teacher, rows, 0, 0.5)["loss"] < 1e-6


def test_no_gradient_flows_to_targets_and_teacher(student_of):
    teacher, student = student_of
    frozen = Teacher(copy.deepcopy(teacher), NOISE_SHIFT, 1.0)
    FlowMapDistillation().loss(student, frozen, gaussian_rows(32), 0, 0.5)["loss"].backward()
    assert all(weight.grad is not None for weight in student.out.parameters())
    assert all(weight.grad is not None for weight in student.step_embedding[-1].parameters())
    assert all(weight.grad is None for weight in frozen.parameters())


def test_one_step_of_a_trained_student_ends_where_the_exact_flow_ends():
    """From noise the teacher's one step gives the mean, whatever the noise."""
    torch.manual_seed(1)
    student = LatentDenoiser(2, hidden_dim=32, num_layers=1, num_heads=1, flow_map=True)
    teacher = Teacher(ExactDenoiser(), NOISE_SHIFT, 1.0)
    objective = FlowMapDistillation(teacher_steps=8)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 400)
    for _ in range(400):
        loss = objective.loss(student, teacher, gaussian_rows(64), 0, 0.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    noise = torch.randn(256, 1, 2)
    # Eight steps of the Euler scheduler, which are learned, do not end quite where the flow does.
    taught = sample(ExactDenoiser(), noise, 8, "euler")
    errors = [
        (sample(student, noise, num_steps) - taught).square().mean() for num_steps in (1, 2, 4)
    ]
    of_teacher = (sample(ExactDenoiser(), noise, 1, "euler") - taught).square().mean()
    assert of_teacher > 0.5
    assert max(errors) < 0.1 * of_teacher


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_steps": 0}, "`student_steps` must be at least 1, got 0"),
        ({"teacher_steps": 1}, "`teacher_steps` must be at least 2, got 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlowMapDistillation(**options)
