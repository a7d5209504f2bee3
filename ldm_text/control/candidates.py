"""Write candidates: several texts for one request, each with its own noise and layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ldm_text.control.constraints import Constraints
from ldm_text.control.layout import Layout, known_tokens_of
from ldm_text.control.placement import place_phrases
from ldm_text.control.redecoding import without_forbidden
from ldm_text.control.request import PlannedText, TextRequest
from ldm_text.control.token_sets import forbidden_tokens
from ldm_text.generated_rows import TextSettings, row_generator
from ldm_text.generation import GenerationOutput
from ldm_text.known_tokens import KnownTokens
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import autocast

ChooseBy = Literal["score", "agreement"]


@dataclass(frozen=True)
class WriteOptions:
    """How the texts of a call are written.

    Attributes:
        constraints: What all texts must satisfy.
        num_candidates: Texts that are written for each request, of which one is kept.
        num_lengths: As many candidates at least where a gap has no fixed length and known text
            stands behind it: each has other lengths.
        choose_by: ``score`` keeps the text that the model finds most probable, or where lengths are
            tried the one whose known tokens it does; ``agreement`` the one that agrees most with
            the others (minimum Bayes risk, with sacrebleu's chrF as the gain; Kumar and Byrne
            2004).
        batch_size: Candidates that go through the networks together.
        settings: Steps, guidance, seed and the like.
    """

    constraints: Constraints = field(default_factory=Constraints)
    num_candidates: int = 1
    num_lengths: int = 8
    choose_by: ChooseBy = "score"
    batch_size: int = 64
    settings: TextSettings = field(default_factory=TextSettings)

    def check(self) -> None:
        """Check the options.

        Raises:
            ValueError: If one is out of range.
        """
        for name in ("num_candidates", "num_lengths", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.choose_by not in get_args(ChooseBy):
            names = " or ".join(get_args(ChooseBy))
            raise ValueError(f"`choose_by` must be {names}, got '{self.choose_by}'.")


@dataclass(frozen=True)
class Candidate:
    """One text to be written for a request.

    Attributes:
        index: Number of the request.
        number: Number of the candidate; the first has the noise of plain generation.
        layout: Where its known tokens stand.
    """

    index: int
    number: int
    layout: Layout


def check_options(pipeline: TextPipeline, options: WriteOptions) -> dict[str, Any]:
    """Collect the options of a call that a pipeline checks."""
    settings = options.settings
    steps = settings.num_inference_steps
    return {
        "num_inference_steps": pipeline.default_num_inference_steps if steps is None else steps,
        "guidance_scale": settings.guidance_scale,
        **(settings.sampling or {}),
    }


def batches(candidates: Sequence[Candidate], size: int) -> Iterator[Sequence[Candidate]]:
    """Cut candidates into batches."""
    for start in range(0, len(candidates), size):
        yield candidates[start : start + size]


def write_candidates(
    pipeline: TextPipeline,
    planned: Sequence[PlannedText],
    batch: Sequence[Candidate],
    options: WriteOptions,
) -> GenerationOutput:
    """Write a batch of candidates; no forbidden word stands in them that could be taken out."""
    known = known_of_candidates(pipeline, planned, batch, options).to(pipeline.device)
    output = call(pipeline, planned, batch, known, options)
    texts, sequences = without_forbidden(pipeline, output, known, options.constraints)
    return replace(output, texts=texts, sequences=sequences)


def known_of_candidates(
    pipeline: TextPipeline,
    planned: Sequence[PlannedText],
    batch: Sequence[Candidate],
    options: WriteOptions,
) -> KnownTokens:
    """Make the known tokens of candidates, the required phrases among them.

    A draft is written first. A latent model tells where in it these stand best; with a discrete
    one, their places in it are drawn.
    """
    tokenizer, required = pipeline.tokenizer, options.constraints.required
    forbidden = forbidden_tokens(tokenizer, options.constraints.forbidden)
    layouts = [candidate.layout for candidate in batch]
    known = known_tokens_of(layouts, tokenizer, forbidden)
    if not required:
        return known
    draft = call(pipeline, planned, batch, known, options)
    assert draft.sequences is not None, "texts come with their tokens"
    num_tokens = (draft.sequences != tokenizer.pad_token_id).sum(dim=1).tolist()
    log_probs: list[Tensor | None] = [None] * len(batch)
    if isinstance(pipeline, LatentTextPipeline) and draft.latents is not None:
        with torch.no_grad():
            logits = pipeline.token_logits(draft.latents).float()
        log_probs = [*logits.log_softmax(dim=-1).cpu()]
    placed = []
    for candidate, length, found in zip(batch, num_tokens, log_probs, strict=True):
        request = planned[candidate.index].request
        rng = Random(f"{options.settings.seed} {request.row} {request.sample} {candidate.number}")
        row = place_phrases(candidate.layout, required, tokenizer, rng, length, found)
        # Where the draft wants one phrase, another may have no room left.
        row = row or place_phrases(candidate.layout, required, tokenizer)
        assert row is not None, "the plan has tried that they fit"
        placed.append(row)
    return known_tokens_of(placed, tokenizer, forbidden)


def call(
    pipeline: TextPipeline,
    planned: Sequence[PlannedText],
    batch: Sequence[Candidate],
    known: KnownTokens,
    options: WriteOptions,
) -> GenerationOutput:
    """Run a pipeline with known tokens; where nothing is known, as if there were none."""
    requests = [planned[candidate.index].request for candidate in batch]
    generators = [
        candidate_generator(options.settings.seed, request, candidate.number, pipeline.device)
        for request, candidate in zip(requests, batch, strict=True)
    ]
    with autocast(pipeline.device, options.settings.precision):
        return pipeline.generate(
            [request.source for request in requests],
            generator=generators,
            truncate=options.settings.truncate,
            known_tokens=None if known.is_empty else known,
            **check_options(pipeline, options),
        )


def candidate_generator(
    seed: int, request: TextRequest, number: int, device: torch.device
) -> torch.Generator:
    """Make the noise of a candidate; the first one's is that of plain generation."""
    if number == 0:
        return row_generator(seed, request.row, request.sample, device)
    entropy = np.random.SeedSequence([seed, request.row, request.sample, number])
    state = entropy.generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))
