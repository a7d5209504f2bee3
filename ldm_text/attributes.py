"""Attributes that a text is to have, by the classifiers that stand beside a pipeline."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoencoder.latent_space import latent_space_id
from autoencoder.model import TextAutoencoder
from denoiser.attribute_guidance import AttributeTarget
from denoiser.latent_classifier import LatentClassifier
from ldm_text.component_files import check_weights

CLASSIFIERS = "classifiers"  # the folder in that of a pipeline; one folder in it for each attribute

# For each attribute the label, or the label and the weight of its guidance.
Attributes = Mapping[str, str | Sequence[Any]]


def load_classifiers(folder: Path, autoencoder: TextAutoencoder) -> dict[str, LatentClassifier]:
    """Load the classifiers in a pipeline's folder, by their attributes.

    Raises:
        FileNotFoundError: If a part of one is missing.
        ValueError: If one is damaged, or was made for another autoencoder.
    """
    folders = sorted(path for path in (folder / CLASSIFIERS).glob("*") if path.is_dir())
    loaded = [load_classifier(path) for path in folders]
    for path, classifier in zip(folders, loaded, strict=True):
        check_latent_space(classifier, autoencoder, path)
    return {classifier.config.attribute: classifier for classifier in loaded}


def classifier_folder(pipeline: Path, attribute: str) -> Path:
    """Return where the classifier of an attribute lies in the folder of a pipeline."""
    return pipeline / CLASSIFIERS / re.sub(r"\W+", "_", attribute)


def load_classifier(folder: Path) -> LatentClassifier:
    """Load one classifier; safetensors only.

    Raises:
        FileNotFoundError: If a part is missing.
        ValueError: If it is damaged.
    """
    check_weights(folder, LatentClassifier)
    classifier = LatentClassifier.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    return classifier.float().eval().requires_grad_(False)


def check_latent_space(
    classifier: LatentClassifier, autoencoder: TextAutoencoder, place: Path | str
) -> None:
    """Refuse a classifier of other latents.

    Raises:
        ValueError: If it was made for another autoencoder.
    """
    if classifier.config.latent_space != latent_space_id(autoencoder):
        raise ValueError(
            f"The classifier `{place}` was made for another autoencoder, so it speaks of other "
            "latents: train one on the autoencoder of this pipeline."
        )


def attribute_targets(
    classifiers: Mapping[str, LatentClassifier], attributes: Attributes | None
) -> list[AttributeTarget]:
    """Find the classes that attributes name.

    Args:
        classifiers: The classifiers of a pipeline, by their attributes.
        attributes: The label of each attribute, such as ``{"toxicity": "low"}``, or with the weight
            of its guidance, ``{"toxicity": ("low", 4.0)}``, which is 1 without. ``None`` is none.

    Raises:
        ValueError: If an attribute or a label is unknown, or a weight is no number.
    """
    if attributes is None:
        return []
    if not isinstance(attributes, Mapping):
        raise ValueError(
            "`attributes` must hold a label for each attribute, as in {'toxicity': 'low'}, "
            f"got {attributes!r}."
        )
    return [target(classifiers, name, wanted) for name, wanted in attributes.items()]


def target(
    classifiers: Mapping[str, LatentClassifier], name: str, wanted: str | Sequence[Any]
) -> AttributeTarget:
    """Find the class that one attribute names; see ``attribute_targets``.

    Raises:
        ValueError: If there is none, or the weight is no number.
    """
    if name not in classifiers:
        there = f"there are {', '.join(classifiers)}" if classifiers else "it has none"
        raise ValueError(
            f"`attributes`: this pipeline has no classifier of '{name}', {there}. Train one with "
            "`ldm-text fit -c configs/classifiers/...` and add it by `ldm-text add_classifier`."
        )
    pair = (wanted, 1.0) if isinstance(wanted, str) else wanted
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(
            f"`attributes`: {name} takes a label, or a label and a weight, got {wanted!r}."
        )
    label, scale = pair
    classifier = classifiers[name]
    labels = list(classifier.config.labels)
    if label not in labels:
        raise ValueError(
            f"`attributes`: there is no {name} {label!r}; those there are {', '.join(labels)}."
        )
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(
            f"`attributes`: the weight of {name} must be a finite number, as in ('{label}', 2.0), "
            f"got {scale!r}."
        )
    return AttributeTarget(classifier, labels.index(label), float(scale))
