"""The diffusers guiders that fit the denoiser, by name, and guidance by a weaker denoiser."""

import logging
from typing import Any, Literal, get_args

from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor

from denoiser.model import LatentDenoiser

# Every guider that is made, also for one call, would warn that guiders are experimental.
logging.getLogger("diffusers.guiders.guider_utils").addFilter(
    lambda record: "experimental feature" not in record.getMessage()
)

GuiderName = Literal["constant", "interval", "projected", "autoguidance"]


class ProjectedGuidance(AdaptiveProjectedGuidance):
    """Add ``scale - 1`` times what the condition changes to the conditional prediction.

    Adaptive projected guidance (Sadat et al. 2024, algorithm 1). The class of diffusers adds
    ``scale`` times it to the unconditional prediction: that is the same only where nothing of the
    change is projected away or bounded, and at a scale near 1 it does not come near no guidance.
    """

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> GuiderOutput:
        """Guide a prediction; all are ``(B, L, D)``."""
        if pred_uncond is None or not self._is_apg_enabled():
            return super().forward(pred_cond, pred_uncond)
        pred = normalized_guidance(
            pred_cond,
            pred_uncond,
            self.guidance_scale - 1,
            eta=self.eta,
            norm_threshold=self.adaptive_projected_guidance_rescale,
            use_original_formulation=True,
            norm_dim=self.adaptive_projected_guidance_norm_dim,
        )
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)


class WeakerModelGuidance(ClassifierFreeGuidance):
    """Guide away from what a weaker denoiser predicts (autoguidance, Karras et al. 2024).

    ``AutoGuidance`` of diffusers weakens the network itself by dropping layers; this one is given
    another checkpoint of the same latents: smaller, or trained for less time. Both follow the
    source, so that guidance narrows no condition. It costs a call of the weaker denoiser a step.
    """

    weak_denoiser: LatentDenoiser | None = None

    def new(self, **options: Any) -> "WeakerModelGuidance":
        """Copy the guider with other options and the same weaker denoiser."""
        guider = super().new(**options)
        guider.weak_denoiser = self.weak_denoiser
        return guider


def weak_denoiser_of(guider: BaseGuidance) -> LatentDenoiser | None:
    """Return the weaker denoiser of a guider; ``None`` for guiders of other kinds.

    Raises:
        ValueError: If a guider needs one and has none, as after loading it from a folder.
    """
    if not isinstance(guider, WeakerModelGuidance):
        return None
    if guider.weak_denoiser is None:
        raise ValueError(
            "WeakerModelGuidance has no weaker denoiser, which is not saved with it: make it by "
            "`make_guider('autoguidance', ..., weak_denoiser=...)`."
        )
    return guider.weak_denoiser


def make_guider(
    name: GuiderName,
    guidance_scale: float,
    *,
    start: float = 0.0,
    stop: float = 1.0,
    weak_denoiser: LatentDenoiser | None = None,
) -> BaseGuidance:
    """Make a guider.

    Args:
        name: ``constant`` is classifier-free guidance (Ho and Salimans 2022); ``interval`` the same
            between ``start`` and ``stop`` only (Kynkaanniemi et al. 2024); ``projected`` takes the
            part of the guidance along the prediction away, which saturates it (adaptive projected
            guidance, Sadat et al. 2024, with eta 0 and no bound); ``autoguidance`` guides away from
            a weaker denoiser.
        guidance_scale: Weight; 1 is off.
        start: Share of the steps after which guidance begins, in [0, 1).
        stop: Share of the steps after which it ends, from ``start`` to 1.
        weak_denoiser: The weaker denoiser of ``autoguidance``.

    Raises:
        ValueError: If there is no such guider, or an option is out of range or has no effect.
    """
    if name not in get_args(GuiderName):
        names = ", ".join(get_args(GuiderName))
        raise ValueError(f"`guider` must be one of {names}, got '{name}'.")
    if (name == "autoguidance") != (weak_denoiser is not None):
        raise ValueError(
            "The guider 'autoguidance' needs a weaker denoiser, and no other guider takes one."
        )
    if name == "interval" and (start, stop) == (0.0, 1.0):
        raise ValueError("The guider 'interval' needs `start` or `stop`: the share of the steps.")
    if name == "projected":
        return ProjectedGuidance(
            guidance_scale=guidance_scale,
            adaptive_projected_guidance_rescale=0.0,
            eta=0.0,
            start=start,
            stop=stop,
        )
    options = {"guidance_scale": guidance_scale, "start": start, "stop": stop}
    if weak_denoiser is None:
        return ClassifierFreeGuidance(**options)
    guider = WeakerModelGuidance(**options)
    guider.weak_denoiser = weak_denoiser
    return guider
