"""The denoising loop over a diffusers flow scheduler and a diffusers guider."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import FlowMapEulerDiscreteScheduler
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from denoiser.active_rows import ActiveRows
from denoiser.fixed_shapes import FixedShapes
from denoiser.guiders import weak_denoiser_of
from denoiser.infilling import KnownLatents, predict
from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, latents_to_velocity

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[int, Tensor, Tensor], None]


class StepControl:
    """What a caller may change at each step of the loop; this one changes nothing.

    Attributes:
        clean: Latents of the text that a denoiser with ``infill_prob`` is given clean, if any are
            known; a row for each row that is still denoised.
    """

    clean: KnownLatents | None = None

    def guide(self, pred_latents: Tensor, noisy_latents: Tensor, t: Tensor) -> Tensor:
        """Guide the predicted clean latents ``(B, L, D)``; comes before ``adjust``.

        Args:
            pred_latents: The prediction of the denoiser under its own guidance.
            noisy_latents: What it was made from, same shape.
            t: Times ``(B,)``.
        """
        return pred_latents

    def adjust(self, pred_latents: Tensor, step: int, num_steps: int) -> Tensor:
        """Change the predicted clean latents ``(B, L, D)`` before the step is taken.

        The noisy latents run on the straight line from their noise to what this returns: latents
        that are set to known ones at every step stay exactly at the noise level of that step, as in
        RePaint (Lugmayr et al. 2022) and in the infilling of Diffusion-LM (Li et al. 2022).

        Args:
            pred_latents: The prediction of the denoiser under guidance.
            step: Number of the step, from 0.
            num_steps: Number of all steps.
        """
        return pred_latents

    def renoise(self, noisy_latents: Tensor, pred_latents: Tensor, t: Tensor) -> Tensor:
        """Change the noisy latents ``(B, L, D)`` after the step.

        Args:
            noisy_latents: Where the step led, at time ``t``.
            pred_latents: The prediction that it was taken with, as ``adjust`` returned it.
            t: The time after the step, a scalar; 0 after the last.
        """
        return noisy_latents

    def finished(self, pred_latents: Tensor) -> Tensor | None:
        """Tell which rows are done; asked after each step but the last.

        They leave the batch with their predictions as results, and from then on the control is
        given the other rows alone.

        Args:
            pred_latents: The prediction that the step was taken with, ``(B, L, D)``.

        Returns:
            True for rows that are done, ``(B,)``; ``None`` for none.
        """
        return None


@dataclass(frozen=True)
class EditStart:
    """Latents from which to start in the place of pure noise (SDEdit, Meng et al. 2022).

    Attributes:
        latents: Clean standardized latents ``(B, L, D)``.
        strength: Share of the way to pure noise that is gone back, in (0, 1]; 1 forgets them.
    """

    latents: Tensor
    strength: float


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """Refuse schedulers whose noise process is not the straight path of this package.

    Raises:
        ValueError: If the scheduler is neither a flow-matching one nor set to ``use_flow_sigmas``.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name.startswith(("FlowMatch", "FlowMap")):
        return
    if not config.get("use_flow_sigmas", False):
        raise ValueError(
            f"{name} does not follow the straight path from data to noise: use a FlowMatch* "
            "scheduler, or one with use_flow_sigmas=True and prediction_type='flow_prediction'."
        )
    if config.get("prediction_type") != "flow_prediction":
        raise ValueError(
            f"{name} needs prediction_type='flow_prediction', "
            f"got '{config.get('prediction_type')}'."
        )


def set_timesteps(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    device: torch.device,
    strength: float = 1.0,
) -> int:
    """Set the scheduler's grid: uniform times from 1 down to ``1 / num_inference_steps``, shifted.

    The default grid of ``FlowMatchEulerDiscreteScheduler`` spends its last step almost at zero
    noise, because it shifts its smallest time twice; schedulers that take explicit times get them.

    Args:
        scheduler: The scheduler.
        num_inference_steps: Steps of the whole way.
        device: Where the grid is kept.
        strength: Share of the way to go, before the shift, in (0, 1]. It takes that share of the
            steps, rounded up. A scheduler without explicit times starts at the time of its own grid
            that is nearest above.

    Returns:
        Number of the first step in the scheduler's grid.
    """
    num_steps = max(1, int(np.ceil(num_inference_steps * strength - 1e-9)))
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        sigmas = strength * np.linspace(1.0, 1.0 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=sigmas.tolist(), device=device)
        return 0
    scheduler.set_timesteps(num_inference_steps, device=device)
    return (num_inference_steps - num_steps) * getattr(scheduler, "order", 1)


def doubled(rows: Tensor) -> Tensor:
    """Put rows ``(B, ...)`` behind themselves, ``(2 B, ...)``, for the two branches of guidance."""
    return torch.cat((rows, rows))


