"""Token ids to latents and back.

Shapes in this package: ``B`` batch, ``S`` tokens, ``L`` latents (``L = S / tokens_per_latent``),
``D`` latent channels, ``V`` vocabulary.
"""

from typing import TYPE_CHECKING, Any

from autoencoder.corruption import LatentCorruption
from autoencoder.loading import PretrainedAutoencoder, load_autoencoder
from autoencoder.model import TextAutoencoder

if TYPE_CHECKING:
    from autoencoder.training import LitAutoencoder

__all__ = [
    "LatentCorruption",
    "LitAutoencoder",
    "PretrainedAutoencoder",
    "TextAutoencoder",
    "load_autoencoder",
]


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only generates must not wait for Lightning."""
    if name == "LitAutoencoder":
        from autoencoder.training import LitAutoencoder

        return LitAutoencoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
