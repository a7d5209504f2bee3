"""Write a released pipeline folder from the checkpoints of training."""

import json
import logging
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from denoiser.schedulers import SchedulerName, make_scheduler
from denoiser.training import LitDenoiser
from ldm_text.pipeline import LatentTextPipeline, default_guider
from ldm_text.tokenizer import load_tokenizer
from ldm_text.training_report import autoencoder_checkpoint, describe_training

logger = logging.getLogger(__name__)


def load_lit_denoiser(ckpt_path: Path) -> LitDenoiser:
    """Load a Lightning checkpoint of the denoiser; it holds its autoencoder.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of ``LitDenoiser``.
    """
    if not ckpt_path.is_file():
        raise FileNotFoundError(f"`--ckpt_path`: there is no checkpoint `{ckpt_path}`.")
    try:
        module = LitDenoiser.load_from_checkpoint(
            ckpt_path, map_location="cpu", weights_only=True, strict=True
        )
    except (RuntimeError, ValueError, KeyError, TypeError, UnpicklingError) as error:
        raise ValueError(
            f"`--ckpt_path`: `{ckpt_path}` is no checkpoint of a denoiser. {error}"
        ) from error
    return module.eval()


def config_of_run(ckpt_path: Path) -> Path:
    """Return where Lightning keeps the configuration of the run that wrote a checkpoint."""
    return ckpt_path.absolute().parent.parent / "config.yaml"


def read_data_options(ckpt_path: Path) -> dict[str, Any]:
    """Read with which options of the data module a checkpoint was trained; empty if unknown."""
    path = config_of_run(ckpt_path)
    if not path.is_file():
        return {}
    try:
        return dict(OmegaConf.select(OmegaConf.load(path), "data.init_args"))
    except (TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"`{path}` is no training configuration: {error}") from error


def data_option(name: str, given: Any, trained: dict[str, Any]) -> Any:
    """Choose the given value of an option, or the one of the training.

    Raises:
        ValueError: If there is neither.
    """
    if given is not None:
        return given
    if trained.get(name) is None:
        raise ValueError(f"`--{name}` is needed: the checkpoint stands beside no config.yaml.")
    return trained[name]


def prepare_folder(output: Path, overwrite: bool) -> None:
    """Make the folder, without the file that would make it a whole pipeline.

    Raises:
        ValueError: If the folder holds a pipeline that is to be kept, or is no folder.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"`--output`: `{output}` is no folder; name a folder to write.")
    index = output / "model_index.json"
    if index.exists() and not overwrite:
        raise ValueError(
            f"`--output`: `{output}` holds a pipeline; name another folder, or pass `--overwrite`."
        )
    output.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)


def export(
    ckpt_path: Path,
    output: Path,
    tokenizer: Path | None = None,
    max_length_tokens: int | None = None,
    max_source_length_tokens: int | None = None,
    scheduler: SchedulerName = "euler",
    guidance_scale: float = 3.0,
    clamp_start: float = 1.0,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    overwrite: bool = False,
) -> None:
    """Write a pipeline folder: components as safetensors, and the training configurations.

    Args:
        ckpt_path: Lightning checkpoint of the denoiser; with EMA, its averaged weights are taken.
        output: Folder to write; it must not hold a pipeline yet.
        tokenizer: Folder of the tokenizer; by default the one of the training.
        max_length_tokens: Longest text, its end token included; by default as in training.
        max_source_length_tokens: Longest source, its end token included; by default as in training.
        scheduler: Default scheduler of the pipeline.
        guidance_scale: Default weight of classifier-free guidance.
        clamp_start: Default share of the steps after which predictions are clamped, 1 is never.
        dtype: Type of the stored weights.
        overwrite: Replace a pipeline in the output folder.
    """
    module = load_lit_denoiser(ckpt_path)
    trained = read_data_options(ckpt_path)
    weights_type = getattr(torch, dtype)
    # Not the models' own `to`, which warns where it has nothing to say.
    autoencoder = torch.nn.Module.to(module.autoencoder, weights_type)
    denoiser = torch.nn.Module.to(module.denoiser, weights_type)
    pipeline = LatentTextPipeline(
        load_tokenizer(data_option("tokenizer", tokenizer, trained)),
        autoencoder,
        denoiser,
        make_scheduler(scheduler, module.noise_shift),
        default_guider(guidance_scale),
        data_option("max_length_tokens", max_length_tokens, trained),
        data_option("max_source_length_tokens", max_source_length_tokens, trained),
        clamp_start,
    )
    training = describe_training(ckpt_path, {"autoencoder": autoencoder, "denoiser": denoiser})

    prepare_folder(output, overwrite)
    (output / "report.json").write_text(json.dumps({"training": training}, indent=2) + "\n")
    for stage, path in (
        ("denoiser", ckpt_path),
        ("autoencoder", autoencoder_checkpoint(ckpt_path)),
    ):
        if path is not None and config_of_run(path).is_file():
            shutil.copyfile(config_of_run(path), output / f"config_{stage}.yaml")
    pipeline.save_pretrained(output, safe_serialization=True)  # model_index.json comes last
    logger.info("Wrote %s", output)
