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


class PretrainedAutoencoder:
    """A trained autoencoder for a configuration, checked against the data module.

    Args:
        path: As for ``load_autoencoder``.
        vocab_size: Size of the vocabulary that it will read; the command line links it to the data.
        tokens_per_latent: Tokens a latent that the data is padded for; linked to the data too.
    """

    def __init__(
        self, path: str, vocab_size: int | None = None, tokens_per_latent: int | None = None
    ) -> None:
        self.autoencoder = load_autoencoder(path)
        wanted = {"vocab_size": vocab_size, "tokens_per_latent": tokens_per_latent}
        for name, value in wanted.items():
            trained = self.autoencoder.config[name]
            if value is not None and value != trained:
                raise ValueError(
                    f"The autoencoder at `{path}` was trained with {name}={trained}, the data "
                    f"module has {value}: use the tokenizer and tokens_per_latent of its training."
                )
