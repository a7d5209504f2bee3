"""Files of a component of a pipeline, checked before anything is made of them."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open

WEIGHTS = "diffusion_pytorch_model"  # and .safetensors, or a part's number before it
WEIGHT_TYPES = ("F64", "F32", "F16", "BF16")
MAX_OPTIONS_BYTES = 1 << 20
MAX_REPORT_BYTES = 1 << 26
# Ranges of the whole numbers in a configuration. A model makes an object for each layer, and each
# has weights: there are no more layers than weights.
MAX_SIZE = 1 << 31
MAX_OPTION = 1_000_000  # of a scheduler, which makes a table of so many times, or a guider


def read_json(
    path: Path,
    max_bytes: int = MAX_REPORT_BYTES,
    parse_constant: Callable[[str], Any] | None = None,
) -> dict:
    """Read a JSON object.

    Args:
        path: The file.
        max_bytes: Longest file to read into memory.
        parse_constant: What to make of NaN and infinity; by default Python's numbers.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it holds no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`{path.parent}` is incomplete: `{path.name}` is missing.")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"`{path}` is too large for its kind: more than {max_bytes} bytes.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    return content


def read_options(path: Path) -> dict:
    """Read a JSON object of options: a short one, without NaN.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it holds no such object.
    """
    return read_json(path, MAX_OPTIONS_BYTES, refuse_nan)


def refuse_nan(name: str) -> float:
    """Refuse NaN, which Python's JSON knows and no option means; some are infinite by default.

    Raises:
        ValueError: If it is NaN.
    """
    if name == "NaN":
        raise ValueError("NaN is no value of JSON")
    return float(name)


def check_options(path: Path, component_type: type) -> None:
    """Compare the kinds of a component's options with those of the defaults of its class.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If an option is of another kind: the component would fail on its first use.
    """
    defaults = inspect.signature(component_type).parameters
    for name, value in read_options(path).items():
        default = defaults[name].default if name in defaults else None
        if type(default) in (bool, str) and type(value) is not type(default):
            raise ValueError(
                f"`{path}`: `{name}` must be a {type(default).__name__}, got {value!r}."
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = is_number and (-MAX_OPTION <= value <= MAX_OPTION or value == default)
        if type(default) in (int, float) and not fits:
            raise ValueError(
                f"`{path}`: `{name}` must be a number of at most {MAX_OPTION}, got {value!r}."
            )
    if issubclass(component_type, SchedulerMixin):
        try:
            component_type.from_config(read_options(path)).set_timesteps(2)
        except Exception as error:  # a scheduler meets values of any kind
            reason = str(error) or type(error).__name__
            raise ValueError(f"`{path}` describes no scheduler: {reason}.") from error


def check_weights(folder: Path, model_class: type[ModelMixin]) -> None:
    """Compare names and shapes of a component's weights with what its configuration needs.

    Raises:
        FileNotFoundError: If configuration or weights are missing.
        ValueError: If they do not fit.
    """
    config = read_options(folder / "config.json")
    check_weight_index(folder)
    stored = stored_shapes(folder)
    for name, value in config.items():
        limit = len(stored) if name.endswith("layers") else MAX_SIZE
        if isinstance(value, int | float) and not -MAX_SIZE <= value <= limit:
            raise ValueError(
                f"`{folder}` does not fit its config.json: `{name}` is {value}, more than the "
                f"weights can have ({limit})."
            )
    try:
        with torch.device("meta"):
            model = model_class.from_config(config)
    except Exception as error:  # a constructor meets values of any kind
        raise ValueError(f"`{folder / 'config.json'}` describes no model: {error}.") from error
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted(needed.keys() | stored.keys()):
        if needed.get(name) != stored.get(name):
            raise ValueError(
                f"`{folder}` does not fit its config.json: `{name}` should have the shape "
                f"{needed.get(name)}, the file has {stored.get(name)}."
            )


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a component's weights, and no weight.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is damaged, or its numbers are of no type that weights have.
    """
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        raise FileNotFoundError(f"`{folder}` is incomplete: `{WEIGHTS}.safetensors` is missing.")
    stored = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
                types = {name: values.get_dtype() for name, values in slices.items()}
                stored |= {name: tuple(values.get_shape()) for name, values in slices.items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"`{file}` is not a safetensors file, or is cut: {error}.") from error
        for name, kind in types.items():
            if kind not in WEIGHT_TYPES:
                raise ValueError(
                    f"`{file}`: `{name}` must be one of {', '.join(WEIGHT_TYPES)}, got {kind}."
                )
    return stored


def check_weight_index(folder: Path) -> None:
    """Make sure that the list of a component's weight files names files of its own folder.

    Raises:
        ValueError: If it does not.
    """
    path = folder / f"{WEIGHTS}.safetensors.index.json"
    if not path.exists():
        return
    files = read_json(path).get("weight_map")
    names = set(map(str, files.values())) if isinstance(files, dict) else {""}
    for name in names:
        if not name.startswith(WEIGHTS) or Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"`{path}` must name weight files of its folder, got `{name}`.")
