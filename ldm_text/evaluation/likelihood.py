"""Likelihood of texts under a baseline, or a bound on it; never a training loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.sequences import TokenBatch, prompt_batch
from ldm_text.data.records import TextRecord
from ldm_text.loading import TextPipeline
from ldm_text.tokenizer import encode_texts


def arrange_texts(
    pipeline: TokenPipeline, sources: list[list[int]], rows: Sequence[list[int]], width: int
) -> TokenBatch:
    """Put sources before texts.

    Args:
        pipeline: The pipeline that will read them.
        sources: Token ids of each source, from ``tokenize_prompts``.
        rows: Token ids of each text, with its end token.
        width: Positions of a text, ``S``.
    """
    end, pad = pipeline.tokenizer.eos_token_id, pipeline.tokenizer.pad_token_id
    prompts = prompt_batch(sources, end, pipeline.device)
    padded = [row + [pad] * (width - len(row)) for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=pipeline.device)
    mask = torch.arange(width, device=pipeline.device) < lengths[:, None]
    return replace(
        prompts, input_ids=torch.tensor(padded, device=pipeline.device), attention_mask=mask
    )


def short_enough(
    pipeline: TokenPipeline, records: Sequence[TextRecord]
) -> tuple[list[list[int]], list[list[int]], int]:
    """Tokenize all references, or the texts of records without, and leave out what is too long.

    Returns:
        Token ids of the sources and of the texts, end tokens included, and how many texts were
        too long for the model.

    Raises:
        ValueError: If a source is too long.
    """
    pairs = [(one.source, text) for one in records for text in one.references or (one.text,)]
    limit, end = pipeline.config.max_length_tokens, pipeline.tokenizer.eos_token_id
    sources = pipeline.tokenize_prompts([source for source, _ in pairs])
    rows = [[*ids, end] for ids in encode_texts(pipeline.tokenizer, [text for _, text in pairs])]
    kept = [index for index, row in enumerate(rows) if len(row) <= limit]
    num_too_long = len(rows) - len(kept)
    return [sources[index] for index in kept], [rows[index] for index in kept], num_too_long


@torch.no_grad()
def text_nats(
    pipeline: TokenPipeline, batches: list[TokenBatch], seed: int, draw: int
) -> np.ndarray:
    """Compute or estimate ``-log p(text | source)`` of each row in nats, ``(N,)``, in float32."""
    state = np.random.SeedSequence([seed, draw]).generate_state(2, np.uint32)
    generator = torch.Generator(pipeline.device).manual_seed(int(state[0]) << 32 | int(state[1]))
    nats = [pipeline.token_model.negative_log_likelihood(batch, generator) for batch in batches]
    return torch.cat(nats).double().cpu().numpy()


def measure_likelihood(
    pipeline: TextPipeline,
    records: Sequence[TextRecord],
    num_draws: int = 4,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Measure the negative log-likelihood of all references, each given its source.

    Args:
        pipeline: The pipeline; only baselines have a likelihood or a bound.
        records: Texts, and references where there are any; they take the place of the text.
        num_draws: Estimates of a bound that is random; an exact value is computed once.
        seed: Seed of the estimates, 0 or larger.
        batch_size: Texts that go through the network together.

    Returns:
        ``kind`` is ``"exact"``, ``"upper bound"``, or ``None`` where there is no figure, and then
        nothing else is there. ``nats_per_token`` counts the text's tokens and its end token, for
        all families alike; ``nats_per_text`` is the mean. A ``..._standard_error`` is that over
        texts; ``draws_standard_error`` that of ``nats_per_token`` over the draws, ``None`` for one.
        Texts that are too long for the model are left out, ``num_too_long``; where all are, there
        are no other figures than ``num_texts``, 0.

    Raises:
        ValueError: If a source is too long.
    """
    if not isinstance(pipeline, TokenPipeline) or pipeline.token_model.bound_kind is None:
        return {"kind": None}
    kind = pipeline.token_model.bound_kind
    sources, rows, num_too_long = short_enough(pipeline, records)
    if not rows:
        return {"kind": kind, "num_texts": 0, "num_too_long": num_too_long}
    width = pipeline.config.max_length_tokens  # diffusion models the padding as well
    batches = [
        arrange_texts(
            pipeline, sources[start : start + batch_size], rows[start : start + batch_size], width
        )
        for start in range(0, len(rows), batch_size)
    ]
    draws = range(1 if kind == "exact" else num_draws)
    nats = np.stack([text_nats(pipeline, batches, seed, draw) for draw in draws])
    figures = likelihood_figures(nats, np.array([len(row) for row in rows]))
    return {"kind": kind} | figures | {"num_too_long": num_too_long}


def likelihood_figures(nats: np.ndarray, num_tokens: np.ndarray) -> dict[str, Any]:
    """Average nats with their standard errors.

    Args:
        nats: Of each draw and text, ``(draws, N)``.
        num_tokens: Of each text, ``(N,)``.
    """
    per_text = nats.mean(axis=0)
    per_token = float(per_text.sum() / num_tokens.sum())
    per_draw = nats.sum(axis=1) / num_tokens.sum()
    # A ratio of two means: its error is that of the mean residual (Cochran 1977, section 2.11).
    residuals = per_text - per_token * num_tokens
    return {
        "nats_per_token": per_token,
        "nats_per_token_standard_error": standard_error(residuals, num_tokens.mean()),
        "draws_standard_error": standard_error(per_draw),
        "perplexity_per_token": float(np.exp(per_token)),
        "nats_per_text": float(per_text.mean()),
        "nats_per_text_standard_error": standard_error(per_text),
        "num_texts": len(num_tokens),
        "num_tokens": int(num_tokens.sum()),
        "num_draws": len(nats),
    }


def standard_error(values: np.ndarray, unit: float = 1.0) -> float | None:
    """Estimate the standard error of the mean of values, in units; ``None`` for one value."""
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / np.sqrt(len(values)) / unit)
