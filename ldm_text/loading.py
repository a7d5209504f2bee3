"""Load the pipeline in a folder, whatever its kind."""

import hashlib
from pathlib import Path

import torch

from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.checkpoint import check_folder
from ldm_text.component_files import read_options
from ldm_text.pipeline import LatentTextPipeline

TextPipeline = LatentTextPipeline | TokenPipeline


def load_pipeline(path: str | Path) -> TextPipeline:
    """Load a folder that ``ldm-text export`` wrote, onto the accelerator if there is one.

    Args:
        path: The folder, of a latent model or of a baseline.

    Raises:
        FileNotFoundError: If the folder or a part is missing.
        ValueError: If a part is damaged or does not fit the others.
    """
    path = Path(path)
    check_folder(path)
    is_baseline = (
        read_options(path / "model_index.json").get("_class_name") == TokenPipeline.__name__
    )
    loaded = (TokenPipeline if is_baseline else LatentTextPipeline).from_pretrained(path)
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu")


def latent_pipeline(pipeline: TextPipeline, name: str) -> LatentTextPipeline:
    """Refuse pipelines without latents.

    Args:
        pipeline: The pipeline.
        name: What needs latents: a verb, or an option.

    Raises:
        ValueError: If it is such a one.
    """
    if not isinstance(pipeline, LatentTextPipeline):
        raise ValueError(
            f"`{name}` works on latents, and {type(pipeline.token_model).__name__} has none: use a "
            "latent pipeline."
        )
    return pipeline


def digest_pipeline(path: Path) -> str:
    """Name the weights and configurations of a pipeline's folder; reports are left out."""
    digest = hashlib.sha256()
    for file in sorted([*path.rglob("*.json"), *path.rglob("*.safetensors")]):
        if file.name != "report.json":
            with file.open("rb") as content:
                own = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.relative_to(path)} {own}\n".encode())
    return digest.hexdigest()
