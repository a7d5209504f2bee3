"""Write a released pipeline folder from the checkpoints of training."""

import json
import logging
import shutil
from pathlib import Path
from typing import Literal

import torch

from denoiser.schedulers import SchedulerName, make_scheduler
from denoiser.training import LitDenoiser
from ldm_text.pipeline import LatentTextPipeline, default_guider
from ldm_text.tokenizer import load_tokenizer
from ldm_text.training_report import describe_training

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
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"`{ckpt_path}` is no checkpoint of a denoiser: {error}") from error
    return module.eval()


def export(
    ckpt_path: Path,
    output: Path,
    tokenizer: Path,
    max_length_tokens: int = 64,
    max_source_length_tokens: int = 64,
    scheduler: SchedulerName = "euler",
    guidance_scale: float = 3.0,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> None:
    """Write a pipeline folder: components as safetensors, and the training configuration.

    Args:
        ckpt_path: Lightning checkpoint of the denoiser; with EMA, its averaged weights are taken.
        output: Folder to write; it must not hold a pipeline yet.
        tokenizer: Folder of the tokenizer that both stages were trained with.
        max_length_tokens: Longest text, its end token included, as in training.
        max_source_length_tokens: Longest source, its end token included, as in training.
        scheduler: Default scheduler of the pipeline.
        guidance_scale: Default weight of classifier-free guidance.
        dtype: Type of the stored weights.
    """
    module = load_lit_denoiser(ckpt_path)
    weights_type = getattr(torch, dtype)
    pipeline = LatentTextPipeline(
        load_tokenizer(tokenizer),
        module.autoencoder.to(weights_type),
        module.denoiser.to(weights_type),
        make_scheduler(scheduler, module.noise_shift),
        default_guider(guidance_scale),
        max_length_tokens,
        max_source_length_tokens,
    )
    pipeline.save_pretrained(output, safe_serialization=True)
    training = describe_training(
        ckpt_path, {"autoencoder": module.autoencoder, "denoiser": module.denoiser}
    )
    (output / "report.json").write_text(json.dumps({"training": training}, indent=2) + "\n")
    training_config = ckpt_path.parents[1] / "config.yaml"
    if training_config.is_file():
        shutil.copyfile(training_config, output / "config.yaml")
    logger.info("Wrote %s", output)
