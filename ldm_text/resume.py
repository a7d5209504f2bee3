"""Find the checkpoint to go on from: the newest one that is whole."""

import logging
from pathlib import Path
from pickle import UnpicklingError

import torch
from lightning import Trainer

from autoencoder.checkpoint_file import check_checkpoint_file

NEWEST = "last"  # as Lightning calls it
# The file that Lightning puts into the folder of a checkpoint whose parts several processes wrote.
SHARDED = "meta.pt"

logger = logging.getLogger(__name__)


def checkpoint_to_read(path: str) -> str:
    """Return the checkpoint file that an option names: itself, or the newest whole one in a folder.

    Args:
        path: What ``--ckpt_path`` says. A word of Lightning's and an address are returned as
            they are, and so is a file that is not there, which Lightning reports.

    Raises:
        ValueError: If the file is damaged, or the folder holds no whole checkpoint.
    """
    location = Path(path)
    if location.is_dir() and not (location / SHARDED).exists():
        return str(newest_whole_checkpoint(location))
    if location.is_file():
        try:
            check_checkpoint_file(location)
        except ValueError as error:
            raise ValueError(
                f"`--ckpt_path`: {error} Name its folder, `{location.parent}`, to go on from the "
                "newest checkpoint there that is whole."
            ) from error
    return path


def newest_whole_checkpoint(folder: Path) -> Path:
    """Return the checkpoint of the latest step that is whole; warn of each damaged one before it.

    Raises:
        ValueError: If there is none.
    """
    steps = {path: stored_step(path) for path in folder.glob("*.ckpt") if path.is_file()}
    # A file whose step cannot be read may have been the newest: it is looked at, and named, first.
    for path in sorted(steps, key=lambda path: (steps[path], path.stat().st_mtime), reverse=True):
        try:
            check_checkpoint_file(path)
        except ValueError as error:
            logger.warning("%s The training goes on from the checkpoint before it.", error)
            continue
        if steps[path] < float("inf"):
            logger.info("Going on from %s, step %d.", path, steps[path])
            return path
        logger.warning("`%s` holds no training state and is left aside.", path)
    raise ValueError(f"`--ckpt_path`: there is no whole checkpoint in `{folder}`.")


def stored_step(path: Path) -> float:
    """Read the number of steps from a checkpoint, without its weights; infinite if unreadable."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except (UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError):
        return float("inf")


def checkpoint_folder(trainer: Trainer) -> Path:
    """Return where a trainer that has not started yet will keep its checkpoints."""
    callback = trainer.checkpoint_callback
    if (chosen := getattr(callback, "dirpath", None)) is not None:
        return Path(chosen)
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
