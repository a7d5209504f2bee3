"""What a student of any number of few steps learns from its teacher: flow map distillation."""

import torch

from denoiser.distillation import SingleRound, own_earlier_prediction
from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, flow_step, landing_to_latents
from denoiser.objective import Losses, squared_error
from denoiser.schedulers import SchedulerName
from denoiser.shares import draw_numbers
from denoiser.teacher import DistillationRows, Teacher, draw_points, grid_time


class FlowMapDistillation(SingleRound):
    """Learn the average velocity between any two times (MeanFlow, Geng et al. 2025).

    The student is told where its step is to lead, and one student samples in any number of steps
    with ``FlowMapEulerDiscreteScheduler``. It is consistency distillation with any end: a step has
    to land where one guided step of the teacher and what the student makes of the rest of the way,
    without gradient, lead. In the limit of a fine grid that is the Eulerian form of flow map
    matching (Boffi et al. 2024; Align Your Flow, Sabour et al. 2025), of which MeanFlow's identity
    is the same with the data in the place of a teacher. A step of one point of the grid, or of
    none, learns the teacher's prediction itself: told no other time, the student is an ordinary
    denoiser for all other schedulers.

    The difference of two times stands for the derivative along the path, as MeanFlow's forward
    derivative runs through neither fused attention nor ``torch.compile``. On mixtures of gaussians
    it came closer to the teacher's samples than that, and than two steps of half the length as the
    target of each (SplitMeanFlow, Guo et al. 2025; shortcut models, Frans et al. 2025).

    Self-conditioning: a share of rows sees the student's prediction at a random noisier time, for a
    step that was to lead where they stand; student and target see the same.

    Args:
        student_steps: Sampling steps that an exported pipeline takes by default.
        teacher_steps: Steps of the teacher's grid.
    """

    scheduler: SchedulerName = "flow_map"
    makes_flow_map = True

    def __init__(self, student_steps: int = 2, teacher_steps: int = 32) -> None:
        super().__init__(student_steps, teacher_steps)

    def loss(
        self,
        student: LatentDenoiser,
        teacher: Teacher,
        rows: DistillationRows,
        round_index: int,
        self_condition_prob: float,
    ) -> Losses:
        """Compare the student's steps with one of the teacher and the student's own from there."""
        num_steps, latents = self.teacher_steps, rows.latents
        point = draw_points(len(latents), num_steps, latents.device)
        end = (torch.rand(len(point), device=point.device) * (point + 1)).long()
        t, next_t, end_t = (
            grid_time(each, num_steps, teacher.noise_shift) for each in (point, point - 1, end)
        )
        noise = torch.randn_like(latents)
        noisy_latents = add_noise(latents, noise, t)
        landing = teacher.walk(rows, noise, point, num_steps, length=1)

        earlier_t = self.draw_earlier_time(point, teacher.noise_shift)
        [num_conditioned] = draw_numbers(len(t), self_condition_prob)
        self_condition = own_earlier_prediction(
            student, teacher, rows, noise, earlier_t, num_conditioned, next_t=t
        )
        self_condition = self_condition.masked_fill((point == num_steps)[:, None, None], 0)

        # Where the teacher's step is the whole way its prediction is the target.
        is_short = end >= point - 1
        aim_t = torch.where(is_short, next_t, end_t)
        with torch.no_grad():
            rest = rows.predict(student, landing, next_t, self_condition, aim_t)
            arrival = flow_step(rest, landing, next_t.clamp(min=torch.finfo().tiny), aim_t)
            arrival = torch.where(is_short[:, None, None], landing, arrival)
            target = landing_to_latents(arrival, noisy_latents, t, aim_t)
        prediction = rows.predict(student, noisy_latents, t, self_condition, end_t)
        return squared_error(prediction, target, t, latents)
