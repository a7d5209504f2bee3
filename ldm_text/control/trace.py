"""A page that plays the denoising of a text, step by step."""

import json
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from ldm_text.control.candidates import (
    Candidate,
    WriteOptions,
    candidate_generator,
    check_options,
    known_of_candidates,
)
from ldm_text.control.request import TextRequest
from ldm_text.control.write import plan_request
from ldm_text.evaluation.page import write_document
from ldm_text.known_tokens import KnownTokens
from ldm_text.loading import TextPipeline, latent_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import autocast


@dataclass
class Trace:
    """Records what the predictions of each step read; a callback of the pipeline.

    Attributes:
        known: Known tokens of the batch, if there are any.
        row: Row of the batch that is recorded.
        frames: For each step, the tokens up to the end: text, probability, and whether it is known.
    """

    known: KnownTokens | None = None
    row: int = 0
    frames: list[list[tuple[str, float, bool]]] = field(default_factory=list)

    def __call__(self, pipeline: LatentTextPipeline, step: int, pred_latents: Tensor) -> None:
        """Decode a prediction."""
        logits = pipeline.token_logits(pred_latents, self.known)[self.row].float()
        best = logits.softmax(dim=-1).max(dim=-1)
        ids, probabilities = best.indices.tolist(), best.values.tolist()
        is_known = [False] * len(ids)
        if self.known is not None:
            is_known = self.known.is_known[self.row].tolist()
            kept = self.known.ids[self.row].tolist()
            ids = [kept[i] if known else ids[i] for i, known in enumerate(is_known)]
        frame = []
        for token, probability, known in zip(ids, probabilities, is_known, strict=True):
            if token == pipeline.tokenizer.eos_token_id:
                break
            text = pipeline.texts_of(torch.tensor([[token]]))[0]
            frame.append((text, 1.0 if known else round(probability, 4), known))
        self.frames.append(frame)


def write_trace(
    path: Path, pipeline: TextPipeline, request: TextRequest, options: WriteOptions | None = None
) -> str:
    """Write a text and a page that plays how it came to be.

    The page needs no network. It shows the first candidate of the request.

    Args:
        path: HTML file to write.
        pipeline: A latent pipeline.
        request: What is asked.
        options: How it is written.

    Returns:
        The text.

    Raises:
        ValueError: If the request is impossible, or the pipeline has no latents.
    """
    options = options or WriteOptions()
    pipeline = latent_pipeline(pipeline, "trace")
    planned = plan_request(pipeline, request, options)
    candidate = Candidate(0, 0, planned.layouts[0])
    known = known_of_candidates(pipeline, [planned], [candidate], options).to(pipeline.device)
    trace = Trace(None if known.is_empty else known)
    generator = candidate_generator(options.settings.seed, request, 0, pipeline.device)
    with torch.no_grad(), autocast(pipeline.device, options.settings.precision):
        output = pipeline(
            request.source,
            generator=[generator],
            truncate=options.settings.truncate,
            callback_on_step_end=trace,
            known_tokens=trace.known,
            **check_options(pipeline, options),
        )
    write_page(path, trace, request.source, output.texts[0])
    return output.texts[0]


def write_page(path: Path, trace: Trace, source: str | None, text: str) -> None:
    """Write the page of a trace."""
    content: dict[str, Any] = {"frames": trace.frames}
    # In a script no tag may end, whatever a text holds.
    data = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
    template = Template((files("ldm_text.control") / "trace_body.html").read_text("utf-8"))
    body = template.substitute(
        source="no source" if source is None else escape(source),
        text=escape(text),
        num_steps=len(trace.frames),
        data=data,
    )
    write_document(path, "Denoising of a text", body)
