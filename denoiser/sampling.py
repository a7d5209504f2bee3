"""The denoising loop over a diffusers flow scheduler and a diffusers guider."""

import inspect
from collections.abc import Callable

import numpy as np
import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from denoiser.model import LatentDenoiser
from denoiser.noise import latents_to_velocity

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[int, Tensor, Tensor], None]


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """Refuse schedulers whose noise process is not the straight path of this package.

    Raises:
        ValueError: If the scheduler is neither a flow-matching one nor set to ``use_flow_sigmas``.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name.startswith("FlowMatch"):
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
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device
) -> None:
    """Set the scheduler's grid: uniform times from 1 down to ``1 / num_inference_steps``, shifted.

    The default grid of ``FlowMatchEulerDiscreteScheduler`` spends its last step almost at zero
    noise, because it shifts its smallest time twice; schedulers that take explicit times get them.
    """
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        scheduler.set_timesteps(sigmas=sigmas.tolist(), device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)


@torch.no_grad()
def guided_prediction(
    denoiser: LatentDenoiser,
    guider: BaseGuidance,
    noisy_latents: Tensor,
    t: Tensor,
    known_latents: Tensor,
    known_mask: Tensor,
    self_condition: Tensor | None,
) -> Tensor:
    """Predict the clean latents under guidance: one forward, on a doubled batch if guided.

    The guider acts on predictions of the clean latents, ``(B, L, D)``. All rows follow their source
    except those without any known text, which follow the null in both branches.
    """
    no_source = ~known_mask.any(dim=1)
    if guider.num_conditions == 1:
        return denoiser(noisy_latents, t, known_latents, known_mask, no_source, self_condition)
    rows = (noisy_latents, t, known_latents, known_mask, self_condition)
    noisy_2, t_2, known_2, mask_2, self_2 = (
        None if part is None else torch.cat((part, part)) for part in rows
    )
    is_null = torch.cat((no_source, torch.ones_like(no_source)))
    both = denoiser(noisy_2, t_2, known_2, mask_2, is_null, self_2)
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
    clamp: Callable[[Tensor], Tensor] | None = None,
    clamp_start: float = 1.0,
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
        clamp: Maps predicted clean latents to the nearest latents of a text, the clamping trick of
            Diffusion-LM (Li et al. 2022, section 4.2).
        clamp_start: Share of the steps after which predictions are clamped, in [0, 1].

    Returns:
        The last prediction of the clean latents, ``(B, L, D)``, standardized, float32.
    """
    check_scheduler(scheduler)
    set_timesteps(scheduler, num_inference_steps, noise.device)
    scheduler.set_begin_index(0)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_options = {"generator": generator} if takes_generator else {}

    noisy_latents, pred_latents = noise, None
    for step, timestep in enumerate(scheduler.timesteps):
        t = scheduler.sigmas[step].to(noise).expand(len(noise))
        guider.set_state(step, len(scheduler.timesteps), timestep)
        pred_latents = guided_prediction(
            denoiser, guider, noisy_latents, t, known_latents, known_mask, pred_latents
        )
        if clamp is not None and step >= clamp_start * len(scheduler.timesteps):
            pred_latents = clamp(pred_latents)
        velocity = latents_to_velocity(pred_latents, noisy_latents, t)
        noisy_latents = scheduler.step(
            velocity, timestep, noisy_latents, return_dict=False, **step_options
        )[0]
        if on_step_end is not None:
            on_step_end(step, noisy_latents, pred_latents)
    return noisy_latents
