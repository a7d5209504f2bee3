"""Load what is to be diagnosed: a latent pipeline, or an autoencoder alone."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from autoencoder.loading import load_autoencoder
from autoencoder.model import TextAutoencoder
from ldm_text.component_files import read_json
from ldm_text.export import read_data_options
from ldm_text.loading import load_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import load_tokenizer


def is_autoencoder(path: Path) -> bool:
    """Tell an autoencoder, a checkpoint or a component's folder, from the folder of a pipeline."""
    is_component = (path / "config.json").is_file() and not (path / "model_index.json").is_file()
    return path.is_file() or is_component


def load_autoencoder_parts(path: Path) -> tuple[TextAutoencoder, PreTrainedTokenizerFast, int]:
    """Load an autoencoder with the tokenizer and the longest text of its training.

    A checkpoint has them in the configuration of its run, a folder in the pipeline that it is of.

    Raises:
        ValueError: If it is no autoencoder, or these are not there.
    """
    options: dict[str, Any]
    if path.is_file():
        options = read_data_options(path)
    else:
        index = path.parent / "model_index.json"
        content = read_json(index) if index.is_file() else {}
        options = content | {"tokenizer": path.parent / "tokenizer"}
    if options.get("tokenizer") is None or options.get("max_length_tokens") is None:
        raise ValueError(
            f"`--pipeline`: the tokenizer of the autoencoder `{path}` is not known. A checkpoint "
            "must stand in the folder of its run, and a folder in that of its pipeline."
        )
    try:
        autoencoder = load_autoencoder(str(path))
    except (OSError, TypeError, KeyError, RuntimeError, UnpicklingError) as error:
        raise ValueError(
            f"`--pipeline`: `{path}` is neither a pipeline nor an autoencoder: {error}"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.nn.Module.to(autoencoder, device)
    return autoencoder, load_tokenizer(options["tokenizer"]), options["max_length_tokens"]


def load_latent_pipeline(path: Path) -> LatentTextPipeline:
    """Load a pipeline that has latents.

    Raises:
        ValueError: If it is one of a baseline.
    """
    pipeline = load_pipeline(path)
    if not isinstance(pipeline, LatentTextPipeline):
        raise ValueError(
            f"`--pipeline` must be a latent pipeline, got {type(pipeline.token_model).__name__}."
        )
    return pipeline
