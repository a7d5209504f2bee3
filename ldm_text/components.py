"""Check that the components of a pipeline fit each other and do what they promise."""

import math
from typing import Any

from diffusers.guiders.guider_utils import BaseGuidance
from transformers import PreTrainedTokenizerFast

from autoencoder.model import TextAutoencoder
from denoiser.model import LatentDenoiser


def check_special_tokens(tokenizer: PreTrainedTokenizerFast, config: Any, component: str) -> None:
    """Make sure that a network reads the ids that a tokenizer writes.

    Raises:
        ValueError: If it does not.
    """
    for name, expected, got in (
        ("tokens", config.vocab_size, len(tokenizer)),
        ("as pad_token_id", config.pad_token_id, tokenizer.pad_token_id),
        ("as end_token_id", config.end_token_id, tokenizer.eos_token_id),
    ):
        if expected != got:
            raise ValueError(
                f"The tokenizer is not the one the {component} was trained with: "
                f"the {component} has {expected} {name}, the tokenizer {got}."
            )
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise ValueError(
            f"The tokenizer writes ids up to {largest}, the {component} reads those below "
            f"{config.vocab_size}."
        )


def check_components(
    tokenizer: PreTrainedTokenizerFast, autoencoder: TextAutoencoder, denoiser: LatentDenoiser
) -> None:
    """Make sure that the networks speak of the same tokens and latents.

    Raises:
        ValueError: If they do not.
    """
    config = autoencoder.config
    check_special_tokens(tokenizer, config, "autoencoder")
    if config.latent_dim != denoiser.config.latent_dim:
        raise ValueError(
            "The denoiser was not trained on this autoencoder: the autoencoder has "
            f"latent_dim={config.latent_dim}, the denoiser {denoiser.config.latent_dim}."
        )


def check_lengths(
    autoencoder: TextAutoencoder, max_length_tokens: int, max_source_length_tokens: int
) -> None:
    """Check the lengths of a pipeline.

    Raises:
        ValueError: If one is too small, or the text is no whole number of latents.
    """
    tokens_per_latent = autoencoder.config.tokens_per_latent
    if max_length_tokens < 1 or max_length_tokens % tokens_per_latent:
        raise ValueError(
            "`max_length_tokens` must be a positive multiple of the autoencoder's "
            f"tokens_per_latent ({tokens_per_latent}), got {max_length_tokens}."
        )
    if max_source_length_tokens < 1:
        raise ValueError(
            f"`max_source_length_tokens` must be at least 1, got {max_source_length_tokens}."
        )


def check_guider(guider: BaseGuidance, guidance_scale: float | None = None) -> None:
    """Refuse guiders that need more than a conditional and an unconditional prediction.

    Raises:
        ValueError: If a part of the guider, or ``guidance_scale``, would have no effect.
    """
    name = type(guider).__name__
    if type(guider).prepare_models is not BaseGuidance.prepare_models:
        raise ValueError(
            f"{name} changes the layers of the denoiser for a prediction of its own, which this "
            "pipeline does not do: use ClassifierFreeGuidance or AdaptiveProjectedGuidance."
        )
    if guider.config.get("adaptive_projected_guidance_momentum") is not None:
        raise ValueError(
            f"{name}: `adaptive_projected_guidance_momentum` is not supported, set it to None."
        )
    if guidance_scale is None:
        return
    if "guidance_scale" not in guider.config:
        raise ValueError(f"`guidance_scale` has no effect: {name} has none. Leave it out.")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"`guidance_scale` must be a finite number, got {guidance_scale}.")
