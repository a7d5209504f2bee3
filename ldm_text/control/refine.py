"""Find the weak places of a text and write them again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from denoiser.sampling import EditStart
from ldm_text.control.edit import (
    check_call,
    check_strength,
    denoise_again,
)
from ldm_text.control.edit_request import padded, text_ids
from ldm_text.control.scoring import token_log_probs
from ldm_text.generated_rows import TextSettings, row_generator
from ldm_text.known_tokens import KnownTokens
from ldm_text.loading import TextPipeline, latent_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import autocast
from ldm_text.token_control import TokenChange, least_certain, token_changes


@dataclass(frozen=True)
class RefinedText:
    """A text with its weak places written again.

    Attributes:
        text: The text.
        changes: Which tokens changed, ``step`` being the number of the round.
        scores: Mean log-probability of the tokens by the model, before the first round and after
            each, in nats; it never falls.
    """

    text: str
    changes: tuple[TokenChange, ...]
    scores: tuple[float, ...]


def refine(
    pipeline: TextPipeline,
    text: str,
    *,
    num_rounds: int = 3,
    share: float = 0.25,
    strength: float = 0.6,
    source: str | None = None,
    settings: TextSettings | None = None,
    row: int = 0,
) -> RefinedText:
    """Noise the least probable latents of a text and denoise them, all others held.

    A round whose text the model finds no more probable than before is taken back. The text keeps
    its number of tokens.

    Args:
        pipeline: A latent pipeline.
        text: The text.
        num_rounds: How often.
        share: Share of the latents that is written again in a round, in (0, 1].
        strength: Share of the way back to noise, in (0, 1].
        source: Condition of the text.
        settings: Steps, guidance, seed and the like.
        row: Number of the row, of which the noise is made.

    Raises:
        ValueError: If an argument is out of range, or the pipeline has no latents.
    """
    latent = latent_pipeline(pipeline, "refine")
    settings = settings or TextSettings()
    check_refinement(num_rounds, share, strength)
    full = padded(latent, [text_ids(latent, text)])
    check_call(latent, [source], settings)

    log_probs, score = measure(latent, source, full, settings)
    scores, changes = [score], []
    for number in range(num_rounds):
        known = held_tokens(latent, full, log_probs, share)
        with torch.no_grad(), autocast(latent.device, settings.precision):
            start = EditStart(latent.encode_ids(full), strength)
        generator = row_generator(settings.seed, row, number, latent.device)
        sequences = denoise_again(latent, [source], start, [generator], settings, known)
        other = known.put(sequences)
        other_log_probs, score = measure(latent, source, other, settings)
        if score > scores[-1]:
            changes += token_changes(number, full[0].tolist(), other[0].tolist())
            full, log_probs = other, other_log_probs
        scores.append(max(score, scores[-1]))
    if changes:
        text = latent.texts_of(full)[0]
    return RefinedText(text, tuple(changes), tuple(scores))


def check_refinement(num_rounds: int, share: float, strength: float) -> None:
    """Refuse what ``refine`` cannot do.

    Raises:
        ValueError: If it is such a thing.
    """
    check_strength(strength)
    if num_rounds < 1:
        raise ValueError(f"`num_rounds` must be at least 1, got {num_rounds}.")
    if not 0 < share <= 1 or strength == 0:
        raise ValueError(
            f"`share` must be above 0 and at most 1 and `strength` above 0, got {share} and "
            f"{strength}."
        )


def measure(
    pipeline: LatentTextPipeline, source: str | None, full: Tensor, settings: TextSettings
) -> tuple[Tensor, float]:
    """Measure the log-probabilities ``(1, S)`` of a text ``(1, S)``, and their mean."""
    config = pipeline.autoencoder.config
    is_text = (full != config.pad_token_id) & (full != config.end_token_id)
    sequences = full.masked_fill(~is_text, config.pad_token_id)
    with autocast(pipeline.device, settings.precision):
        log_probs = token_log_probs(pipeline, [source], sequences)
    return log_probs, float(log_probs.sum() / (is_text.sum() + 1))


def held_tokens(
    pipeline: LatentTextPipeline, full: Tensor, log_probs: Tensor, share: float
) -> KnownTokens:
    """Make all tokens known but those of the least probable latents; the end is always known."""
    config = pipeline.autoencoder.config
    is_text = (full != config.pad_token_id) & (full != config.end_token_id)
    probability = log_probs.exp().masked_fill(~is_text, 1.0)
    confidence = probability.unflatten(1, (-1, config.tokens_per_latent)).amin(dim=2)
    is_weak = least_certain(confidence, share).repeat_interleave(config.tokens_per_latent, dim=1)
    return KnownTokens(full, ~is_weak | ~is_text)
