"""Load a trained autoencoder, for use in configurations."""

from pathlib import Path

from autoencoder.model import TextAutoencoder


def load_autoencoder(path: str) -> TextAutoencoder:
    """Load a frozen autoencoder in evaluation mode.

    Args:
        path: A folder with ``config.json`` and safetensors, as ``ldm-text export`` writes it, or a
            Lightning checkpoint (``.ckpt``) of ``LitAutoencoder``.

    Returns:
        The autoencoder, without gradients.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
    """
    location = Path(path)
    if not location.exists():
        raise FileNotFoundError(
            f"No autoencoder at `{path}`: train one with `ldm-text fit -c configs/autoencoder/...`."
        )
    if location.is_dir():
        autoencoder = TextAutoencoder.from_pretrained(location, use_safetensors=True)
    else:
        from autoencoder.training import LitAutoencoder  # it imports this package's model

        autoencoder = LitAutoencoder.load_from_checkpoint(
            location, map_location="cpu", weights_only=True
        ).autoencoder
    return autoencoder.eval().requires_grad_(False)
