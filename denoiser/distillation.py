"""What a student of few steps learns from its teacher: progressive and consistency distillation.

Both train on noised data, predict clean latents, and compare them without weights, as the denoiser
itself is trained; so the student stays a ``LatentDenoiser`` and samples with diffusers' schedulers.
The guidance of the teacher is folded in at one fixed scale: what the student predicts from the
source alone is what the teacher predicts under guidance (Meng et al. 2023, section 3, with the
scale as a constant). The student so keeps the architecture of its teacher, its folder loads like
any other, and no capacity of a small network goes into scales that are never used.
"""

from itertools import pairwise

import torch
from torch import Tensor

from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, landing_to_latents, shift_time
from denoiser.objective import Losses, squared_error
from denoiser.schedulers import SchedulerName
from denoiser.shares import draw_numbers
from denoiser.teacher import DistillationRows, Teacher, draw_points, grid_time


@torch.no_grad()
def own_earlier_prediction(
    student: LatentDenoiser,
    teacher: Teacher,
    rows: DistillationRows,
    noise: Tensor,
    t: Tensor,
    num_rows: int,
    next_t: Tensor | None = None,
) -> Tensor:
    """Let the student predict the first rows at an earlier, noisier time, without self-condition.

    Args:
        student: The student.
        teacher: Its teacher, which knows how predictions are clamped.
        rows: All rows.
        noise: Their noise ``(B, L, D)`` at that time.
        t: That time, ``(B,)``.
        num_rows: How many rows get a prediction.
        next_t: Times ``(B,)`` to which a flow map was to lead from there.

    Returns:
        Predicted clean latents ``(B, L, D)``; 0 in the other rows.
    """
    predicted = torch.zeros_like(noise)
    if num_rows:
        some, some_t = rows.first(num_rows), t[:num_rows]
        noisy_latents = add_noise(some.latents, noise[:num_rows], some_t)
        some_next = None if next_t is None else next_t[:num_rows]
        prediction = some.predict(student, noisy_latents, some_t, next_t=some_next)
        predicted[:num_rows] = teacher.clamp(prediction, some_t)
    return predicted


class ProgressiveDistillation:
    """Learn to land in one step where the teacher lands in several (Salimans and Ho 2022).

    In each round the student halves (or quarters) the steps of its teacher, and is the teacher of
    the next round, then without guidance, which the first round has folded in. The student starts
    each round from its teacher's weights. Its target is the prediction that leads the Euler step to
    the teacher's landing (their algorithm 2), in the space of clean latents.

    Self-conditioning is distilled as it is sampled: the teacher walks with its own predictions, and
    a share of the student's rows sees the student's prediction at the step before, on its own
    coarse grid. At pure noise neither sees any.

    Args:
        round_steps: Training steps of each round.
        student_steps: Sampling steps of the student in each round, each a divisor of those before.
        teacher_steps: Sampling steps of the first teacher.
    """

    scheduler: SchedulerName = "euler"
    makes_flow_map = False

    def __init__(
        self,
        round_steps: list[int],
        student_steps: list[int] | None = None,
        teacher_steps: int = 32,
    ) -> None:
        student_steps = [8, 4, 2, 1] if student_steps is None else student_steps
        if len(round_steps) != len(student_steps) or not round_steps or min(round_steps) < 1:
            raise ValueError(
                "`round_steps` must have a positive number for each of the rounds in "
                f"`student_steps` {student_steps}, got {round_steps}."
            )
        for before, after in pairwise([teacher_steps, *student_steps]):
            if after < 1 or before <= after or before % after:
                raise ValueError(
                    "`student_steps` must fall from `teacher_steps`, each a divisor of the one "
                    f"before, got {after} after {before}."
                )
        self.round_steps = round_steps
        self.student_steps = student_steps
        self.teacher_steps = teacher_steps

    def num_inference_steps(self, round_index: int) -> int:
        """Sampling steps for which the student is trained in a round."""
        return self.student_steps[round_index]

    def loss(
        self,
        student: LatentDenoiser,
        teacher: Teacher,
        rows: DistillationRows,
        round_index: int,
        self_condition_prob: float,
    ) -> Losses:
        """Compare the student's predictions with what leads to its teacher's landings."""
        num_steps = self.student_steps[round_index]
        length = [self.teacher_steps, *self.student_steps][round_index] // num_steps
        point = draw_points(len(rows.latents), num_steps, rows.latents.device)
        noise = torch.randn_like(rows.latents)
        t, next_t, earlier_t = (
            grid_time((point + shift).clamp(max=num_steps), num_steps, teacher.noise_shift)
            for shift in (0, -1, 1)
        )
        noisy_latents = add_noise(rows.latents, noise, t)
        landing = teacher.walk(rows, noise, point * length, num_steps * length, length)
        target = landing_to_latents(landing, noisy_latents, t, next_t)

        [num_conditioned] = draw_numbers(len(t), self_condition_prob if num_steps > 1 else 0.0)
        self_condition = own_earlier_prediction(
            student, teacher, rows, noise, earlier_t, num_conditioned
        )
        self_condition = self_condition.masked_fill((point == num_steps)[:, None, None], 0)
        prediction = rows.predict(student, noisy_latents, t, self_condition)
        return squared_error(prediction, target, t, rows.latents)


