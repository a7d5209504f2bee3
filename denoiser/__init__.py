"""Latents to latents: noise, the denoiser, its objective and its sampler. Knows no text.

Shapes in this package: ``B`` batch, ``L`` latents of the text, ``K`` known latents, ``D`` channels.
Time ``t`` runs from 0 (data) to 1 (noise): ``noisy = (1 - t) * latents + t * noise``.
"""

from denoiser.ema import EMAWithWarmup
from denoiser.model import LatentDenoiser
from denoiser.training import LitDenoiser

__all__ = ["EMAWithWarmup", "LatentDenoiser", "LitDenoiser"]
