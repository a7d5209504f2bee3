"""Load a trained autoencoder, for use in configurations."""

from pathlib import Path

from autoencoder.checkpoint_file import check_checkpoint_file
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
        ValueError: If the checkpoint is damaged.
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

        check_checkpoint_file(location)
        autoencoder = LitAutoencoder.load_from_checkpoint(
            location, map_location="cpu", weights_only=True
        ).autoencoder
    return autoencoder.eval().requires_grad_(False)


def check_data_fit(
    autoencoder: TextAutoencoder,
    path: str,
    vocab_size: int | None = None,
    tokens_per_latent: int | None = None,
) -> None:
    """Compare an autoencoder with the data that it is to read.

    Args:
        autoencoder: The autoencoder.
        path: Where it comes from, for the message.
        vocab_size: Size of the data's vocabulary; ``None`` is not compared.
        tokens_per_latent: Tokens a latent that the data is padded for; ``None`` is not compared.

    Raises:
        ValueError: If one differs.
    """
    wanted = {"vocab_size": vocab_size, "tokens_per_latent": tokens_per_latent}
    for name, value in wanted.items():
        trained = autoencoder.config[name]
        if value is not None and value != trained:
            raise ValueError(
                f"The autoencoder at `{path}` was trained with {name}={trained}, the data "
                f"module has {value}: use the tokenizer and tokens_per_latent of its training."
            )


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
        check_data_fit(self.autoencoder, path, vocab_size, tokens_per_latent)
