"""Load a trained autoencoder, for use in configurations."""

import json
from pathlib import Path
from pickle import UnpicklingError

from autoencoder.checkpoint_file import check_checkpoint_file
from autoencoder.frozen import FrozenEncoderAutoencoder
from autoencoder.model import TextAutoencoder
from autoencoder.perceiver import PerceiverAutoencoder
from autoencoder.variational import VariationalAutoencoder

VARIANTS: dict[str, type[TextAutoencoder]] = {
    variant.__name__: variant
    for variant in (
        TextAutoencoder,
        VariationalAutoencoder,
        PerceiverAutoencoder,
        FrozenEncoderAutoencoder,
    )
}


def load_autoencoder(path: str) -> TextAutoencoder:
    """Load a frozen autoencoder in evaluation mode.

    Args:
        path: A folder with ``config.json`` and safetensors, as ``ldm-text export`` writes it, or a
            Lightning checkpoint (``.ckpt``) of ``LitAutoencoder``.

    Returns:
        The autoencoder, without gradients.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If the checkpoint or the folder is damaged or of no autoencoder, or the
            checkpoint was written before any validation.
    """
    location = Path(path)
    if not location.exists():
        raise FileNotFoundError(
            f"No autoencoder at `{path}`: train one with `ldm-text fit -c configs/autoencoder/...`."
        )
    if location.is_dir():
        autoencoder = variant_of(location).from_pretrained(location, use_safetensors=True)
    else:
        autoencoder = load_from_checkpoint(location)
    return autoencoder.eval().requires_grad_(False)


def load_from_checkpoint(path: Path) -> TextAutoencoder:
    """Load the autoencoder of a Lightning checkpoint.

    Raises:
        ValueError: If the checkpoint is damaged or of another module, or its latent statistics
            were never measured.
    """
    from autoencoder.training import LitAutoencoder  # it imports this package's model

    check_checkpoint_file(path)
    try:
        module = LitAutoencoder.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (TypeError, KeyError, RuntimeError, UnpicklingError) as error:
        raise ValueError(
            f"`{path}` is no checkpoint of an autoencoder that the command line trained: {error}"
        ) from error
    statistics = module.autoencoder.statistics
    if (statistics.latent_mean == 0).all() and (statistics.latent_std == 1).all():
        raise ValueError(
            f"The autoencoder in `{path}` was never validated, which measures the statistics of "
            "its latents: go on with its training until a validation, see "
            "`trainer.val_check_interval` and `trainer.limit_val_batches`."
        )
    return module.autoencoder


def variant_of(folder: Path) -> type[TextAutoencoder]:
    """Return the class of the autoencoder in a folder.

    Raises:
        ValueError: If its configuration names none.
    """
    path = folder / "config.json"
    if not path.is_file():
        return TextAutoencoder  # which says what is missing
    name = json.loads(path.read_text(encoding="utf-8")).get("_class_name")
    if name not in VARIANTS:
        raise ValueError(
            f"`{path}`: `_class_name` must be one of {', '.join(VARIANTS)}, got {name}."
        )
    return VARIANTS[name]


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
