"""``ldm-text add_classifier``: put a trained classifier beside the pipeline that it can guide."""

import logging
from pathlib import Path

import torch

from denoiser.classifier_training import LitLatentClassifier
from ldm_text.attributes import check_latent_space, classifier_folder
from ldm_text.checksums import CHECKSUMS, write_checksums
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.training_checkpoint import load_trained_module

logger = logging.getLogger(__name__)


def add_classifier(ckpt_path: Path, pipeline: Path, overwrite: bool = False) -> None:
    """Add a classifier to the folder of a latent pipeline, for guidance by its attribute.

    Args:
        ckpt_path: Lightning checkpoint of a classifier; with EMA, its averaged weights are taken.
        pipeline: Folder of the pipeline, on the autoencoder that the classifier was trained on.
        overwrite: Replace a classifier of the same attribute.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is none of a classifier, or the classifier was made for another
            autoencoder or is there already.
    """
    module = load_trained_module(ckpt_path, lambda _: LitLatentClassifier, "a classifier")
    classifier = module.classifier
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
