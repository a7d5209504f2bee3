"""``ldm-text add_classifier``: put a trained classifier beside the pipeline that it can guide."""

import logging
from pathlib import Path
from pickle import UnpicklingError

import torch

from autoencoder.checkpoint_file import check_checkpoint_file
from denoiser.classifier_training import LitLatentClassifier
from denoiser.latent_classifier import LatentClassifier
from ldm_text.attributes import check_latent_space, classifier_folder
from ldm_text.checksums import CHECKSUMS, write_checksums
from ldm_text.pipeline import LatentTextPipeline

logger = logging.getLogger(__name__)


def load_trained_classifier(ckpt_path: Path) -> LatentClassifier:
    """Take the classifier out of a Lightning checkpoint; with EMA, its averaged weights.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such checkpoint.
    """
    if not ckpt_path.is_file():
        raise FileNotFoundError(f"`--ckpt_path`: there is no checkpoint `{ckpt_path}`.")
    try:
        check_checkpoint_file(ckpt_path)
        module = LitLatentClassifier.load_from_checkpoint(
            ckpt_path, map_location="cpu", weights_only=True, strict=True
        )
    except (RuntimeError, ValueError, KeyError, TypeError, UnpicklingError) as error:
        raise ValueError(
            f"`--ckpt_path`: `{ckpt_path}` is no checkpoint of a classifier. {error}"
        ) from error
    return module.classifier.eval()


def add_classifier(ckpt_path: Path, pipeline: Path, overwrite: bool = False) -> None:
    """Add a classifier to the folder of a latent pipeline, for guidance by its attribute.

    Args:
        ckpt_path: Lightning checkpoint of a classifier; with EMA, its averaged weights are taken.
        pipeline: Folder of the pipeline, on the autoencoder that the classifier was trained on.
        overwrite: Replace a classifier of the same attribute.

    Raises:
        ValueError: If the classifier was made for another autoencoder, or is there already.
    """
    classifier = load_trained_classifier(ckpt_path)
    loaded = LatentTextPipeline.from_pretrained(pipeline)
    check_latent_space(classifier, loaded.autoencoder, ckpt_path)
    attribute = classifier.config.attribute
    if attribute in loaded.classifiers and not overwrite:
        raise ValueError(
            f"`--pipeline`: `{pipeline}` has a classifier of {attribute}; pass `--overwrite` to "
            "replace it."
        )
    folder = classifier_folder(pipeline, attribute)
    torch.nn.Module.to(classifier, torch.float32)
    classifier.save_pretrained(folder, safe_serialization=True)
    if (pipeline / CHECKSUMS).exists():
        write_checksums(pipeline)
    logger.info("Wrote %s: %s", folder, ", ".join(classifier.config.labels))
