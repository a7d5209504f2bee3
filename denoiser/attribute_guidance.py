"""Guidance by classifiers of noisy latents (Dhariwal and Nichol 2021, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiser.latent_classifier import LatentClassifier
from denoiser.noise import linear_estimate


@dataclass(frozen=True)
class AttributeTarget:
    """A class that the texts are to have.

    Attributes:
        classifier: A classifier of the latents.
        label: Number of the class.
        scale: Weight of the guidance; 0 is off, 1 is Bayes' rule.
    """

    classifier: LatentClassifier
    label: int
    scale: float = 1.0


def guide_to_attributes(
    pred_latents: Tensor, noisy_latents: Tensor, t: Tensor, targets: Sequence[AttributeTarget]
) -> Tensor:
    """Move predicted clean latents towards classes.

    Dhariwal and Nichol (2021, section 4.2) add the gradient of ``log p(class | noisy latents)`` to
    the score. For a prediction of the clean latents that is, by Tweedie's formula with the
    coefficients ``1 - t`` and ``t`` of the straight path,

        ``E[latents | noisy, class] = E[latents | noisy] + t^2 / (1 - t) * gradient``.

    At pure noise it reads infinity times zero. The gradient by the linear estimate, which
    is ``(1 - t) / ((1 - t)^2 + t^2)`` times the noisy latents, leaves
    ``t^2 / ((1 - t)^2 + t^2)`` as the factor, finite at all times. Gradients of several classifiers
    add up, as if their classes were independent given the text. They are computed in float32.

    Args:
        pred_latents: The prediction, ``(B, L, D)``.
        noisy_latents: What it was made from, same shape.
        t: Times ``(B,)``.
        targets: The classes. Those of scale 0 are left out: without others the prediction is
            returned as it is.

    Returns:
        The moved prediction ``(B, L, D)``.
    """
    targets = [target for target in targets if target.scale != 0]
    if not targets:
        return pred_latents
    # Sampling runs without gradients, perhaps even in inference mode.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(noisy_latents.device.type, enabled=False),
    ):
        times = t.float().clone()
        estimate = linear_estimate(noisy_latents.float().clone(), times).requires_grad_()
        total = torch.zeros((), device=estimate.device)
        for target in targets:
            logits = target.classifier.classify_estimate(estimate, times)
            total = total + target.scale * logits.log_softmax(dim=-1)[:, target.label].sum()
        (gradient,) = torch.autograd.grad(total, estimate)
        factor = times**2 / ((1 - times) ** 2 + times**2)
    return pred_latents + factor[:, None, None] * gradient
