"""A name for the latents of an autoencoder, so that what was trained on them can be told apart."""

import hashlib

import torch

from autoencoder.model import TextAutoencoder

PARTS = (
    "embedding.",
    "encoder.",
    "empty_state",
    "statistics.",
)  # what decides standardized latents


def latent_space_id(autoencoder: TextAutoencoder) -> str:
    """Name the standardized latents of an autoencoder by the weights that make them.

    The weights are rounded to bfloat16 first: a checkpoint of the training and the folder exported
    from it, in either precision, have one name. The decoder has no say.

    Args:
        autoencoder: The autoencoder, on any device and in any precision.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256(f"1 {autoencoder.config.tokens_per_latent}".encode())
    for name, value in sorted(autoencoder.state_dict().items()):
        if name.startswith(PARTS):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            rounded = value.detach().cpu().to(torch.bfloat16).contiguous()
            digest.update(rounded.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
