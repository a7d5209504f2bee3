"""Load the module of a Lightning checkpoint, whatever has trained it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule

from autoencoder.checkpoint_file import check_checkpoint_file

Module = TypeVar("Module", bound=LightningModule)


def load_trained_module(
    ckpt_path: Path, class_of: Callable[[Mapping[str, Any]], type[Module]], kind: str
) -> Module:
    """Load a checkpoint on the CPU, in evaluation mode; with EMA, its averaged weights.

    Args:
        ckpt_path: The checkpoint.
        class_of: Tells the class of the training by its hyperparameters.
        kind: What it is a checkpoint of, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or no such checkpoint.
    """
    if not ckpt_path.is_file():
        raise FileNotFoundError(f"`--ckpt_path`: there is no checkpoint `{ckpt_path}`.")
    try:
        check_checkpoint_file(ckpt_path)
        content = torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True)
        module = class_of(content["hyper_parameters"]).load_from_checkpoint(
            ckpt_path, map_location="cpu", weights_only=True, strict=True
        )
    except (RuntimeError, ValueError, KeyError, TypeError, UnpicklingError) as error:
        raise ValueError(
            f"`--ckpt_path`: `{ckpt_path}` is no checkpoint of {kind}. {error}"
        ) from error
    return module.eval()
