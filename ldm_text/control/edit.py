"""Change a text by going back part of the way to noise, and denoising again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.text import word_error_rate

from denoiser.sampling import EditStart
from ldm_text.control.edit_request import (
    EditRequest,
    Span,
    known_of_edits,
    padded,
    text_ids,
)
from ldm_text.generated_rows import TextSettings, row_generator
from ldm_text.known_tokens import KnownTokens
from ldm_text.loading import TextPipeline, latent_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import autocast
from ldm_text.tokenizer import encode_text


@dataclass(frozen=True)
class EditedText:
    """A text that came out of an edit.

    Attributes:
        text: The text.
        changed: Edit distance to the text before in tokens, as a share of the longer of both.
    """

    text: str
    changed: float


def edit(
    pipeline: TextPipeline,
    text: str,
    strength: float,
    *,
    source: str | None = None,
    protect: Sequence[Span] = (),
    change: Sequence[Span] = (),
    settings: TextSettings | None = None,
) -> EditedText:
    """Change one text; see ``edit_texts`` and ``EditRequest``."""
    request = EditRequest(text, source, tuple(protect), tuple(change))
    return edit_texts(pipeline, [request], strength, settings)[0]


def edit_texts(
    pipeline: TextPipeline,
    requests: Sequence[EditRequest],
    strength: float,
    settings: TextSettings | None = None,
) -> list[EditedText]:
    """Noise the latents of texts part of the way and denoise them again, in one batch.

    That is SDEdit (Meng et al. 2022). The step count of the settings is that of the whole way.

    Args:
        pipeline: A latent pipeline.
        requests: The texts.
        strength: Share of the way back to noise, in [0, 1]. 0 returns the texts as they are, 1
            writes new ones into the stretches that may change.
        settings: Steps, guidance, seed and the like.

    Raises:
        ValueError: If an argument is out of range, or the pipeline has no latents.
    """
    settings = settings or TextSettings()
    latent = latent_pipeline(pipeline, "edit")
    check_strength(strength)
    rows = [text_ids(latent, request.text) for request in requests]
    known = known_of_edits(latent, requests, rows)
    sources = [request.source for request in requests]
    check_call(latent, sources, settings)
    if strength == 0:
        return [EditedText(request.text, 0.0) for request in requests]
    generators = [
        row_generator(settings.seed, request.row, request.sample, latent.device)
        for request in requests
    ]
    with torch.no_grad(), autocast(latent.device, settings.precision):
        latents = latent.encode_ids(padded(latent, rows))
    start = EditStart(latents, strength)
    sequences = denoise_again(latent, sources, start, generators, settings, known)
    texts = latent.texts_of(sequences)
    return [
        EditedText(text, changed_share(row, encode_text(latent.tokenizer, text)))
        for text, row in zip(texts, rows, strict=True)
    ]


def denoise_again(
    pipeline: LatentTextPipeline,
    sources: list[str | None],
    start: EditStart,
    generators: list[torch.Generator],
    settings: TextSettings,
    known: KnownTokens | None = None,
) -> Tensor:
    """Denoise from a start on; returns ids ``(B, S)``, the pad from the end on."""
    steps = settings.num_inference_steps
    with autocast(pipeline.device, settings.precision):
        output = pipeline(
            sources,
            num_inference_steps=pipeline.default_num_inference_steps if steps is None else steps,
            guidance_scale=settings.guidance_scale,
            generator=generators,
            output_type="seq",
            truncate=settings.truncate,
            known_tokens=known,
            start=start,
            **settings.sampling or {},
        )
    assert output.sequences is not None, "that is the output type"
    return output.sequences


def check_strength(strength: float) -> None:
    """Refuse a strength out of range.

    Raises:
        ValueError: If it is.
    """
    if not (math.isfinite(strength) and 0 <= strength <= 1):
        raise ValueError(f"`strength` must be between 0 and 1, got {strength}.")


def check_call(
    pipeline: LatentTextPipeline, sources: list[str | None], settings: TextSettings
) -> None:
    """Check what the pipeline would refuse later.

    Raises:
        ValueError: If it would.
    """
    steps = settings.num_inference_steps
    pipeline.check_inputs(
        sources,
        1,
        pipeline.default_num_inference_steps if steps is None else steps,
        settings.guidance_scale,
        **settings.sampling or {},
    )
    pipeline.tokenize_prompts(sources, settings.truncate)


def changed_share(before: Sequence[int | str], after: Sequence[int | str]) -> float:
    """Edit distance of two rows of tokens or words, as a share of the longer one, in [0, 1]."""
    if before == after:
        return 0.0
    longest = max(len(before), len(after))
    if not before or not after:
        return 1.0
    rate = word_error_rate([" ".join(map(str, after))], [" ".join(map(str, before))])
    return round(float(rate) * len(before)) / longest
