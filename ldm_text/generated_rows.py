"""Rows of generated text, and the noise of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldm_text.generation import GenerationOutput
from ldm_text.loading import TextPipeline
from ldm_text.precision import Precision, autocast

Sampling = dict[str, Any]  # numbers, switches and names


@dataclass(frozen=True)
class GeneratedRow:
    """One line of the output file."""

    id: int
    source: str | None
    text: str
    sample: int
    seed: int
    num_inference_steps: int | None  # None where each token is a step
    guidance_scale: float | None  # None where there is no guidance


def check_seed(name: str, seed: int) -> None:
    """Refuse seeds of more than 32 bits: they would have the noise of small ones at other rows.

    Args:
        name: What the user calls it.
        seed: The seed.

    Raises:
        ValueError: If it has more, or is negative.
    """
    if seed < 0:
        raise ValueError(f"`{name}` must be at least 0, got {seed}.")
    if seed >= 2**32:
        raise ValueError(f"`{name}` must be below {2**32} (2**32), got {seed}.")


def row_generator(seed: int, row: int, sample: int, device: torch.device) -> torch.Generator:
    """Make the source of noise of one sample of one row: it depends on nothing else.

    Raises:
        ValueError: If the seed is not in [0, 2**32).
    """
    check_seed("seed", seed)
    state = np.random.SeedSequence([seed, row, sample]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))


@dataclass(frozen=True)
class TextSettings:
    """How the texts of rows are generated.

    Attributes:
        num_inference_steps: Steps of the sampler; ``None`` takes the pipeline's own number.
        guidance_scale: Weight of guidance; ``None`` takes the pipeline's own.
        seed: Seed of the noise, in [0, 2**32).
        truncate: Cut sources that are too long.
        sampling: Further options by name, those of the pipeline's ``sampler_options``.
        precision: Type the networks compute in.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    truncate: bool = False
    sampling: Sampling | None = None
    precision: Precision = "auto"


def generate_batch(
    pipeline: TextPipeline,
    prompts: Sequence[str | None],
    slots: Sequence[tuple[int, int]],
    settings: TextSettings,
) -> tuple[list[GeneratedRow], GenerationOutput]:
    """Generate one batch; a row's noise comes from the seed, its row and its sample alone.

    Args:
        pipeline: The pipeline.
        prompts: The source of each slot.
        slots: Row and sample number of each slot.
        settings: How.

    Returns:
        A row for each slot, and what the pipeline returned.
    """
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    if steps is None:
        steps = pipeline.default_num_inference_steps
    with autocast(pipeline.device, settings.precision):
        output = pipeline.generate(
            list(prompts),
            generator=[row_generator(settings.seed, *slot, pipeline.device) for slot in slots],
            num_inference_steps=steps,
            guidance_scale=scale,
            truncate=settings.truncate,
            **settings.sampling or {},
        )
    scale = pipeline.default_guidance_scale if scale is None else scale
    rows = [
        GeneratedRow(row, prompt, text, sample, settings.seed, steps, scale)
        for (row, sample), prompt, text in zip(slots, prompts, output.texts, strict=True)
    ]
    return rows, output


def generate_rows(
    pipeline: TextPipeline,
    prompts: list[str | None],
    *,
    num_samples: int = 1,
    batch_size: int = 64,
    **settings: Any,
) -> Iterator[list[GeneratedRow]]:
    """Generate batch by batch.

    Args:
        pipeline: The pipeline.
        prompts: One source a row; ``None`` for a row without.
        num_samples: Texts for each row.
        batch_size: Samples that go through the network together.
        settings: The attributes of ``TextSettings``.

    Yields:
        The rows of one batch, in the order of the prompts, samples side by side.
    """
    slots = [(row, sample) for row in range(len(prompts)) for sample in range(num_samples)]
    for start in range(0, len(slots), batch_size):
        batch = slots[start : start + batch_size]
        sources = [prompts[row] for row, _ in batch]
        yield generate_batch(pipeline, sources, batch, TextSettings(**settings))[0]
