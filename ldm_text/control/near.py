"""Texts near a text, and texts on the way from one text to another."""

import torch
from torch import Tensor

from denoiser.sampling import EditStart
from ldm_text.control.edit import (
    EditedText,
    changed_share,
    check_call,
    check_strength,
    denoise_again,
    edit_texts,
)
from ldm_text.control.edit_request import EditRequest, padded, text_ids
from ldm_text.generated_rows import TextSettings, row_generator
from ldm_text.loading import TextPipeline, latent_pipeline
from ldm_text.tokenizer import encode_text

NUM_STRENGTHS = 5  # edits that are tried to find the strength of a distance


def variations(
    pipeline: TextPipeline,
    text: str,
    n: int,
    distance: float,
    *,
    source: str | None = None,
    settings: TextSettings | None = None,
    row: int = 0,
) -> list[EditedText]:
    """Write texts near a text.

    The strength whose edits lie at the distance on average is searched by bisection; of all the
    texts on the way, those nearest to the distance are kept, different ones first.

    Args:
        pipeline: A latent pipeline.
        text: The text.
        n: Number of texts.
        distance: Wanted edit distance to the text in tokens, as a share of the longer text, in
            (0, 1]. Each result tells the distance that it has.
        source: Condition of the texts.
        settings: Steps, guidance, seed and the like.
        row: Number of the row, of which the noise is made.

    Raises:
        ValueError: If an argument is out of range, or the pipeline has no latents.
    """
    latent_pipeline(pipeline, "variations")
    check_variations(n, distance)
    low, high = 0.0, 1.0
    found: dict[str, EditedText] = {}
    doubles: list[EditedText] = []
    for trial in range(NUM_STRENGTHS):
        strength = (low + high) / 2
        requests = [
            EditRequest(text, source, row=row * NUM_STRENGTHS + trial, sample=sample)
            for sample in range(n)
        ]
        edited = edit_texts(pipeline, requests, strength, settings)
        for entry in edited:
            if entry.text in found or entry.text == text:
                doubles.append(entry)
            else:
                found[entry.text] = entry
        mean = sum(entry.changed for entry in edited) / n
        low, high = (strength, high) if mean < distance else (low, strength)

    def miss(entry: EditedText) -> float:
        return abs(entry.changed - distance)

    nearest = sorted(found.values(), key=miss) + sorted(doubles, key=miss)
    return nearest[:n]


def check_variations(n: int, distance: float) -> None:
    """Refuse what ``variations`` cannot do.

    Raises:
        ValueError: If it is such a thing.
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    if not 0 < distance <= 1:
        raise ValueError(f"`distance` must be above 0 and at most 1, got {distance}.")


def interpolate(
    pipeline: TextPipeline,
    first: str,
    last: str,
    n: int,
    *,
    strength: float = 0.3,
    source: str | None = None,
    settings: TextSettings | None = None,
    row: int = 0,
) -> list[EditedText]:
    """Write texts on the way from one text to another.

    Their latents are interpolated on the sphere and denoised from a little noise, the same for all
    points. Both ends are returned as they are.

    Args:
        pipeline: A latent pipeline.
        first: Text at the begin.
        last: Text at the end.
        n: Number of texts, both ends included, at least 2.
        strength: Share of the way back to noise from which the points are denoised, in [0, 1]; 0
            decodes them as they are.
        source: Condition of the texts.
        settings: Steps, guidance, seed and the like.
        row: Number of the row, of which the noise is made.

    Returns:
        The texts in their order, with their distances from the first.

    Raises:
        ValueError: If an argument is out of range, or the pipeline has no latents.
    """
    latent = latent_pipeline(pipeline, "interpolate")
    settings = settings or TextSettings()
    check_interpolation(n, strength)
    rows = [text_ids(latent, text) for text in (first, last)]
    check_call(latent, [source], settings)
    texts = [first, last]
    num_inner = n - 2
    if num_inner:
        with torch.no_grad():
            ends = latent.encode_ids(padded(latent, rows))
            weights = torch.linspace(0, 1, n, device=ends.device)[1:-1]
            points = slerp(ends[0], ends[1], weights)
            if strength == 0:
                sequences = latent.decode_latents(points)
            else:
                generators = [
                    row_generator(settings.seed, row, 0, latent.device) for _ in range(num_inner)
                ]
                start = EditStart(points, strength)
                sequences = denoise_again(latent, [source] * num_inner, start, generators, settings)
        texts[1:1] = latent.texts_of(sequences)
    return [
        EditedText(text, changed_share(rows[0], encode_text(latent.tokenizer, text)))
        for text in texts
    ]


def check_interpolation(n: int, strength: float) -> None:
    """Refuse what ``interpolate`` cannot do.

    Raises:
        ValueError: If it is such a thing.
    """
    check_strength(strength)
    if n < 2:
        raise ValueError(f"`n` must be at least 2, both ends included, got {n}.")


def slerp(first: Tensor, last: Tensor, weights: Tensor) -> Tensor:
    """Interpolate two rows of latents on the sphere (Shoemake 1985).

    Args:
        first: Latents ``(L, D)`` of weight 0.
        last: Latents ``(L, D)`` of weight 1.
        weights: Weights ``(N,)``.

    Returns:
        Latents ``(N, L, D)``, whose norm goes from that of ``first`` to that of ``last``.
    """
    cosine = torch.cosine_similarity(first.flatten(), last.flatten(), dim=0).clamp(-1, 1)
    angle = cosine.acos()
    weights = weights[:, None, None]
    if angle < 1e-4:
        return torch.lerp(first, last, weights)
    left, right = ((1 - weights) * angle).sin(), (weights * angle).sin()
    return (left * first + right * last) / angle.sin()
