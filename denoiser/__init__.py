"""Latents to latents: noise, the denoiser, its objective and its sampler. Knows no text.

Shapes in this package: ``B`` batch, ``L`` latents of the text, ``K`` known latents, ``D`` channels.
Time ``t`` runs from 0 (data) to 1 (noise): ``noisy = (1 - t) * latents + t * noise``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from denoiser.model import LatentDenoiser

if TYPE_CHECKING:
    from denoiser.classifier_training import LitLatentClassifier
    from denoiser.decoder_adaptation import LitDecoderAdaptation
    from denoiser.distillation import ConsistencyDistillation, ProgressiveDistillation
    from denoiser.distillation_training import LitDistillation
    from denoiser.ema import EMAWithWarmup
    from denoiser.flow_map import FlowMapDistillation
    from denoiser.latent_classifier import LatentClassifier
    from denoiser.loading import PretrainedDenoiser
    from denoiser.loss_options import LossOptions
    from denoiser.training import LitDenoiser

__all__ = [
    "ConsistencyDistillation",
    "EMAWithWarmup",
    "FlowMapDistillation",
    "LatentClassifier",
    "LatentDenoiser",
    "LitDecoderAdaptation",
    "LitDenoiser",
    "LitDistillation",
    "LitLatentClassifier",
    "LossOptions",
    "PretrainedDenoiser",
    "ProgressiveDistillation",
]

# Imported on first use: whoever only generates must not wait for Lightning.
MODULES = {
    "ConsistencyDistillation": "denoiser.distillation",
    "EMAWithWarmup": "denoiser.ema",
    "FlowMapDistillation": "denoiser.flow_map",
    "LatentClassifier": "denoiser.latent_classifier",
    "LitDecoderAdaptation": "denoiser.decoder_adaptation",
    "LitDenoiser": "denoiser.training",
    "LitDistillation": "denoiser.distillation_training",
    "LitLatentClassifier": "denoiser.classifier_training",
    "LossOptions": "denoiser.loss_options",
    "PretrainedDenoiser": "denoiser.loading",
    "ProgressiveDistillation": "denoiser.distillation",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(MODULES[name]), name)
