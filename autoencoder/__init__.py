"""Token ids to latents and back.

Shapes in this package: ``B`` batch, ``S`` tokens, ``L`` latents (``L = S / tokens_per_latent``),
``D`` latent channels, ``V`` vocabulary.
"""

from typing import TYPE_CHECKING, Any

from autoencoder.alignment import LatentAlignment
from autoencoder.corruption import LatentCorruption
from autoencoder.frozen import FrozenEncoderAutoencoder
from autoencoder.loading import PretrainedAutoencoder, load_autoencoder
from autoencoder.model import TextAutoencoder
from autoencoder.perceiver import PerceiverAutoencoder
from autoencoder.variational import KLPenalty, VariationalAutoencoder

if TYPE_CHECKING:
    from autoencoder.muon import MuonWithAdamW
    from autoencoder.training import LitAutoencoder

__all__ = [
    "FrozenEncoderAutoencoder",
    "KLPenalty",
    "LatentAlignment",
    "LatentCorruption",
    "LitAutoencoder",
    "MuonWithAdamW",
    "PerceiverAutoencoder",
    "PretrainedAutoencoder",
    "TextAutoencoder",
    "VariationalAutoencoder",
    "load_autoencoder",
]


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only generates must not wait for Lightning."""
    if name == "LitAutoencoder":
        from autoencoder.training import LitAutoencoder

        return LitAutoencoder
    if name == "MuonWithAdamW":
        from autoencoder.muon import MuonWithAdamW

        return MuonWithAdamW
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