@torch.no_grad()
def guided_prediction(
    denoiser: LatentDenoiser,
    guider: BaseGuidance,
    noisy_latents: Tensor,
    t: Tensor,
    known_latents: Tensor,
    known_mask: Tensor,
    self_condition: Tensor | None,
    clean: KnownLatents | None = None,
    next_t: Tensor | None = None,
) -> Tensor:
    """Predict the clean latents under guidance: one forward, on a doubled batch if it guides.

    The guider acts on predictions of the clean latents, ``(B, L, D)``. All rows follow their source
    except those without any known text, which follow the null in both branches. A guider with a
    weaker denoiser takes that one's prediction for the same rows in the place of the null's. Known
    latents of the text, ``clean``, are known in both branches. A flow map is told where its step
    leads, ``next_t``.
    """
    no_source = ~known_mask.any(dim=1)
    inputs = (noisy_latents, t, known_latents, known_mask, no_source, self_condition)
    if guider.num_conditions == 1:
        return predict(denoiser, clean, *inputs, next_t=next_t)
    weak_denoiser = weak_denoiser_of(guider)
    if weak_denoiser is not None:
        strong = predict(denoiser, clean, *inputs, next_t=next_t)
        weak = predict(weak_denoiser, clean, *inputs)
        return guider.forward(strong, weak).pred
    if no_source.all():  # both branches are the unconditional one
        prediction = predict(denoiser, clean, *inputs, next_t=next_t)
        return guider.forward(prediction, prediction).pred
    noisy_2, t_2, known_2, mask_2 = map(doubled, inputs[:4])
    is_null = torch.cat((no_source, torch.ones_like(no_source)))
    self_2 = None if self_condition is None else doubled(self_condition)
    clean_2 = None if clean is None else clean.map(doubled)
    next_2 = None if next_t is None else doubled(next_t)
    both = predict(denoiser, clean_2, noisy_2, t_2, known_2, mask_2, is_null, self_2, next_t=next_2)
    pred_cond, pred_uncond = both.chunk(2)
    return guider.forward(pred_cond, pred_uncond).pred


@torch.no_grad()
def denoise(
    denoiser: LatentDenoiser,
    scheduler: SchedulerMixin,
    guider: BaseGuidance,
    noise: Tensor,
    known_latents: Tensor,
    known_mask: Tensor,
    num_inference_steps: int,
    generator: Generators = None,
    on_step_end: StepCallback | None = None,
    control: StepControl | None = None,
    start: EditStart | None = None,
    shapes: FixedShapes | None = None,
) -> Tensor:
    """Turn noise into latents.

    Args:
        denoiser: The network.
        scheduler: A flow scheduler of diffusers, see ``check_scheduler``.
        guider: A guider of diffusers with one condition, or two: conditional and unconditional.
        noise: Gaussian noise ``(B, L, D)``, float32.
        known_latents: Clean standardized latents ``(B, K, D)`` of the source, ``K >= 1``.
        known_mask: True at known latents that hold text, ``(B, K)``; a row without any is
            unconditional.
        num_inference_steps: Steps of the scheduler; one of second order may call the denoiser more
            often.
        generator: Source of the noise that a stochastic scheduler adds; one, or one per row.
        on_step_end: Called with the step, the noisy latents and the predicted clean latents.
        control: What else happens at each step.
        start: Latents to start from, noised part of the way; ``None`` starts from pure noise.
        shapes: Shapes that a compiled denoiser runs at.

    Returns:
        The last prediction of the clean latents, ``(B, L, D)``, standardized, float32.
    """
    check_scheduler(scheduler)
    strength = 1.0 if start is None else start.strength
    first = set_timesteps(scheduler, num_inference_steps, noise.device, strength)
    scheduler.set_begin_index(first)
    control = control or StepControl()
    shapes = shapes or FixedShapes()
    takes_average = isinstance(scheduler, FlowMapEulerDiscreteScheduler)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_options = {"generator": generator} if takes_generator else {}

    timesteps, sigmas = scheduler.timesteps[first:], scheduler.sigmas[first:]
    noisy_latents, pred_latents, active = noise, None, ActiveRows()
    if start is not None:
        t = sigmas[0].to(noise).expand(len(noise))
        noisy_latents = add_noise(start.latents, noise, t)
    for step, timestep in enumerate(timesteps):
        t = sigmas[step].to(noise).expand(len(noise))
        next_t = sigmas[step + 1].to(noise).expand(len(noise)) if takes_average else None
        guider.set_state(step, len(timesteps), timestep)
        prediction = shapes.run(
            partial(guided_prediction, denoiser, guider),
            active.take(noisy_latents),
            active.take(t),
            active.take(known_latents),
            active.take(known_mask),
            None if pred_latents is None else active.take(pred_latents),
            control.clean,
            None if next_t is None else active.take(next_t),
        )
        prediction = control.guide(prediction, active.take(noisy_latents), active.take(t))
        prediction = control.adjust(prediction, step, len(timesteps))
        pred_latents = active.put(prediction, pred_latents)
        velocity = latents_to_velocity(pred_latents, noisy_latents, t)
        noisy_latents = scheduler.step(
            velocity, timestep, noisy_latents, return_dict=False, **step_options
        )[0]
        renoised = control.renoise(active.take(noisy_latents), prediction, sigmas[step + 1])
        noisy_latents = active.put(renoised, noisy_latents)
        if on_step_end is not None:
            on_step_end(step, noisy_latents, pred_latents)
        if step + 1 < len(timesteps) and not active.drop(control.finished(prediction)):
            break
    return active.put(active.take(noisy_latents), pred_latents)
