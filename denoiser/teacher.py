"""What a trained denoiser does along its own sampling path, for students to learn from.

The grid of ``N`` steps has the points 0 (data) to ``N`` (noise); the sampler goes down by one. Each
row of a batch may stand at a point of its own.
"""

from dataclasses import dataclass

import torch
from diffusers.guiders import ClassifierFreeGuidance
from torch import Tensor, nn

from denoiser.clamping import Clamping
from denoiser.infilling import predict
from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, flow_step, shift_time
from denoiser.sampling import guided_prediction


@dataclass(frozen=True)
class DistillationRows:
    """Rows that teacher and student both see.

    Attributes:
        latents: Clean standardized latents ``(B, L, D)``.
        known_latents: Clean standardized latents of the source, ``(B, K, D)``.
        known_mask: True at known latents that hold text, ``(B, K)``; rows without any follow the
            null.
    """

    latents: Tensor
    known_latents: Tensor
    known_mask: Tensor

    def first(self, num_rows: int) -> "DistillationRows":
        """Return the first rows."""
        parts = (self.latents, self.known_latents, self.known_mask)
        return DistillationRows(*(part[:num_rows] for part in parts))

    def predict(
        self,
        denoiser: LatentDenoiser,
        noisy_latents: Tensor,
        t: Tensor,
        self_condition: Tensor | None = None,
        next_t: Tensor | None = None,
    ) -> Tensor:
        """Predict clean latents ``(B, L, D)`` without guidance, with gradients if they are on."""
        is_null = ~self.known_mask.any(dim=1)
        inputs = (noisy_latents, t, self.known_latents, self.known_mask, is_null, self_condition)
        return predict(denoiser, None, *inputs, next_t=next_t)


def grid_time(point: Tensor, num_steps: int, noise_shift: float) -> Tensor:
    """Return the times ``(B,)`` of points on the grid that ``set_timesteps`` gives a sampler."""
    return shift_time(point / num_steps, noise_shift)


def draw_points(num_rows: int, num_steps: int, device: torch.device | None = None) -> Tensor:
    """Draw points from 1 to ``num_steps`` for rows ``(B,)``, each as often as the others."""
    start = torch.randint(num_steps, (), device=device)
    return (torch.randperm(num_rows, device=device) + start) % num_steps + 1


class Teacher(nn.Module):
    """A frozen denoiser that samples under classifier-free guidance.

    Args:
        denoiser: The network; it is put into evaluation mode, without gradients.
        noise_shift: Median noise-to-signal ratio of its grids.
        guidance_scale: Weight of guidance; 1 is off and costs one forward a step in place of two.
        clamping: How it clamps its predictions, and how a student's are to be; ``None`` is not.
    """

    def __init__(
        self,
        denoiser: LatentDenoiser,
        noise_shift: float,
        guidance_scale: float,
        clamping: Clamping | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.noise_shift = noise_shift
        self.clamping = clamping
        self.guide(guidance_scale)

    def guide(self, guidance_scale: float) -> None:
        """Change the weight of guidance."""
        self.guider = ClassifierFreeGuidance(guidance_scale=guidance_scale)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)

    def predict(
        self, rows: DistillationRows, noisy_latents: Tensor, t: Tensor, self_condition: Tensor
    ) -> Tensor:
        """Predict clean latents ``(B, L, D)`` under guidance."""
        return guided_prediction(
            self.denoiser,
            self.guider,
            noisy_latents,
            t,
            rows.known_latents,
            rows.known_mask,
            self_condition,
        )

    def clamp(self, pred_latents: Tensor, t: Tensor) -> Tensor:
        """Clamp predictions ``(B, L, D)`` made at times ``(B,)``, as sampling does."""
        if self.clamping is None:
            return pred_latents
        return self.clamping(pred_latents, t, self.noise_shift)

    @torch.no_grad()
    def earlier_prediction(
        self, rows: DistillationRows, noise: Tensor, point: Tensor, num_steps: int
    ) -> Tensor:
        """Predict one point of the grid earlier: what sampling would condition the next step on.

        The earlier noisy latents lie on the straight path with the same noise. They are predicted
        without self-condition: one call takes the place of all that came before.

        Returns:
            Predicted clean latents ``(B, L, D)``; 0 for rows at pure noise, where sampling starts.
        """
        t = grid_time((point + 1).clamp(max=num_steps), num_steps, self.noise_shift)
        noisy_latents = add_noise(rows.latents, noise, t)
        predicted = self.clamp(self.predict(rows, noisy_latents, t, torch.zeros_like(noise)), t)
        return predicted.masked_fill((point == num_steps)[:, None, None], 0)

    @torch.no_grad()
    def walk(
        self, rows: DistillationRows, noise: Tensor, point: Tensor, num_steps: int, length: int
    ) -> Tensor:
        """Go ``length`` steps down the grid, as a sampler with the Euler scheduler does.

        Args:
            rows: The rows.
            noise: Their noise ``(B, L, D)``; the walk starts on the straight path to it.
            point: Where each row starts, ``(B,)``, from ``length`` to ``num_steps``.
            num_steps: Steps of the grid.
            length: Steps to go.

        Returns:
            The noisy latents at the end, ``(B, L, D)``; clean ones where the walk ends at 0.
        """
        predicted = self.earlier_prediction(rows, noise, point, num_steps)
        noisy_latents = add_noise(
            rows.latents, noise, grid_time(point, num_steps, self.noise_shift)
        )
        for step in range(length):
            t = grid_time(point - step, num_steps, self.noise_shift)
            next_t = grid_time(point - step - 1, num_steps, self.noise_shift)
            predicted = self.clamp(self.predict(rows, noisy_latents, t, predicted), t)
            noisy_latents = flow_step(predicted, noisy_latents, t, next_t)
        return noisy_latents
