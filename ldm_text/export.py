"""Write a released pipeline folder from the checkpoints of training."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from denoiser.decoder_adaptation import LitDecoderAdaptation
from denoiser.distillation_training import LitDistillation
from denoiser.guiders import make_guider
from denoiser.schedulers import SchedulerName, make_scheduler
from denoiser.training import LitDenoiser
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.self_distillation_training import LitSelfDistillation
from ldm_text.baselines.training import LitTokenModel
from ldm_text.checkpoint import COMPONENT_TYPES
from ldm_text.checksums import CHECKSUMS, write_checksums
from ldm_text.data.labels import corpus_option, labels_of_training
from ldm_text.parsers import check_nesting
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.sampler_options import check_number
from ldm_text.tokenizer import load_tokenizer
from ldm_text.training_checkpoint import load_trained_module
from ldm_text.training_report import autoencoder_checkpoint, describe_training

logger = logging.getLogger(__name__)


# What each training has among its hyperparameters and no other; all others are of a denoiser.
TRAININGS: dict[str, type[LitDenoiser] | type[LitTokenModel]] = {
    "token_model": LitTokenModel,
    "token_teacher": LitSelfDistillation,
    "teacher": LitDistillation,
    "pretrained": LitDecoderAdaptation,
}


def class_of_training(hyperparameters: Mapping[str, Any]) -> type[LitDenoiser | LitTokenModel]:
    """Tell which training a checkpoint is of.

    Students of few steps are denoisers, too, and so is one whose decoder was adapted to it.
    """
    names = [name for name in TRAININGS if name in hyperparameters]
    return TRAININGS[names[0]] if names else LitDenoiser


def stage_of(module: LitDenoiser) -> str:
    """Name the training of a checkpoint for the report and the copy of its configuration."""
    if isinstance(module, LitDistillation):
        return "distillation"
    return "decoder" if isinstance(module, LitDecoderAdaptation) else "denoiser"


def config_of_run(ckpt_path: Path) -> Path:
    """Return where Lightning keeps the configuration of the run that wrote a checkpoint."""
    return ckpt_path.absolute().parent.parent / "config.yaml"


def read_data_options(ckpt_path: Path) -> dict[str, Any]:
    """Read with which options of the data module a checkpoint was trained; empty if unknown."""
    path = config_of_run(ckpt_path)
    if not path.is_file():
        return {}
    try:
        check_nesting(path.read_text(encoding="utf-8"))
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

    Parts of a pipeline that was there go, as one of another family has others. Its classifiers
    stay: they are told apart by the latents that they read.

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
    is_pipeline = index.exists()
    for path in (index, output / CHECKSUMS):
        path.unlink(missing_ok=True)
    if is_pipeline:
        for name in COMPONENT_TYPES:
            shutil.rmtree(output / name, ignore_errors=True)
        for path in output.glob("config_*.yaml"):
            path.unlink()


def export(
    ckpt_path: Path,
    output: Path,
    tokenizer: Path | None = None,
    max_length_tokens: int | None = None,
    max_source_length_tokens: int | None = None,
    scheduler: SchedulerName | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    clamp_start: float | None = None,
    noise_shift: float | None = None,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    overwrite: bool = False,
) -> None:
    """Write a pipeline folder: components as safetensors, and the training configurations.

    Args:
        ckpt_path: Lightning checkpoint of a denoiser or a baseline; with EMA, its averaged weights
            are taken.
        output: Folder to write; it must not hold a pipeline yet.
        tokenizer: Folder of the tokenizer; by default the one of the training.
        max_length_tokens: Longest text, its end token included; by default as in training.
        max_source_length_tokens: Longest source, its end token included; by default as in training.
        scheduler: Default scheduler of a latent pipeline; if it is not given, euler, or the one
            that a student of few steps was trained for.
        guidance_scale: Default weight of a latent pipeline's guidance; if it is not given, 3, 1 for
            a student of few steps, or that of the adaptation for an adapted decoder.
        num_inference_steps: Default steps of a latent pipeline; if it is not given, 16, or those
            that a student of few steps was trained for.
        clamp_start: Default share of the steps after which a latent pipeline clamps predictions; if
            it is not given, 1, never, or that of the distillation for a student.
        noise_shift: Noise shift of the default scheduler's grid, above 0; by default that of the
            training.
        dtype: Type of the stored weights.
        overwrite: Replace a pipeline in the output folder.

    Raises:
        ValueError: If an option has no effect for the checkpoint, or the checkpoint does not do.
    """
    module = load_trained_module(ckpt_path, class_of_training, "a denoiser or a baseline")
    if isinstance(module, LitTokenModel):
        latent_options = (
            ("scheduler", scheduler),
            ("guidance_scale", guidance_scale),
            ("num_inference_steps", num_inference_steps),
            ("clamp_start", clamp_start),
            ("noise_shift", noise_shift),
        )
        for name, value in latent_options:
            if value is not None:
                raise ValueError(f"`--{name}` has no effect for a baseline, got {value}.")
    if noise_shift is not None:
        check_number("noise_shift", noise_shift)
    trained = read_data_options(ckpt_path)
    weights_type = getattr(torch, dtype)
    words = load_tokenizer(data_option("tokenizer", tokenizer, trained))
    lengths = (
        data_option("max_length_tokens", max_length_tokens, trained),
        data_option("max_source_length_tokens", max_source_length_tokens, trained),
    )
    labels = labels_of_training(trained)
    label_options = None if labels is None else labels.to_config()
    # Not the models' own `to`, which warns where it has nothing to say.
    runs: dict[str, Path | None]
    if isinstance(module, LitTokenModel):
        token_model = torch.nn.Module.to(module.token_model, weights_type)
        pipeline = TokenPipeline(words, token_model, *lengths, label_options)
        parts = {"token_model": token_model}
        runs = {"token_model": ckpt_path}
    else:
        autoencoder = torch.nn.Module.to(module.autoencoder, weights_type)
        denoiser = torch.nn.Module.to(module.denoiser, weights_type)
        sampling = module.sampling
        pipeline = LatentTextPipeline(
            words,
            autoencoder,
            denoiser,
            make_scheduler(
                scheduler or sampling.scheduler,
                module.noise_shift if noise_shift is None else noise_shift,
            ),
            make_guider(
                "constant", sampling.guidance_scale if guidance_scale is None else guidance_scale
            ),
            *lengths,
            sampling.clamp_start if clamp_start is None else clamp_start,
            sampling.num_inference_steps if num_inference_steps is None else num_inference_steps,
            label_options,
            corpus_option("source_separator", trained),
        )
        pipeline.check_inputs(None, 1, pipeline.default_num_inference_steps)
        parts = {"autoencoder": autoencoder, "denoiser": denoiser}
        runs = {stage_of(module): ckpt_path, "autoencoder": autoencoder_checkpoint(ckpt_path)}
    training = describe_training(runs, parts)

    prepare_folder(output, overwrite)
    (output / "report.json").write_text(json.dumps({"training": training}, indent=2) + "\n")
    for stage, path in runs.items():
        if path is not None and config_of_run(path).is_file():
            shutil.copyfile(config_of_run(path), output / f"config_{stage}.yaml")
    pipeline.save_pretrained(output, safe_serialization=True)  # model_index.json comes last
    write_checksums(output)
    logger.info("Wrote %s", output)
