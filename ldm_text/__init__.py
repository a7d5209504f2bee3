"""Latent text diffusion: data, pipeline, command line, evaluation and baselines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_text.loading import load_pipeline
    from ldm_text.pipeline import LatentTextPipeline

__all__ = ["LatentTextPipeline", "load_pipeline"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``ldm-text --help`` must not wait for torch."""
    if name == "LatentTextPipeline":
        from ldm_text.pipeline import LatentTextPipeline

        return LatentTextPipeline
    if name == "load_pipeline":
        from ldm_text.loading import load_pipeline

        return load_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
