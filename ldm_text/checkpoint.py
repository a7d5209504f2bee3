"""Check the folder of a pipeline before loading it: parts, shapes, and nothing unpickled."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from autoencoder.model import TextAutoencoder
from denoiser.model import LatentDenoiser

COMPONENT_FILES = {
    "tokenizer": "tokenizer.json",
    "autoencoder": "config.json",
    "denoiser": "config.json",
    "scheduler": "scheduler_config.json",
    "guider": "guider_config.json",
}
WEIGHTS = "diffusion_pytorch_model"


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


def check_weights(folder: Path, model_class: type[TextAutoencoder] | type[LatentDenoiser]) -> dict:
    """Compare names and shapes of a component's weights with what its configuration needs.

    Returns:
        The component's configuration.

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
                stored |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
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
    return config


def check_pipeline_folder(folder: Path) -> None:
    """Make sure that a folder holds a whole pipeline whose parts fit each other.

    Raises:
        FileNotFoundError: If the folder or a part is missing.
        ValueError: If a part is damaged or does not fit.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no pipeline folder `{folder}`.")
    read_json(folder / "model_index.json")
    for component, file in COMPONENT_FILES.items():
        read_json(folder / component / file)
    autoencoder = check_weights(folder / "autoencoder", TextAutoencoder)
    denoiser = check_weights(folder / "denoiser", LatentDenoiser)
    if autoencoder["latent_dim"] != denoiser["latent_dim"]:
        raise ValueError(
            f"`{folder}` mixes parts: the autoencoder has latent_dim={autoencoder['latent_dim']}, "
            f"the denoiser {denoiser['latent_dim']}."
        )