class SingleRound:
    """What a student is that learns from its teacher's grid all at once, for any number of steps.

    Args:
        student_steps: Sampling steps that an exported pipeline takes by default.
        teacher_steps: Steps of the teacher's grid.
    """

    round_steps: None = None  # one round, as long as the training

    def __init__(self, student_steps: int, teacher_steps: int) -> None:
        for name, value, least in (
            ("student_steps", student_steps, 1),
            ("teacher_steps", teacher_steps, 2),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        self.student_steps = student_steps
        self.teacher_steps = teacher_steps

    def num_inference_steps(self, round_index: int) -> int:
        """Sampling steps of an exported pipeline."""
        return self.student_steps

    def draw_earlier_time(self, point: Tensor, noise_shift: float) -> Tensor:
        """Draw a random time between points of the grid ``(B,)`` and pure noise, ``(B,)``."""
        u = point / self.teacher_steps
        return shift_time(u + (1 - u) * torch.rand_like(u), noise_shift)


class ConsistencyDistillation(SingleRound):
    """Learn to predict the same end from every point of the teacher's path (Song et al. 2023).

    Of two neighbouring points on the teacher's grid the noisier one learns what the student says at
    the other, to which one guided step of the teacher leads (latent consistency distillation, Luo
    et al. 2023); the last point before the data learns the teacher's prediction itself, which takes
    the place of a boundary condition in the network. The target is the student as it is, without an
    average of its weights (Song and Dhariwal 2024, section 3.2).

    What the student says at one point rests on what it says at all points below, and the errors of
    these joins add up: in short trainings a coarse grid is better (Song and Dhariwal 2024, section
    3.4, begin with one and refine it).

    ``FlowMatchLCM`` noises each prediction anew. So the earlier prediction that a share of the rows
    sees is made at a random noisier time and with other noise; student and target see the same.

    Args:
        student_steps: Sampling steps that an exported pipeline takes by default.
        teacher_steps: Steps of the teacher's grid.
    """

    scheduler: SchedulerName = "lcm"
    makes_flow_map = False

    def __init__(self, student_steps: int = 4, teacher_steps: int = 4) -> None:
        super().__init__(student_steps, teacher_steps)

    def loss(
        self,
        student: LatentDenoiser,
        teacher: Teacher,
        rows: DistillationRows,
        round_index: int,
        self_condition_prob: float,
    ) -> Losses:
        """Compare the student's predictions at neighbouring points of the teacher's path."""
        num_steps, latents = self.teacher_steps, rows.latents
        point = draw_points(len(latents), num_steps, latents.device)
        noise = torch.randn_like(latents)
        t, next_t = (grid_time(point - step, num_steps, teacher.noise_shift) for step in (0, 1))
        noisy_latents = add_noise(latents, noise, t)
        landing = teacher.walk(rows, noise, point, num_steps, length=1)

        earlier_t = self.draw_earlier_time(point, teacher.noise_shift)
        [num_conditioned] = draw_numbers(len(t), self_condition_prob)
        self_condition = own_earlier_prediction(
            student, teacher, rows, torch.randn_like(noise), earlier_t, num_conditioned
        )
        self_condition = self_condition.masked_fill((point == num_steps)[:, None, None], 0)
        with torch.no_grad():
            target = rows.predict(student, landing, next_t, self_condition)
            target = torch.where((point == 1)[:, None, None], landing, target)
        prediction = rows.predict(student, noisy_latents, t, self_condition)
        return squared_error(prediction, target, t, latents)
