"""Latents to latents: noise, the denoiser, its objective and its sampler. Knows no text.

Shapes in this package: ``B`` batch, ``L`` latents of the text, ``K`` known latents, ``D`` channels.
Time ``t`` runs from 0 (data) to 1 (noise): ``noisy = (1 - t) * latents + t * noise``.
"""

from typing import TYPE_CHECKING, Any

from denoiser.model import LatentDenoiser

if TYPE_CHECKING:
    from denoiser.ema import EMAWithWarmup
    from denoiser.training import LitDenoiser

__all__ = ["EMAWithWarmup", "LatentDenoiser", "LitDenoiser"]


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only generates must not wait for Lightning."""
    if name == "EMAWithWarmup":
        from denoiser.ema import EMAWithWarmup

        return EMAWithWarmup
    if name == "LitDenoiser":
        from denoiser.training import LitDenoiser

        return LitDenoiser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
