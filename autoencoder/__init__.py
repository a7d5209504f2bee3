"""Token ids to latents and back.

Shapes in this package: ``B`` batch, ``S`` tokens, ``L`` latents (``L = S / tokens_per_latent``),
``D`` latent channels, ``V`` vocabulary.
"""

from autoencoder.corruption import LatentCorruption
from autoencoder.loading import load_autoencoder
from autoencoder.model import TextAutoencoder
from autoencoder.training import LitAutoencoder

__all__ = ["LatentCorruption", "LitAutoencoder", "TextAutoencoder", "load_autoencoder"]
