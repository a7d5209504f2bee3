"""Load a trained denoiser with its autoencoder, for use in configurations."""

import json
from argparse import ArgumentError
from pathlib import Path
from pickle import UnpicklingError

import torch

from autoencoder.checkpoint_file import check_checkpoint_file
from autoencoder.loading import check_data_fit, load_autoencoder
from autoencoder.model import TextAutoencoder
from denoiser.model import LatentDenoiser
from denoiser.schedulers import noise_shift_in

# What these trainings have among their hyperparameters and LitDenoiser has not.
OTHER_TRAININGS = {
    "teacher": "a student (LitDistillation)",
    "pretrained": "an adapted decoder (LitDecoderAdaptation)",
}

NO_SEPARATOR = ""
Parts = tuple[LatentDenoiser, TextAutoencoder, float, str | None]


def load_from_folder(folder: Path) -> Parts:
    """Load the parts of a pipeline folder that a training builds on.

    Returns:
        The denoiser, the autoencoder, the noise shift, and the separator of a source's fields.

    Raises:
        ValueError: If the folder does not hold a latent pipeline.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        separator = index.get("source_separator") or NO_SEPARATOR
        denoiser = LatentDenoiser.from_pretrained(folder / "denoiser", use_safetensors=True)
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        noise_shift = noise_shift_in(scheduler)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"`{folder}` is no folder of a latent pipeline: {error}") from error
    return denoiser, load_autoencoder(str(folder / "autoencoder")), noise_shift, separator


def load_from_checkpoint(path: Path) -> Parts:
    """Load the same parts of a Lightning checkpoint of ``LitDenoiser``; it knows no separator.

    Raises:
        ValueError: If it is damaged or of another module, such as a student: to build that anew
            needs its own teacher, which a folder of it does not.
    """
    from denoiser.training import LitDenoiser  # it needs Lightning

    check_checkpoint_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        for option, kind in OTHER_TRAININGS.items():
            if option in content["hyper_parameters"]:
                raise ValueError(
                    f"`{path}` is a checkpoint of {kind}: write it to a folder with `ldm-text "
                    f"export --ckpt_path {path} --output FOLDER` and name that."
                )
        module = LitDenoiser.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (ArgumentError, TypeError, KeyError, RuntimeError, UnpicklingError) as error:
        raise ValueError(
            f"`{path}` is no checkpoint of a denoiser: {error} Name one of stage 2, or a pipeline "
            "folder."
        ) from error
    return module.denoiser, module.autoencoder, module.noise_shift, None


def check_separator(path: str, trained: str | None, given: str | None) -> None:
    """Compare the separators of a training and of the data, where both are known.

    Raises:
        ValueError: If they differ: latents of the sources would hold other fields.
    """
    if None not in (trained, given) and trained != given:
        before, now = (repr(value) if value else "null" for value in (trained, given))
        raise ValueError(
            f"The denoiser at `{path}` was trained with `source_separator` {before}, the corpus "
            f"has {now}: set `data.init_args.corpus.init_args.source_separator` to {before}."
        )


class PretrainedDenoiser:
    """A trained denoiser and its autoencoder for a configuration, checked against the data module.

    Args:
        path: A pipeline folder as ``ldm-text export`` writes it, such as that of a student, or a
            Lightning checkpoint (``.ckpt``) of ``LitDenoiser``.
        vocab_size: Size of the vocabulary that it will read; the command line links it to the data.
        tokens_per_latent: Tokens a latent that the data is padded for; linked to the data too.
        source_separator: What ends a field of the data's sources, empty where they have no fields;
            linked to the data too, and compared with that of a pipeline folder. ``None`` is not
            compared.

    Attributes:
        denoiser: The network, in float32 and without gradients.
        autoencoder: Its autoencoder, likewise.
        noise_shift: Median noise-to-signal ratio of its training noise; of a pipeline folder that
            of its scheduler's grid.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it holds no denoiser, or one of other data.
    """

    def __init__(
        self,
        path: str,
        vocab_size: int | None = None,
        tokens_per_latent: int | None = None,
        source_separator: str | None = None,
    ) -> None:
        location = Path(path)
        if not location.exists():
            raise FileNotFoundError(
                f"No denoiser at `{path}`: train one with `ldm-text fit -c configs/denoiser/...`."
            )
        load = load_from_folder if location.is_dir() else load_from_checkpoint
        denoiser, autoencoder, self.noise_shift, trained_separator = load(location)
        check_data_fit(autoencoder, path, vocab_size, tokens_per_latent)
        check_separator(path, trained_separator, source_separator)
        self.denoiser = denoiser.float().eval().requires_grad_(False)
        self.autoencoder = autoencoder.float()
        self.path = path

    def to_go_on_with(self, autoencoder: TextAutoencoder) -> LatentDenoiser:
        """Return the denoiser with gradients, to be trained further.

        Args:
            autoencoder: The autoencoder of the training.

        Raises:
            ValueError: If its latents are not those that the denoiser was trained on.
        """
        own, given = self.autoencoder.statistics, autoencoder.statistics
        pairs = ((own.latent_mean, given.latent_mean), (own.latent_std, given.latent_std))
        for before, now in pairs:
            # A pipeline's weights may be rounded to bfloat16; those of another training differ.
            if before.shape != now.shape or not torch.allclose(before, now.float(), atol=0.01):
                raise ValueError(
                    f"The denoiser at `{self.path}` was trained on latents of another autoencoder: "
                    "name its own one, such as the folder `autoencoder` beside it."
                )
        return self.denoiser.train().requires_grad_(True)
