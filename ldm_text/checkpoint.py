"""Check the folder of a pipeline before loading it: parts, shapes, and nothing unpickled."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from autoencoder.model import TextAutoencoder
from denoiser.model import LatentDenoiser
from ldm_text.tokenizer import load_tokenizer

COMPONENT_FILES = {
    "tokenizer": "tokenizer.json",
    "autoencoder": "config.json",
    "denoiser": "config.json",
    "scheduler": "scheduler_config.json",
    "guider": "guider_config.json",
}
LIBRARIES = ("autoencoder", "denoiser", "ldm_text", "diffusers", "transformers")
WEIGHTS = "diffusion_pytorch_model"  # and .safetensors, or a part's number before it


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it holds no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`{path.parent}` is incomplete: `{path.name}` is missing.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    return content


def check_weights(folder: Path, model_class: type[TextAutoencoder] | type[LatentDenoiser]) -> None:
    """Compare names and shapes of a component's weights with what its configuration needs.

    Raises:
        FileNotFoundError: If configuration or weights are missing.
        ValueError: If they do not fit.
    """
    config = read_json(folder / "config.json")
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        raise FileNotFoundError(f"`{folder}` is incomplete: `{WEIGHTS}.safetensors` is missing.")
    stored = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                names = weights.keys()
                stored |= {name: tuple(weights.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise ValueError(f"`{file}` is not a safetensors file, or is cut: {error}.") from error
    try:
        with torch.device("meta"):
            model = model_class.from_config(config)
    except (TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"`{folder / 'config.json'}` describes no model: {error}.") from error
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted(needed.keys() | stored.keys()):
        if needed.get(name) != stored.get(name):
            raise ValueError(
                f"`{folder}` does not fit its config.json: `{name}` should have the shape "
                f"{needed.get(name)}, the file has {stored.get(name)}."
            )


def check_model_index(folder: Path) -> None:
    """Check the file that names the parts of a pipeline: nothing foreign is imported for it.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it does not describe a pipeline of this project.
    """
    index = read_json(folder / "model_index.json")
    for component in COMPONENT_FILES:
        entry = index.get(component)
        if not isinstance(entry, list) or str(entry[0]).split(".")[0] not in LIBRARIES:
            raise ValueError(
                f"`{folder / 'model_index.json'}` describes no text pipeline: `{component}` must "
                f"name a class of {', '.join(LIBRARIES)}, got {entry}."
            )
    for name in ("max_length_tokens", "max_source_length_tokens"):
        if not isinstance(index.get(name), int):
            raise ValueError(
                f"`{folder / 'model_index.json'}`: `{name}` must be an integer, "
                f"got {index.get(name)}."
            )


def check_pipeline_folder(folder: Path) -> None:
    """Make sure that a folder holds a whole pipeline, every part of it readable.

    Raises:
        FileNotFoundError: If the folder or a part is missing.
        ValueError: If a part is damaged or does not fit.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no pipeline folder `{folder}`: write one with `ldm-text export`."
        )
    check_model_index(folder)
    for component, file in COMPONENT_FILES.items():
        read_json(folder / component / file)
    load_tokenizer(folder / "tokenizer")
    check_weights(folder / "autoencoder", TextAutoencoder)
    check_weights(folder / "denoiser", LatentDenoiser)
