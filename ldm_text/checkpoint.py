"""Check the folder of a pipeline before loading it: parts, shapes, and nothing unpickled."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedTokenizerFast

from autoencoder.model import TextAutoencoder
from denoiser.model import LatentDenoiser
from ldm_text.baselines.token_model import TokenModel
from ldm_text.checksums import check_checksums
from ldm_text.component_files import (
    MAX_SIZE,
    check_options,
    check_weights,
    read_options,
)
from ldm_text.tokenizer import load_tokenizer

LATENT_COMPONENT_FILES = {
    "tokenizer": "tokenizer.json",
    "autoencoder": "config.json",
    "denoiser": "config.json",
    "scheduler": "scheduler_config.json",
    "guider": "guider_config.json",
}
TOKEN_COMPONENT_FILES = {"tokenizer": "tokenizer.json", "token_model": "config.json"}
COMPONENT_TYPES: dict[str, type] = {
    "tokenizer": PreTrainedTokenizerFast,
    "autoencoder": TextAutoencoder,
    "denoiser": LatentDenoiser,
    "scheduler": SchedulerMixin,
    "guider": BaseGuidance,
    "token_model": TokenModel,
}
LIBRARIES = ("autoencoder", "denoiser", "ldm_text", "diffusers", "transformers")
MAX_LENGTH_TOKENS = 1 << 16


def component_class(path: Path, component: str, entry: Any) -> type:
    """Find the class that an index names for a component; nothing foreign is imported for it.

    Args:
        path: The index, for messages.
        component: Name of the component.
        entry: What the index says: a module and a class.

    Raises:
        ValueError: If there is no such class, or it is of another kind.
    """
    words = entry if isinstance(entry, list) and len(entry) == 2 else ["", ""]
    module_name, class_name = (word if isinstance(word, str) else "" for word in words)
    if module_name.split(".")[0] not in LIBRARIES:
        raise ValueError(
            f"`{path}` describes no text pipeline: `{component}` must name a class of "
            f"{', '.join(LIBRARIES)}, got {entry}."
        )
    found = None
    if module_name in LIBRARIES or module_name.split(".")[0] in LIBRARIES[:3]:
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
        except (ImportError, ValueError):  # of a name that no module can have
            found = None
    if found is None:
        raise ValueError(f"`{path}`: `{module_name}` has no class `{class_name}`.")
    if not isinstance(found, type) or not issubclass(found, COMPONENT_TYPES[component]):
        raise ValueError(
            f"`{path}`: `{component}` must be a {COMPONENT_TYPES[component].__name__}, "
            f"got {module_name}.{class_name}."
        )
    return found


def check_model_index(
    folder: Path, component_files: dict[str, str], pipeline_name: str
) -> dict[str, Any]:
    """Check the file that names the parts of a pipeline: nothing foreign is imported for it.

    Args:
        folder: Folder of the pipeline.
        component_files: For each part, the file that every part of its kind has.
        pipeline_name: Name of the pipeline's class.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it does not describe a pipeline of this project.
    """
    path = folder / "model_index.json"
    index = read_options(path)
    check_checksums(folder)
    if (code := next(folder.rglob("*.py"), None)) is not None:
        raise ValueError(f"`{code}`: a pipeline folder holds no code; remove the file to load it.")
    if index.get("_class_name") != pipeline_name:
        raise ValueError(
            f"`{path}` describes no text pipeline: `_class_name` must be {pipeline_name}, "
            f"got {index.get('_class_name')}."
        )
    classes = {name: component_class(path, name, index.get(name)) for name in component_files}
    for name in ("max_length_tokens", "max_source_length_tokens"):
        value = index.get(name)
        if type(value) is not int or value > MAX_LENGTH_TOKENS:
            raise ValueError(
                f"`{path}`: `{name}` must be an integer of at most {MAX_LENGTH_TOKENS}, "
                f"got {value}."
            )
    for component, file in component_files.items():
        if not (folder / component / file).is_file():
            raise FileNotFoundError(f"`{folder / component}` is incomplete: `{file}` is missing.")
        if file not in ("tokenizer.json", "config.json"):  # those are checked with what they hold
            check_options(folder / component / file, classes[component])
    load_tokenizer(folder / "tokenizer")
    return index


def check_folder(folder: Path) -> None:
    """Make sure that a folder is there.

    Raises:
        FileNotFoundError: If it is not.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no pipeline folder `{folder}`: write one with `ldm-text export`."
        )


def check_latent_pipeline_folder(folder: Path) -> None:
    """Make sure that a folder holds a whole latent pipeline, every part of it readable.

    Raises:
        FileNotFoundError: If the folder or a part is missing.
        ValueError: If a part is damaged or does not fit.
    """
    check_folder(folder)
    index = check_model_index(folder, LATENT_COMPONENT_FILES, "LatentTextPipeline")
    clamp_start = index.get("clamp_start", 1.0)
    if type(clamp_start) not in (int, float) or not 0 <= clamp_start <= 1:
        raise ValueError(
            f"`{folder / 'model_index.json'}`: `clamp_start` must be a number between 0 and 1, "
            f"got {clamp_start}."
        )
    separator = index.get("source_separator")
    if separator is not None and (type(separator) is not str or not separator):
        raise ValueError(
            f"`{folder / 'model_index.json'}`: `source_separator` must be text or null, "
            f"got {separator!r}."
        )
    scheduler = folder / "scheduler" / LATENT_COMPONENT_FILES["scheduler"]
    for name in ("shift", "flow_shift"):
        value = read_options(scheduler).get(name, 1.0)
        if type(value) not in (int, float) or not 0 < value < MAX_SIZE:
            raise ValueError(f"`{scheduler}`: `{name}` must be a positive number, got {value}.")
    autoencoder = component_class(folder / "model_index.json", "autoencoder", index["autoencoder"])
    check_weights(folder / "autoencoder", autoencoder)
    check_weights(folder / "denoiser", LatentDenoiser)


def check_token_pipeline_folder(folder: Path) -> type[TokenModel]:
    """Make sure that a folder holds a whole pipeline of a baseline, every part of it readable.

    Returns:
        The class of its model.

    Raises:
        FileNotFoundError: If the folder or a part is missing.
        ValueError: If a part is damaged or does not fit.
    """
    check_folder(folder)
    index = check_model_index(folder, TOKEN_COMPONENT_FILES, "TokenPipeline")
    model_class = component_class(folder / "model_index.json", "token_model", index["token_model"])
    check_weights(folder / "token_model", model_class)
    return model_class


def load_quietly(load: Callable[..., Any], path: str | Path, options: dict[str, Any]) -> Any:
    """Load a checked pipeline folder: safetensors only, from the disk, without progress bars.

    Args:
        load: The stock ``from_pretrained`` of the pipeline's class.
        path: Folder of the pipeline.
        options: Further options of ``from_pretrained``.

    Raises:
        ValueError: If a part does not fit the others.
    """
    options = {"use_safetensors": True, "local_files_only": True} | options
    shows_bars = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()  # small parts take no time
    try:
        return load(str(path), **options)
    except Exception as error:  # the libraries meet values of any kind in the configurations
        reason = str(error) or type(error).__name__
        raise ValueError(f"`{path}` cannot be loaded: {reason}") from error
    finally:
        if shows_bars:
            diffusers_logging.enable_progress_bar()
